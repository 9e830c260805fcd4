//! Selects the member and the pool for a client.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::member::Member;
use super::membership::Membership;
use super::original_dst::AddressBook;
use super::pool::MemberPool;
use super::select_error::SelectError;
use super::slot_map::SlotMap;
use super::upstream::Upstream;
use crate::config::{HostPort, ReadPreference};
use crate::identity::Principal;

/// How a listener selects the member for a client.
pub enum MemberSelector {
    /// The server with this name, or the only one.
    Direct(Option<HostPort>),
    /// The member that the address of the listener stands for.
    Members(Arc<SlotMap>),
    /// Any member that this preference allows.
    LoadBalanced(ReadPreference),
    /// The member that a redirected connection was going to.
    Intercepted(AddressBook),
}

/// How a client reached its listener.
#[derive(Debug, Clone, Copy)]
pub struct Ingress {
    /// The index of the listener's address, from 0.
    pub slot: usize,
    /// The original destination (`SO_ORIGINAL_DST`), if the kernel redirected the connection.
    pub original: Option<SocketAddr>,
}

/// The member for a client, and the pool for its credential.
pub struct Selection {
    /// The member.
    pub member: Arc<Member>,
    /// Makes the connection.
    pub pool: Arc<MemberPool>,
}

impl MemberSelector {
    /// Selects the member for a client, and its pool for `principal`.
    ///
    /// Waits until `deadline` for the members to be known, and for a member that the read preference allows. Cancel
    /// safe.
    pub async fn select(
        &self,
        ingress: Ingress,
        upstream: &Upstream,
        principal: Option<&Principal>,
        deadline: Instant,
    ) -> Result<Selection, SelectError> {
        let mut changes = upstream.membership_watch();
        loop {
            let membership = Arc::clone(&changes.borrow_and_update());
            let error = match self.member(ingress, &membership, deadline).await {
                Ok(member) => {
                    // Never fall back to the pool of another credential: that may have more rights.
                    let pool = member.pools.get(upstream.credential_of(principal));
                    let pool = pool.map(Arc::clone).ok_or(SelectError::MembersUnknown)?;
                    return Ok(Selection { member, pool });
                }
                Err(error) => error,
            };
            let may_change = !membership.is_known || matches!(error, SelectError::NoPreferredMember(_));
            if !may_change || timeout_at(deadline, changes.changed()).await.is_err() {
                return Err(error);
            }
        }
    }

    async fn member(
        &self,
        ingress: Ingress,
        membership: &Membership,
        deadline: Instant,
    ) -> Result<Arc<Member>, SelectError> {
        if !membership.is_known {
            return Err(SelectError::MembersUnknown);
        }
        let member = match self {
            Self::Direct(Some(name)) => {
                membership.named(name).ok_or_else(|| SelectError::NoSuchMember(name.clone()))?
            }
            Self::Direct(None) => {
                membership.members.first().map(|status| &status.member).ok_or(SelectError::MembersUnknown)?
            }
            Self::LoadBalanced(preference) => {
                membership.preferred(*preference).ok_or(SelectError::NoPreferredMember(*preference))?
            }
            Self::Members(slots) => slots.member(ingress.slot, membership)?,
            Self::Intercepted(addresses) => {
                let original = ingress.original.ok_or(SelectError::NotRedirected)?;
                let found = addresses.member_at(original, membership, deadline).await;
                return found.ok_or(SelectError::NoMemberAtOriginalAddress(original));
            }
        };
        Ok(Arc::clone(member))
    }
}
