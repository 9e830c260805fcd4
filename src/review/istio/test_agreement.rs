//! Random policies: the imported rules make the same decisions as a simple implementation of Istio's reference.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;

use crate::config::Config;
use crate::review::{AssumedCaller, Decision, PolicyReview, RequestedCommand};

use super::tests::REST;
use super::{ImportError, import};

/// The fact that a condition compares: a field in `from` or `to`, and a key in `when`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ComparedFact {
    Principal,
    Namespace,
    Address,
    Port,
}

/// Two lists: at least one of `values` must match, and none of `not` may match.
#[derive(Debug, Clone)]
struct Condition {
    fact: ComparedFact,
    values: Option<Vec<&'static str>>,
    not: Option<Vec<&'static str>>,
}

/// The conditions of one entry; all of them must hold.
type Entry = Vec<Condition>;

#[derive(Debug, Clone)]
struct Rule {
    from: Option<Vec<Entry>>,
    to: Option<Vec<Entry>>,
    when: Vec<Condition>,
}

#[derive(Debug, Clone)]
struct Policy {
    action: &'static str,
    /// `None` for a policy without the field.
    rules: Option<Vec<Rule>>,
}

#[derive(Debug, Clone, Copy)]
struct MeshCaller {
    /// Trust domain, namespace and service account.
    principal: Option<&'static str>,
    namespace: Option<&'static str>,
    address: &'static str,
}

const CALLERS: [MeshCaller; 5] = [
    MeshCaller { principal: Some("td/ns/a/sa/x"), namespace: Some("a"), address: "10.1.2.3" },
    MeshCaller { principal: Some("td/ns/a/sa/y"), namespace: Some("a"), address: "10.1.9.9" },
    MeshCaller { principal: Some("td/ns/ab/sa/x"), namespace: Some("ab"), address: "10.2.0.1" },
    MeshCaller { principal: Some("other/ns/b/sa/x"), namespace: Some("b"), address: "fd00::1" },
    MeshCaller { principal: None, namespace: None, address: "10.1.2.3" },
];

impl ComparedFact {
    fn field(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Principal => ("principals", "notPrincipals", "source.principal"),
            Self::Namespace => ("namespaces", "notNamespaces", "source.namespace"),
            Self::Address => ("ipBlocks", "notIpBlocks", "source.ip"),
            Self::Port => ("ports", "notPorts", "destination.port"),
        }
    }

    fn values(self) -> &'static [&'static str] {
        match self {
            Self::Principal => &["td/ns/a/sa/x", "td/ns/a/*", "td/*", "*", "other/ns/b/sa/x", "*/sa/x", "no/ns/b/sa/d"],
            Self::Namespace => &["a", "a*", "*", "b", "*b", "none"],
            Self::Address => &["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "fd00::/8", "192.0.2.0/24"],
            Self::Port => &["27017", "8080"],
        }
    }

    fn matches(self, value: &str, caller: &MeshCaller) -> bool {
        match self {
            Self::Principal => caller.principal.is_some_and(|text| matches_text(value, text)),
            Self::Namespace => caller.namespace.is_some_and(|text| matches_text(value, text)),
            Self::Address => {
                let address: IpAddr = caller.address.parse().unwrap();
                let network = value.parse::<IpNet>().or_else(|_| value.parse::<IpAddr>().map(IpNet::from));
                network.unwrap().contains(&address)
            }
            Self::Port => value == "27017",
        }
    }
}

fn matches_text(pattern: &str, text: &str) -> bool {
    match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(prefix), _) => text.starts_with(prefix),
        (_, Some(suffix)) => text.ends_with(suffix),
        _ => pattern == text,
    }
}

impl Condition {
    fn holds(&self, caller: &MeshCaller) -> bool {
        let any = |values: &[&str]| values.iter().any(|value| self.fact.matches(value, caller));
        self.values.as_deref().is_none_or(any) && !self.not.as_deref().is_some_and(any)
    }

    fn as_fields(&self) -> Vec<String> {
        let (field, not_field, _) = self.fact.field();
        let list = |name: &str, values: &Option<Vec<&str>>| values.as_ref().map(|values| format!("{name}: {values:?}"));
        [list(field, &self.values), list(not_field, &self.not)].into_iter().flatten().collect()
    }

    fn as_when(&self) -> String {
        let list =
            |name: &str, values: &Option<Vec<&str>>| values.as_ref().map(|values| format!(", {name}: {values:?}"));
        let lists = [list("values", &self.values), list("notValues", &self.not)].into_iter().flatten();
        format!("{{key: {}{}}}", self.fact.field().2, lists.collect::<String>())
    }
}

impl Rule {
    fn matches(&self, caller: &MeshCaller) -> bool {
        let some = |entries: &Option<Vec<Entry>>| {
            entries.as_ref().is_none_or(|entries| entries.iter().any(|entry| entry.iter().all(|c| c.holds(caller))))
        };
        some(&self.from) && some(&self.to) && self.when.iter().all(|condition| condition.holds(caller))
    }

