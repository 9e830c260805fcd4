//! What a message means: the commands there are, and every namespace that a body reaches.
//!
//! Pure: takes names and bytes, returns facts. Which commands a client may send is not decided here.

mod meaning;
pub mod table;

pub use meaning::{
    Look, Meaning, Place, Reach, Request, Sequence, Shows, Unclear, needs_sequences, read, sequences_of,
};
