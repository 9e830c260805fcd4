//! Policies made at random: what is imported decides as a naive reading of Istio's reference does.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;

use crate::config::Config;
use crate::review::{AssumedCaller, Decision, PolicyReview, RequestedCommand};

use super::tests::REST;
use super::{ImportError, import};

/// What a condition looks at: the field in `from` or `to`, and the key in `when`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looks {
    Principal,
    Namespace,
    Address,
    Port,
}

/// Values of which one matches, and values of which none does.
#[derive(Debug, Clone)]
struct Condition {
    looks: Looks,
    values: Option<Vec<&'static str>>,
    not: Option<Vec<&'static str>>,
}

/// Conditions of one entry, of which all hold.
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
    /// `None` is a policy without the field.
    rules: Option<Vec<Rule>>,
}

#[derive(Debug, Clone, Copy)]
struct Asks {
    /// As the mesh has it: trust domain, namespace, account.
    principal: Option<&'static str>,
    namespace: Option<&'static str>,
    address: &'static str,
}

const CALLERS: [Asks; 5] = [
    Asks { principal: Some("td/ns/a/sa/x"), namespace: Some("a"), address: "10.1.2.3" },
    Asks { principal: Some("td/ns/a/sa/y"), namespace: Some("a"), address: "10.1.9.9" },
    Asks { principal: Some("td/ns/ab/sa/x"), namespace: Some("ab"), address: "10.2.0.1" },
    Asks { principal: Some("other/ns/b/sa/x"), namespace: Some("b"), address: "fd00::1" },
    Asks { principal: None, namespace: None, address: "10.1.2.3" },
];

impl Looks {
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

    fn matches(self, value: &str, asks: &Asks) -> bool {
        match self {
            Self::Principal => asks.principal.is_some_and(|text| fits(value, text)),
            Self::Namespace => asks.namespace.is_some_and(|text| fits(value, text)),
            Self::Address => {
                let address: IpAddr = asks.address.parse().unwrap();
                let network = value.parse::<IpNet>().or_else(|_| value.parse::<IpAddr>().map(IpNet::from));
                network.unwrap().contains(&address)
            }
            Self::Port => value == "27017",
        }
    }
}

fn fits(pattern: &str, text: &str) -> bool {
    match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(prefix), _) => text.starts_with(prefix),
        (_, Some(suffix)) => text.ends_with(suffix),
        _ => pattern == text,
    }
}

impl Condition {
    fn holds(&self, asks: &Asks) -> bool {
        let any = |values: &[&str]| values.iter().any(|value| self.looks.matches(value, asks));
        self.values.as_deref().is_none_or(any) && !self.not.as_deref().is_some_and(any)
    }

    fn as_fields(&self) -> Vec<String> {
        let (field, not_field, _) = self.looks.field();
        let list = |name: &str, values: &Option<Vec<&str>>| values.as_ref().map(|values| format!("{name}: {values:?}"));
        [list(field, &self.values), list(not_field, &self.not)].into_iter().flatten().collect()
    }

    fn as_when(&self) -> String {
        let list =
            |name: &str, values: &Option<Vec<&str>>| values.as_ref().map(|values| format!(", {name}: {values:?}"));
        let lists = [list("values", &self.values), list("notValues", &self.not)].into_iter().flatten();
        format!("{{key: {}{}}}", self.looks.field().2, lists.collect::<String>())
    }
}

impl Rule {
    fn matches(&self, asks: &Asks) -> bool {
        let some = |entries: &Option<Vec<Entry>>| {
            entries.as_ref().is_none_or(|entries| entries.iter().any(|entry| entry.iter().all(|c| c.holds(asks))))
        };
        some(&self.from) && some(&self.to) && self.when.iter().all(|condition| condition.holds(asks))
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

    fn matches(&self, asks: &Asks) -> bool {
        self.rules.iter().flatten().any(|rule| rule.matches(asks))
    }
}

/// Istio reference, Authorization Policy: deny, then allow if there is no allow policy, then allow if one matches.
fn is_allowed(policies: &[Policy], asks: &Asks) -> bool {
    let of = |action: &'static str| policies.iter().filter(move |policy| policy.action == action);
    let denied = of("DENY").any(|policy| policy.matches(asks));
    let allowed = of("ALLOW").count() == 0 || of("ALLOW").any(|policy| policy.matches(asks));
    !denied && allowed
}

fn condition(looks: Looks) -> impl Strategy<Value = Condition> {
    let values = || prop::collection::vec(select(looks.values()), 1..3);
    let both = (prop::option::of(values()), prop::option::weighted(0.3, values()));
    both.prop_filter("a condition has values", |(values, not)| values.is_some() || not.is_some())
        .prop_map(move |(values, not)| Condition { looks, values, not })
}

fn source() -> impl Strategy<Value = Entry> {
    let of = |looks| prop::option::of(condition(looks));
    let parts = (of(Looks::Principal), of(Looks::Namespace), of(Looks::Address));
    parts
        .prop_map(|(a, b, c)| [a, b, c].into_iter().flatten().collect::<Entry>())
        .prop_filter("a source has fields", |entry| !entry.is_empty())
}

fn rule() -> impl Strategy<Value = Rule> {
    let looks = select(&[Looks::Principal, Looks::Namespace, Looks::Address, Looks::Port][..]);
    let operation = condition(Looks::Port).prop_map(|condition| vec![condition]);
    let parts = (
        prop::option::weighted(0.8, prop::collection::vec(source(), 1..3)),
        prop::option::weighted(0.3, prop::collection::vec(operation, 1..3)),
        prop::collection::vec(looks.prop_flat_map(condition), 0..3),
    );
    parts.prop_map(|(from, to, when)| Rule { from, to, when })
}

fn policy() -> impl Strategy<Value = Policy> {
    let rules = prop::option::weighted(0.9, prop::collection::vec(rule(), 1..4));
    (select(&["ALLOW", "DENY", "AUDIT"][..]), rules).prop_map(|(action, rules)| Policy { action, rules })
}

proptest! {
    #[test]
    fn what_is_imported_decides_as_the_mesh(policies in prop::collection::vec(policy(), 1..4)) {
        let yaml: String = policies.iter().map(Policy::yaml).collect();
        let text = match import(&yaml, 27017, "mesh.yaml") {
            Ok(imported) => imported.text,
            // A beginning and an end at once cannot be said.
            Err(ImportError::Refused(problems)) if problems.iter().all(|problem| problem.contains("at once")) => {
                return Ok(());
            }
            Err(error) => panic!("{yaml}\n{error}"),
        };
        let config = Config::parse(&format!("{REST}\n{text}"), Path::new("config.toml"), [])
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        let reviewed = PolicyReview::new(&config).unwrap();
        for asks in CALLERS {
            let caller = AssumedCaller::new(asks.principal, Some(asks.address.parse().unwrap()), None);
            let text_of = |text: &str| Some(text.to_owned());
            let requested =
                RequestedCommand { command: text_of("find"), database: text_of("shop"), collection: text_of("orders"), body: None };
            let explanation = reviewed.explain(&caller, &requested).unwrap();
            let expected = if is_allowed(&policies, &asks) { Decision::Allow } else { Decision::Deny };
            prop_assert_eq!(explanation.decision, expected, "{:?}\n{}\n{}\n{}", asks, yaml, text, explanation);
        }
    }
}
