//! `PeerAuthentication`: which mode a listener would have.
//!
//! Only said in a comment: listeners have addresses and certificates, and a mesh does not tell them.

use super::fields::DocumentFields;
use super::head::{DocumentHead, selection};
use super::toml_text;

/// What one document asks of connections to MongoDB's port.
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
                _ => ports.note(key, "is not the number of a port"),
            }
        }
    }
    let (set, why) = match (of_port, whole) {
        (Some(mode), _) => (mode, format!("its portLevelMtls says {} for port {port}", mode.istio)),
        (None, Some(mode)) => (mode, format!("its mtls.mode is {}", mode.istio)),
        (None, None) => (UNSET, "it sets no mode".to_owned()),
    };
    let mut comment = format!("{}, for {}: {why}.", head.title(), selection(spec));
    if set.ours.is_none() {
        comment.push_str("\nA wider PeerAuthentication decides; where there is none, Istio is permissive.");
    }
    Suggestion { comment, mode: set.ours }
}

impl Suggestion {
    pub(super) fn text(&self) -> String {
        let Some(mode) = self.mode else { return toml_text::comment(&self.comment) };
        let tls = if mode == "plaintext" { "" } else { "\nIt takes a [listener.NAME.tls] too." };
        let snippet = format!(
            "{}\nFor the listener that stands for it:{tls}\n\n[listener.NAME]\nmode = \"{mode}\"",
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

/// The mode in the table `key`; `UNSET` is as good as none.
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
