//! The head of a document (kind, version, name and namespace), and its selectors.

use super::fields::DocumentFields;
use super::toml_text;
use crate::review::tree::Node;

/// The head of a document.
pub(super) struct DocumentHead {
    kind: String,
    pub(super) api_version: String,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
}

impl DocumentHead {
    pub(super) fn of(document: &Node, kind: &str) -> Self {
        let text = |node: Option<&Node>| node.and_then(Node::text).map(toml_text::plain);
        let metadata = document.get("metadata");
        Self {
            kind: toml_text::plain(kind),
            api_version: text(document.get("apiVersion")).unwrap_or_default(),
            name: text(metadata.and_then(|metadata| metadata.get("name"))).unwrap_or_default(),
            namespace: text(metadata.and_then(|metadata| metadata.get("namespace"))),
        }
    }

    pub(super) fn title(&self) -> String {
        let kind = if self.kind.is_empty() { "(no kind)" } else { &self.kind };
        let name = if self.name.is_empty() { "(no name)" } else { &self.name };
        match &self.namespace {
            Some(namespace) => format!("{kind} {name} in namespace {namespace}"),
            None => format!("{kind} {name}"),
        }
    }
}

/// The workloads that a document selects in its namespace, for a comment.
pub(super) fn selection(spec: &DocumentFields<'_>) -> String {
    let mut parts = Vec::new();
    if let Some(selector) = spec.table("selector") {
        let path = spec.path_of("selector");
        let selector = DocumentFields::new(spec.problems(), &path, selector);
        selector.only(&["matchLabels"], &[]);
        for (label, value) in selector.table("matchLabels").unwrap_or_default() {
            parts.push(format!("{} = {}", toml_text::plain(label), toml_text::plain(value.text().unwrap_or("?"))));
        }
    }
    let targets = spec
        .table("targetRef")
        .into_iter()
        .chain(spec.tables("targetRefs").unwrap_or_default().into_iter().map(|(_, entries)| entries));
    for target in targets {
        let text = |key: &str| target.iter().find(|(name, _)| name == key).and_then(|(_, value)| value.text());
        parts.push(toml_text::plain(&format!("{} {}", text("kind").unwrap_or("?"), text("name").unwrap_or("?"))));
    }
    if parts.is_empty() { "all workloads".to_owned() } else { parts.join(", ") }
}
