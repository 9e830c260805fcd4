//! The places that a command reaches, as they are found: each once, and not without end.

use std::collections::HashSet;

use smallvec::SmallVec;

use super::meaning::{Exposes, Reach, Resource};
use super::names;
use super::table::Class;
use super::unclear::Unclear;

/// Places in the order in which they are found.
#[derive(Default)]
pub(super) struct Reaches<'a> {
    list: SmallVec<[Reach<'a>; 2]>,
    /// What is in `list`; filled only when that is too long to be looked through for every name.
    known: HashSet<Reach<'a>>,
}

impl<'a> Reaches<'a> {
    pub(super) fn into_list(self) -> SmallVec<[Reach<'a>; 2]> {
        self.list
    }

    pub(super) fn add(&mut self, resource: Resource<'a>, class: Class) -> Result<(), Unclear> {
        let reach = Reach { resource, class };
        if self.list.len() < LOOKED_THROUGH {
            if self.list.contains(&reach) {
                return Ok(());
            }
        } else {
            if self.known.is_empty() {
                self.known.extend(self.list.iter().copied());
            }
            if !self.known.insert(reach) {
                return Ok(());
            }
        }
        if self.list.len() == PLACES_MAX {
            return Err(Unclear::TooManyPlaces);
        }
        self.list.push(reach);
        Ok(())
    }

    /// A collection by its name: itself, the collection behind a bucket, or a window onto others.
    pub(super) fn add_collection(&mut self, database: &'a str, name: &'a str, class: Class) -> Result<(), Unclear> {
        let collection = names::collection(name)?;
        let system = collection.strip_prefix("system.");
        if matches!(database, "local" | "config") || database == "admin" && system.is_some() {
            return self.add(Resource::SystemCollection { database, collection, exposes: Exposes::Server }, class);
        }
        match system.map(|rest| rest.strip_prefix("buckets.")) {
            None => self.add(Resource::Collection { database, collection }, class),
            Some(None) => {
                self.add(Resource::SystemCollection { database, collection, exposes: Exposes::Database }, class)
            }
            // The measurements of a time series, in another form. As deep as 253 bytes can name buckets of buckets.
            Some(Some(series)) => {
                self.add(Resource::Collection { database, collection }, class)?;
                self.add_collection(database, series, class)
            }
        }
    }

    /// A collection by `database.collection`.
    pub(super) fn add_namespace(&mut self, name: &'a str, class: Class) -> Result<(), Unclear> {
        let (database, collection) = names::namespace(name)?;
        self.add_collection(database, collection, class)
    }
}

/// Comparing with so many is cheaper than hashing.
const LOOKED_THROUGH: usize = 16;

/// More than any honest command reaches; a policy looks at each.
const PLACES_MAX: usize = 1000;