    fn yaml(&self) -> String {
        let entries = |name: &str, inner: &str, entries: &Option<Vec<Entry>>| {
            let entry = |entry: &Entry| {
                let fields: Vec<String> = entry.iter().flat_map(Condition::as_fields).collect();
                format!("{{{inner}: {{{}}}}}", fields.join(", "))
            };
            let list = |entries: &Vec<Entry>| entries.iter().map(entry).collect::<Vec<_>>().join(", ");
            entries.as_ref().map(|entries| format!("{name}: [{}]", list(entries)))
        };
        let when = self.when.iter().map(Condition::as_when).collect::<Vec<_>>().join(", ");
        let when = (!self.when.is_empty()).then(|| format!("when: [{when}]"));
        let parts = [entries("from", "source", &self.from), entries("to", "operation", &self.to), when];
        format!("{{{}}}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

impl Policy {
    fn yaml(&self) -> String {
        let rules = self.rules.as_ref().map(|rules| rules.iter().map(Rule::yaml).collect::<Vec<_>>().join(", "));
        let rules = rules.map(|rules| format!(", rules: [{rules}]")).unwrap_or_default();
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\n\
             spec: {{action: {}{rules}}}\n---\n",
            self.action
        )
    }

    fn matches(&self, caller: &MeshCaller) -> bool {
        self.rules.iter().flatten().any(|rule| rule.matches(caller))
    }
}

/// Istio reference, Authorization Policy: deny, then allow if there is no allow policy, then allow if one matches.
fn is_allowed(policies: &[Policy], caller: &MeshCaller) -> bool {
    let of = |action: &'static str| policies.iter().filter(move |policy| policy.action == action);
    let denied = of("DENY").any(|policy| policy.matches(caller));
    let allowed = of("ALLOW").count() == 0 || of("ALLOW").any(|policy| policy.matches(caller));
    !denied && allowed
}

fn condition(fact: ComparedFact) -> impl Strategy<Value = Condition> {
    let values = || prop::collection::vec(select(fact.values()), 1..3);
    let both = (prop::option::of(values()), prop::option::weighted(0.3, values()));
    both.prop_filter("a condition has values", |(values, not)| values.is_some() || not.is_some())
        .prop_map(move |(values, not)| Condition { fact, values, not })
}

fn source() -> impl Strategy<Value = Entry> {
    let of = |fact| prop::option::of(condition(fact));
    let parts = (of(ComparedFact::Principal), of(ComparedFact::Namespace), of(ComparedFact::Address));
    parts
        .prop_map(|(a, b, c)| [a, b, c].into_iter().flatten().collect::<Entry>())
        .prop_filter("a source has fields", |entry| !entry.is_empty())
}

fn rule() -> impl Strategy<Value = Rule> {
    let fact =
        select(&[ComparedFact::Principal, ComparedFact::Namespace, ComparedFact::Address, ComparedFact::Port][..]);
    let operation = condition(ComparedFact::Port).prop_map(|condition| vec![condition]);
    let parts = (
        prop::option::weighted(0.8, prop::collection::vec(source(), 1..3)),
        prop::option::weighted(0.3, prop::collection::vec(operation, 1..3)),
        prop::collection::vec(fact.prop_flat_map(condition), 0..3),
    );
    parts.prop_map(|(from, to, when)| Rule { from, to, when })
}

fn policy() -> impl Strategy<Value = Policy> {
    let rules = prop::option::weighted(0.9, prop::collection::vec(rule(), 1..4));
    (select(&["ALLOW", "DENY", "AUDIT"][..]), rules).prop_map(|(action, rules)| Policy { action, rules })
}

proptest! {
    #[test]
    fn imported_rules_decide_like_the_mesh(policies in prop::collection::vec(policy(), 1..4)) {
        let yaml: String = policies.iter().map(Policy::yaml).collect();
        let text = match import(&yaml, 27017, "mesh.yaml") {
            Ok(imported) => imported.text,
            // One value cannot have both a prefix and a suffix.
            Err(ImportError::Refused(problems)) if problems.iter().all(|problem| problem.contains("at once")) => {
                return Ok(());
            }
            Err(error) => panic!("{yaml}\n{error}"),
        };
        let config = Config::parse(&format!("{REST}\n{text}"), Path::new("config.toml"), [])
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        let reviewed = PolicyReview::new(&config, std::time::SystemTime::now()).unwrap();
        let text_of = |text: &str| Some(text.to_owned());
        let (command, database, collection) = (text_of("find"), text_of("shop"), text_of("orders"));
        let requested = RequestedCommand { command, database, collection, body: None };
        for caller in CALLERS {
            let assumed = AssumedCaller::new(caller.principal, Some(caller.address.parse().unwrap()), None);
            let explanation = reviewed.explain(&assumed, &requested).unwrap();
            let expected = if is_allowed(&policies, &caller) { Decision::Allow } else { Decision::Deny };
            prop_assert_eq!(explanation.decision, expected, "{:?}\n{}\n{}\n{}", caller, yaml, text, explanation);
        }
    }
}
