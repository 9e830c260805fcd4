//! Stand-in until part B is merged.

#[derive(Debug, Default)]
pub struct HelloFeed {}
