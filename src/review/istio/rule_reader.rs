//! One rule of an `AuthorizationPolicy`: its conditions on callers, as `from` of a rule here.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::conditions::{both, is_impossible};
use super::fields::DocumentFields;
use super::head::DocumentHead;
use super::toml_text;
use crate::config::{FromConfig, Values};
use crate::review::tree::Node;

const HTTP: &str = "applies to HTTP requests, which MongoDB does not use; remove it, and name commands, databases or \
                    collections in `to` of the imported rule";

const JWT: &str =
    "applies to tokens in HTTP requests, which MongoDB does not use; name principals or namespaces instead";

/// The result for one rule.
pub(super) enum ImportedRule {
    /// The `from` of the rule here; `None` matches every caller.
    Kept(Option<Vec<FromConfig>>),
    /// The rule cannot match anything on MongoDB's port. The reason begins with a verb.
    Dropped(String),
}

/// One entry of `spec.rules`.
pub(super) struct RuleReader<'a> {
    head: &'a DocumentHead,
    port: u16,
    fields: DocumentFields<'a>,
    /// Whether the rule is for MongoDB's port. The fields of a rule for other ports need no equivalent here.
    is_for_mongodb: bool,
}

impl<'a> RuleReader<'a> {
    pub(super) fn new(head: &'a DocumentHead, port: u16, fields: DocumentFields<'a>) -> Self {
        Self { head, port, fields, is_for_mongodb: true }
    }

    /// Converts the rule; `None` if there is a problem, which was noted.
    pub(super) fn read(mut self) -> Option<ImportedRule> {
        self.fields.only(&["from", "to", "when"], &[]);
        self.is_for_mongodb = self.is_for_port();
        let from = self.fields.tables("from").map(|entries| entries.iter().map(|entry| self.source(entry)).collect());
        let when = self.when();
        if !self.is_for_mongodb {
            return Some(ImportedRule::Dropped(format!("is not for port {}", self.port)));
        }
        self.one_kind_of_address();
        let entries: Vec<FromConfig> = from.unwrap_or_else(|| vec![FromConfig::default()]);
        let met: Result<Vec<FromConfig>, String> =
            entries.into_iter().map(|entry| both(entry, when.clone()?)).collect();
        let mut met = met.map_err(|sentence| self.fields.note_here(&sentence)).ok()?;
        met.retain(|condition| !is_impossible(condition));
        Some(if met.is_empty() {
            ImportedRule::Dropped("has conditions that exclude each other".to_owned())
        } else if met.contains(&FromConfig::default()) {
            ImportedRule::Kept(None)
        } else {
            ImportedRule::Kept(Some(met))
        })
    }

    /// A mesh knows two addresses of a client; this gateway knows one.
    fn one_kind_of_address(&self) {
        let sources = self.fields.get("from").into_iter().flat_map(items).filter_map(|entry| entry.get("source"));
        let keys = sources.flat_map(|source| if let Node::Table(entries) = source { entries.as_slice() } else { &[] });
        let whens = self.fields.get("when").into_iter().flat_map(items).filter_map(|when| when.get("key")?.text());
        let asked: BTreeSet<&str> = keys.map(|(key, _)| key.as_str()).chain(whens).collect();
        let any = |names: &[&str]| names.iter().any(|name| asked.contains(name));
        if any(&["ipBlocks", "notIpBlocks", "source.ip"]) && any(&["remoteIpBlocks", "notRemoteIpBlocks", "remote.ip"])
        {
            self.fields.note_here(
                "needs both the address of the connection and the address of the client behind proxies; this gateway \
                 knows only one of them: the address in a trusted PROXY header, or else that of the connection",
            );
        }
    }

