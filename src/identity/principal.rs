//! The principal of a client, and patterns of principals.

use std::fmt;

use super::spiffe::SpiffeId;

/// Who a client is.
///
/// As text it is a SPIFFE id without `spiffe://`, or a subject as mongod names users of `$external`, or what the operator
/// wrote. The first two never look alike: a subject has an equals sign.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A workload of a mesh.
    Spiffe(SpiffeId),
    /// A subject in RFC 2253 form, or a name of the operator's own; never empty.
    Name(String),
}

/// What a principal was learnt from, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrincipalSource {
    /// The client's TLS certificate.
    Certificate,
    /// The PROXY header of a trusted source.
    Proxy,
    /// The user at the other end of a unix socket.
    UnixSocket,
    /// Where the client's connection comes from.
    Address,
    /// The listener that it came to.
    Listener,
}

/// A principal, or several by their beginning or end; from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrincipalPattern(String);

impl Principal {
    /// What the operator wrote; read as a SPIFFE id where it is one, with or without `spiffe://`.
    pub fn configured(text: &str) -> Self {
        let text = text.strip_prefix("spiffe://").unwrap_or(text);
        SpiffeId::from_principal(text).map_or_else(|_| Self::Name(text.to_owned()), Self::Spiffe)
    }

    /// The text that rules, log lines and metrics have.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Spiffe(id) => id.as_str(),
            Self::Name(name) => name,
        }
    }

    /// The Kubernetes namespace of a SPIFFE id that has one.
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
    /// The word in log lines.
    pub fn label(self) -> &'static str {
        match self {
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
    /// `text` as the operator wrote it: exact, `prefix*`, `*suffix`, or `*` for everybody who is somebody.
    pub fn new(text: &str) -> Self {
        Self(text.strip_prefix("spiffe://").unwrap_or(text).to_owned())
    }

    /// The text, as a label.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Bytes are compared, case counts.
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
    fn patterns_match_as_a_whole_at_the_beginning_or_at_the_end() {
        for (pattern, text, expected) in [
            ("a/b", "a/b", true),
            ("spiffe://a/b", "a/b", true),
            ("a/b", "a/bc", false),
            ("a/*", "a/b", true),
            ("a/*", "A/b", false),
            ("*/cart", "a/cart", true),
            ("*/cart", "a/carts", false),
            ("*", "anybody", true),
            ("CN=x", "CN=x", true),
        ] {
            let principal = Principal::configured(text);
            assert_eq!(PrincipalPattern::new(pattern).matches(&principal), expected, "{pattern} {text}");
        }
    }
}
