//! What `commands` says: names of the command table, parts of names, and classes.
//!
//! A word that fits nothing is a problem: a rule that was meant to deny would be no rule otherwise.

use std::sync::LazyLock;

use crate::command::table::{self, COMMANDS, Class, Command};

use super::pattern::Pattern;

/// Commands beside the handshake that pass whatever `allow` rules say, at least with some arguments, and the class of what
/// they reach then: see [`Meaning::essential`](crate::command::Meaning::essential).
const ESSENTIAL: [(&str, Class); 10] = [
    ("abortTransaction", Class::Session),
    ("commitTransaction", Class::Session),
    ("endSessions", Class::Session),
    ("getLog", Class::AdminRead),
    ("getMore", Class::Read),
    ("getParameter", Class::AdminRead),
    ("hostInfo", Class::AdminRead),
    ("killCursors", Class::Read),
    ("killSessions", Class::Session),
    ("refreshSessions", Class::Session),
];

/// The words for classes.
const CLASSES: [(&str, Class); 8] = [
    ("@read", Class::Read),
    ("@write", Class::Write),
    ("@ddl", Class::Ddl),
    ("@session", Class::Session),
    ("@admin-read", Class::AdminRead),
    ("@admin", Class::Admin),
    ("@user-admin", Class::UserAdmin),
    ("@cluster", Class::Cluster),
];

/// What runs JavaScript on the server, whatever its class.
const JAVASCRIPT: &str = "@javascript";

/// Below it, a suggestion would be guessing.
const SIMILARITY_MIN: f64 = 0.85;

/// What is asked of `commands`: one reach of one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CommandFacts {
    pub(super) command: &'static Command,
    /// Of the reach.
    pub(super) class: Class,
    pub(super) javascript: bool,
    pub(super) explained: bool,
    /// Whether it passes unless a `deny` rule names it.
    pub(super) essential: bool,
}

/// A set of commands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct CommandSet([u64; COMMANDS.div_ceil(64)]);

impl CommandSet {
    fn insert(&mut self, command: &Command) {
        let at = command.id.index();
        self.0[at / 64] |= 1 << (at % 64);
    }

    pub(super) fn has(&self, command: &Command) -> bool {
        let at = command.id.index();
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &'static Command> {
        table::all().iter().filter(|command| self.has(command))
    }

    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(own, other)| own & !other == 0)
    }

    pub(super) fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).any(|(own, other)| own & other != 0)
    }
}

/// The values of one key, understood.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct CommandSelector {
    /// A bare `*`.
    pub(super) all: bool,
    pub(super) names: CommandSet,
    /// A bit for each of [`CLASSES`].
    pub(super) classes: u8,
    pub(super) javascript: bool,
}

impl CommandSelector {
    /// Fails with what is wrong with the first word that fits nothing.
    pub(super) fn new(texts: &[String]) -> Result<Self, String> {
        let mut words = Self::default();
        for text in texts {
            words.add(text)?;
        }
        Ok(words)
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        if text == JAVASCRIPT {
            self.javascript = true;
        } else if text.starts_with('@') {
            let class = CLASSES.iter().find(|(word, _)| *word == text).ok_or_else(|| unknown_class(text))?;
            self.classes |= bit(class.1);
        } else {
            let pattern = Pattern::new(text);
            match &pattern {
                Pattern::Any => self.all = true,
                Pattern::Exact(name) => {
                    let command = table::find(name.as_bytes()).ok_or_else(|| unknown_command(text))?;
                    self.names.insert(command);
                }
                Pattern::Prefix(_) | Pattern::Suffix(_) => {
                    let mut fitting = table::all().iter().filter(|command| pattern.matches(command.name)).peekable();
                    if fitting.peek().is_none() {
                        return Err(format!("has \"{}\", which fits no command's name", text.escape_debug()));
                    }
                    fitting.for_each(|command| self.names.insert(command));
                }
            }
        }
        Ok(())
    }

    /// Whether they match, by `*` or otherwise.
    pub(super) fn match_any(&self, asked: &CommandFacts) -> bool {
        self.all || self.name(asked)
    }

    /// Whether they match by more than a bare `*`.
    pub(super) fn name(&self, asked: &CommandFacts) -> bool {
        self.names.has(asked.command) || self.classes & bit(asked.class) != 0 || (self.javascript && asked.javascript)
    }

    /// Whether `explain` is among them by its name.
    pub(super) fn name_explain(&self) -> bool {
        table::find(b"explain").is_some_and(|explain| self.names.has(explain))
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether all that these match by more than `*` is matched so by `other`.
    pub(super) fn are_within(&self, other: &Self) -> bool {
        self.names.is_within(&other.names)
            && self.classes & !other.classes == 0
            && (!self.javascript || other.javascript)
    }

    /// Whether these can name something that reaches no namespace.
    pub(super) fn name_sessions(&self) -> bool {
        self.classes & bit(Class::Session) != 0 || self.names.iter().any(|command| command.class == Class::Session)
    }

    /// Whether these name nothing but what reaches no namespace.
    pub(super) fn name_sessions_only(&self) -> bool {
        !self.all
            && !self.javascript
            && self.classes & !bit(Class::Session) == 0
            && self.names.iter().all(|command| command.class == Class::Session)
    }

    /// Whether what these name of the essential commands is named by `other` too.
    pub(super) fn name_no_more_essentials_than(&self, other: &Self) -> bool {
        static ESSENTIALS: LazyLock<Vec<(&Command, u8)>> = LazyLock::new(|| {
            let with_class = |command: &'static Command| {
                let class = ESSENTIAL.iter().find(|(name, _)| *name == command.name).map(|(_, class)| *class);
                let handshake = matches!(command.class, Class::Handshake | Class::Auth).then_some(command.class);
                Some((command, bit(class.or(handshake)?)))
            };
            table::all().iter().filter_map(with_class).collect()
        });
        let name = |words: &Self, command, class: u8| words.names.has(command) || words.classes & class != 0;
        ESSENTIALS.iter().all(|(command, class)| !name(self, command, *class) || name(other, command, *class))
    }

