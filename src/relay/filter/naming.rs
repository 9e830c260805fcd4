//! How the client of one connection sees the members of a replica set.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::topology;
use crate::topology::{MemberMap, RewriteError};

/// How the members of a replica set are named to the client.
#[derive(Debug, Clone, Default)]
pub enum Naming {
    /// As mongod names them.
    #[default]
    Kept,
    /// By their gateway addresses.
    Members {
        /// The gateway address of each member; read again for every reply.
        names: Arc<ArcSwap<MemberMap>>,
        /// The address that the client connected to. A member without a gateway address is named so in its own `me`.
        here: Arc<str>,
    },
    /// Not at all: the gateway acts as a load balancer.
    LoadBalanced {
        /// Identifies the mongod that the client is connected to.
        service_id: [u8; 12],
    },
}

impl Naming {
    /// Whether replies to hello are rewritten.
    pub(in crate::relay) fn rewrites_hello(&self) -> bool {
        !matches!(self, Self::Kept)
    }

    pub(in crate::relay) fn is_load_balanced(&self) -> bool {
        matches!(self, Self::LoadBalanced { .. })
    }

    /// A reply to hello as the client may read it; `None` where it stays as it is.
    pub(in crate::relay) fn rewrite(&self, reply: &[u8]) -> Result<Option<Vec<u8>>, RewriteError> {
        match self {
            Self::Kept => Ok(None),
            Self::Members { names, here } => {
                topology::rewrite(reply, &topology::MemberNaming::Members { map: &names.load(), here })
            }
            Self::LoadBalanced { service_id } => {
                topology::rewrite(reply, &topology::MemberNaming::LoadBalanced { service_id: *service_id })
            }
        }
    }
}
