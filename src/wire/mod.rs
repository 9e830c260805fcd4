//! What a message says: the MongoDB wire protocol, read from hostile bytes.

pub mod header;
pub mod op_msg;
