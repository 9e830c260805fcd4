//! Warnings about rules that have an effect, but probably not the effect that the operator expects.
//!
//! Only a warning: it may be wrong about what the operator intends, and says what the rule does.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::command::table::Class;
use crate::config::Action;

use super::commands::CommandSelector;
use super::pattern::{Pattern, Patterns};
use super::problem::PolicyProblem;
use super::rule::{Rule, To};

pub(super) fn find(rules: &[Rule], warnings: &mut Vec<PolicyProblem>) {
    let search = Search::new(rules);
    for (at, rule) in rules.iter().enumerate() {
        for (entry, to) in rule.to.iter().enumerate().filter(|(_, to)| !to.never_matches()) {
            let mut warn = |key: &str, sentence| {
                let key = format!("policy.rule[{}].to[{}].{key}", at + 1, entry + 1);
                warnings.push(PolicyProblem { key, sentence });
            };
            if let Some(sentence) = search.qualified_collection(to) {
                warn("collections", sentence);
            }
            if rule.action == Action::Allow && search.allows_writes_without_reads(to) {
                let sentence = "has @write, and no allow rule has @read for the same resources: update, delete and \
                                findAndModify need both, so only inserts are allowed; add \"@read\"";
                warn("commands", sentence.to_owned());
            }
            if !is_enforced(rule, Action::Deny) {
                continue;
            }
            if rule.applies_to_every_caller() && denies_incidental(to) {
                let sentence = "also denies every caller the commands that show this collection among others: \
                                currentOp, getLog, top, change streams on a database or the cluster, and reads of the \
                                oplog; if that is not intended, add commands, or name the callers in from";
                warn("collections", sentence.to_owned());
            }
            if let Some(sentence) = search.open_reads(at, to) {
                warn("commands", sentence);
            }
        }
    }
    warnings.extend(search.single_allow());
}

/// The search ends after this many comparisons of two rules.
const COMPARISONS_MAX: usize = 5_000_000;

/// Commands that return documents, or values from them.
const READERS: [&str; 6] = ["aggregate", "count", "distinct", "find", "findAndModify", "mapReduce"];

/// What is known about all rules.
struct Search<'a> {
    rules: &'a [Rule],
    /// Databases that a rule names in full.
    databases: BTreeSet<&'a str>,
    /// The `allow` rules, dry runs included.
    allows: Vec<usize>,
    has_enforced_allow: bool,
    /// The enforced `deny` rules for every caller that deny all reads of something.
    denies_of_reads: Vec<usize>,
    /// The principals of each rule, if it names all of them in full.
    principals: Vec<Option<Vec<&'a str>>>,
    comparisons: Cell<usize>,
}

impl<'a> Search<'a> {
    fn new(rules: &'a [Rule]) -> Self {
        let values = rules.iter().flat_map(|rule| &rule.to).flat_map(|to| to.databases.any.iter().flatten());
        let databases = values.filter_map(|value| if let Pattern::Exact(name) = value { Some(&**name) } else { None });
        let those = |select: &dyn Fn(&Rule) -> bool| -> Vec<usize> {
            rules.iter().enumerate().filter(|(_, rule)| select(rule)).map(|(at, _)| at).collect()
        };
        Self {
            rules,
            databases: databases.collect(),
            allows: those(&|rule| rule.action == Action::Allow),
            has_enforced_allow: rules.iter().any(|rule| is_enforced(rule, Action::Allow)),
            denies_of_reads: those(&|rule| {
                is_enforced(rule, Action::Deny)
                    && rule.applies_to_every_caller()
                    && rule.to.iter().any(|to| denies_all_reads(to))
            }),
            principals: rules.iter().map(Rule::exact_principals).collect(),
            comparisons: Cell::new(0),
        }
    }

    /// Whether any entry of these rules fulfils the condition. After too many comparisons, claims that one does.
    fn any_entry(&self, rules: &[usize], is_match: impl Fn(usize, &To) -> bool) -> bool {
        rules.iter().any(|at| {
            self.comparisons.set(self.comparisons.get() + 1);
            let mut entries = self.rules.get(*at).into_iter().flat_map(|rule| &rule.to);
            self.comparisons.get() > COMPARISONS_MAX || entries.any(|to| is_match(*at, to))
        })
    }

