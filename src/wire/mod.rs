//! The `MongoDB` wire protocol: reads messages from untrusted bytes, and builds replies.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::cast_possible_truncation))]

pub mod bson_compaction;
pub mod bson_elements;
pub mod bson_scan;
pub mod error_reply;
pub mod field_names;
pub mod header;
pub mod hello;
pub mod message_scan;
pub mod oidc;
pub mod op_msg;
pub mod op_query;
pub mod reply;
pub mod request;
pub mod sasl;
pub mod short_text;
