//! Findings about certificates, keys and revocation lists: warnings about material that can be used.

use super::material_error::Location;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MaterialSeverity {
    /// It may be intended; worth knowing if something does not work.
    Note,
    /// It works, or works for now.
    Warning,
    /// The peer will reject it.
    Error,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaterialItem {
    /// The leaf certificate or its chain.
    Certificate,
    /// The private key.
    PrivateKey,
    /// A trust anchor, counted from 0.
    TrustAnchor(usize),
    /// A revocation list, counted from 0.
    RevocationList(usize),
}

/// A warning about a certificate, key or revocation list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaterialFinding {
    /// How much it matters.
    pub severity: MaterialSeverity,
    /// What it is about.
    pub item: MaterialItem,
    /// Where that item was read from.
    pub location: Location,
    /// Whether a certificate has expired or expires soon; such findings change with time.
    pub is_about_expiry: bool,
    /// State and cause.
    pub sentence: String,
    /// What the operator can do about it.
    pub remedy: String,
}

/// The side of TLS that a certificate set is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsSide {
    /// The gateway is the client of mongod.
    Upstream,
    /// The gateway is the server of its clients.
    Listener,
}

impl TlsSide {
    /// The extendedKeyUsage that the leaf certificate needs.
    pub(super) fn usage(self) -> &'static str {
        match self {
            Self::Upstream => "clientAuth",
            Self::Listener => "serverAuth",
        }
    }

    /// The name of the leaf certificate in messages.
    pub(super) fn certificate(self) -> &'static str {
        match self {
            Self::Upstream => "the gateway's client certificate",
            Self::Listener => "the listener's server certificate",
        }
    }

    pub(super) fn rejected_by(self) -> &'static str {
        match self {
            Self::Upstream => "mongod rejects",
            Self::Listener => "clients reject",
        }
    }

    pub(super) fn peer(self) -> &'static str {
        match self {
            Self::Upstream => "mongod",
            Self::Listener => "every client",
        }
    }
}

/// Collects findings about one item at a time.
pub(super) struct FindingCollector<'a> {
    pub(super) findings: Vec<MaterialFinding>,
    pub(super) item: MaterialItem,
    pub(super) location: &'a Location,
}

impl<'a> FindingCollector<'a> {
    /// Starts with `item`, which was read from `location`.
    pub(super) fn new(item: MaterialItem, location: &'a Location) -> Self {
        Self { findings: Vec::new(), item, location }
    }

    /// Adds a finding about the current item.
    pub(super) fn push(&mut self, severity: MaterialSeverity, sentence: String, remedy: impl Into<String>) {
        self.push_finding(severity, sentence, remedy.into(), false);
    }

    /// Adds a finding about the expiry of the current item.
    pub(super) fn push_expiry(&mut self, severity: MaterialSeverity, sentence: String, remedy: &str) {
        self.push_finding(severity, sentence, remedy.to_owned(), true);
    }

    fn push_finding(&mut self, severity: MaterialSeverity, sentence: String, remedy: String, is_about_expiry: bool) {
        let (item, location) = (self.item, self.location.clone());
        self.findings.push(MaterialFinding { severity, item, location, is_about_expiry, sentence, remedy });
    }
}
