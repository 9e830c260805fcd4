//! What a message means: the commands of MongoDB, by name.
//!
//! Pure: takes bytes, returns facts. Says what a command is, never whether it may pass.

pub mod table;
