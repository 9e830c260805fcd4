//! A command that the policy has allowed, kept for its cursor, which may outlive that policy.

use crate::command::{KeptMeaning, Meaning, ReadOptions};

/// A command that one version of the policy has allowed. Another version can judge it again.
#[derive(Debug)]
pub(super) struct JudgedCommand {
    meaning: KeptMeaning,
    /// Whether the command was searched for any JavaScript, and for JavaScript that sees stored functions.
    searched: (bool, bool),
    /// The version of the policy.
    pub(super) version: u64,
}

impl JudgedCommand {
    /// A command that was read with `options` and means `meaning`.
    pub(super) fn new(meaning: &Meaning<'_>, options: ReadOptions<'_>, version: u64) -> Self {
        Self { meaning: KeptMeaning::new(meaning), searched: searched(options), version }
    }

    /// The same as [`JudgedCommand::new`], in the memory of a command that is no longer needed.
    pub(super) fn replace(&mut self, meaning: &Meaning<'_>, options: ReadOptions<'_>, version: u64) {
        self.meaning.replace(meaning);
        (self.searched, self.version) = (searched(options), version);
    }

    /// What the command means.
    pub(super) fn meaning(&self) -> Meaning<'_> {
        self.meaning.meaning()
    }

    /// Whether the command is a `listCollections`.
    pub(super) fn lists_collections(&self) -> bool {
        self.meaning.command().name == "listCollections"
    }

    /// Whether the meaning has everything that reading the command with `options` would find.
    pub(super) fn suffices(&self, options: ReadOptions<'_>) -> bool {
        let ((any, stored), (needs_any, needs_stored)) = (self.searched, searched(options));
        any || !needs_any && (stored || !needs_stored)
    }

    /// Bytes of memory that it uses.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() - size_of::<KeptMeaning>() + self.meaning.bytes()
    }
}

fn searched(options: ReadOptions<'_>) -> (bool, bool) {
    (options.javascript, options.stored_functions)
}

#[cfg(test)]
pub(super) mod tests {
    use bson::{RawDocument, rawdoc};

    use super::*;
    use crate::command;
    use crate::command::Request;

    /// `body` as this version of a policy has judged it that searches for nothing.
    pub(in crate::relay) fn judged(body: &RawDocument, version: u64) -> JudgedCommand {
        let options = ReadOptions::default();
        let request = Request { body, database: None, sequences: &[] };
        JudgedCommand::new(&command::read(&request, options).unwrap(), options, version)
    }

    #[test]
    fn a_command_suffices_for_what_it_was_searched_for() {
        let [nothing, stored, any] = [(false, false), (false, true), (true, false)]
            .map(|(javascript, stored_functions)| ReadOptions { javascript, stored_functions, known: None });
        let mut command = judged(&rawdoc! { "find": "orders", "$db": "shop" }, 1);
        for (searched_for, expected) in
            [(nothing, [true, false, false]), (stored, [true, true, false]), (any, [true, true, true])]
        {
            let meaning = judged(&rawdoc! { "count": "menu", "$db": "shop" }, 1);
            command.replace(&meaning.meaning(), searched_for, 2);
            assert_eq!([nothing, stored, any].map(|options| command.suffices(options)), expected);
            assert_eq!((command.meaning().command.name, command.version), ("count", 2));
        }
    }
}
