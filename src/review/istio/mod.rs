//! Converts Istio's `AuthorizationPolicy` and `PeerAuthentication` to this gateway's `[policy]`.
//!
//! The result makes the same decisions as the documents. If that is not possible, nothing is imported, and there is an
//! error for each field that prevents it. Selectors become comments only: the import assumes that every document
//! selects the workload of the gateway.
//!
//! Spec: Istio reference, Authorization Policy and `PeerAuthentication`, `security.istio.io/v1`.

mod authorization;
mod conditions;
mod fields;
mod head;
mod peer;
mod rule_reader;
#[cfg(test)]
mod test_agreement;
#[cfg(test)]
mod tests;
mod toml_text;

use std::collections::BTreeSet;

use serde_saphyr::{Options, UserMessageFormatter};

use self::authorization::ImportedPolicy;
use self::fields::{DocumentFields, Problems};
use self::head::DocumentHead;
use super::tree::Node;

/// The supported versions. Their fields have the same meaning.
const API_VERSIONS: [&str; 2] = ["security.istio.io/v1", "security.istio.io/v1beta1"];

/// The result of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// A `[policy]` with its rules, as TOML with comments.
    pub text: String,
    /// Notes for the operator about documents that may need attention.
    pub notes: Vec<String>,
}

/// Why nothing was imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Invalid or excessive YAML, or no document.
    #[error("{0}")]
    Yaml(String),
    /// Fields that have no equivalent here.
    #[error("{}", listed(.0))]
    Refused(Vec<String>),
}

fn listed(problems: &[String]) -> String {
    let noun = if problems.len() == 1 { "problem" } else { "problems" };
    let heading = format!("nothing was imported because of {} {noun}:", problems.len());
    std::iter::once(heading).chain(problems.iter().map(|problem| format!("\n  {problem}"))).collect()
}

/// Converts the documents in `yaml` to TOML. `port` is the port of MongoDB in the mesh; `origin` is the name of the
/// source for a comment.
pub fn import(yaml: &str, port: u16, origin: &str) -> Result<Imported, ImportError> {
    let documents: Vec<Node> = serde_saphyr::from_multiple_with_options(yaml, Options::default()).map_err(|error| {
        ImportError::Yaml(format!(
            "the text is not YAML: {}",
            error.without_snippet().render_with_formatter(&UserMessageFormatter)
        ))
    })?;
    let mut import = Import { port, policies: Vec::new(), peers: Vec::new(), problems: Vec::new() };
    for (at, document) in documents.iter().enumerate() {
        import.document(document, &format!("document {}", at + 1));
    }
    if !import.problems.is_empty() {
        return Err(ImportError::Refused(import.problems));
    }
    if import.policies.is_empty() && import.peers.is_empty() {
        return Err(ImportError::Yaml(
            "the file has no document; AuthorizationPolicy and PeerAuthentication can be imported".to_owned(),
        ));
    }
    Ok(import.into_text(origin))
}

struct Import {
    port: u16,
    policies: Vec<ImportedPolicy>,
    peers: Vec<peer::Suggestion>,
    problems: Vec<String>,
}

impl Import {
    fn document(&mut self, document: &Node, place: &str) {
        let Node::Table(entries) = document else {
            self.problems.push(format!("{place} is {}; it must be a table", document.kind()));
            return;
        };
        let kind = document.get("kind").and_then(Node::text).unwrap_or_default();
        // The format in which kubectl prints several documents.
        if let (true, Some(Node::List(items))) = (kind.ends_with("List"), document.get("items")) {
            for (at, item) in items.iter().enumerate() {
                self.document(item, &format!("{place}, item {}", at + 1));
            }
            return;
        }
        let head = DocumentHead::of(document, kind);
        let noted = Problems::of(format!("{place}, {}", head.title()));
        let fields = DocumentFields::new(&noted, "", entries);
        fields.only(&["apiVersion", "kind", "metadata", "spec", "status"], &[]);
        if !API_VERSIONS.contains(&head.api_version.as_str()) {
            fields.note("apiVersion", &format!("must be one of {}", API_VERSIONS.join(", ")));
        }
        // Without a spec, all fields have their defaults.
        let spec = DocumentFields::new(&noted, "spec", fields.table("spec").unwrap_or_default());
        match kind {
            "AuthorizationPolicy" => self.policies.push(authorization::read(&head, &fields, &spec, self.port)),
            "PeerAuthentication" => self.peers.push(peer::read(&head, &spec, self.port)),
            _ => fields.note("kind", "must be AuthorizationPolicy or PeerAuthentication; nothing else can be imported"),
        }
        self.problems.extend(noted.into_problems());
    }

    fn into_text(self, origin: &str) -> Imported {
        let scopes: BTreeSet<String> = self.policies.iter().map(ImportedPolicy::scope).collect();
        let mut notes = Vec::new();
        if scopes.len() > 1 {
            let scopes = scopes.into_iter().collect::<Vec<_>>().join("; ");
            notes.push(format!(
                "the policies select different workloads ({scopes}), and all of them were imported; remove those that \
                 do not select the workload of this gateway"
            ));
        }
        let mut text = toml_text::comment(&format!("Imported from {origin} by `mongate policy import --istio`."));
        for note in &notes {
            text.push_str(&toml_text::comment(note));
        }
        for peer in &self.peers {
            text.push('\n');
            text.push_str(&peer.text());
        }
        text.push_str("\n[policy]\nenforcement = \"enforce\"\n");
        let mut names = BTreeSet::new();
        for policy in self.policies {
            text.push('\n');
            text.push_str(&policy.into_text(&mut names));
        }
        Imported { text, notes }
    }
}
