//! A second, independent implementation of docs/policy.md, which compares every rule and every value.
//!
//! It shares no code with the policy, not even the comparison of texts.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use crate::config::{FromConfig, RuleConfig, ToConfig, Values};

use super::*;

pub(super) fn matches_text(value: &str, text: &str) -> bool {
    let (value, text) = (value.as_bytes(), text.as_bytes());
    match value {
        [b'*'] => true,
        [start @ .., b'*'] => text.len() >= start.len() && text[..start.len()] == *start,
        [b'*', end @ ..] => text.len() >= end.len() && text[text.len() - end.len()..] == *end,
        all => text == all,
    }
}

fn any_matches(values: Option<&Vec<String>>, text: &str) -> bool {
    values.is_some_and(|values| values.iter().any(|value| matches_text(value, text)))
}

fn key(values: &Values, fact: Option<&str>) -> bool {
    match fact {
        None => values.any.is_none(),
        Some(fact) => {
            (values.any.is_none() || any_matches(values.any.as_ref(), fact)) && !any_matches(values.not.as_ref(), fact)
        }
    }
}

pub(super) fn from(entry: &FromConfig, caller: &CallerFacts<'_>) -> bool {
    let text = caller.principal.map(ToString::to_string);
    let namespace = text.as_deref().and_then(|text| {
        let parts: Vec<&str> = text.split('/').collect();
        if let [_, "ns", namespace, "sa", _] = parts[..] { Some(namespace) } else { None }
    });
    let inside =
        |networks: &[ipnet::IpNet]| caller.source.is_some_and(|at| networks.iter().any(|net| net.contains(&at)));
    key(&entry.principals, text.as_deref())
        && key(&entry.namespaces, namespace)
        && key(&entry.listeners, Some(caller.listener))
        && entry.sources.as_ref().is_none_or(|networks| inside(networks))
        && !entry.not_sources.as_ref().is_some_and(|networks| inside(networks))
}

fn word(word: &str, meaning: &Meaning<'_>, class: Class) -> bool {
    let class_word = match class {
        Class::Read => "@read",
        Class::Write => "@write",
        Class::Ddl => "@ddl",
        Class::Session => "@session",
        Class::AdminRead => "@admin-read",
        Class::Admin => "@admin",
        Class::UserAdmin => "@user-admin",
        Class::Cluster => "@cluster",
        _ => "",
    };
    let name = table::find(word.as_bytes()).map_or(word, |command| command.name);
    word == class_word || (word == "@javascript" && meaning.javascript) || matches_text(name, meaning.command.name)
}

pub(super) fn commands(entry: &ToConfig, action: Action, meaning: &Meaning<'_>, class: Class) -> bool {
    let allow = action == Action::Allow;
    let explain = |value: &str| meaning.explained && value != "*" && matches_text(value, "explain");
    if let Some(not) = &entry.commands.not
        && not.iter().any(|value| word(value, meaning, class) || (allow && explain(value)))
    {
        return false;
    }
    let any = entry.commands.any.as_ref();
    let named = any.is_some_and(|any| {
        any.iter().any(|value| value != "*" && (word(value, meaning, class) || (!allow && explain(value))))
    });
    if meaning.essential && !meaning.explained {
        return named && !allow;
    }
    let limits = |values: &Values| values.any.is_some() || values.not.as_ref().is_some_and(|not| !not.is_empty());
    if class == Class::Session && !allow && (limits(&entry.databases) || limits(&entry.collections)) {
        return named;
    }
    named || any.is_none_or(|any| any.iter().any(|value| value == "*"))
}

fn is_star(values: Option<&Vec<String>>) -> bool {
    values.is_some_and(|values| values.iter().any(|value| value == "*"))
}

