//! `PeerAuthentication`: the suggested mode of a listener.
//!
//! The suggestion is only a comment, because a listener also needs an address and certificates, which the documents do
//! not contain.

use super::fields::DocumentFields;
use super::head::{DocumentHead, selection};
use super::toml_text;

/// The mode that one document requires for MongoDB's port.
pub(super) struct Suggestion {
    comment: String,
    mode: Option<&'static str>,
}

pub(super) fn read(head: &DocumentHead, spec: &DocumentFields<'_>, port: u16) -> Suggestion {
    spec.only(&["selector", "mtls", "portLevelMtls"], &[]);
    let whole = mode(spec, "mtls");
    let mut of_port = None;
    if let Some(ports) = spec.table("portLevelMtls") {
        let path = spec.path_of("portLevelMtls");
        let ports = DocumentFields::new(spec.problems(), &path, ports);
        for (key, _) in spec.table("portLevelMtls").unwrap_or_default() {
            match key.parse::<u16>() {
                Ok(number) if number > 0 => {
                    let set = mode(&ports, key);
                    of_port = of_port.or((number == port).then_some(set).flatten());
                }
                _ => ports.note(key, "is not a port number"),
            }
        }
    }
    let (set, why) = match (of_port, whole) {
        (Some(mode), _) => (mode, format!("portLevelMtls is {} for port {port}", mode.istio)),
        (None, Some(mode)) => (mode, format!("mtls.mode is {}", mode.istio)),
        (None, None) => (UNSET, "it sets no mode".to_owned()),
    };
    let mut comment = format!("{}, for {}: {why}.", head.title(), selection(spec));
    if set.ours.is_none() {
        comment.push_str("\nA PeerAuthentication with a wider scope decides; without one, Istio is permissive.");
    }
    Suggestion { comment, mode: set.ours }
}

impl Suggestion {
    pub(super) fn text(&self) -> String {
        let Some(mode) = self.mode else { return toml_text::comment(&self.comment) };
        let tls = if mode == "plaintext" { "" } else { " It also needs [listener.NAME.tls]." };
        let snippet = format!(
            "{}\nSuggestion for the listener of this workload.{tls}\n\n[listener.NAME]\nmode = \"{mode}\"",
            self.comment
        );
        toml_text::comment(&snippet)
    }
}

#[derive(Clone, Copy)]
struct Mode {
    istio: &'static str,
    ours: Option<&'static str>,
}

const UNSET: Mode = Mode { istio: "UNSET", ours: None };

const MODES: [Mode; 4] = [
    Mode { istio: "STRICT", ours: Some("strict") },
    Mode { istio: "PERMISSIVE", ours: Some("permissive") },
    Mode { istio: "DISABLE", ours: Some("plaintext") },
    UNSET,
];

/// The mode in the table of `key`; `UNSET` counts as absent.
fn mode(fields: &DocumentFields<'_>, key: &str) -> Option<Mode> {
    let path = fields.path_of(key);
    let table = DocumentFields::new(fields.problems(), &path, fields.table(key)?);
    table.only(&["mode"], &[]);
    let given = table.text("mode")?;
    let found = MODES.into_iter().find(|mode| mode.istio == given);
    if found.is_none() {
        table.note("mode", "must be STRICT, PERMISSIVE, DISABLE or UNSET");
    }
    found.filter(|mode| mode.ours.is_some())
}
