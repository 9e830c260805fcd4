//! Rules that expire: what they decide before and after, and what the operator learns of it.

use std::time::{Duration, SystemTime};

use super::*;

/// 18:00 of some day.
fn six() -> SystemTime {
    humantime::parse_rfc3339("2026-12-01T18:00:00Z").unwrap()
}

const LATE: &str = "expires = 2026-12-01T19:00:00+01:00\nreason = \"incident 4711\"\n";

fn rule(name: &str, action: &str, lines: &str) -> String {
    format!("[[policy.rule]]\nname = \"{name}\"\naction = \"{action}\"\n{lines}")
}

fn policy_at(rules: &str, at: SystemTime) -> Policy {
    Policy::compile(&config(rules), at).unwrap()
}

/// Whether `find shop.orders` is allowed.
fn finds(policy: &Policy) -> bool {
    let view = policy.view(&caller(None));
    view.judge(&meaning("find shop.orders")).effect == Effect::Allow
}

#[test]
fn a_rule_applies_until_its_expiry_and_again_if_the_clock_is_set_back() {
    let second = Duration::from_secs(1);
    let permanent = rule("all", "deny", "to = [{ databases = [\"vault\"] }]\n");
    for (rules, before, after) in [
        // The end of a deny rule opens access.
        (rule("lock", "deny", LATE) + &permanent, false, true),
        // The end of the last allow rule does not.
        (rule("open", "allow", LATE) + &permanent, true, false),
        (rule("open", "allow", LATE) + &rule("vault", "allow", "to = [{ databases = [\"vault\"] }]\n"), true, false),
        (rule("seen", "audit", LATE), true, true),
    ] {
        let early = policy_at(&rules, six() - second);
        assert_eq!(finds(&early), before, "{rules}");
        assert_eq!(early.next_expiry(), Some(six()), "{rules}");
        assert!(early.recompiled(six() - Duration::from_millis(1)).is_none(), "{rules}");
        let late = early.recompiled(six()).unwrap();
        assert_eq!(finds(&late), after, "{rules}");
        assert_eq!((late.next_expiry(), late.expired_rules()), (None, 1), "{rules}");
        assert_eq!(late.rule_names(), early.rule_names(), "the ids of the rules stay the same");
        assert_ne!(late.fingerprint(), early.fingerprint(), "{rules}");
        assert_eq!(late.fingerprint(), policy_at(&rules, six() + second).fingerprint(), "{rules}");
        assert!(late.recompiled(six() + second).is_none(), "{rules}");
        let again = late.recompiled(six() - second).unwrap();
        assert_eq!((finds(&again), again.fingerprint()), (before, early.fingerprint()), "{rules}");
    }
    assert!(policy(&permanent).recompiled(six()).is_none());
}

#[test]
fn an_expired_rule_needs_nothing_and_enforces_nothing() {
    let lines = LATE.to_owned() + "from = [{ sources = [\"10.0.0.0/8\"] }]\nto = [{ commands = [\"@javascript\"] }]\n";
    let rules = rule("lock", "deny", &lines);
    let (early, late) = (policy_at(&rules, six() - Duration::from_secs(1)), policy_at(&rules, six()));
    assert_eq!((early.enforces(), early.uses_sources()), (true, true));
    assert_eq!((late.enforces(), late.uses_sources()), (false, false));
    // A caller without any allow rule is denied everything.
    let late = policy_at(&rule("open", "allow", LATE), six());
    assert_eq!((late.enforces(), late.denies_everything_at("orders")), (true, true));
    let unknown = rule("lock", "deny", &(LATE.to_owned() + "to = [{ commands = [\"fnid\"] }]\n"));
    assert_eq!(Policy::compile(&config(&unknown), six()).unwrap_err().len(), 1, "commands are checked all the same");
}

#[test]
fn the_expiries_are_listed_with_their_reasons() {
    let rules = rule("first", "audit", "") + &rule("lock", "deny", LATE);
    let policy = policy_at(&rules, six());
    let all: Vec<_> = policy.expiries().collect();
    let expected = RuleExpiry {
        id: RuleId(1),
        name: "lock",
        action: Action::Deny,
        at: six(),
        reason: Some("incident 4711"),
        is_expired: true,
    };
    assert_eq!(all, [expected]);
    assert_eq!((policy.expiry(RuleId(1)), policy.expiry(RuleId(0))), (Some(expected), None));
}

#[test]
fn an_expired_rule_and_a_deny_rule_that_will_expire_have_warnings() {
    let check = |rules: &str, at: SystemTime, expected: &[&str]| {
        let warnings = policy_at(rules, at).warnings();
        let said: Vec<String> = warnings.iter().map(|one| format!("{} {}", one.key, one.sentence)).collect();
        assert_eq!(said.len(), expected.len(), "{rules}: {said:?}");
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.starts_with(expected), "{rules}: {said}");
        }
    };
    let before = six() - Duration::from_secs(1);
    let opens = "policy.rule[1].expires is 2026-12-01T18:00:00Z: from then on \"lock\" denies nothing";
    check(&rule("lock", "deny", LATE), before, &[opens]);
    check(&rule("lock", "deny", &(LATE.to_owned() + "dry_run = true\n")), before, &[]);
    check(&rule("open", "allow", LATE), before, &[]);
    let passed = "policy.rule[1].expires is 2026-12-01T18:00:00Z, which has passed: \"lock\" has no effect";
    check(&rule("lock", "deny", LATE), six(), &[passed]);
    let allow = "policy.rule[1].expires is 2026-12-01T18:00:00Z, which has passed: \"open\" allows nothing any longer";
    check(&rule("open", "allow", LATE), six(), &[allow]);

    // A rule that ends earlier does not make a rule useless.
    let twins = rule("open", "allow", LATE) + &rule("always", "allow", "to = [{ databases = [\"shop\"] }]\n");
    check(&twins, before, &[]);
    check(&twins, six(), &[allow]);
    let longer = rule("always", "allow", "") + &rule("open", "allow", LATE);
    check(&longer, before, &["policy.rule[2] \"open\" has no effect"]);
}
