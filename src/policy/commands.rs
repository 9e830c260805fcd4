//! The values of `commands` and `not_commands`: names of commands, patterns of names, and classes.
//!
//! A value that matches no command is a problem: otherwise a misspelled `deny` rule would deny nothing.

use std::sync::LazyLock;

use crate::command::table::{self, COMMANDS, Class, Command};

use super::pattern::Pattern;

/// Commands outside the handshake that need no `allow` rule, at least with some arguments, and the class of their reach
/// in this case: see [`Meaning::essential`](crate::command::Meaning::essential).
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

/// The names of classes in rules.
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

/// Commands of any class that run JavaScript on the server.
const JAVASCRIPT: &str = "@javascript";

/// Below this similarity, a suggestion would be a guess.
const SIMILARITY_MIN: f64 = 0.85;

/// The facts that are compared with `commands`: one reach of one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CommandFacts {
    pub(super) command: &'static Command,
    /// The class of the reach.
    pub(super) class: Class,
    pub(super) javascript: bool,
    pub(super) explained: bool,
    /// Whether the command passes unless a `deny` rule names it.
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

/// The parsed values of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct CommandSelector {
    /// Whether a value is `*`.
    pub(super) all: bool,
    pub(super) names: CommandSet,
    /// A bit for each of [`CLASSES`].
    pub(super) classes: u8,
    pub(super) javascript: bool,
}

impl CommandSelector {
    /// Parses the values of a key. The error describes the first value that matches no command.
    pub(super) fn new(texts: &[String]) -> Result<Self, String> {
        let mut selector = Self::default();
        for text in texts {
            selector.add(text)?;
        }
        Ok(selector)
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
                    let mut matching = table::all().iter().filter(|command| pattern.matches(command.name)).peekable();
                    if matching.peek().is_none() {
                        return Err(format!("has \"{}\", which matches no command", text.escape_debug()));
                    }
                    matching.for_each(|command| self.names.insert(command));
                }
            }
        }
        Ok(())
    }

    /// Whether any value matches, `*` included.
    pub(super) fn matches(&self, facts: &CommandFacts) -> bool {
        self.all || self.names(facts)
    }

    /// Whether a value other than `*` matches.
    pub(super) fn names(&self, facts: &CommandFacts) -> bool {
        self.names.has(facts.command) || self.classes & bit(facts.class) != 0 || (self.javascript && facts.javascript)
    }

    /// Whether the values name `explain`.
    pub(super) fn names_explain(&self) -> bool {
        table::find(b"explain").is_some_and(|explain| self.names.has(explain))
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether `other` names every command that this names; ignores `*`.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.names.is_within(&other.names)
            && self.classes & !other.classes == 0
            && (!self.javascript || other.javascript)
    }

    /// Whether the values name commands that reach no namespace.
    pub(super) fn names_sessions(&self) -> bool {
        self.classes & bit(Class::Session) != 0 || self.names.iter().any(|command| command.class == Class::Session)
    }

    /// Whether the values name only commands that reach no namespace.
    pub(super) fn names_only_sessions(&self) -> bool {
        !self.all
            && !self.javascript
            && self.classes & !bit(Class::Session) == 0
            && self.names.iter().all(|command| command.class == Class::Session)
    }

    /// Whether `other` names every essential command that this names.
    pub(super) fn names_no_more_essentials_than(&self, other: &Self) -> bool {
        static ESSENTIALS: LazyLock<Vec<(&Command, u8)>> = LazyLock::new(|| {
            let with_class = |command: &'static Command| {
                let class = ESSENTIAL.iter().find(|(name, _)| *name == command.name).map(|(_, class)| *class);
                let handshake = matches!(command.class, Class::Handshake | Class::Auth).then_some(command.class);
                Some((command, bit(class.or(handshake)?)))
            };
            table::all().iter().filter_map(with_class).collect()
        });
        let names = |selector: &Self, command, class: u8| selector.names.has(command) || selector.classes & class != 0;
        ESSENTIALS.iter().all(|(command, class)| !names(self, command, *class) || names(other, command, *class))
    }

    /// The commands that the values name, without those of classes.
    pub(super) fn named(&self) -> impl Iterator<Item = &'static Command> {
        self.names.iter()
    }

    pub(super) fn has_class(&self, class: Class) -> bool {
        self.classes & bit(class) != 0
    }

    /// Whether the selector may match some command at a resource that the command reads.
    pub(super) fn may_match_reads(&self) -> bool {
        self.all || self.javascript || self.classes & bit(Class::Read) != 0 || self.names != CommandSet::default()
    }

    /// The values in canonical form, sorted.
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

