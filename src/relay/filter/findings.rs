//! What a policy finds on one connection: every decision is counted, the first of each kind is logged.

use crate::command::Unclear;
use crate::policy::{Effect, Grounds, Judgement, Note};
use crate::relay::filter::policy_source::{EffectivePolicy, Finding, PolicySource};
use crate::telemetry::policy_metrics::PolicyDecision;

/// Kinds of findings that are logged for one connection. The metrics count the others too.
const LOGGED_MAX: usize = 64;

/// The findings of one connection under one policy, by their kind.
#[derive(Default)]
pub(in crate::relay) struct Findings {
    logged: Vec<(Grounds, PolicyDecision, u64)>,
}

/// What a judgement is about, for the log.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::relay) struct Subject<'a> {
    pub(in crate::relay) command: Option<&'a str>,
    pub(in crate::relay) namespace: &'a str,
    pub(in crate::relay) unclear: Option<Unclear>,
}

impl Findings {
    /// Counts what a judgement has found, and logs the first finding of each kind.
    pub(in crate::relay) fn add(
        &mut self,
        judgement: &Judgement,
        subject: Subject<'_>,
        effective: &EffectivePolicy,
        source: &dyn PolicySource,
    ) {
        let decided = match judgement.effect {
            Effect::Allow => PolicyDecision::Allow,
            Effect::Deny => PolicyDecision::Deny,
        };
        let noted = judgement.notes.iter().map(|(note, grounds)| match note {
            Note::Audit => (*grounds, PolicyDecision::Audit),
            Note::WouldDeny => (*grounds, PolicyDecision::WouldDeny),
        });
        for (grounds, decision) in std::iter::once((judgement.grounds, decided)).chain(noted) {
            effective.count(grounds, decision);
            if decision != PolicyDecision::Allow && self.is_first(grounds, decision) {
                let rule = effective.policy.label(grounds);
                let Subject { command, namespace, unclear } = subject;
                source.log_finding(&Finding { rule, decision, command, namespace, unclear, count: 1 });
            }
        }
    }

    /// Logs the number of findings of each kind that was found more than once, and forgets all.
    pub(in crate::relay) fn log_totals(&mut self, effective: &EffectivePolicy, source: &dyn PolicySource) {
        for (grounds, decision, count) in self.logged.drain(..).filter(|(_, _, count)| *count > 1) {
            let rule = effective.policy.label(grounds);
            source.log_finding(&Finding { rule, decision, command: None, namespace: "", unclear: None, count });
        }
    }

    /// Whether a finding is the first of its kind, and there is room to remember it.
    fn is_first(&mut self, grounds: Grounds, decision: PolicyDecision) -> bool {
        if let Some((_, _, count)) =
            self.logged.iter_mut().find(|(known, how, _)| (*known, *how) == (grounds, decision))
        {
            *count += 1;
            return false;
        }
        let has_room = self.logged.len() < LOGGED_MAX;
        if has_room {
            self.logged.push((grounds, decision, 1));
        }
        has_room
    }
}
