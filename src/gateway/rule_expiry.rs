//! Ends rules at their `expires`, while clients are connected, and says so in the log.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::messages::{POLICY_NO_LONGER_ENFORCED, RULE_APPLIES_AGAIN, RULE_EXPIRED, RULE_EXPIRES_SOON};
use super::policy_reload::log_facts;
use crate::config::Action;
use crate::connection::PolicyInForce;
use crate::identity::rfc3339;
use crate::lifecycle::drain::DrainWatch;
use crate::policy::{Policy, RuleExpiry};

/// The longest time between two looks at the clock: it may be set, and it goes on while the machine is suspended.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long before its expiry a rule is announced in the log.
const NOTICE: Duration = Duration::from_hours(1);

/// The rules that one change or announcement names in the log: ten thousand may expire at the same time.
const LOGGED_MAX: usize = 100;

/// Runs until the process stops: connections that drain follow the policy too.
pub(super) async fn run(in_force: Arc<PolicyInForce>, drain: DrainWatch) {
    let mut announced = Announced::default();
    let follow = async {
        loop {
            let now = SystemTime::now();
            let changed = in_force.expire_rules(now);
            if let Some([before, after]) = &changed {
                log_change(&before.policy, &after.policy);
            }
            let current = in_force.current();
            let policy = current.as_ref().map(|loaded| &*loaded.policy);
            announced.log_new(policy, now);
            // Every change costs all callers their compiled rules. A thousand rules that expire one after the other
            // must not do that a thousand times a second.
            let next_expiry = policy.and_then(Policy::next_expiry).filter(|_| changed.is_none());
            tokio::time::sleep(until_next_look(next_expiry, now)).await;
        }
    };
    tokio::select! {
        () = follow => {}
        () = drain.stopped() => {}
    }
}

fn until_next_look(next_expiry: Option<SystemTime>, now: SystemTime) -> Duration {
    // The timer has a resolution of a millisecond.
    let left = next_expiry.map(|at| at.duration_since(now).unwrap_or_default() + Duration::from_millis(1));
    left.map_or(INTERVAL, |left| left.min(INTERVAL))
}

/// Both policies have the same rules.
fn log_change(before: &Policy, after: &Policy) {
    let changed = before.expiries().zip(after.expiries()).filter(|(before, after)| before != after);
    for (_, RuleExpiry { name, action, at, reason, is_expired, .. }) in changed.take(LOGGED_MAX) {
        let (action, expires) = (action_word(action), rfc3339(at));
        if is_expired {
            tracing::warn!(rule = name, action, expires, reason, "{RULE_EXPIRED}");
        } else {
            tracing::warn!(rule = name, action, expires, reason, "{RULE_APPLIES_AGAIN}");
        }
    }
    if before.enforces() && !after.enforces() {
        let remedy = "if this is not intended, change expires of the rule, or add other rules";
        tracing::warn!(remedy, "{POLICY_NO_LONGER_ENFORCED}");
    }
    log_facts(after);
}

/// The rules whose expiry has been announced, each with the moment: a changed file may extend a rule.
#[derive(Default)]
struct Announced(HashSet<(String, SystemTime)>);

impl Announced {
    fn log_new(&mut self, policy: Option<&Policy>, now: SystemTime) {
        let new = self.take_new(policy, now);
        let further = Some(new.len().saturating_sub(LOGGED_MAX)).filter(|further| *further > 0);
        for RuleExpiry { name, action, at, reason, .. } in new.into_iter().take(LOGGED_MAX) {
            let (action, expires) = (action_word(action), rfc3339(at));
            tracing::warn!(rule = name, action, expires, reason, further, "{RULE_EXPIRES_SOON}");
        }
    }

    /// The rules to announce now.
    fn take_new<'a>(&mut self, policy: Option<&'a Policy>, now: SystemTime) -> Vec<RuleExpiry<'a>> {
        let is_due = |rule: &RuleExpiry<'_>| !rule.is_expired && rule.at <= now + NOTICE;
        let due: Vec<_> = policy.into_iter().flat_map(Policy::expiries).filter(is_due).collect();
        let key = |rule: &RuleExpiry<'_>| (rule.name.to_owned(), rule.at);
        let mut before = std::mem::replace(&mut self.0, due.iter().map(key).collect());
        due.into_iter().filter(|rule| !before.remove(&key(rule))).collect()
    }
}

/// The action as in the configuration.
pub(super) fn action_word(action: Action) -> &'static str {
    match action {
        Action::Deny => "deny",
        Action::Allow => "allow",
        Action::Audit => "audit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Enforcement, PolicyConfig, RuleConfig};
    use crate::relay::HoldBudget;

    fn policy(expiries: &[Option<u64>], now: SystemTime) -> Policy {
        let rule = |(at, expires): (usize, &Option<u64>)| RuleConfig {
            name: format!("rule-{at}"),
            action: Action::Deny,
            dry_run: false,
            expires: expires.map(second),
            reason: None,
            from: None,
            to: None,
        };
        let config = PolicyConfig {
            enforcement: Enforcement::Enforce,
            deny_javascript: false,
            known_commands: std::collections::BTreeMap::new(),
            rules: expiries.iter().enumerate().map(rule).collect(),
        };
        Policy::compile(&config, now).unwrap()
    }

    fn second(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_clock_is_looked_at_when_a_rule_expires_and_once_a_second() {
        let wait = |at: Option<u64>| until_next_look(at.map(second), second(1000) - Duration::from_millis(400));
        assert_eq!(wait(None), INTERVAL);
        assert_eq!(wait(Some(5000)), INTERVAL);
        assert_eq!(wait(Some(1000)), Duration::from_millis(401));
        assert_eq!(wait(Some(1)), Duration::from_millis(1));
    }

    #[test]
    fn a_rule_is_announced_an_hour_before_and_again_if_its_expiry_changes() {
        let mut announced = Announced::default();
        let mut names = |expiries: &[Option<u64>], now: u64| {
            let policy = policy(expiries, second(now));
            let rules = announced.take_new(Some(&policy), second(now));
            rules.into_iter().map(|rule| rule.name.to_owned()).collect::<Vec<_>>()
        };
        let rules = [Some(10_000), None, Some(12_000)];
        assert_eq!(names(&rules, 6_399), [""; 0]);
        assert_eq!(names(&rules, 6_400), ["rule-0"]);
        assert_eq!(names(&rules, 6_401), [""; 0]);
        assert_eq!(names(&rules, 9_000), ["rule-2"]);
        assert_eq!(names(&rules, 10_000), [""; 0], "it has expired");
        assert_eq!(names(&[Some(13_000), None, Some(12_000)], 10_001), ["rule-0"], "the file was changed");
    }

    #[test]
    fn the_end_of_a_rule_does_not_bring_back_a_policy_that_was_replaced() {
        let in_force = PolicyInForce::new(Some(policy(&[Some(100)], second(0))), HoldBudget::new(1));
        assert!(in_force.expire_rules(second(99)).is_none());
        let [before, after] = in_force.expire_rules(second(100)).unwrap();
        assert_eq!((before.policy.expired_rules(), after.policy.expired_rules()), (0, 1));
        assert!(in_force.expire_rules(second(101)).is_none());
        in_force.replace(None);
        assert!(in_force.expire_rules(second(99)).is_none());
        assert!(in_force.current().is_none());
    }
}
