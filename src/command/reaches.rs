//! The resources that a command reaches: collected while the command is read, without duplicates, and limited in
//! number.

use std::collections::HashSet;

use smallvec::SmallVec;

use super::meaning::{Exposes, Reach, Resource};
use super::names;
use super::table::Class;
use super::unclear::Unclear;

/// Resources in the order in which they were found.
#[derive(Default)]
pub(super) struct Reaches<'a> {
    list: SmallVec<[Reach<'a>; 2]>,
    /// The entries of `list`; filled only once the list is too long for a linear search.
    known: HashSet<Reach<'a>>,
}

impl<'a> Reaches<'a> {
    pub(super) fn into_list(self) -> SmallVec<[Reach<'a>; 2]> {
        self.list
    }

    pub(super) fn add(&mut self, resource: Resource<'a>, class: Class) -> Result<(), Unclear> {
        let reach = Reach { resource, class };
        if self.list.len() < LINEAR_SEARCH_MAX {
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
        if self.list.len() == RESOURCES_MAX {
            return Err(Unclear::TooManyResources);
        }
        self.list.push(reach);
        Ok(())
    }

    /// Adds the collection of this name: a plain collection, a system collection, or a bucket collection together with
    /// its time series.
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
            // A bucket collection holds the measurements of a time series. The recursion is limited by the 253 bytes of
            // a name.
            Some(Some(series)) => {
                self.add(Resource::Collection { database, collection }, class)?;
                self.add_collection(database, series, class)
            }
        }
    }

    /// Adds the collection that `database.collection` names.
    pub(super) fn add_namespace(&mut self, name: &'a str, class: Class) -> Result<(), Unclear> {
        let (database, collection) = names::namespace(name)?;
        self.add_collection(database, collection, class)
    }
}

/// Up to this length, a linear search is cheaper than hashing.
const LINEAR_SEARCH_MAX: usize = 16;

/// More than a legitimate command reaches. The policy judges each resource, so the number must be limited.
const RESOURCES_MAX: usize = 1000;