/// Whether an entry of an `allow` covers the whole resource.
pub(super) fn covers(entry: &ToConfig, resource: &Resource<'_>) -> bool {
    let unlimited = |values: &Values| values.any.is_none() || is_star(values.any.as_ref());
    let all = |values: &Values| unlimited(values) && values.not.as_ref().is_none_or(Vec::is_empty);
    let names = |values: &Values, text: &str| {
        values.any.iter().flatten().any(|value| {
            let means_it = !value.starts_with('*')
                && !["s*", "sy*", "sys*", "syst*", "syste*", "system*"].contains(&value.as_str());
            means_it && matches_text(value, text)
        }) && !any_matches(values.not.as_ref(), text)
    };
    match *resource {
        Resource::NoNamespace => true,
        Resource::Database(database) => key(&entry.databases, Some(database)) && unlimited(&entry.collections),
        Resource::Collection { database, collection } => {
            key(&entry.databases, Some(database)) && key(&entry.collections, Some(collection))
        }
        Resource::WholeDatabase(database) => key(&entry.databases, Some(database)) && all(&entry.collections),
        Resource::WholeServer => all(&entry.databases) && all(&entry.collections),
        Resource::SystemCollection { database, collection, exposes: Exposes::Database | Exposes::Itself } => {
            covers(entry, &Resource::WholeDatabase(database))
                || (key(&entry.databases, Some(database)) && names(&entry.collections, collection))
        }
        Resource::SystemCollection { database, collection, exposes: Exposes::Server } => {
            let of_database =
                entry.databases.any.iter().flatten().any(|value| value != "*" && matches_text(value, database));
            covers(entry, &Resource::WholeServer)
                || (of_database && key(&entry.databases, Some(database)) && names(&entry.collections, collection))
        }
    }
}

/// Whether an entry of a `deny` or an `audit` overlaps with the resource.
pub(super) fn overlaps(entry: &ToConfig, resource: &Resource<'_>) -> bool {
    let not_nothing = |values: &Values| !is_star(values.not.as_ref());
    match *resource {
        Resource::NoNamespace => true,
        Resource::Database(database) => key(&entry.databases, Some(database)) && entry.collections.any.is_none(),
        Resource::Collection { database, collection }
        | Resource::SystemCollection { database, collection, exposes: Exposes::Itself } => {
            key(&entry.databases, Some(database)) && key(&entry.collections, Some(collection))
        }
        Resource::WholeDatabase(database) | Resource::SystemCollection { database, exposes: Exposes::Database, .. } => {
            key(&entry.databases, Some(database)) && not_nothing(&entry.collections)
        }
        Resource::WholeServer | Resource::SystemCollection { exposes: Exposes::Server, .. } => {
            not_nothing(&entry.databases) && not_nothing(&entry.collections)
        }
    }
}

pub(super) fn matches(rule: &RuleConfig, caller: &CallerFacts<'_>, meaning: &Meaning<'_>, reach: &Reach<'_>) -> bool {
    let empty = |values: &Values| values.any.as_ref().is_some_and(Vec::is_empty);
    let entry = |entry: &ToConfig| {
        let resource = |entry| {
            if rule.action == Action::Allow { covers(entry, &reach.resource) } else { overlaps(entry, &reach.resource) }
        };
        let dead = empty(&entry.commands) || empty(&entry.databases) || empty(&entry.collections);
        !dead && commands(entry, rule.action, meaning, reach.class) && resource(entry)
    };
    let everything = [ToConfig::default()];
    rule.from.as_ref().is_none_or(|all| all.iter().any(|one| from(one, caller)))
        && rule.to.as_deref().unwrap_or(&everything).iter().any(entry)
}

