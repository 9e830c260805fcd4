//! A hello reply of a member, kept to answer clients with it.

use std::time::Instant;

use bson::RawDocumentBuf;

use crate::wire::bson_elements::WholeElements;
use crate::wire::bson_scan::{Malformed, kind};

/// BSON type of an `ObjectId`.
const OBJECT_ID: u8 = 0x07;

/// The state of a server process: a server increments the counter whenever its hello reply changes in substance.
///
/// Spec: mongodb/specifications `source/server-discovery-and-monitoring/server-discovery-and-monitoring.md`
/// § topologyVersion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopologyVersion {
    /// The value of an `ObjectId`, which the process made when it started.
    pub process_id: [u8; 12],
    /// Not negative.
    pub counter: i64,
}

impl TopologyVersion {
    /// Reads the value of the field. `None` unless mongod accepts it: both fields, once each, and no other.
    pub fn read(document: &[u8]) -> Option<Self> {
        let (mut process_id, mut counter) = (None, None);
        for element in WholeElements::new(document) {
            let element = element.ok()?;
            let is_first = match (element.name, element.kind) {
                (b"processId", OBJECT_ID) => process_id.replace(*element.value.first_chunk()?).is_none(),
                (b"counter", kind::INT64) => counter.replace(element.number()?).is_none(),
                _ => false,
            };
            if !is_first {
                return None;
            }
        }
        Some(Self { process_id: process_id?, counter: counter.filter(|counter| *counter >= 0)? })
    }
}

/// A hello reply of a member.
#[derive(Debug, Clone)]
pub struct KnownHello {
    /// The whole document of the reply, which has `ok: 1`.
    pub document: RawDocumentBuf,
    /// When it arrived.
    pub received: Instant,
    /// `None` if the server has none (before 4.4).
    pub topology_version: Option<TopologyVersion>,
    /// Whether the server replies only to commands that declare an API version (`requireApiVersion`).
    pub requires_api: bool,
}

impl KnownHello {
    /// A reply that arrived at `received`, of a server that does not require an API version.
    pub fn new(document: RawDocumentBuf, received: Instant) -> Self {
        let topology_version = topology_version(document.as_bytes()).ok().flatten();
        Self { document, received, topology_version, requires_api: false }
    }

    /// Whether clients that wait for a change have to be informed of `next`. Times and the last write change all the
    /// time and do not count.
    pub fn differs_from(&self, next: &Self) -> bool {
        self.topology_version != next.topology_version
    }
}

fn topology_version(document: &[u8]) -> Result<Option<TopologyVersion>, Malformed> {
    for element in WholeElements::new(document) {
        let element = element?;
        if element.name == b"topologyVersion" && element.kind == kind::DOCUMENT {
            return Ok(TopologyVersion::read(element.value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use bson::oid::ObjectId;
    use bson::{Document, doc};

    use super::*;

    #[test]
    fn a_topology_version_is_read_if_mongod_accepts_it() {
        let process = ObjectId::from_bytes([7; 12]);
        let expected = |counter| Some(TopologyVersion { process_id: [7; 12], counter });
        for (document, expected) in [
            (doc! { "processId": process, "counter": 6_i64 }, expected(6)),
            (doc! { "counter": i64::MAX, "processId": process }, expected(i64::MAX)),
            (doc! { "processId": process, "counter": 0_i64 }, expected(0)),
            (doc! { "processId": process, "counter": -1_i64 }, None),
            (doc! { "processId": process, "counter": 6 }, None),
            (doc! { "processId": process, "counter": 6.0 }, None),
            (doc! { "processId": "070707070707070707070707", "counter": 6_i64 }, None),
            (doc! { "processId": process }, None),
            (doc! { "counter": 6_i64 }, None),
            (doc! { "processId": process, "counter": 6_i64, "x": 1 }, None),
            (doc! {}, None),
        ] {
            let bytes = bson::serialize_to_vec(&document).unwrap();
            assert_eq!(TopologyVersion::read(&bytes), expected, "{document}");
            (0..bytes.len()).for_each(|end| assert_eq!(TopologyVersion::read(&bytes[..end]), None));
        }
        let twice = {
            let mut out = crate::wire::bson_elements::DocumentBytes::with_capacity(0);
            out.push_value(OBJECT_ID, b"processId", &[7; 12]);
            out.push_value(kind::INT64, b"counter", &6_i64.to_le_bytes());
            out.push_value(kind::INT64, b"counter", &6_i64.to_le_bytes());
            out.finish()
        };
        assert_eq!(TopologyVersion::read(&twice), None);
    }

    #[test]
    fn replies_differ_when_their_topology_version_does() {
        let hello = |document: Document| KnownHello::new(RawDocumentBuf::try_from(&document).unwrap(), Instant::now());
        let with = |process: u8, counter: i64, write: i32| {
            let process = ObjectId::from_bytes([process; 12]);
            hello(doc! { "topologyVersion": { "processId": process, "counter": counter }, "lastWrite": write })
        };
        let old_server = |write: i32| hello(doc! { "ismaster": true, "lastWrite": write });
        let known = with(1, 6, 1);
        assert!(!known.differs_from(&with(1, 6, 2)));
        assert!(known.differs_from(&with(1, 7, 1)) && known.differs_from(&with(2, 6, 1)));
        assert!(known.differs_from(&old_server(1)) && old_server(1).differs_from(&known));
        assert!(!old_server(1).differs_from(&old_server(2)));
        // A client could not send it back.
        assert_eq!(hello(doc! { "topologyVersion": 1 }).topology_version, None);
    }
}