    /// The warning about `collections = ["shop.orders"]`: a rule compares the name of a collection without the
    /// database.
    ///
    /// It is certain where a rule names the database. Otherwise the name of the collection may contain a dot, and the
    /// warning says so. An operator who writes `databases` knows that it is separate.
    fn qualified_collection(&self, to: &To) -> Option<String> {
        to.collections.any.iter().flatten().chain(&to.collections.not).find_map(|value| {
            let (text, star) = match value {
                Pattern::Exact(text) => (text, ""),
                Pattern::Prefix(text) => (text, "*"),
                Pattern::Suffix(_) | Pattern::Any => return None,
            };
            let (database, collection) = text.split_once('.')?;
            let [text, shown_database, shown_collection] =
                [text, database, collection].map(|text| text.escape_debug().to_string());
            if self.databases.contains(database) {
                return Some(format!(
                    "has \"{text}{star}\", but \"{shown_database}\" is a database, and the name of a collection does \
                     not include it; write \"{shown_collection}{star}\""
                ));
            }
            let is_doubtful = to.databases.any.is_none() && !is_usual_with_dot(database, collection, &to.collections);
            is_doubtful.then(|| {
                format!(
                    "has \"{text}{star}\", which is compared with names of collections, without the database; if \
                     \"{shown_database}\" is a database, write databases = [\"{shown_database}\"] and collections = \
                     [\"{shown_collection}{star}\"], otherwise add databases"
                )
            })
        })
    }

    /// Whether an entry allows writes that first find documents, while no entry allows reads of the same resources.
    fn allows_writes_without_reads(&self, to: &To) -> bool {
        let reads =
            |to: &To| to.commands.as_ref().is_none_or(|commands| commands.all || commands.has_class(Class::Read));
        let names_writes = |commands: &CommandSelector| !commands.all && commands.has_class(Class::Write);
        if !to.commands.as_ref().is_some_and(names_writes) || reads(to) {
            return false;
        }
        !self.any_entry(&self.allows, |_, other| reads(other) && may_meet(other, to))
    }

    /// The warning about an entry of the `deny` rule `at` that names some commands that read, while others stay open.
    ///
    /// An entry that names `aggregate` for every database is about the command and not about the data.
    fn open_reads(&self, at: usize, to: &To) -> Option<String> {
        let commands = to.commands.as_ref().filter(|commands| !commands.all && !commands.has_class(Class::Read))?;
        let is_named = |name: &str| commands.named().any(|command| command.name == name);
        let is_about_data =
            is_named("find") || to.limits_resources() && (is_named("aggregate") || is_named("distinct"));
        if !is_about_data {
            return None;
        }
        if self.any_entry(&self.denies_of_reads, |_, other| denies_all_reads(other) && may_meet(other, to)) {
            return None;
        }
        let may_allow = |other: usize, entry: &To| {
            self.rules.get(other).is_some_and(|rule| !rule.dry_run)
                && self.may_share_callers(at, other)
                && entry.commands.as_ref().is_none_or(may_show_data)
                && may_meet(entry, to)
        };
        if self.has_enforced_allow && !self.any_entry(&self.allows, may_allow) {
            return None;
        }
        let is_open = |name: &&str| !is_named(name) && (*name != "findAndModify" || !commands.has_class(Class::Write));
        let mut open: Vec<&str> = READERS.into_iter().filter(is_open).collect();
        if !is_named("aggregate") {
            open.push("change streams");
        }
        if !is_named("find") || !is_named("aggregate") {
            open.push("reads of system.profile and of the oplog");
        }
        open.extend(["currentOp", "getLog"]);
        let reason =
            if self.has_enforced_allow { "where another rule allows it" } else { "because there is no allow rule" };
        Some(format!(
            "names only some of the commands that show this data; the rest stays open {reason}: {}; write \"@read\" to \
             deny all of it",
            open.join(", ")
        ))
    }