/// Whether the command is denied, and why.
pub(super) fn decide(
    config: &PolicyConfig,
    dry_too: bool,
    caller: &CallerFacts<'_>,
    meaning: &Meaning<'_>,
) -> (bool, Grounds, Option<usize>) {
    if config.deny_javascript && meaning.javascript {
        return (true, Grounds::JavaScript, None);
    }
    let counted = |action: Action| {
        let rules = config.rules.iter().enumerate();
        rules.filter(move |(_, rule)| rule.action == action && (dry_too || !rule.dry_run))
    };
    let first = |action: Action, reach: &Reach<'_>| {
        let found = counted(action).find(|(_, rule)| matches(rule, caller, meaning, reach));
        found.map(|(at, _)| Grounds::Rule(RuleId(u32::try_from(at).unwrap())))
    };
    let reaches = || meaning.reaches.iter().enumerate();
    if let Some((at, grounds)) = reaches().find_map(|(at, reach)| Some((at, first(Action::Deny, reach)?))) {
        return (true, grounds, Some(at));
    }
    if meaning.essential && !meaning.explained {
        return (false, Grounds::Handshake, None);
    }
    if counted(Action::Allow).next().is_none() {
        return (false, Grounds::NoRule, None);
    }
    let asked = || reaches().filter(|(_, reach)| !reach.incidental);
    if let Some((at, _)) = asked().find(|(_, reach)| first(Action::Allow, reach).is_none()) {
        return (true, Grounds::NoAllowRule, Some(at));
    }
    let Some((at, reach)) = asked().next() else { return (false, Grounds::NoRule, None) };
    (false, first(Action::Allow, reach).unwrap(), Some(at))
}

fn judge(config: &PolicyConfig, caller: &CallerFacts<'_>, meaning: &Meaning<'_>) -> Judgement {
    let rules = || config.rules.iter().enumerate();
    let audits = rules().filter(|(_, rule)| {
        rule.action == Action::Audit && meaning.reaches.iter().any(|reach| matches(rule, caller, meaning, reach))
    });
    let note = |(at, _): (usize, _)| (Note::Audit, Grounds::Rule(RuleId(u32::try_from(at).unwrap())));
    let mut notes: SmallVec<_> = audits.map(note).collect();
    let in_force = config.deny_javascript || rules().any(|(_, rule)| rule.action != Action::Audit && !rule.dry_run);
    let enforces = config.enforcement == Enforcement::Enforce && in_force;
    let (refuses, grounds, reach) = decide(config, false, caller, meaning);
    if refuses && enforces {
        return Judgement { effect: Effect::Deny, grounds, reach, notes };
    }
    if refuses {
        notes.push((Note::WouldDeny, grounds));
        return Judgement { effect: Effect::Allow, grounds: Grounds::NoRule, reach, notes };
    }
    let (would_refuse, would, where_) = decide(config, true, caller, meaning);
    if would_refuse {
        notes.push((Note::WouldDeny, would));
        return Judgement { effect: Effect::Allow, grounds, reach: where_, notes };
    }
    Judgement { effect: Effect::Allow, grounds, reach, notes }
}

fn values(texts: &'static [&'static str]) -> impl Strategy<Value = Values> + Clone {
    let list = || vec(select(texts).prop_map(str::to_owned), 0..4);
    (of(list()), prop_oneof![3 => Just(None), 1 => list().prop_map(Some)]).prop_map(|(any, not)| Values { any, not })
}

const DATABASES: &[&str] = &["a", "ab", "b", "local", "a*", "*b", "lo*", "*"];
const COLLECTIONS: &[&str] = &["x", "xy", "system.profile", "oplog.rs", "x*", "sys*", "system.*", "*s", "*"];
const COMMANDS: &[&str] = &[
    "find",
    "aggregate",
    "findandmodify",
    "ping",
    "endSessions",
    "explain",
    "insert",
    "listCollections",
    "list*",
    "find*",
    "*",
    "@read",
    "@write",
    "@session",
    "@admin-read",
    "@javascript",
];
const PRINCIPALS: &[&str] = &["td/ns/a/sa/x", "td/ns/b/sa/x", "CN=x", "td/*", "*x", "*"];

