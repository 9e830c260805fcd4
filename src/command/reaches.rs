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
    /// The name of the stage that was not understood.
    pub(super) unknown_stage: Option<&'a str>,
}

impl<'a> Reaches<'a> {
    pub(super) fn into_list(self) -> SmallVec<[Reach<'a>; 2]> {
        self.list
    }

    pub(super) fn add(&mut self, resource: Resource<'a>, class: Class) -> Result<(), Unclear> {
        self.put(Reach { resource, class, incidental: false })
    }

    /// Adds what the command shows or changes only incidentally: see [`Reach::incidental`].
    pub(super) fn add_incidental(&mut self, resource: Resource<'a>, class: Class) -> Result<(), Unclear> {
        self.put(Reach { resource, class, incidental: true })
    }

    fn put(&mut self, reach: Reach<'a>) -> Result<(), Unclear> {
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

    /// Adds an incidental read of the collection that was added last: errors and replies show values of its documents.
    /// For a bucket collection, that is its time series.
    pub(super) fn show_last(&mut self) -> Result<(), Unclear> {
        match self.list.last().copied() {
            Some(last) => self.add_incidental(last.resource, Class::Read),
            None => Ok(()),
        }
    }

    /// Adds what a command or stage of `known_commands` reaches: the whole server. It may show everything there.
    pub(super) fn add_known(&mut self, class: Class) -> Result<(), Unclear> {
        self.add(Resource::WholeServer, class)?;
        if class == Class::Read { Ok(()) } else { self.add_incidental(Resource::WholeServer, Class::Read) }
    }

    /// Adds the collection of this name: a plain collection, a system collection, or a bucket collection together with
    /// its time series.
    pub(super) fn add_collection(&mut self, database: &'a str, name: &'a str, class: Class) -> Result<(), Unclear> {
        let collection = names::collection(name)?;
        let system = collection.strip_prefix("system.");
        if matches!(database, "local" | "config") || database == "admin" && system.is_some() {
            self.add(Resource::SystemCollection { database, collection, exposes: Exposes::Server }, class)?;
            return if writes_views(system, class) { self.add_any_view(Resource::WholeServer) } else { Ok(()) };
        }
        match system.map(|rest| rest.strip_prefix("buckets.")) {
            None => self.add(Resource::Collection { database, collection }, class),
            Some(None) => {
                self.add(Resource::SystemCollection { database, collection, exposes: Exposes::Database }, class)?;
                if writes_views(system, class) {
                    self.add_any_view(Resource::WholeDatabase(database))?;
                }
                Ok(())
            }
            // A bucket collection holds the measurements of a time series. The recursion is limited by the 253 bytes of
            // a name.
            Some(Some(series)) => {
                self.add(Resource::Collection { database, collection }, class)?;
                self.add_collection(database, series, class)
            }
        }
    }

    /// A document in `system.views` is a view, and no server checks it when it is written. A client that writes one
    /// creates a view of any name that reads any collection.
    fn add_any_view(&mut self, resource: Resource<'a>) -> Result<(), Unclear> {
        self.add(resource, Class::Ddl)?;
        self.add(resource, Class::Read)
    }

    /// Adds `system.js`, which holds the functions that `$where` and `mapReduce` can call, and values that they can
    /// read.
    pub(super) fn add_stored_functions(&mut self, database: &'a str) -> Result<(), Unclear> {
        let resource = Resource::SystemCollection { database, collection: "system.js", exposes: Exposes::Itself };
        self.add(resource, Class::Read)
    }

    /// Adds the collection that `database.collection` names.
    pub(super) fn add_namespace(&mut self, name: &'a str, class: Class) -> Result<(), Unclear> {
        let (database, collection) = names::namespace(name)?;
        self.add_collection(database, collection, class)
    }
}

/// `system` is the name after `system.`.
fn writes_views(system: Option<&str>, class: Class) -> bool {
    class == Class::Write && system == Some("views")
}

/// Up to this length, a linear search is cheaper than hashing.
const LINEAR_SEARCH_MAX: usize = 16;

/// More than a legitimate command reaches. The policy judges each resource, so the number must be limited.
const RESOURCES_MAX: usize = 1000;
