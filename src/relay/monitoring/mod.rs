//! Stand-in until part B is merged.

use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;

use crate::topology::HelloFeed;

pub(in crate::relay) struct HelloService {
    _feed: Arc<HelloFeed>,
}

pub(in crate::relay) enum Heard {
    NotMine,
    Reply(Vec<u8>),
    Later,
}

pub(in crate::relay) enum Event {
    Reply(Vec<u8>),
    Lost,
}

impl HelloService {
    pub(in crate::relay) fn new(feed: Arc<HelloFeed>) -> Self {
        Self { _feed: feed }
    }
    pub(in crate::relay) fn take(&mut self, _message: &[u8], _now: Instant) -> Heard {
        Heard::NotMine
    }
    pub(in crate::relay) fn poll(&mut self, _now: Instant, _cx: &mut Context<'_>) -> Poll<Event> {
        Poll::Pending
    }
    pub(in crate::relay) fn next_due(&self) -> Option<Instant> {
        None
    }
    pub(in crate::relay) fn is_waiting(&self) -> bool {
        false
    }
    pub(in crate::relay) fn finish(&mut self) -> Option<Vec<u8>> {
        None
    }
}
