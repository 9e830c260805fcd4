//! What a connection has that uses upstream connections of a pool: the state beside the pump.
//!
//! Such a connection begins without an upstream connection. Hello requests are answered by the gateway. The first other
//! request takes an upstream connection from the pool. It goes back at a boundary: no reply is owed, no stream is open,
//! nothing is partly read or sent.
//!
//! A reply must not reach the wrong client. An upstream connection goes back only at a boundary, and only if nothing
//! has been read from it that no request asked for. The pool closes a connection on which anything arrives while no
//! client has it. While a client has it, a reply has to answer the oldest request in flight, or else both sides close.
//! The ids of requests differ from client to client, so that a reply that a server repeats late answers no request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

use crate::lifecycle::feed::Feed;
use crate::lifecycle::lease::LeaseState;
use crate::relay::monitoring::{Heard, HelloService};
use crate::topology::KnownHello;

/// How a connection uses the upstream connections of a pool.
#[derive(Debug, Clone)]
pub struct SharingRules {
    /// What the gateway knows of the member that the client is connected to.
    pub hello: Arc<Feed<KnownHello>>,
    /// Whether the member refuses the user of the client's connections. The client then reads that in the reply to its
    /// hello.
    pub refuses_user: Arc<AtomicBool>,
    /// Whether an idle client gives its upstream connection back when the pool asks for it.
    pub gives_way: bool,
}

/// The state of a connection that uses upstream connections of a pool.
pub(super) struct Sharing {
    /// Answers the client's hello requests.
    pub(super) hello: HelloService,
    refuses_user: Arc<AtomicBool>,
    gives_way: bool,
    /// The right to use the present upstream connection.
    lease: Option<Arc<LeaseState>>,
    /// Whether the client could do without its upstream connection.
    is_idle: bool,
    /// How far the connection is with getting an upstream connection.
    pub(super) demand: Demand,
    /// What has happened to the upstream connection.
    pub(super) condition: Condition,
    /// Whether the upstream connection goes back as soon as the client is idle: it was taken for a hello that the
    /// gateway could not answer, its certificate set was replaced and its turn has come, or the server has been asked
    /// to confirm the client's unacknowledged writes for that.
    pub(super) goes_back: bool,
}

/// Whether the client needs an upstream connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    None,
    /// It needs one, and its owner does not know yet.
    New,
    /// Its owner knows.
    Reported,
}

/// What has happened to the present upstream connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// Nothing.
    Clean,
    /// It has ended while the client did not use it, and its owner does not know yet.
    Lost,
    /// It has failed, or sent something that this client did not ask for: no other client may get it.
    Spoiled,
}

impl Sharing {
    pub(super) fn new(rules: SharingRules) -> Self {
        let SharingRules { hello, refuses_user, gives_way } = rules;
        Self {
            hello: HelloService::new(hello),
            refuses_user,
            gives_way,
            lease: None,
            is_idle: false,
            demand: Demand::None,
            condition: Condition::Clean,
            goes_back: false,
        }
    }

    /// The client is another principal from now on, which has no upstream connection.
    pub(super) fn set_rules(&mut self, rules: SharingRules) {
        *self = Self::new(rules);
    }

    /// The client has an upstream connection from now on.
    ///
    /// Without a lease the connection is its own, and never goes back.
    pub(super) fn begin_use(&mut self, lease: Option<Arc<LeaseState>>) {
        if let Some(lease) = &lease {
            lease.set_idle(false);
        }
        (self.lease, self.is_idle, self.demand) = (lease, false, Demand::None);
    }

    /// The client has no upstream connection any longer.
    pub(super) fn end_use(&mut self) {
        (self.lease, self.is_idle, self.goes_back) = (None, false, false);
    }

    /// Takes note of whether the client could do without its upstream connection now. Returns whether to give it back.
    pub(super) fn must_give_back(&mut self, is_idle: bool) -> bool {
        let Some(lease) = &self.lease else { return false };
        if is_idle != self.is_idle {
            self.is_idle = is_idle;
            lease.set_idle(is_idle);
        }
        // A monitor would hold it for ever, and is answered by the gateway next time.
        is_idle && (self.goes_back || (self.gives_way && lease.is_wanted()))
    }

    /// The client stays on its upstream connection from now on. Returns whether the pool does not know yet.
    pub(super) fn must_keep(&mut self) -> bool {
        self.lease.take().is_some()
    }

    /// Answers a message of the client, which is complete, if the gateway can.
    pub(super) fn answer(&mut self, message: &[u8], now: Instant) -> Heard {
        if self.refuses_user.load(Ordering::Relaxed) { Heard::NotMine } else { self.hello.take(message, now) }
    }

    /// When something is due that no event announces.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.hello.next_due()
    }
}
