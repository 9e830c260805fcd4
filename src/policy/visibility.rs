//! What a caller may see in a list of collections or databases: everything with which it may do anything.
//!
//! A caller may do something with a collection if the policy would allow at least one command on it. Only few of the
//! commands differ in the rules that select them, so a question takes a few lookups. They do not allocate.

use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;

use crate::command::table::{self, Class};
use crate::command::{
    Access, DatabaseAccess, Listing, Resource, collection_accesses, database_accesses, is_database_name, resources_of,
};
use crate::config::Action;

use super::commands::CommandFacts;
use super::index::{Index, Keep, MatchMode};
use super::judgement::Grounds;
use super::rule::{Rule, RuleId, To};
use super::tables::Tables;
use super::witnesses::witnesses;

/// Which rules count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    /// Those that are in force.
    Enforced,
    /// Also those that are dry runs.
    WithDryRuns,
}

/// The rules that apply to a caller, prepared for questions about what it may see.
#[derive(Debug)]
pub(super) struct Visibility {
    on_collection: Vec<Probe>,
    on_database: Vec<(Probe, DatabaseAccess)>,
    /// Names that stand for all names of collections, and for all names of databases; `None` if they are too many.
    collections: Option<Vec<Box<str>>>,
    databases: Option<Vec<Box<str>>>,
    /// Indexed by [`Rules`].
    denials: [ListingDenials; 2],
    /// Whether the caller may do something in any database, indexed by [`Rules`].
    anywhere: [OnceLock<Option<Grounds>>; 2],
    needs_allow: [bool; 2],
}

/// The tables of one way to access a place, for each class of it. Ways with the same tables are one.
#[derive(Debug)]
struct Probe {
    parts: SmallVec<[ProbePart; 2]>,
    /// Whether it reads what collections have: [`READS_CONTENTS`].
    reads: bool,
}

#[derive(Debug, Clone)]
struct ProbePart {
    tables: Arc<Tables>,
    is_incidental: bool,
}

/// The commands that read what collections have, or list their options. Others that only read, as `collStats` and
/// `getMore`, show nothing of that by themselves.
const READS_CONTENTS: [&str; 6] = ["aggregate", "count", "distinct", "find", "listCollections", "listDatabases"];

/// The `deny` rules that deny a whole listing. The others only hide what they are about.
#[derive(Debug)]
struct ListingDenials {
    collections: DenyIndexes,
    databases: DenyIndexes,
}

#[derive(Debug)]
struct DenyIndexes {
    /// Entries that name the command.
    naming: Index,
    /// Entries that cover everything that the command lists.
    covering: Index,
}

impl Visibility {
    /// `entries` are those of the rules that apply to the caller, and `tables` makes the tables of a command from them.
    /// `needs_allow` is indexed by [`Rules`].
    pub(super) fn new(
        needs_allow: [bool; 2],
        deny_javascript: bool,
        entries: &[(RuleId, &Rule, &Arc<To>)],
        tables: impl Fn(&CommandFacts) -> Arc<Tables>,
    ) -> Self {
        let mut on_collection = Vec::new();
        for access in collection_accesses().filter(|access| !(deny_javascript && access.javascript)) {
            let probe = Probe::new(&access, &tables);
            if !on_collection.iter().any(|known: &Probe| known.is_same(&probe)) {
                on_collection.push(probe);
            }
        }
        let mut on_database = Vec::new();
        for (access, at) in database_accesses() {
            let probe = Probe::new(&access, &tables);
            if !on_database.iter().any(|(known, there): &(Probe, _)| *there == at && known.is_same(&probe)) {
                on_database.push((probe, at));
            }
        }
        let selectors = || entries.iter().map(|(_, _, to)| to);
        let databases = selectors().flat_map(|to| to.databases.any.iter().flatten().chain(&to.databases.not));
        let collections = selectors().flat_map(|to| to.collections.any.iter().flatten().chain(&to.collections.not));
        Self {
            on_collection,
            on_database,
            collections: witnesses(collections, &[], &["system.", "system.buckets."]),
            databases: witnesses(databases, &["admin", "config", "local"], &[]),
            denials: [Rules::Enforced, Rules::WithDryRuns].map(|rules| ListingDenials::new(entries, rules)),
            anywhere: Default::default(),
            needs_allow,
        }
    }

    /// Whether the caller may read everything that is listed, or a rule allows it the list itself for everything.
    pub(super) fn reads_all(&self, listing: Listing, database: &str) -> bool {
        let resource = match listing {
            Listing::Collections => Resource::WholeDatabase(database),
            Listing::Databases => Resource::WholeServer,
        };
        let on_database = self.on_database.iter().map(|(probe, _)| probe).filter(|_| listing == Listing::Databases);
        let mut reading = self.on_collection.iter().chain(on_database).filter(|probe| probe.reads);
        reading.any(|probe| self.allowed(probe, &[resource], Rules::Enforced).is_some())
    }

    /// Whether the caller may do anything with a collection.
    pub(super) fn sees(&self, database: &str, collection: &str) -> bool {
        resources_of(database, collection).is_some_and(|resources| {
            self.on_collection.iter().any(|probe| self.allowed(probe, &resources, Rules::Enforced).is_some())
        })
    }