fn any_from() -> impl Strategy<Value = FromConfig> {
    let networks = || of(vec(select(vec!["10.0.0.0/8", "10.1.0.0/16", "::1/128"]), 0..3));
    let parsed = |texts: Option<Vec<&str>>| texts.map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect());
    let seldom = |texts| prop_oneof![2 => Just(Values::default()), 1 => values(texts)];
    let keys = (values(PRINCIPALS), seldom(&["a", "b*", "*"]), seldom(&["orders", "o*", "*"]), networks(), networks());
    keys.prop_map(move |(principals, namespaces, listeners, sources, not_sources)| FromConfig {
        principals,
        namespaces,
        sources: parsed(sources.filter(|texts| texts.len() > 1)),
        not_sources: parsed(not_sources.filter(|texts| texts.len() > 1)),
        listeners,
    })
}

fn any_to() -> impl Strategy<Value = ToConfig> {
    let keys = (values(COMMANDS), values(DATABASES), values(COLLECTIONS));
    keys.prop_map(|(commands, databases, collections)| ToConfig { commands, databases, collections })
}

pub(super) fn any_rules(most: usize) -> impl Strategy<Value = Vec<RuleConfig>> {
    let action = select(vec![Action::Deny, Action::Allow, Action::Allow, Action::Audit]);
    let dry_run = prop_oneof![3 => Just(false), 1 => Just(true)];
    let from = prop_oneof![2 => Just(None), 1 => vec(any_from(), 0..3).prop_map(Some)];
    let to = prop_oneof![1 => Just(None), 5 => vec(any_to(), 0..4).prop_map(Some)];
    let rule = (action, dry_run, from, to).prop_map(|(action, dry_run, from, to)| RuleConfig {
        name: String::new(),
        action,
        dry_run,
        expires: None,
        reason: None,
        from,
        to,
    });
    vec(rule, 0..most).prop_map(|mut rules| {
        rules.iter_mut().enumerate().for_each(|(at, rule)| rule.name = format!("rule-{at}"));
        rules
    })
}

const NAMES: &[&str] = &[
    "find",
    "aggregate",
    "findAndModify",
    "insert",
    "getMore",
    "ping",
    "hello",
    "endSessions",
    "commitTransaction",
    "serverStatus",
    "atlasVersion",
];

pub(super) fn any_meaning() -> impl Strategy<Value = Meaning<'static>> {
    let database = || select(vec!["a", "ab", "b", "c", "local"]);
    let collection = || select(vec!["x", "xy", "y", "system.profile", "system.views", "oplog.rs"]);
    let exposes = select(vec![Exposes::Database, Exposes::Server, Exposes::Itself]);
    let resource = prop_oneof![
        1 => Just(Resource::NoNamespace),
        2 => database().prop_map(Resource::Database),
        6 => (database(), collection())
            .prop_map(|(database, collection)| Resource::Collection { database, collection }),
        2 => database().prop_map(Resource::WholeDatabase),
        1 => Just(Resource::WholeServer),
        3 => (database(), collection(), exposes)
            .prop_map(|(database, collection, exposes)| Resource::SystemCollection { database, collection, exposes }),
    ];
    let class = of(select(vec![Class::Read, Class::Write]));
    let seldom = || prop_oneof![3 => Just(false), 1 => Just(true)];
    let reaches = vec((resource, class, seldom()), 1..4);
    let facts = (select(NAMES), reaches, any::<bool>(), seldom(), seldom());
    facts.prop_map(|(name, reaches, javascript, explained, essential)| {
        let command = table::find(name.as_bytes()).unwrap();
        // A command of the handshake has only its own class, and runs no JavaScript.
        let is_plain = matches!(command.class, Class::Handshake | Class::Auth);
        let may_be_essential = is_plain || ["endSessions", "commitTransaction", "getMore"].contains(&name);
        let is_essential = is_plain || (essential && may_be_essential);
        let class = |class: Option<Class>| class.filter(|_| !is_essential).unwrap_or(command.class);
        let reach = |(resource, of, incidental)| Reach { resource, class: class(of), incidental };
        Meaning {
            command,
            explained,
            database: "a",
            reaches: reaches.into_iter().map(reach).collect(),
            javascript: javascript && !is_plain,
            essential: is_essential,
            listing: None,
            cursors: SmallVec::new(),
            sessions: SmallVec::new(),
        }
    })
}