/// Parses the class of an entry of `known_commands`. `@session` and `@javascript` are not accepted: the former reaches
/// no resource, and the latter is not a class of commands.
pub(super) fn class_of_known_command(text: &str) -> Result<Class, String> {
    let classes = || CLASSES.iter().filter(|(_, class)| *class != Class::Session);
    if let Some((_, class)) = classes().find(|(word, _)| *word == text) {
        return Ok(*class);
    }
    let words = || classes().map(|(word, _)| *word);
    let shown = text.escape_debug();
    Err(match nearest(text, words()) {
        Some(near) => format!("is \"{shown}\", which is not a class of commands; did you mean \"{near}\"?"),
        None => format!(
            "is \"{shown}\", which is not a class of commands; choose from {}",
            words().collect::<Vec<_>>().join(", ")
        ),
    })
}

/// The bit of a class in [`CommandSelector::classes`]; 0 for a class without a name in rules.
fn bit(class: Class) -> u8 {
    CLASSES.iter().position(|(_, other)| *other == class).map_or(0, |at| 1 << at)
}

fn unknown_class(text: &str) -> String {
    let classes = || CLASSES.iter().map(|(name, _)| *name).chain([JAVASCRIPT]);
    let shown = text.escape_debug();
    if let Some(near) = nearest(text, classes()) {
        return format!("has \"{shown}\", which is not a class; did you mean \"{near}\"?");
    }
    let classes = classes().collect::<Vec<_>>().join(", ");
    format!("has \"{shown}\", which is not a class; the classes are {classes}")
}

fn unknown_command(text: &str) -> String {
    let shown = text.escape_debug();
    let names = table::all().iter().map(|command| command.name);
    let class = CLASSES.iter().find(|(word, _)| word.strip_prefix('@') == Some(text));
    match (class, nearest(text, names)) {
        (Some((word, _)), _) => format!("has \"{shown}\", which is not a command; did you mean the class \"{word}\"?"),
        (None, Some(near)) => format!("has \"{shown}\", which is not a command; did you mean \"{near}\"?"),
        (None, None) => {
            format!("has \"{shown}\", which is not a command; unknown commands are denied without a rule")
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
    use crate::command::certain_reach;

    fn selector(texts: &[&str]) -> Result<CommandSelector, String> {
        CommandSelector::new(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn aliases_and_patterns_select_commands() {
        let check = |texts: &[&str], expected: &[&str]| assert_eq!(selector(texts).unwrap().texts(), expected);
        check(&["findandmodify", "findAndModify"], &["findAndModify"]);
        check(&["find*"], &["find", "findAndModify"]);
        check(&["*Stats", "@ddl"], &["@ddl", "collStats", "connPoolStats", "dbStats"]);
        check(&["*", "@javascript", "ping", "ping"], &["*", "@javascript", "ping"]);
        check(&[], &[]);
    }

    #[test]
    fn a_value_that_matches_no_command_is_an_error_with_a_suggestion() {
        let check = |text: &str, expected: &str| {
            let error = selector(&["find", text]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check("agregate", "has \"agregate\", which is not a command; did you mean \"aggregate\"?");
        check("Find", "did you mean \"find\"?");
        check("write", "did you mean the class \"@write\"?");
        check("qqqqqq", "not a command; unknown commands are denied");
        check("qqq*", "has \"qqq*\", which matches no command");
        check("*qqq", "has \"*qqq\", which matches no command");
        check("@reads", "has \"@reads\", which is not a class; did you mean \"@read\"?");
        check("@*", "the classes are @read, @write");
    }

    #[test]
    fn the_essential_commands_are_in_the_table() {
        for (name, _) in ESSENTIAL {
            let command = table::find(name.as_bytes()).unwrap();
            assert_eq!(command.name, name);
            // It may pass whatever the rules say, so that it cannot be denied before its body is known.
            assert_eq!(certain_reach(command), None, "{name}");
        }
    }
}
