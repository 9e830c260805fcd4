//! An index from resources to the rules that match them, so that a lookup does not compare every rule.
//!
//! Contains the entries of `to` whose commands match; only `databases` and `collections` are left to decide. An entry
//! is stored under each of its values. A lookup takes a few steps per resource, independently of the number of entries.
//! Only the `not_` keys are compared entry by entry, for the entries whose other keys match.
//!
//! What "matches" means depends on the action. An `allow` must cover the whole resource; for a `deny` or an `audit` an
//! overlap suffices: [`MatchMode`].

use std::sync::Arc;

use smallvec::SmallVec;

use crate::command::{Exposes, Resource};

use super::pattern::{Pattern, Table};
use super::rule::{RuleId, To};

/// How an entry is compared with a resource that is more than one collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MatchMode {
    /// The entry must cover the whole resource: `allow`.
    Covers,
    /// The entry must overlap with the resource: `deny`, `audit`.
    Overlaps,
}

/// Which of the matching rules are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Those that can be the first match.
    First,
    /// All of them.
    All,
}

#[derive(Debug)]
pub(super) struct Index {
    mode: MatchMode,
    keep: Keep,
    is_empty: bool,
    nowhere: Leaf,
    server: Leaf,
    databases: Table<InDatabase>,
    /// System collections that expose their database and that entries name; by database, then by collection.
    exposing_database: Table<Table<Leaf>>,
    /// System collections that expose the whole server and that entries name; by database, then by collection.
    exposing_server: Table<Table<Leaf>>,
}

#[derive(Debug, Default)]
struct InDatabase {
    /// For commands that reach the database as such.
    database: Leaf,
    /// For commands that reach all of its collections.
    whole: Leaf,
    collections: Table<Leaf>,
}

/// The rules that match one resource.
#[derive(Debug, Default)]
struct Leaf {
    /// The rules that match in any case, in their order.
    rules: SmallVec<[RuleId; 1]>,
    /// The rules that match unless a `not_` key excludes the resource, in their order.
    conditional: Vec<(RuleId, Arc<To>)>,
}

impl Index {
    pub(super) fn new(mode: MatchMode, keep: Keep) -> Self {
        Self {
            mode,
            keep,
            is_empty: true,
            nowhere: Leaf::default(),
            server: Leaf::default(),
            databases: Table::default(),
            exposing_database: Table::default(),
            exposing_server: Table::default(),
        }
    }

    /// Adds an entry of `rule`. Rules must be added in their order.
    pub(super) fn add(&mut self, rule: RuleId, to: &Arc<To>) {
        if to.never_matches() {
            return;
        }
        self.is_empty = false;
        let (databases, collections) = (&to.databases, &to.collections);
        let keep = self.keep;
        let covers = self.mode == MatchMode::Covers;
        let all_collections =
            if covers { collections.match_all() && collections.not.is_empty() } else { !collections.exclude_all() };
        let all_databases =
            if covers { databases.match_all() && databases.not.is_empty() } else { !databases.exclude_all() };
        // A command without a collection does not match a `deny` that has `collections`. For an `allow`, the value "*"
        // is no restriction.
        let no_collection = if covers { collections.match_all() } else { collections.any.is_none() };

        self.nowhere.add(rule, None, keep);
        if all_databases && all_collections {
            self.server.add(rule, None, keep);
        }
        let not_databases = (!databases.not.is_empty()).then_some(to);
        let not_anything = not_databases.or((!collections.not.is_empty()).then_some(to));
        for database in values(databases.any.as_deref()) {
            let slot = self.databases.slot(database);
            if no_collection {
                slot.database.add(rule, not_databases, keep);
            }
            if all_collections {
                slot.whole.add(rule, not_databases, keep);
            }
            for collection in values(collections.any.as_deref()) {
                slot.collections.slot(collection).add(rule, not_anything, keep);
            }
            if covers {
                for collection in values(collections.any.as_deref()).filter(|pattern| names_system_collection(pattern))
                {
                    self.exposing_database.slot(database).slot(collection).add(rule, not_anything, keep);
                    if *database != Pattern::Any {
                        self.exposing_server.slot(database).slot(collection).add(rule, not_anything, keep);
                    }
                }
            }
        }
    }

    /// Whether a rule may match some collection of this database.
    pub(super) fn has_database(&self, database: &str) -> bool {
        !self.is_empty && self.databases.has(database)
    }