    /// Whether some caller may be one of both rules. Only `false` is certain.
    fn may_share_callers(&self, one: usize, other: usize) -> bool {
        match (self.principals.get(one), self.principals.get(other)) {
            (Some(Some(one)), Some(Some(other))) => one.iter().any(|principal| other.contains(principal)),
            _ => true,
        }
    }

    /// With a single `allow` rule, every command of every caller needs it. An operator overlooks that easily next to
    /// `deny` rules: where the `allow` rule is for some callers only, or where a `deny` rule denies what no rule
    /// allows.
    fn single_allow(&self) -> Option<PolicyProblem> {
        let is_live = |rule: &Rule, action| is_enforced(rule, action) && !rule.is_expired;
        let enforced = |action| self.rules.iter().enumerate().filter(move |(_, rule)| is_live(rule, action));
        let mut allows = enforced(Action::Allow);
        let (Some((at, allow)), None) = (allows.next(), allows.next()) else { return None };
        if enforced(Action::Deny).next().is_none() || allow.from.is_empty() || allow.to.is_empty() {
            return None;
        }
        let live = |to: &&Arc<To>| !to.never_matches();
        let denies_nothing = |deny: &Rule| {
            let mut entries = deny.to.iter().filter(live).peekable();
            entries.peek().is_some() && entries.all(|to| !allow.to.iter().filter(live).any(|allow| may_meet(allow, to)))
        };
        let sentence = if !allow.applies_to_every_caller() {
            "is the only allow rule, so all other callers are denied every command, even if no deny rule matches; add \
             allow rules for them, or remove this one"
        } else if enforced(Action::Deny).any(|(_, deny)| denies_nothing(deny)) {
            "is the only allow rule, so everything that it does not match is denied to every caller, even if no deny \
             rule matches; add allow rules for the rest, or remove this one"
        } else {
            return None;
        };
        Some(PolicyProblem { key: format!("policy.rule[{}].action", at + 1), sentence: sentence.to_owned() })
    }
}

fn is_enforced(rule: &Rule, action: Action) -> bool {
    rule.action == action && !rule.dry_run
}

/// Whether a name with a dot is usual for a collection: those of `GridFS`, system collections, those of queryable
/// encryption, and a family such as `carts` and `carts.*`.
fn is_usual_with_dot(first: &str, rest: &str, collections: &Patterns) -> bool {
    let family = Pattern::Exact(first.into());
    matches!(first, "system" | "enxcol_" | "fs")
        || matches!(rest, "files" | "chunks")
        || collections.any.iter().flatten().chain(&collections.not).any(|value| *value == family)
}

/// Whether an entry denies every command on some collections, and so also the commands that show them incidentally.
fn denies_incidental(to: &To) -> bool {
    let is_some = to.collections.any.as_ref().is_some_and(|any| !any.contains(&Pattern::Any));
    is_some && to.not_commands.is_none() && to.commands.as_ref().is_none_or(|commands| commands.all)
}

/// Whether an entry of a `deny` rule denies all reads of what it is about.
fn denies_all_reads(to: &To) -> bool {
    let has_reads = |commands: &CommandSelector| commands.all || commands.has_class(Class::Read);
    !to.never_matches() && to.not_commands.is_none() && to.commands.as_ref().is_none_or(has_reads)
}

/// Whether the values match a command that shows data, if only incidentally.
fn may_show_data(commands: &CommandSelector) -> bool {
    commands.all
        || [Class::Read, Class::Admin, Class::AdminRead].iter().any(|class| commands.has_class(*class))
        || commands.named().any(|command| READERS.contains(&command.name))
}

/// Whether both entries may match the same resource. Only `false` is certain.
fn may_meet(one: &To, other: &To) -> bool {
    may_overlap(&one.databases, &other.databases) && may_overlap(&one.collections, &other.collections)
}

/// Whether some text may match both keys. Only `false` is certain.
fn may_overlap(one: &Patterns, other: &Patterns) -> bool {
    match (&one.any, &other.any) {
        (Some(one), Some(other)) => one.iter().any(|one| other.iter().any(|other| !one.is_disjoint(other))),
        _ => true,
    }
}
