//! The principal of a client, and patterns of principals.

use std::fmt;

use super::spiffe::SpiffeId;

/// The identity of a client.
///
/// Its text is a SPIFFE ID without `spiffe://`, a subject as mongod writes it for users of `$external`, or a name from
/// the configuration. A SPIFFE ID and a subject cannot be confused: a subject contains an equals sign.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A workload identity.
    Spiffe(SpiffeId),
    /// A subject in RFC 2253 format, or a name from the configuration; never empty.
    Name(String),
}

/// The source of a principal, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrincipalSource {
    /// A token of the client.
    Token,
    /// The client's TLS certificate.
    Certificate,
    /// A PROXY header from a trusted address.
    Proxy,
    /// The peer credentials of a unix domain socket.
    UnixSocket,
    /// The client's address.
    Address,
    /// The `principal` of the listener.
    Listener,
}

/// A pattern from the configuration that matches one principal, or all with a prefix or suffix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalPattern(String);

impl Principal {
    /// A principal from the configuration. It is a SPIFFE ID if it can be parsed as one, with or without `spiffe://`.
    pub fn configured(text: &str) -> Self {
        let text = text.strip_prefix("spiffe://").unwrap_or(text);
        SpiffeId::from_principal(text).map_or_else(|_| Self::Name(text.to_owned()), Self::Spiffe)
    }

    /// The text in rules, log lines and metrics.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Spiffe(id) => id.as_str(),
            Self::Name(name) => name,
        }
    }

    /// The Kubernetes namespace of a SPIFFE ID that has one.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Spiffe(id) => id.namespace(),
            Self::Name(_) => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PrincipalSource {
    /// Label in log lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Proxy => "proxy",
            Self::UnixSocket => "unix_socket",
            Self::Address => "address",
            Self::Listener => "listener",
        }
    }
}

impl fmt::Display for PrincipalSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl PrincipalPattern {
    /// Parses a pattern: exact, `prefix*`, `*suffix`, or `*` for every principal. A leading `spiffe://` is removed.
    pub fn new(text: &str) -> Self {
        Self(text.strip_prefix("spiffe://").unwrap_or(text).to_owned())
    }

    /// The text, as a label.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern matches; case-sensitive.
    pub fn matches(&self, principal: &Principal) -> bool {
        let text = principal.as_str();
        match (self.0.strip_suffix('*'), self.0.strip_prefix('*')) {
            (Some(prefix), _) => text.starts_with(prefix),
            (None, Some(suffix)) => text.ends_with(suffix),
            (None, None) => text == self.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_exactly_or_by_prefix_or_suffix() {
        for (pattern, text, expected) in [
            ("a/b", "a/b", true),
            ("spiffe://a/b", "a/b", true),
            ("a/b", "a/bc", false),
            ("a/*", "a/b", true),
            ("a/*", "A/b", false),
            ("*/cart", "a/cart", true),
            ("*/cart", "a/carts", false),
            ("*", "anything", true),
            ("CN=x", "CN=x", true),
        ] {
            let principal = Principal::configured(text);
            assert_eq!(PrincipalPattern::new(pattern).matches(&principal), expected, "{pattern} {text}");
        }
    }
}