    fn source(&self, (path, entries): &(String, &[(String, Node)])) -> FromConfig {
        let outer = DocumentFields::new(self.fields.problems(), path, entries);
        outer.only(&["source"], &[]);
        let path = outer.path_of("source");
        let source = DocumentFields::new(self.fields.problems(), &path, outer.table("source").unwrap_or_default());
        if source.is_empty() {
            source.note_here("is empty, which Istio rejects too; omit `from` to match every caller");
        }
        self.only(
            &source,
            &[
                "principals",
                "notPrincipals",
                "namespaces",
                "notNamespaces",
                "ipBlocks",
                "notIpBlocks",
                "remoteIpBlocks",
                "notRemoteIpBlocks",
                "serviceAccounts",
                "notServiceAccounts",
            ],
            &["requestPrincipals", "notRequestPrincipals"].map(|key| (key, JWT)),
        );
        let mut principals =
            Values { any: principals(&source, "principals"), not: principals(&source, "notPrincipals") };
        let accounts = Values {
            any: self.service_accounts(&source, "serviceAccounts"),
            not: self.service_accounts(&source, "notServiceAccounts"),
        };
        if accounts != Values::default() {
            if ["principals", "notPrincipals", "namespaces", "notNamespaces"]
                .iter()
                .any(|key| source.get(key).is_some())
            {
                source
                    .note_here("has service accounts together with principals or namespaces, which Istio rejects too");
            }
            principals = accounts;
        }
        let namespaces = Values { any: patterns(&source, "namespaces"), not: patterns(&source, "notNamespaces") };
        FromConfig {
            principals,
            namespaces,
            sources: networks(&source, "ipBlocks").or(networks(&source, "remoteIpBlocks")),
            not_sources: networks(&source, "notIpBlocks").or(networks(&source, "notRemoteIpBlocks")),
            listeners: Values::default(),
        }
    }

    /// Converts `[NAMESPACE/]ACCOUNT` to a principal of any trust domain.
    fn service_accounts(&self, fields: &DocumentFields<'_>, key: &str) -> Option<Vec<String>> {
        let texts = fields.texts(key)?;
        let pattern = |text: &str| {
            let own = self.head.namespace.as_deref();
            let (namespace, account) = text.split_once('/').or(own.map(|own| (own, text)))?;
            let plain = |part: &str| !part.is_empty() && !part.contains(['*', '/']);
            (plain(namespace) && plain(account)).then(|| format!("*/ns/{namespace}/sa/{account}"))
        };
        let patterns: Option<Vec<String>> = texts.iter().map(|text| pattern(text)).collect();
        if patterns.is_none() {
            fields.note(key, "must be NAMESPACE/ACCOUNT, or ACCOUNT if the policy has a namespace, without \"*\"");
        }
        patterns
    }

    /// Like [`DocumentFields::only`], but unsupported keys do not matter in a rule for other ports.
    fn only(&self, fields: &DocumentFields<'_>, known: &[&str], unsupported: &[(&str, &str)]) {
        if self.is_for_mongodb {
            fields.only(known, unsupported);
        } else {
            let all: Vec<&str> = known.iter().copied().chain(unsupported.iter().map(|(key, _)| *key)).collect();
            fields.only(&all, &[]);
        }
    }

    /// Whether `when` and at least one entry of `to` match MongoDB's port.
    fn is_for_port(&self) -> bool {
        let whens = self.fields.get("when").into_iter().flat_map(items);
        let mut of_port = whens.filter(|when| when.get("key").and_then(Node::text) == Some("destination.port"));
        let mine = self.port.to_string();
        let has = |when: &Node, key| {
            when.get(key).map(|values| items(values).iter().any(|value| value.text() == Some(mine.as_str())))
        };
        let is_in_when = of_port.all(|when| has(when, "values") != Some(false) && has(when, "notValues") != Some(true));
        let Some(entries) = self.fields.tables("to") else { return is_in_when };
        let mut is_in_to = false;
        for (path, entries) in entries {
            let outer = DocumentFields::new(self.fields.problems(), &path, entries);
            outer.only(&["operation"], &[]);
            let path = outer.path_of("operation");
            let operation =
                DocumentFields::new(self.fields.problems(), &path, outer.table("operation").unwrap_or_default());
            if operation.is_empty() {
                operation.note_here("is empty, which Istio rejects too; omit `to` to match everything");
            }
            let is_in = |key: &str| ports(&operation, key).map(|ports| ports.contains(&self.port));
            let (wanted, unwanted) = (is_in("ports"), is_in("notPorts"));
            let is_for_port = wanted.unwrap_or(true) && !unwanted.unwrap_or(false) && is_in_when;
            let http = ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"].map(|key| (key, HTTP));
            Self { is_for_mongodb: is_for_port, ..*self }.only(&operation, &["ports", "notPorts"], &http);
            is_in_to |= is_for_port;
        }
        is_in_to
    }

