//! What has to change in the requests of one connection before they go upstream: session ids, once there was a policy,
//! and under a policy the flag that allows a stream of replies.

use crate::command;
use crate::command::Meaning;
use crate::policy::SESSION_ID_BYTES;
use crate::relay::filter::judgeable::hold;
use crate::relay::filter::patches::Patches;
use crate::relay::filter::policy_source::PolicySource;
use crate::relay::filter::session_ids::SessionIds;
use crate::relay::filter::verdict::Hold;
use crate::relay::filter::view::{Extent, RequestView};
use crate::relay::hold_budget::Account;
use crate::relay::limits::{BODY_BYTES_MAX, HELD_BYTES_MAX};
use crate::wire::header::OpCode;

/// Finds what has to change in each request.
#[derive(Default)]
pub(in crate::relay) struct RequestChanges {
    /// Maps session ids, once there was a policy.
    session_ids: Option<Box<SessionIds>>,
    /// What has to change in the current request.
    patches: Patches,
    /// Whether judging the request has found its sessions.
    has_found_sessions: bool,
    /// Whether the request has been changed. It may be judged again, by another policy, and is not changed again.
    is_changed: bool,
}

impl RequestChanges {
    /// Maps session ids from now on, if `source` says how and they are not mapped already.
    pub(in crate::relay) fn map_session_ids(&mut self, source: &dyn PolicySource) {
        if self.session_ids.is_none() {
            self.session_ids = source.session_mapping().map(|mapping| Box::new(SessionIds::new(mapping)));
        }
    }

    /// Whether session ids are mapped: there is a policy, or there was one.
    pub(in crate::relay) fn maps_session_ids(&self) -> bool {
        self.session_ids.is_some()
    }

    /// A new request begins.
    pub(in crate::relay) fn begin_request(&mut self) {
        self.is_changed = false;
    }

    /// The filter decides about the request, perhaps not for the first time.
    pub(in crate::relay) fn begin_inspection(&mut self) {
        self.patches.clear();
        self.has_found_sessions = false;
    }

    /// Maps the sessions of a command that was read from `message`.
    pub(in crate::relay) fn map_sessions(&mut self, meaning: &Meaning<'_>, message: &[u8]) {
        let Some(session_ids) = &mut self.session_ids else { return };
        self.has_found_sessions = true;
        for id in &meaning.sessions {
            self.patches.add_session_id(position(id, message), session_ids.id_in_mongod(id));
        }
    }

    /// Finds what has to change in a request that is forwarded, except what [`RequestChanges::map_sessions`] has found.
    pub(in crate::relay) fn find(&mut self, request: &RequestView<'_>, has_policy: bool) {
        if self.is_changed {
            self.patches.clear();
            return;
        }
        let facts = request.facts;
        if has_policy && facts.exhaust_allowed() && !request.is_hello() {
            self.patches.clear_exhaust(facts.flags());
        }
        if !self.has_found_sessions
            && let Some(session_ids) = &mut self.session_ids
            && let Some(body) = request.command()
        {
            for id in command::session_ids(body) {
                self.patches.add_session_id(position(id, request.message), session_ids.id_in_mongod(id));
            }
        }
    }

    /// How to hold a request that no policy judges, if its session ids have to be mapped and its body has not arrived.
    pub(in crate::relay) fn hold_for_session_ids(&self, request: &RequestView<'_>) -> Option<Hold> {
        let RequestView { scan, header, .. } = *request;
        let is_final = request.extent == Extent::Final || request.is_whole() || scan.is_malformed();
        if self.session_ids.is_none() || is_final || scan.body().is_some() {
            return None;
        }
        let needed = match (header.op_code, scan.body_end()) {
            (OpCode::MSG, Some(end)) => end,
            (OpCode::MSG, None) if request.facts.sequences().next().is_none() => return Some(Hold::InInput),
            (OpCode::MSG | OpCode::QUERY, _) => request.length(),
            _ => return None,
        };
        // mongod accepts no longer body.
        (needed <= BODY_BYTES_MAX + HELD_BYTES_MAX).then(|| hold(needed))
    }

    /// Whether the current request has to change.
    pub(in crate::relay) fn is_needed(&self) -> bool {
        !self.patches.is_empty()
    }

    /// Takes what has to change in the request.
    pub(in crate::relay) fn take(&mut self) -> Patches {
        self.is_changed = true;
        std::mem::take(&mut self.patches)
    }

    /// The caller's share of the budget for requests that are held apart; `None` before there was a policy.
    pub(in crate::relay) fn hold_account(&self) -> Option<&Account> {
        self.session_ids.as_ref().map(|session_ids| &session_ids.hold_account)
    }
}

/// The position in `message` of a session id that is part of it.
fn position(id: &[u8; SESSION_ID_BYTES], message: &[u8]) -> usize {
    id.as_ptr().addr().wrapping_sub(message.as_ptr().addr())
}
