//! The commands that the policy has allowed and that may open a cursor, kept until their replies; and whether a reply
//! may still reach the client after the policy has changed.

use crate::command::Meaning;
use crate::command::table::{Class, Command};
use crate::policy::ErrorCode;
use crate::relay::connection_stats::ConnectionStats;
use crate::relay::filter::policy_source::EffectivePolicy;
use crate::relay::filter::reply::ReplyView;
use crate::relay::in_flight::InFlightRequest;
use crate::relay::judged_command::JudgedCommand;
use crate::wire::header::OpCode;
use crate::wire::reply::ReplyFacts;

/// The command of the current request, and memory for the next one.
#[derive(Default)]
pub(in crate::relay) struct JudgedCommands {
    current: Option<Box<JudgedCommand>>,
    spare: Option<Box<JudgedCommand>>,
}

impl JudgedCommands {
    /// A new request begins.
    pub(in crate::relay) fn begin_request(&mut self) {
        if self.current.is_some() {
            self.spare = self.current.take();
        }
    }

    /// Keeps a command that `effective`, the policy of this version, has allowed, if its reply may open a cursor.
    pub(in crate::relay) fn keep(&mut self, meaning: &Meaning<'_>, effective: &EffectivePolicy, version: u64) {
        if !may_open_cursor(meaning.command) {
            return;
        }
        let options = effective.view.read_options();
        self.current = Some(match self.spare.take() {
            Some(mut command) => {
                command.replace(meaning, options, version);
                command
            }
            None => Box::new(JudgedCommand::new(meaning, options, version)),
        });
    }

    /// Takes the command of the current request. [`JudgedCommands::settle`] gets it with the reply.
    pub(in crate::relay) fn take(&mut self) -> Option<Box<JudgedCommand>> {
        self.current.take()
    }

    /// Remembers the owner and the command of the cursor that a reply opens, and forgets a cursor that has ended.
    pub(in crate::relay) fn settle(
        &mut self,
        request: &mut InFlightRequest,
        reply: &ReplyFacts,
        effective: &EffectivePolicy,
    ) {
        match (request.cursor, reply.cursor().filter(|id| *id != 0), request.judged.take()) {
            // Without its command nothing is known about a cursor, and no caller may read it.
            (None, Some(id), Some(command)) => effective.cursors.add(id, &effective.caller, *command),
            (Some(id), None, _)
                if reply.cursor().is_some() || reply.code() == Some(ErrorCode::CURSOR_NOT_FOUND.code) =>
            {
                effective.cursors.forget(id);
            }
            (_, _, Some(command)) => self.spare = Some(command),
            _ => {}
        }
    }
}

/// Whether a reply shows what this policy, of this version, has not allowed: another version has let the request pass.
/// A command that is not a `getMore` finishes as it was judged. A `getMore` may wait for data that is written later,
/// and a stream of replies began without a policy, since no policy lets one begin.
pub(in crate::relay) fn denies_reply(effective: &EffectivePolicy, version: u64, reply: &ReplyView<'_>) -> bool {
    if !effective.policy.enforces() {
        return false;
    }
    let Some(request) = reply.request() else {
        // An exhaust cursor of an old server, which an OP_QUERY has opened.
        return reply.header.op_code == OpCode::REPLY;
    };
    match request.command.name() {
        "getMore" => request.cursor.is_none_or(|id| effective.check_cursor(id, None, version).is_err()),
        _ => request.is_streaming && !ConnectionStats::is_monitor(request.command),
    }
}

/// Whether the reply to a command may open a cursor. It is known of frequent commands only that they open none.
fn may_open_cursor(command: &Command) -> bool {
    match command.class {
        Class::Handshake | Class::Auth | Class::Session | Class::Write => command.name == "bulkWrite",
        _ => !matches!(command.name, "getMore" | "killCursors" | "count" | "distinct"),
    }
}
