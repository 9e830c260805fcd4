//! The log line about the end of a connection.

use std::time::Duration;

use tracing::field::display;

use super::caller_info::CallerInfo;
use super::ending::{Ending, ListenerFacts, Relayed};
use super::messages::{CONNECTION_CLOSED, CONNECTION_REJECTED};
use crate::identity::printable;
use crate::telemetry::log_throttle::{LineBudget, LogDecision, LogThrottle};

/// What a log line needs to know about the listener.
pub(super) struct LogContext<'a> {
    /// The configuration of the listener.
    pub(super) facts: ListenerFacts<'a>,
    /// Limits the log lines about connections.
    pub(super) throttle: &'a LogThrottle,
}

/// The MongoDB user of a connection, as its log line shows it.
#[derive(Default)]
struct LoggedUser {
    /// Contains no control characters.
    name: Option<String>,
    database: Option<String>,
    mechanism: Option<String>,
    /// `gateway`: the gateway authenticated, and mongod confirmed the user. `client`: the client named the user when it
    /// began to authenticate.
    source: Option<&'static str>,
}

impl LoggedUser {
    fn of(relayed: &Relayed) -> Self {
        if let Some(user) = &relayed.user {
            let [database, mechanism] = ["$external", "MONGODB-X509"].map(|text| Some(text.to_owned()));
            return Self { name: Some(user.name.clone()), database, mechanism, source: Some("gateway") };
        }
        let Some(named) = &relayed.end.user else { return Self::default() };
        let shown = |text: &String| Some(printable(text));
        Self {
            name: named.user.as_ref().and_then(shown),
            database: shown(&named.database),
            mechanism: Some(named.mechanism.to_owned()),
            source: Some("client"),
        }
    }
}

/// Writes one log line, at level debug if no operator needs it.
///
/// A problem with an upstream is logged once for all its connections, elsewhere. Each kind of ending has a budget of
/// lines; a line beyond it is shorter, at level debug.
pub(super) fn log(ending: &Ending, context: &LogContext<'_>, caller: &CallerInfo, duration: Duration) {
    let LogContext { facts, throttle } = context;
    let listener = facts.listener;
    let outcome = ending.outcome().label();
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (client, proxy, user) = (caller.address(), caller.proxy().map(display), caller.user());
    let (uid, gid, pid) = (user.map(|u| u.uid), user.map(|u| u.gid), user.and_then(|u| u.pid));
    let principal = caller.identity().map(|identity| identity.principal.as_str());
    let principal_source = caller.identity().map(|identity| identity.source.label());
    let explanation = ending.explanation(facts);
    let (reason, remedy) = (display(&explanation.summary), explanation.remedy.as_deref());
    let (message, budget) = message_and_budget(ending, remedy.is_some());
    // Only kinds of rejections are labels that docs/identity.md lists. Ordinary ends share one budget.
    let kind = match ending {
        Ending::Relayed(_) if remedy.is_none() => "relayed",
        Ending::Relayed(_) => outcome,
        _ => explanation.label,
    };
    let decision = budget.map_or(LogDecision::Suppress, |budget| throttle.note(message, kind, budget));
    let LogDecision::Log { suppressed } = decision else {
        if message == CONNECTION_CLOSED {
            tracing::debug!(listener, %client, proxy, outcome, reason, duration_ms, "{CONNECTION_CLOSED}");
        } else {
            tracing::debug!(listener, %client, proxy, outcome, kind, reason, duration_ms, "{CONNECTION_REJECTED}");
        }
        return;
    };
    match ending {
        Ending::Relayed(relayed) => {
            let (Relayed { upstream, shared, end, .. }, user) = (relayed, LoggedUser::of(relayed));
            tracing::info!(
                listener,
                %client,
                proxy,
                uid,
                gid,
                pid,
                principal,
                principal_source,
                upstream = upstream.map(display),
                upstream_connections = *shared,
                user = user.name,
                user_database = user.database,
                user_mechanism = user.mechanism,
                user_source = user.source,
                outcome,
                ended_by = %end.ended_by,
                reason,
                remedy,
                commands = end.commands,
                errors = end.errors,
                denied = end.denied,
                unanswered = end.unanswered,
                to_upstream_bytes = end.to_upstream_bytes,
                to_client_bytes = end.to_client_bytes,
                duration_ms,
                suppressed,
                "{CONNECTION_CLOSED}"
            );
        }
        Ending::NoUpstream(unavailable) => tracing::info!(
            listener,
            %client,
            proxy,
            principal,
            principal_source,
            original = unavailable.original().map(display),
            outcome,
            reason,
            remedy,
            duration_ms,
            suppressed,
            "{CONNECTION_REJECTED}"
        ),
        _ => tracing::warn!(
            listener,
            %client,
            proxy,
            uid,
            gid,
            pid,
            principal,
            outcome,
            kind,
            reason,
            remedy,
            duration_ms,
            suppressed,
            "{CONNECTION_REJECTED}"
        ),
    }
}

/// The message of an ending, and the budget of its lines; without a budget, all its lines are at level debug.
fn message_and_budget(ending: &Ending, has_remedy: bool) -> (&'static str, Option<LineBudget>) {
    match ending {
        Ending::Probe | Ending::Drained | Ending::SocketFailed(_) => (CONNECTION_CLOSED, None),
        Ending::Relayed(_) if has_remedy => (CONNECTION_CLOSED, Some(LineBudget::Changes)),
        Ending::Relayed(_) => (CONNECTION_CLOSED, Some(LineBudget::Traffic)),
        Ending::NoUpstream(_) => (CONNECTION_REJECTED, Some(LineBudget::Changes)),
        Ending::OtherProtocol(_)
        | Ending::BadProxyHeader(_)
        | Ending::HandshakeFailed(_)
        | Ending::Rejected(_)
        | Ending::Displaced(_)
        | Ending::Overloaded { .. }
        | Ending::ConnectionLimit(_) => (CONNECTION_REJECTED, Some(LineBudget::Failures)),
    }
}
