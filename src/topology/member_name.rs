//! The name of a member, as the configuration of its set has it.

use std::fmt;
use std::sync::Arc;

/// The port of a mongod that is not said.
const PORT_USUAL: u16 = 27017;

/// A DNS name has at most 253 bytes; with brackets, a colon and a port.
const NAME_BYTES_MAX: usize = 300;

/// `host:port` in lower case; an IPv6 address stands in brackets. Cheap to clone.
///
/// Names are compared as they are written: nothing is looked up. Spec: mongodb/specifications
/// `source/server-discovery-and-monitoring/server-discovery-and-monitoring.md` § hostnames are normalized to lower-case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberName {
    text: Arc<str>,
    host_bytes: usize,
    port: u16,
}

/// A text that is no member's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no host:port")]
pub struct NotAMember;

impl MemberName {
    /// From `host:port`, or a host alone, whose port is 27017 then.
    pub fn parse(text: &str) -> Result<Self, NotAMember> {
        if text.len() > NAME_BYTES_MAX || text.contains(|c: char| c.is_control() || c.is_whitespace() || c == ',') {
            return Err(NotAMember);
        }
        let text = text.to_ascii_lowercase();
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().ok().filter(|port| *port > 0).ok_or(NotAMember)?)
            }
            Some(_) if !text.ends_with(']') => return Err(NotAMember),
            _ => (text.as_str(), PORT_USUAL),
        };
        let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if inner.unwrap_or(host).is_empty() || host.starts_with('[') != host.ends_with(']') {
            return Err(NotAMember);
        }
        Ok(Self { host_bytes: host.len(), text: format!("{host}:{port}").into(), port })
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Without brackets.
    pub fn host(&self) -> &str {
        let host = self.text.get(..self.host_bytes).unwrap_or_default();
        host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
    }

    /// 1 to 65535.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