    /// The first rule that matches `resource`.
    pub(super) fn first(&self, resource: &Resource<'_>) -> Option<RuleId> {
        if self.is_empty {
            return None;
        }
        let mut first = None;
        self.visit(resource, |leaf, database, collection| first = leaf.first_before(first, database, collection));
        first
    }

    /// Every rule that matches `resource`, in no particular order, possibly with duplicates.
    pub(super) fn each(&self, resource: &Resource<'_>, mut see: impl FnMut(RuleId)) {
        if !self.is_empty {
            self.visit(resource, |leaf, database, collection| leaf.each(database, collection, &mut see));
        }
    }

    fn visit<'a>(&'a self, resource: &Resource<'_>, mut see: impl FnMut(&'a Leaf, &str, Option<&str>)) {
        match *resource {
            Resource::NoNamespace => see(&self.nowhere, "", None),
            Resource::WholeServer => see(&self.server, "", None),
            Resource::Database(database) => {
                self.databases.visit(database, |inside| see(&inside.database, database, None));
            }
            Resource::WholeDatabase(database) => {
                self.databases.visit(database, |inside| see(&inside.whole, database, None));
            }
            Resource::Collection { database, collection } => self.databases.visit(database, |inside| {
                inside.collections.visit(collection, |leaf| see(leaf, database, Some(collection)));
            }),
            Resource::SystemCollection { database, collection, exposes } => {
                let named = match exposes {
                    Exposes::Database => {
                        self.databases.visit(database, |inside| see(&inside.whole, database, None));
                        &self.exposing_database
                    }
                    Exposes::Server => {
                        see(&self.server, database, None);
                        &self.exposing_server
                    }
                    Exposes::Itself if self.mode == MatchMode::Overlaps => {
                        let itself = Resource::Collection { database, collection };
                        return self.visit(&itself, see);
                    }
                    Exposes::Itself => {
                        self.databases.visit(database, |inside| see(&inside.whole, database, None));
                        &self.exposing_database
                    }
                };
                named.visit(database, |inside| inside.visit(collection, |leaf| see(leaf, database, Some(collection))));
            }
        }
    }
}

/// The values of a key; an absent key matches everything.
fn values(patterns: Option<&[Pattern]>) -> impl Iterator<Item = &Pattern> {
    const ABSENT: &[Pattern] = &[Pattern::Any];
    patterns.unwrap_or(ABSENT).iter()
}

/// Whether a value of `collections` can name a system collection on purpose: in full, or by a prefix that says more
/// than `system.`.
pub(super) fn names_system_collection(collection: &Pattern) -> bool {
    match collection {
        Pattern::Exact(_) => true,
        Pattern::Prefix(prefix) => prefix.starts_with("system.") || !"system.".starts_with(&**prefix),
        Pattern::Suffix(_) | Pattern::Any => false,
    }
}

impl Leaf {
    /// `condition` is the entry whose `not_` keys are still to be compared, if it has any.
    fn add(&mut self, rule: RuleId, condition: Option<&Arc<To>>, keep: Keep) {
        // Rules are added in their order: if an unconditional one is present, this one is never the first match.
        if keep == Keep::First && !self.rules.is_empty() {
            return;
        }
        match condition {
            None => self.rules.push(rule),
            Some(to) => self.conditional.push((rule, Arc::clone(to))),
        }
    }

    /// The first matching rule of this leaf, if it comes before `found`; otherwise `found`.
    fn first_before(&self, found: Option<RuleId>, database: &str, collection: Option<&str>) -> Option<RuleId> {
        let first = found.into_iter().chain(self.rules.first().copied()).min();
        let before = self.conditional.iter().take_while(|(rule, _)| first.is_none_or(|first| *rule < first));
        let conditional = before.into_iter().find(|(_, to)| is_not_excluded(to, database, collection));
        conditional.map(|(rule, _)| *rule).or(first)
    }

    fn each(&self, database: &str, collection: Option<&str>, see: &mut impl FnMut(RuleId)) {
        let conditional = self.conditional.iter().filter(|(_, to)| is_not_excluded(to, database, collection));
        self.rules.iter().copied().chain(conditional.map(|(rule, _)| *rule)).for_each(see);
    }
}

/// Whether no `not_` key excludes the resource. Without a collection, only `not_databases` is compared.
fn is_not_excluded(to: &To, database: &str, collection: Option<&str>) -> bool {
    let is_excluded =
        to.databases.exclude(database) || collection.is_some_and(|collection| to.collections.exclude(collection));
    !is_excluded
}
