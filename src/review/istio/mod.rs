//! Istio's `AuthorizationPolicy` and `PeerAuthentication`, made into this gateway's `[policy]`.
//!
//! What they decide stays the same, or the import is refused with a sentence for each field that stands in the way;
//! nothing is imported by halves. Of what a document selects only a comment remains: everything is taken to be about
//! the gateway that the policy is for.
//!
//! Spec: Istio reference, Authorization Policy and `PeerAuthentication`, `security.istio.io/v1`.

mod authorization;
mod conditions;
mod fields;
mod head;
mod peer;
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

/// The versions that have the same fields with the same meaning.
const API_VERSIONS: [&str; 2] = ["security.istio.io/v1", "security.istio.io/v1beta1"];

/// What came of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// A `[policy]` with its rules, as TOML with comments.
    pub text: String,
    /// What the operator should look at all the same; nothing is wrong with it as such.
    pub notes: Vec<String>,
}

/// Why nothing was imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// No YAML, or more of it than is reasonable.
    #[error("{0}")]
    Yaml(String),
    /// Something in it has no counterpart here.
    #[error("{}", listed(.0))]
    Refused(Vec<String>),
}

fn listed(problems: &[String]) -> String {
    let plural = if problems.len() == 1 { "thing stands" } else { "things stand" };
    let heading = format!("nothing was imported, {} {plural} in the way:", problems.len());
    std::iter::once(heading).chain(problems.iter().map(|problem| format!("\n  {problem}"))).collect()
}

/// Makes the TOML of the documents in `yaml`; `port` is that of MongoDB in the mesh, and `origin` what a comment names.
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
            "there is no document in it; AuthorizationPolicy and PeerAuthentication can be imported".to_owned(),
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
        // What kubectl prints of several.
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
        // Without a spec, all of its fields have their defaults.
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
                "the policies are about different workloads ({scopes}), and all of them were imported; leave out those that \
                 do not select the one that this gateway stands for"
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
