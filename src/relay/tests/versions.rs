//! Random policies that replace each other while cursors are open: a `getMore` is allowed exactly if its caller has
//! opened the cursor and the policy in force allows the command that did.

use bson::RawDocumentBuf;
use proptest::prelude::*;

use super::*;
use crate::command;
use crate::command::tests::generator;
use crate::command::{Meaning, Request};
use crate::config::{Action, Enforcement, PolicyConfig, RuleConfig, ToConfig, Values};
use crate::policy::{CallerFacts, Effect, Policy};
use crate::relay::cursors::{self, CursorBook};
use crate::relay::judged_command::JudgedCommand;
use crate::telemetry::policy_metrics::PolicyMetrics;

#[derive(Debug, Clone)]
enum Step {
    /// Puts these rules in force.
    Reload(Vec<RuleConfig>),
    /// The caller sends a command, and a cursor is opened if it is allowed.
    Open { caller: usize, body: Document },
    /// The caller reads one of the cursors.
    Read { caller: usize, cursor: prop::sample::Index },
}

const CALLERS: [&str; 2] = ["cart", "thief"];

fn rule() -> impl Strategy<Value = RuleConfig> {
    let values = |texts: &'static [&'static str]| {
        let some = prop::sample::subsequence(texts, 1..=texts.len().min(3));
        prop::option::of(some).prop_map(|texts| Values {
            any: texts.map(|texts| texts.into_iter().map(str::to_owned).collect()),
            not: None,
        })
    };
    let commands = values(&["@read", "@write", "find", "aggregate", "explain", "@javascript"]);
    let (databases, collections) = (values(&["shop", "vault", "*"]), values(&["secret", "orders", "system.*"]));
    let action = prop::sample::select(vec![Action::Allow, Action::Allow, Action::Deny]);
    (action, commands, databases, collections).prop_map(|(action, commands, databases, collections)| RuleConfig {
        name: "rule".to_owned(),
        action,
        dry_run: false,
        expires: None,
        reason: None,
        from: None,
        to: Some(vec![ToConfig { commands, databases, collections }]),
    })
}

fn step() -> impl Strategy<Value = Step> {
    let caller = 0..CALLERS.len();
    prop_oneof![
        2 => prop::collection::vec(rule(), 0..3).prop_map(Step::Reload),
        4 => (caller.clone(), generator::command()).prop_map(|(caller, body)| Step::Open { caller, body }),
        4 => (caller, any::<prop::sample::Index>()).prop_map(|(caller, cursor)| Step::Read { caller, cursor }),
    ]
}

fn effective(rules: Vec<RuleConfig>, cursors: &Arc<CursorBook>) -> [EffectivePolicy; 2] {
    let known_commands = std::collections::BTreeMap::new();
    let config = PolicyConfig { enforcement: Enforcement::Enforce, deny_javascript: false, known_commands, rules };
    let policy = Arc::new(Policy::compile(&config, std::time::SystemTime::now()).unwrap());
    CALLERS.map(|caller| EffectivePolicy {
        policy: Arc::clone(&policy),
        view: Arc::new(policy.view(&CallerFacts { principal: None, source: None, listener: "test" })),
        metrics: Arc::new(PolicyMetrics::new("test", [])),
        cursors: Arc::clone(cursors),
        caller: cursors::tests::caller(caller),
    })
}

/// What `body` means, if the policy allows it.
fn allowed<'a>(effective: &EffectivePolicy, body: &'a RawDocumentBuf) -> Option<Meaning<'a>> {
    let request = Request { body, database: None, sequences: &[] };
    let meaning = command::read(&request, effective.view.read_options()).ok()?;
    (effective.view.judge(&meaning).effect == Effect::Allow).then_some(meaning)
}

proptest! {
    #[test]
    fn a_cursor_is_readable_exactly_if_the_policy_in_force_allows_its_command_to_its_owner(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let book = Arc::new(CursorBook::default());
        let (mut policies, mut version) = (effective(Vec::new(), &book), 1);
        let mut opened: Vec<(usize, RawDocumentBuf, [bool; 2])> = Vec::new();
        for step in steps {
            match step {
                Step::Reload(rules) => (policies, version) = (effective(rules, &book), version + 1),
                Step::Open { caller, body } => {
                    let (body, policy) = (RawDocumentBuf::try_from(&body).unwrap(), &policies[caller]);
                    let options = policy.view.read_options();
                    let command = allowed(policy, &body).map(|meaning| JudgedCommand::new(&meaning, options, version));
                    if let Some(command) = command {
                        book.add(i64::try_from(opened.len()).unwrap(), &policy.caller, command);
                        opened.push((caller, body, [options.javascript, options.stored_functions]));
                    }
                }
                Step::Read { caller, cursor } if !opened.is_empty() => {
                    let (at, policy) = (cursor.index(opened.len()), &policies[caller]);
                    let (owner, body, [javascript, stored_functions]) = &opened[at];
                    let found = policy.check_cursor(i64::try_from(at).unwrap(), None, version);
                    // What was not searched for then is not known now.
                    let options = policy.view.read_options();
                    let is_known = *javascript
                        || !options.javascript && (*stored_functions || !options.stored_functions);
                    let expected = *owner == caller && is_known && allowed(policy, body).is_some();
                    prop_assert_eq!(found.is_ok(), expected, "{:?}", body);
                }
                Step::Read { .. } => {}
            }
        }
    }
}
