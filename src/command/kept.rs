//! A meaning that outlives the bytes of its command, for the cursor that the command opens.

use smallvec::SmallVec;

use super::listing::Listing;
use super::meaning::{Meaning, Reach, Resource};
use super::table::Command;

/// What a command means, with copies of the names. It does not keep the cursors and sessions that the command names.
///
/// Its memory can be used again: [`KeptMeaning::replace`] allocates only for more or longer names than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptMeaning {
    command: &'static Command,
    explained: bool,
    javascript: bool,
    essential: bool,
    listing: Option<Listing>,
    /// The reaches without their names.
    reaches: SmallVec<[Reach<'static>; 2]>,
    /// The database, then the names of every reach, one after the other.
    names: String,
    /// The length of each name in bytes.
    lengths: SmallVec<[usize; 5]>,
}

impl KeptMeaning {
    /// Copies `meaning`.
    pub fn new(meaning: &Meaning<'_>) -> Self {
        let mut kept = Self {
            command: meaning.command,
            explained: false,
            javascript: false,
            essential: false,
            listing: None,
            reaches: SmallVec::new(),
            names: String::new(),
            lengths: SmallVec::new(),
        };
        kept.replace(meaning);
        kept
    }

    /// Replaces the kept meaning by a copy of `meaning`, in the same memory.
    pub fn replace(&mut self, meaning: &Meaning<'_>) {
        let Self { command, explained, javascript, essential, listing, reaches, names, lengths } = self;
        (*command, *explained, *listing) = (meaning.command, meaning.explained, meaning.listing);
        (*javascript, *essential) = (meaning.javascript, meaning.essential);
        names.clear();
        lengths.clear();
        reaches.clear();
        let mut keep = |name: &str| {
            names.push_str(name);
            lengths.push(name.len());
            ""
        };
        keep(meaning.database);
        reaches.extend(meaning.reaches.iter().map(|reach| reach.with_names(&mut keep)));
    }

    /// The meaning that was kept.
    pub fn meaning(&self) -> Meaning<'_> {
        let (mut rest, mut lengths) = (self.names.as_str(), self.lengths.iter());
        let mut next = |_: &str| {
            let length = lengths.next().copied().unwrap_or_default();
            let (name, behind) = rest.split_at_checked(length).unwrap_or_default();
            rest = behind;
            name
        };
        let database = next("");
        Meaning {
            command: self.command,
            explained: self.explained,
            database,
            reaches: self.reaches.iter().map(|reach| reach.with_names(&mut next)).collect(),
            javascript: self.javascript,
            essential: self.essential,
            listing: self.listing,
            cursors: SmallVec::new(),
            sessions: SmallVec::new(),
        }
    }

    /// The command.
    pub fn command(&self) -> &'static Command {
        self.command
    }

    /// Bytes of memory that it uses.
    pub fn bytes(&self) -> usize {
        let spilled = |is_spilled: bool, bytes: usize| if is_spilled { bytes } else { 0 };
        size_of::<Self>()
            + self.names.capacity()
            + spilled(self.reaches.spilled(), self.reaches.capacity() * size_of::<Reach<'_>>())
            + spilled(self.lengths.spilled(), self.lengths.capacity() * size_of::<usize>())
    }
}

impl Reach<'_> {
    fn with_names<'b>(&self, map: impl FnMut(&str) -> &'b str) -> Reach<'b> {
        Reach { resource: self.resource.with_names(map), ..*self }
    }
}

impl Resource<'_> {
    /// The same resource with every name replaced by what `map` returns for it, in a fixed order.
    fn with_names<'b>(&self, mut map: impl FnMut(&str) -> &'b str) -> Resource<'b> {
        match *self {
            Resource::NoNamespace => Resource::NoNamespace,
            Resource::Database(database) => Resource::Database(map(database)),
            Resource::Collection { database, collection } => {
                Resource::Collection { database: map(database), collection: map(collection) }
            }
            Resource::WholeDatabase(database) => Resource::WholeDatabase(map(database)),
            Resource::WholeServer => Resource::WholeServer,
            Resource::SystemCollection { database, collection, exposes } => {
                Resource::SystemCollection { database: map(database), collection: map(collection), exposes }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::command::{self, ReadOptions, Request};

    #[test]
    fn a_kept_meaning_is_the_same_and_its_memory_is_used_again() {
        let stages = rawdoc! { "a": { "$lookup": { "from": "b", "localField": "x", "foreignField": "y", "as": "z" } },
        "c": { "$unionWith": "system.profile" }, "d": { "$out": { "db": "elsewhere", "coll": "é" } } };
        let stages: bson::RawArrayBuf =
            stages.iter().map(|stage| stage.unwrap().1.as_document().unwrap().to_owned()).collect();
        let bodies = [
            rawdoc! { "aggregate": "orders", "pipeline": stages, "cursor": {}, "$db": "shop" },
            rawdoc! { "find": "orders", "$db": "shop" },
            rawdoc! { "listDatabases": 1, "$db": "admin" },
            rawdoc! { "dropDatabase": 1, "$db": "shop" },
            rawdoc! { "find": "oplog.rs", "$db": "local" },
            rawdoc! { "dbStats": 1, "$db": "shop" },
            rawdoc! { "endSessions": [], "$db": "admin" },
        ];
        let mut reused = None;
        for body in &bodies {
            let request = Request { body, database: None, sequences: &[] };
            let meaning = command::read(&request, ReadOptions::default()).unwrap();
            let expected = format!("{meaning:?}");
            assert_eq!(format!("{:?}", KeptMeaning::new(&meaning).meaning()), expected);
            let reused = reused.get_or_insert_with(|| KeptMeaning::new(&meaning));
            reused.replace(&meaning);
            assert_eq!(format!("{:?}", reused.meaning()), expected);
        }
        assert!(reused.unwrap().bytes() < 1024);
    }
}