pub(super) fn any_caller() -> impl Strategy<Value = (Option<Principal>, Option<IpAddr>, &'static str)> {
    let principals = of(select(vec!["td/ns/a/sa/x", "td/ns/b/sa/x", "td/y", "CN=x"]));
    let sources = of(select(vec!["10.1.0.1", "10.2.0.1", "::1"]));
    (principals, sources, select(vec!["orders", "other"])).prop_map(|(principal, source, listener)| {
        (principal.map(Principal::configured), source.map(|text| text.parse().unwrap()), listener)
    })
}

fn sorted(mut judgement: Judgement) -> Judgement {
    judgement.notes.sort_by_key(|(note, grounds)| (*note == Note::WouldDeny, format!("{grounds:?}")));
    judgement
}

proptest! {
    #[test]
    fn a_view_judges_like_a_comparison_of_every_rule(
        rules in any_rules(9),
        dry_run: bool,
        deny_javascript: bool,
        (principal, source, listener) in any_caller(),
        meanings in vec(any_meaning(), 1..5),
    ) {
        let enforcement = if dry_run { Enforcement::DryRun } else { Enforcement::Enforce };
        let known_commands = std::collections::BTreeMap::new();
        let config = PolicyConfig { enforcement, deny_javascript, known_commands, rules };
        let policy = Policy::compile(&config, std::time::SystemTime::now()).unwrap();
        let caller = CallerFacts { principal: principal.as_ref(), source, listener };
        let view = policy.view(&caller);
        for meaning in meanings {
            prop_assert_eq!(sorted(view.judge(&meaning)), sorted(judge(&config, &caller, &meaning)), "{:?}", meaning);
            // The second judgement uses the tables that the first one made.
            prop_assert_eq!(view.judge(&meaning), policy.view(&caller).judge(&meaning));
            let expected: Vec<(RuleId, usize)> = (0..).map(RuleId).zip(&config.rules)
                .flat_map(|(id, rule)| meaning.reaches.iter().enumerate().map(move |(at, reach)| (id, rule, at, reach)))
                .filter(|(_, rule, _, reach)| matches(rule, &caller, &meaning, reach))
                .map(|(id, _, at, _)| (id, at))
                .collect();
            prop_assert_eq!(view.matching(&meaning), expected);
        }
    }

    #[test]
    fn a_rule_with_a_warning_has_no_effect(
        rules in any_rules(5),
        (principal, source, listener) in any_caller(),
        meanings in vec(any_meaning(), 1..9),
    ) {
        let (enforcement, known_commands) = (Enforcement::Enforce, std::collections::BTreeMap::new());
        let config = PolicyConfig { enforcement, deny_javascript: false, known_commands, rules };
        let policy = Policy::compile(&config, std::time::SystemTime::now()).unwrap();
        let caller = CallerFacts { principal: principal.as_ref(), source, listener };
        for warning in policy.warnings() {
            let Some(number) = warning.key.strip_prefix("policy.rule[").and_then(|rest| rest.strip_suffix(']')) else {
                continue;
            };
            let mut without = config.clone();
            without.rules.remove(number.parse::<usize>().unwrap() - 1);
            // The last allow rule has another effect: without it, there is no default deny.
            let has_allow = |rules: &[RuleConfig], dry: bool| {
                rules.iter().any(|rule| rule.action == Action::Allow && (dry || !rule.dry_run))
            };
            if [false, true].iter().any(|dry| has_allow(&config.rules, *dry) != has_allow(&without.rules, *dry)) {
                continue;
            }
            for meaning in &meanings {
                let denies = |config| decide(config, false, &caller, meaning).0;
                let would_deny = |config| decide(config, true, &caller, meaning).0;
                prop_assert_eq!(denies(&config), denies(&without), "{:?} {:?}", warning, meaning);
                prop_assert_eq!(would_deny(&config), would_deny(&without), "{:?} {:?}", warning, meaning);
            }
        }
    }
}