    /// Whether the caller may read all of `resources`, by any command.
    pub(super) fn reads(&self, resources: &[Resource<'_>]) -> bool {
        let mut reading = self.on_collection.iter().filter(|probe| probe.reads);
        reading.any(|probe| self.allowed(probe, resources, Rules::Enforced).is_some())
    }

    /// Why the caller may do anything in a database: with any of the collections that it may have, or with itself.
    pub(super) fn something_in(&self, database: &str, rules: Rules) -> Option<Grounds> {
        if !is_database_name(database) {
            return None;
        }
        let probes: SmallVec<[&Probe; 16]> =
            self.on_collection.iter().filter(|probe| self.may_allow_in(probe, database, rules)).collect();
        let on_collection = match &self.collections {
            _ if probes.is_empty() => None,
            Some(names) => names.iter().find_map(|name| {
                let resources = resources_of(database, name)?;
                probes.iter().find_map(|probe| self.allowed(probe, &resources, rules))
            }),
            // What is not found out shows nothing: every entry of the reply is judged.
            None => Some(Grounds::NoRule),
        };
        on_collection.or_else(|| {
            self.on_database.iter().find_map(|(probe, access)| {
                let resource = match access {
                    DatabaseAccess::OnlyAdmin if database != "admin" => return None,
                    DatabaseAccess::Itself | DatabaseAccess::OnlyAdmin => Resource::Database(database),
                    DatabaseAccess::Whole => Resource::WholeDatabase(database),
                };
                self.allowed(probe, &[resource], rules)
            })
        })
    }

    /// Why the caller may send a listing and gets a reply with what it may see; `None` if it may not.
    pub(super) fn lists(&self, listing: Listing, database: &str, rules: Rules) -> Option<Grounds> {
        if self.denials[rules as usize].deny(listing, database) {
            return None;
        }
        match listing {
            Listing::Collections => self.something_in(database, rules),
            Listing::Databases => *self.anywhere[rules as usize].get_or_init(|| match &self.databases {
                Some(names) => names.iter().find_map(|name| self.something_in(name, rules)),
                None => Some(Grounds::NoRule),
            }),
        }
    }

    /// Why this access to all of `resources` is allowed: the `allow` rule for the first of them.
    fn allowed(&self, probe: &Probe, resources: &[Resource<'_>], rules: Rules) -> Option<Grounds> {
        let needs_allow = self.needs_allow[rules as usize];
        let mut grounds = Grounds::NoRule;
        for part in &probe.parts {
            for resource in resources {
                let tables = &part.tables;
                let is_dry = rules == Rules::WithDryRuns;
                let deny = tables.deny.first(resource);
                if deny.is_some() || (is_dry && tables.denies(resource, deny).is_some()) {
                    return None;
                }
                if needs_allow && !part.is_incidental {
                    let rule = if is_dry { tables.allows(resource)? } else { tables.allow.first(resource)? };
                    if grounds == Grounds::NoRule {
                        grounds = Grounds::Rule(rule);
                    }
                }
            }
        }
        Some(grounds)
    }

    /// Whether an access to some collection of a database may be allowed; certain only if it is not.
    fn may_allow_in(&self, probe: &Probe, database: &str, rules: Rules) -> bool {
        let has = |part: &ProbePart| {
            let is_dry = rules == Rules::WithDryRuns;
            part.tables.allow.has_database(database) || (is_dry && part.tables.dry_allow.has_database(database))
        };
        !self.needs_allow[rules as usize] || probe.parts.iter().all(|part| part.is_incidental || has(part))
    }
}

impl Probe {
    fn new(access: &Access, tables: impl Fn(&CommandFacts) -> Arc<Tables>) -> Self {
        let part = |(class, is_incidental): &(Class, bool)| {
            let facts = CommandFacts {
                command: access.command,
                class: *class,
                javascript: access.javascript,
                explained: false,
                essential: false,
            };
            ProbePart { tables: tables(&facts), is_incidental: *is_incidental }
        };
        let reads = READS_CONTENTS.contains(&access.command.name);
        Self { parts: access.classes.iter().map(part).collect(), reads }
    }

    fn is_same(&self, other: &Self) -> bool {
        let are_same = |(own, other): (&ProbePart, &ProbePart)| {
            Arc::ptr_eq(&own.tables, &other.tables) && own.is_incidental == other.is_incidental
        };
        self.reads == other.reads
            && self.parts.len() == other.parts.len()
            && self.parts.iter().zip(&other.parts).all(are_same)
    }
}

impl ListingDenials {
    fn new(entries: &[(RuleId, &Rule, &Arc<To>)], rules: Rules) -> Self {
        Self {
            collections: DenyIndexes::new(entries, rules, b"listCollections"),
            databases: DenyIndexes::new(entries, rules, b"listDatabases"),
        }
    }

    fn deny(&self, listing: Listing, database: &str) -> bool {
        let (indexes, resource) = match listing {
            Listing::Collections => (&self.collections, Resource::WholeDatabase(database)),
            Listing::Databases => (&self.databases, Resource::WholeServer),
        };
        indexes.naming.first(&resource).or_else(|| indexes.covering.first(&resource)).is_some()
    }
}

impl DenyIndexes {
    fn new(entries: &[(RuleId, &Rule, &Arc<To>)], rules: Rules, command: &[u8]) -> Self {
        let mut indexes = Self {
            naming: Index::new(MatchMode::Overlaps, Keep::First),
            covering: Index::new(MatchMode::Covers, Keep::First),
        };
        let Some(command) = table::find(command) else { return indexes };
        let facts = CommandFacts { command, class: Class::Read, javascript: false, explained: false, essential: false };
        for (id, rule, to) in entries {
            let counts = rule.action == Action::Deny && (!rule.dry_run || rules == Rules::WithDryRuns);
            if counts && to.applies_to(&facts, Action::Deny) {
                let names_it = to.commands.as_ref().is_some_and(|selector| selector.names.has(command));
                let index = if names_it { &mut indexes.naming } else { &mut indexes.covering };
                index.add(*id, to);
            }
        }
        indexes
    }
}
