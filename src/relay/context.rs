//! The state that the readers of requests and of replies share: the filters of one connection, and its ledger.

use crate::command::table;
use crate::command::table::CollectionAt;
use crate::relay::connection_stats::ConnectionStats;
use crate::relay::filter::chain::Filters;
use crate::relay::filter::local_reply::LocalReply;
use crate::relay::in_flight::{InFlight, InFlightRequest, Sender};
use crate::relay::open_state::OpenState;
use crate::relay::request_ids::RequestIds;
use crate::relay::turn_budget::TurnBudget;
use crate::telemetry::metrics::Direction;
use crate::wire::header::{Header, OpCode};
use crate::wire::reply::ReplyFacts;
use crate::wire::request::RequestFacts;

/// The id of a request of the gateway itself. No other request is in flight beside it that was sent before.
pub(super) const OWN_REQUEST_ID: i32 = 0;

/// The filters of one connection, and its ledger.
pub(super) struct ConnectionState {
    pub(super) filters: Filters,
    /// The requests that wait for their replies.
    pub(super) in_flight: InFlight,
    /// What is counted and logged.
    pub(super) stats: ConnectionStats,
    /// The cursors and transactions that the client has open.
    pub(super) open_state: OpenState,
    /// What is left of the connection's turn on its worker.
    pub(super) turn: TurnBudget,
    /// The ids of requests upstream, where an upstream connection serves several clients, one after the other.
    pub(super) shared_ids: Option<RequestIds>,
}

impl ConnectionState {
    pub(super) fn new(stats: ConnectionStats, filters: Filters) -> Self {
        Self {
            filters,
            in_flight: InFlight::default(),
            stats,
            open_state: OpenState::default(),
            turn: TurnBudget::FULL,
            shared_ids: None,
        }
    }

    /// Enters a request that has gone upstream whole: it is counted, and waits for its reply where it expects one.
    pub(super) fn request_forwarded(&mut self, header: &Header, facts: &RequestFacts, is_malformed: bool) {
        if is_malformed {
            self.stats.unparsed(Direction::ToUpstream);
        }
        let command = facts.command().and_then(table::find);
        let id = command.map_or(table::OTHER, |command| command.id);
        let listed = self.filters.policy.take_listed();
        let judged = self.filters.policy.take_judged();
        let speculated = self.filters.tokens.as_mut().and_then(|tokens| tokens.take_speculated());
        if !expects_reply(header, facts) {
            self.in_flight.push_unacknowledged();
            self.stats.unacknowledged(id);
            return;
        }
        let collection_at = command.map(|command| command.collection);
        self.in_flight.push(InFlightRequest {
            exhaust_allowed: facts.exhaust_allowed(),
            sender: if facts.has_checksum() { Sender::ClientWithItsId } else { Sender::Client },
            namespace: self.stats.logs_commands().then(|| namespace(collection_at, facts)),
            cursor: facts.cursor(),
            judged,
            policy_version: self.filters.policy.version(),
            transaction: facts.transaction(),
            names_members: self.filters.handshake.rewrites_replies_to(facts),
            speculated,
            listed,
            ..InFlightRequest::new(header.request_id, id)
        });
    }

    /// Enters a request that gets a local reply, and returns that reply; `None` where the client expects none, since it
    /// would read the reply as the one to its next request.
    pub(super) fn request_answered_locally(
        &mut self,
        header: &Header,
        facts: &RequestFacts,
        is_malformed: bool,
        reply: &LocalReply,
    ) -> Option<Vec<u8>> {
        let id = facts.command().and_then(table::find).map_or(table::OTHER, |command| command.id);
        let is_expected = expects_reply(header, facts);
        let error = match reply {
            LocalReply::Denied(error) => {
                self.stats.denied(id);
                return is_expected.then(|| error.reply_with(header, self.filters.policy.times()));
            }
            LocalReply::Failed(error) | LocalReply::Refused(error, _) => Some(error),
            LocalReply::Done(_) => None,
        };
        if is_malformed {
            self.stats.unparsed(Direction::ToUpstream);
        }
        if !is_expected {
            self.stats.unacknowledged(id);
            return None;
        }
        self.stats.answered_locally(id, error);
        Some(reply.to_message(header))
    }

    /// Enters a request of the gateway itself, which goes upstream whole.
    pub(super) fn own_request_sent(&mut self) {
        let request = InFlightRequest { sender: Sender::Gateway, ..InFlightRequest::new(OWN_REQUEST_ID, table::OTHER) };
        self.in_flight.push(request);
    }

    /// Settles a request of the gateway itself. The client does not see the reply.
    pub(super) fn own_reply_arrived(&mut self, header: &Header) {
        self.in_flight.answer(header, false, |_| {});
    }

    /// Enters a reply that has arrived whole, and settles its request.
    pub(super) fn reply_arrived(&mut self, header: &Header, facts: &ReplyFacts, is_malformed: bool) {
        let Self { filters, in_flight, stats, open_state, .. } = self;
        if is_malformed {
            stats.unparsed(Direction::ToClient);
        }
        let is_known = in_flight.answer(header, facts.more_to_come(), |request| {
            stats.answered(request, facts);
            open_state.settle(request, facts);
            filters.policy.note_reply(request, facts);
        });
        if !is_known {
            stats.unparsed(Direction::ToClient);
        }
    }
}

/// Whether mongod replies to a request. It replies to two of the legacy messages.
fn expects_reply(header: &Header, facts: &RequestFacts) -> bool {
    match header.op_code {
        OpCode::MSG => !facts.more_to_come(),
        OpCode::QUERY | OpCode::GET_MORE => true,
        _ => false,
    }
}

/// `database.collection`, or only the database where the request names no collection.
fn namespace(collection_at: Option<CollectionAt>, facts: &RequestFacts) -> Box<str> {
    let database = facts.database().map(|d| d.to_text()).unwrap_or_default();
    let collection = match collection_at {
        Some(CollectionAt::First) => facts.first_value(),
        Some(CollectionAt::Field("collection")) => facts.collection_field(),
        Some(CollectionAt::FirstFullNamespace) => {
            return facts.first_value().map(|n| n.to_text()).unwrap_or_default().into();
        }
        _ => None,
    };
    match collection {
        Some(collection) => format!("{database}.{}", collection.to_text()).into(),
        None => database.into(),
    }
}
