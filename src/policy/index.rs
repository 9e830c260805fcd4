//! From a place to the rules that match there, without trying each.
//!
//! Holds entries of `to` whose commands match already; only `databases` and `collections` are left to decide. An entry is
//! put down once under each of its values; asking costs a few steps for a place, however many entries there are. Only what
//! a `not_` takes away is looked at entry by entry, among those whose other keys match.
//!
//! What "matches" means depends on what a rule does. An `allow` must cover the whole of a place, a `deny` or an `audit`
//! needs to meet some of it: [`Reading`].

use std::sync::Arc;

use smallvec::SmallVec;

use crate::command::{Exposes, Resource};

use super::pattern::{Pattern, Table};
use super::rule::{RuleId, To};

/// How an entry is held against a place that is more than one collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// All of the place must be in it: `allow`.
    Covers,
    /// Any of the place may be in it: `deny`, `audit`.
    Meets,
}

/// Which of the rules that match are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// The first, where the rules have no say beyond that.
    First,
    /// Every one.
    All,
}

#[derive(Debug)]
pub(super) struct Index {
    reading: Reading,
    keep: Keep,
    is_empty: bool,
    nowhere: Leaf,
    server: Leaf,
    databases: Table<InDatabase>,
    /// Windows onto their database that are named, by database and collection.
    windows_on_database: Table<Table<Leaf>>,
    /// Windows onto the server that are named.
    windows_on_server: Table<Table<Leaf>>,
}

#[derive(Debug, Default)]
struct InDatabase {
    /// Commands that are judged by the database.
    database: Leaf,
    /// The database with all of its collections.
    whole: Leaf,
    collections: Table<Leaf>,
}

/// What matches one place.
#[derive(Debug, Default)]
struct Leaf {
    /// From the first on.
    rules: SmallVec<[RuleId; 1]>,
    /// From the first on; those that still have a `not_` to ask.
    guarded: Vec<(RuleId, Arc<To>)>,
}

impl Index {
    pub(super) fn new(reading: Reading, keep: Keep) -> Self {
        Self {
            reading,
            keep,
            is_empty: true,
            nowhere: Leaf::default(),
            server: Leaf::default(),
            databases: Table::default(),
            windows_on_database: Table::default(),
            windows_on_server: Table::default(),
        }
    }

    /// Adds an entry of `rule`; rules come in their order.
    pub(super) fn add(&mut self, rule: RuleId, to: &Arc<To>) {
        if to.is_dead() {
            return;
        }
        self.is_empty = false;
        let (databases, collections) = (&to.databases, &to.collections);
        let keep = self.keep;
        let covers = self.reading == Reading::Covers;
        let all_collections =
            if covers { collections.ask_for_all() && collections.not.is_empty() } else { !collections.leave_nothing() };
        let all_databases =
            if covers { databases.ask_for_all() && databases.not.is_empty() } else { !databases.leave_nothing() };
        // Where no collection is, a key that asks for one is not met; it may be held not to limit what is allowed.
        let no_collection = if covers { collections.ask_for_all() } else { collections.any.is_none() };

        self.nowhere.add(rule, None, keep);
        if all_databases && all_collections {
            self.server.add(rule, None, keep);
        }
        let not_databases = (!databases.not.is_empty()).then_some(to);
        let not_anything = not_databases.or((!collections.not.is_empty()).then_some(to));
        for database in asked(databases.any.as_deref()) {
            let slot = self.databases.slot(database);
            if no_collection {
                slot.database.add(rule, not_databases, keep);
            }
            if all_collections {
                slot.whole.add(rule, not_databases, keep);
            }
            for collection in asked(collections.any.as_deref()) {
                slot.collections.slot(collection).add(rule, not_anything, keep);
            }
            if covers {
                for collection in asked(collections.any.as_deref()).filter(|pattern| names_window(pattern)) {
                    self.windows_on_database.slot(database).slot(collection).add(rule, not_anything, keep);
                    if *database != Pattern::Any {
                        self.windows_on_server.slot(database).slot(collection).add(rule, not_anything, keep);
                    }
                }
            }
        }
    }

    /// The first rule that matches at `place`.
    pub(super) fn first(&self, resource: &Resource<'_>) -> Option<RuleId> {
        if self.is_empty {
            return None;
        }
        let mut first = None;
        self.visit(resource, |leaf, database, collection| first = leaf.first_before(first, database, collection));
        first
    }

    /// Every rule that matches at `place`, in no order, some perhaps more than once.
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
                        &self.windows_on_database
                    }
                    Exposes::Server => {
                        see(&self.server, database, None);
                        &self.windows_on_server
                    }
                    Exposes::Itself if self.reading == Reading::Meets => {
                        let itself = Resource::Collection { database, collection };
                        return self.visit(&itself, see);
                    }
                    Exposes::Itself => {
                        self.databases.visit(database, |inside| see(&inside.whole, database, None));
                        &self.windows_on_database
                    }
                };
                named.visit(database, |inside| inside.visit(collection, |leaf| see(leaf, database, Some(collection))));
            }
        }
    }
}

/// The values of a key; an absent key asks for whatever there is.
fn asked(patterns: Option<&[Pattern]>) -> impl Iterator<Item = &Pattern> {
    const ABSENT: &[Pattern] = &[Pattern::Any];
    patterns.unwrap_or(ABSENT).iter()
}

/// Whether a value of `collections` can be meant to name a window: in full, or by a beginning that says more than that it
/// is one of the server's own.
pub(super) fn names_window(collection: &Pattern) -> bool {
    match collection {
        Pattern::Exact(_) => true,
        Pattern::Prefix(prefix) => prefix.starts_with("system.") || !"system.".starts_with(&**prefix),
        Pattern::Suffix(_) | Pattern::Any => false,
    }
}

impl Leaf {
    /// `guard` is there where a `not_` has still to be asked.
    fn add(&mut self, rule: RuleId, guard: Option<&Arc<To>>, keep: Keep) {
        // Rules come in their order: one that stands here without a guard comes first in any case.
        if keep == Keep::First && !self.rules.is_empty() {
            return;
        }
        match guard {
            None => self.rules.push(rule),
            Some(to) => self.guarded.push((rule, Arc::clone(to))),
        }
    }

    /// The first rule here that matches, if it comes before `found`; else `found`.
    fn first_before(&self, found: Option<RuleId>, database: &str, collection: Option<&str>) -> Option<RuleId> {
        let first = found.into_iter().chain(self.rules.first().copied()).min();
        let before = self.guarded.iter().take_while(|(rule, _)| first.is_none_or(|first| *rule < first));
        let guarded = before.into_iter().find(|(_, to)| lets_through(to, database, collection));
        guarded.map(|(rule, _)| *rule).or(first)
    }

    fn each(&self, database: &str, collection: Option<&str>, see: &mut impl FnMut(RuleId)) {
        let guarded = self.guarded.iter().filter(|(_, to)| lets_through(to, database, collection));
        self.rules.iter().copied().chain(guarded.map(|(rule, _)| *rule)).for_each(see);
    }
}

/// Whether no `not_` takes the place away; without a collection, only that of databases is asked.
fn lets_through(to: &To, database: &str, collection: Option<&str>) -> bool {
    let taken_away =
        to.databases.take_away(database) || collection.is_some_and(|collection| to.collections.take_away(collection));
    !taken_away
}
