//! What becomes of a request: the policy decides first, then the handshake filter.

pub(super) mod handshake;
pub(super) mod local_reply;
pub(super) mod policy;
pub(super) mod view;
