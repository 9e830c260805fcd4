//! What a message means: the commands there are, and every namespace that a body reaches.
//!
//! Pure: takes names and bytes, returns facts. Which commands a client may send is not decided here.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod arguments;
mod javascript;
mod kept;
mod meaning;
mod names;
mod pipeline;
mod reach;
mod reaches;
mod read;
mod statements;
mod strict;
#[cfg_attr(
    not(test),
    expect(
        clippy::indexing_slicing,
        reason = "filled while the compiler runs; at run time a hash is masked to the number of slots"
    )
)]
pub mod table;
mod unclear;
mod users;

#[cfg(test)]
mod tests;

pub use arguments::session_ids;
pub use kept::KeptMeaning;
pub use meaning::{Look, Meaning, Place, Reach, Request, Sequence, Shows, needs_sequences, sequences_of};
pub use read::read;
pub use unclear::Unclear;
