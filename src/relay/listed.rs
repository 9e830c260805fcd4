//! What the reply to a request in flight lists.

use crate::command::Listing;

/// What the replies to a request list, so that they show only what the caller may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// What they list.
    pub(super) listing: Listing,
    /// The database of the command: that of the collections.
    pub(super) database: Box<str>,
}