    pub(super) fn has_class(&self, class: Class) -> bool {
        self.classes & bit(class) != 0
    }

    /// Whether these may match some command at a place that it reads.
    pub(super) fn may_match_reads(&self) -> bool {
        self.all || self.javascript || self.classes & bit(Class::Read) != 0 || self.names != CommandSet::default()
    }

    /// As canonical text, sorted.
    pub(super) fn texts(&self) -> Vec<&'static str> {
        let all = self.all.then_some("*");
        let classes = CLASSES.iter().filter(|(_, class)| self.classes & bit(*class) != 0).map(|(word, _)| *word);
        let javascript = self.javascript.then_some(JAVASCRIPT);
        let names = self.names.iter().map(|command| command.name);
        let mut texts: Vec<&str> = all.into_iter().chain(classes).chain(javascript).chain(names).collect();
        texts.sort_unstable();
        texts
    }
}

/// The class of a command that only the operator knows. A session has no place, and JavaScript is no class of its own.
pub(super) fn class_of_word(text: &str) -> Result<Class, String> {
    let classes = || CLASSES.iter().filter(|(_, class)| *class != Class::Session);
    if let Some((_, class)) = classes().find(|(word, _)| *word == text) {
        return Ok(*class);
    }
    let words = || classes().map(|(word, _)| *word);
    let shown = text.escape_debug();
    Err(match nearest(text, words()) {
        Some(near) => format!("is \"{shown}\", which is no class for it; did you mean \"{near}\"?"),
        None => {
            format!("is \"{shown}\", which is no class for it; write one of {}", words().collect::<Vec<_>>().join(", "))
        }
    })
}

/// None for the classes that have no word.
fn bit(class: Class) -> u8 {
    CLASSES.iter().position(|(_, other)| *other == class).map_or(0, |at| 1 << at)
}

fn unknown_class(text: &str) -> String {
    let words = || CLASSES.iter().map(|(word, _)| *word).chain([JAVASCRIPT]);
    let shown = text.escape_debug();
    match nearest(text, words()) {
        Some(near) => format!("has \"{shown}\", which is no class; did you mean \"{near}\"?"),
        None => format!("has \"{shown}\", which is no class; there are {}", words().collect::<Vec<_>>().join(", ")),
    }
}

fn unknown_command(text: &str) -> String {
    let shown = text.escape_debug();
    let names = table::all().iter().map(|command| command.name);
    let class = CLASSES.iter().find(|(word, _)| word.strip_prefix('@') == Some(text));
    match (class, nearest(text, names)) {
        (Some((word, _)), _) => format!("has \"{shown}\", which is no command; did you mean the class \"{word}\"?"),
        (None, Some(near)) => format!("has \"{shown}\", which is no command; did you mean \"{near}\"?"),
        (None, None) => {
            format!("has \"{shown}\", which is no command that this gateway knows; it refuses those anyway")
        }
    }
}

fn nearest(text: &str, candidates: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let text = text.to_ascii_lowercase();
    let scored = candidates.map(|candidate| (strsim::jaro_winkler(&text, &candidate.to_ascii_lowercase()), candidate));
    let near = scored.filter(|(score, _)| *score >= SIMILARITY_MIN);
    near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(texts: &[&str]) -> Result<CommandSelector, String> {
        CommandSelector::new(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn aliases_and_parts_of_names_are_the_commands_that_they_mean() {
        let check = |texts: &[&str], expected: &[&str]| assert_eq!(words(texts).unwrap().texts(), expected);
        check(&["findandmodify", "findAndModify"], &["findAndModify"]);
        check(&["find*"], &["find", "findAndModify"]);
        check(&["*Stats", "@ddl"], &["@ddl", "collStats", "connPoolStats", "dbStats"]);
        check(&["*", "@javascript", "ping", "ping"], &["*", "@javascript", "ping"]);
        check(&[], &[]);
    }

    #[test]
    fn a_word_that_fits_nothing_is_refused_with_what_was_meant() {
        let check = |text: &str, expected: &str| {
            let error = words(&["find", text]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check("agregate", "has \"agregate\", which is no command; did you mean \"aggregate\"?");
        check("Find", "did you mean \"find\"?");
        check("write", "did you mean the class \"@write\"?");
        check("qqqqqq", "no command that this gateway knows");
        check("qqq*", "has \"qqq*\", which fits no command's name");
        check("*qqq", "has \"*qqq\", which fits no command's name");
        check("@reads", "has \"@reads\", which is no class; did you mean \"@read\"?");
        check("@*", "there are @read, @write");
    }

    #[test]
    fn the_essential_commands_are_in_the_table() {
        for (name, _) in ESSENTIAL {
            assert_eq!(table::find(name.as_bytes()).unwrap().name, name);
        }
    }
}
