//! What a command means: the table of commands, and every namespace that a command body reaches.
//!
//! Pure: takes names and bytes, and returns facts. The policy decides which commands a client may send.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod access;
mod arguments;
mod certain;
mod javascript;
mod kept;
mod known;
mod listing;
mod meaning;
mod names;
mod pipeline;
mod reach;
mod reaches;
mod read;
mod reader;
mod stages;
mod statements;
mod stored;
mod strict;
#[cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        reason = "the table is filled at compile time; at run time a hash is masked to the number of slots"
    )
)]
pub mod table;
mod unclear;
mod users;
mod view_sources;

#[cfg(test)]
pub(crate) mod tests;

pub use access::{
    Access, DatabaseAccess, is_database_name, of_collections as collection_accesses, of_databases as database_accesses,
    resources_of,
};
pub use arguments::session_ids;
pub use certain::{CertainReach, certain_reach, named};
pub use kept::KeptMeaning;
pub use known::{KnownNames, plain_name};
pub use listing::Listing;
pub use meaning::{Exposes, Meaning, Reach, ReadOptions, Request, Resource, Sequence, needs_sequences, sequences_of};
pub use read::{is_reserved, read, unknown_name};
pub use stages::is_known as is_known_stage;
pub use unclear::Unclear;
pub use view_sources::view_sources;