    /// The combined conditions of `when`, or a sentence if they cannot be combined.
    fn when(&self) -> Result<FromConfig, String> {
        let mut when = Ok(FromConfig::default());
        for (path, entries) in self.fields.tables("when").unwrap_or_default() {
            let fields = DocumentFields::new(self.fields.problems(), &path, entries);
            fields.only(&["key", "values", "notValues"], &[]);
            if fields.get("values").is_none() && fields.get("notValues").is_none() {
                fields.note_here("has neither values nor notValues");
            }
            let Some(key) = fields.text("key") else {
                if fields.get("key").is_none() {
                    fields.note("key", "is missing");
                }
                continue;
            };
            let mut caller = FromConfig::default();
            match key {
                "source.principal" => {
                    caller.principals =
                        Values { any: principals(&fields, "values"), not: principals(&fields, "notValues") };
                }
                "source.serviceAccount" => {
                    let accounts = |key| self.service_accounts(&fields, key);
                    caller.principals = Values { any: accounts("values"), not: accounts("notValues") };
                }
                "source.namespace" => {
                    caller.namespaces =
                        Values { any: patterns(&fields, "values"), not: patterns(&fields, "notValues") };
                }
                "source.ip" | "remote.ip" => {
                    caller.sources = networks(&fields, "values");
                    caller.not_sources = networks(&fields, "notValues");
                }
                "destination.port" => {
                    // `is_for_port` has already read the values; here only their problems are noted.
                    let _ = (ports(&fields, "values"), ports(&fields, "notValues"));
                }
                other if self.is_for_mongodb => fields.note("key", &unknown_condition(other)),
                _ => {}
            }
            when = when.and_then(|when| both(when, caller));
        }
        when
    }
}

fn items(node: &Node) -> &[Node] {
    if let Node::List(items) = node { items } else { &[] }
}

fn unknown_condition(key: &str) -> String {
    let why = match key {
        key if key.starts_with("request.") => return format!("is {:?}, which {HTTP}", toml_text::plain(key)),
        "destination.ip" => "which is an address of the workload itself; use `listeners` in the imported rule instead",
        "connection.sni" => "which MongoDB clients cannot choose freely; use `listeners` in the imported rule instead",
        _ => {
            "which has no equivalent here; the supported keys are source.principal, source.namespace, \
             source.serviceAccount, source.ip, remote.ip and destination.port"
        }
    };
    format!("is {:?}, {why}", toml_text::plain(key))
}

fn principals(fields: &DocumentFields<'_>, key: &str) -> Option<Vec<String>> {
    let patterns = patterns(fields, key)?;
    if patterns.iter().any(|pattern| pattern.starts_with("spiffe:")) {
        fields.note(key, "has a value that begins with spiffe:, which never matches in Istio; remove this prefix");
    }
    Some(patterns)
}

/// Exact, `prefix*`, `*suffix`, or `*`.
fn patterns(fields: &DocumentFields<'_>, key: &str) -> Option<Vec<String>> {
    let texts = fields.texts(key)?;
    let inner = |text: &str| text.strip_suffix('*').or(text.strip_prefix('*')).unwrap_or(text).contains('*');
    if texts.iter().any(|text| inner(text)) {
        let sentence = "has a \"*\" that is neither alone, nor at the beginning, nor at the end; in Istio, such a \
                        value never matches";
        fields.note(key, sentence);
    }
    Some(texts.into_iter().map(str::to_owned).collect())
}

fn networks(fields: &DocumentFields<'_>, key: &str) -> Option<Vec<IpNet>> {
    let mut networks = Vec::new();
    for text in fields.texts(key)? {
        let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let Some(network) = network else {
            fields.note(key, &format!("has {:?}, which is not an IP address or network", toml_text::plain(text)));
            continue;
        };
        networks.push(network.trunc());
    }
    Some(networks)
}

fn ports(fields: &DocumentFields<'_>, key: &str) -> Option<Vec<u16>> {
    let mut ports = Vec::new();
    for text in fields.texts(key)? {
        match text.parse() {
            Ok(port) if port > 0 => ports.push(port),
            _ => fields.note(key, &format!("has {:?}, which is not a port number", toml_text::plain(text))),
        }
    }
    Some(ports)
}
