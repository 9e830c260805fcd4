//! Where the connections of a listener go: to which member, and by which name clients know it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::time::{Instant, timeout_at};

use super::membership::Membership;
use super::original_dst::AddressBook;
use super::pool::MemberPool;
use super::upstream::{Member, Upstream};
use crate::config::{HostPort, MemberAddresses, ReadPreference};
use crate::identity::Principal;
use crate::relay::Naming;
use crate::topology::{MemberMap, MemberName, Slot, Slots};
use crate::upstream::{host_port, member_name};
use crate::wire::error_reply::CommandError;

/// Where a listener leads.
pub enum MemberSelector {
    /// To one server of the upstream: the one of that name, or else the only one.
    Direct(Option<HostPort>),
    /// To the member that each of its addresses stands for.
    Members(SlotMap),
    /// To any member that is preferred.
    LoadBalanced(ReadPreference),
    /// To the member that a redirected connection was on its way to.
    Intercepted(AddressBook),
}

/// How a client came to its listener.
#[derive(Debug, Clone, Copy)]
pub struct Ingress {
    /// Which of the listener's addresses it came to.
    pub slot: usize,
    /// Where it was on its way to, if the kernel redirected it.
    pub original: Option<SocketAddr>,
}

/// The addresses of a listener, and the members that they stand for.
pub struct SlotMap {
    slots: Mutex<Slots>,
    names: Arc<ArcSwap<MemberMap>>,
    /// What clients are told of each, as `host:port`.
    advertised: Vec<Arc<str>>,
}

/// Why a client could be put on no member.
#[derive(Debug, PartialEq, Eq)]
pub enum SelectError {
    /// Nobody knows the members yet.
    Unknown,
    /// No member is behind the address that it came to.
    Vacant(Arc<str>),
    /// There is no member of the kind that its listener is for.
    NonePreferred(ReadPreference),
    /// The member that the listener leads to is none any more.
    Gone(HostPort),
    /// The connection was not redirected, and its listener is for such only.
    NotRedirected,
    /// No member has the address that it was on its way to.
    Elsewhere(SocketAddr),
}

/// A member that a client is put on, and how.
pub struct Selection {
    /// Who makes the connection.
    pub line: Arc<MemberPool>,
    /// What the client is told of the members.
    pub naming: Naming,
}

impl MemberSelector {
    /// The line for a client that came in by `entrance`; waits until `deadline` for the members to be known, and
    /// for one that is preferred. Cancel safe.
    pub async fn way(
        &self,
        entrance: Ingress,
        upstream: &Upstream,
        who: Option<&Principal>,
        deadline: Instant,
    ) -> Result<Selection, SelectError> {
        let mut roster = upstream.roster_watch();
        loop {
            let now = Arc::clone(&roster.borrow_and_update());
            let astray = match self.member(entrance, &now, deadline).await {
                Ok(member) => {
                    // A member has a line for each credential; without its own a caller must not have another's.
                    let line = member.lines.get(upstream.credential_of(who));
                    let line = line.map(Arc::clone).ok_or(SelectError::Unknown)?;
                    return Ok(Selection { line, naming: self.naming(entrance.slot, &member) });
                }
                Err(astray) => astray,
            };
            let may_change = !now.is_known || matches!(astray, SelectError::NonePreferred(_));
            if !may_change || timeout_at(deadline, roster.changed()).await.is_err() {
                return Err(astray);
            }
        }
    }

    async fn member(
        &self,
        entrance: Ingress,
        roster: &Membership,
        deadline: Instant,
    ) -> Result<Arc<Member>, SelectError> {
        if !roster.is_known {
            return Err(SelectError::Unknown);
        }
        let member = match self {
            Self::Direct(Some(name)) => roster.named(name).ok_or_else(|| SelectError::Gone(name.clone()))?,
            Self::Direct(None) => roster.members.first().map(|listed| &listed.member).ok_or(SelectError::Unknown)?,
            Self::LoadBalanced(preference) => {
                roster.preferred(*preference).ok_or(SelectError::NonePreferred(*preference))?
            }
            Self::Members(layout) => layout.member(entrance.slot, roster)?,
            Self::Intercepted(book) => {
                let original = entrance.original.ok_or(SelectError::NotRedirected)?;
                let found = book.member_at(original, roster, deadline).await;
                return found.ok_or(SelectError::Elsewhere(original));
            }
        };
        Ok(Arc::clone(member))
    }

    fn naming(&self, slot: usize, member: &Member) -> Naming {
        match self {
            Self::Direct(_) | Self::Intercepted(_) => Naming::Kept,
            Self::Members(layout) => layout.naming(slot),
            Self::LoadBalanced(_) => Naming::LoadBalanced { service_id: member.service_id },
        }
    }
}

impl SlotMap {
    /// For a listener that is bound at `addresses`, in the order of the slots of `members`.
    pub fn new(members: &MemberAddresses, addresses: &[SocketAddr]) -> Self {
        let advertised: Vec<Arc<str>> = addresses.iter().map(|address| members.advertised(*address).into()).collect();
        let named = members.slots.iter().map(|slot| slot.member.as_ref().and_then(member_name));
        let slots = advertised.iter().zip(named);
        let slots = slots.map(|(advertised, member)| Slot { advertised: Arc::clone(advertised), reserved_for: member });
        let slots = Mutex::new(Slots::new(slots));
        Self { slots, names: Arc::default(), advertised }
    }

    /// Gives the members their addresses, and returns those that get none.
    pub fn assign(&self, members: &[MemberName]) -> Vec<MemberName> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let assigned = slots.assign(members);
        self.names.store(Arc::new(assigned.map));
        assigned.left_out
    }

    /// What clients are told of each address, and the member behind it.
    pub fn shown(&self) -> Vec<(Arc<str>, Option<MemberName>)> {
        let names = self.names.load();
        let shown = |(at, advertised): (usize, &Arc<str>)| (Arc::clone(advertised), names.member_at(at).cloned());
        self.advertised.iter().enumerate().map(shown).collect()
    }

    fn member<'r>(&self, slot: usize, roster: &'r Membership) -> Result<&'r Arc<Member>, SelectError> {
        let name = self.names.load().member_at(slot).map(host_port);
        let here = || self.advertised.get(slot).cloned().unwrap_or_default();
        name.and_then(|name| roster.named(&name)).ok_or_else(|| SelectError::Vacant(here()))
    }

    fn naming(&self, slot: usize) -> Naming {
        let here = self.advertised.get(slot).cloned().unwrap_or_default();
        Naming::Members { names: Arc::clone(&self.names), here }
    }
}

impl SelectError {
    /// What a client reads.
    pub fn command_error(&self, upstream: &str) -> CommandError {
        let message = match self {
            Self::Unknown => {
                format!("mongate: the members of upstream {upstream} are not known: none has answered yet")
            }
            Self::Vacant(here) => format!("mongate: no member of upstream {upstream} is behind {here}"),
            Self::Gone(name) => format!("mongate: {name} is no member of upstream {upstream}"),
            Self::NotRedirected => format!(
                "mongate: this address takes connections to upstream {upstream} that were redirected to it; connect to the \
                 server itself"
            ),
            Self::Elsewhere(original) => {
                format!("mongate: {original} is the address of no member of upstream {upstream}")
            }
            Self::NonePreferred(preference) => {
                let kind = match preference {
                    ReadPreference::Primary => "primary",
                    ReadPreference::Secondary => "secondary",
                    _ => "primary and no secondary",
                };
                format!("mongate: upstream {upstream} has no {kind} now")
            }
        };
        CommandError { code: 6, code_name: "HostUnreachable", message }
    }

    /// What the operator can do.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::NotRedirected => Some("have clients connect to the server itself, and iptables redirect them here"),
            Self::Elsewhere(_) => Some(
                "have iptables redirect connections to members only; if this is one, let its name be resolved here as it is for \
                 the client",
            ),
            Self::Unknown | Self::Vacant(_) | Self::NonePreferred(_) | Self::Gone(_) => None,
        }
    }
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "members_unknown",
            Self::Vacant(_) => "no_member_behind_address",
            Self::NonePreferred(_) => "no_member_preferred",
            Self::Gone(_) => "no_such_member",
            Self::NotRedirected => "not_redirected",
            Self::Elsewhere(_) => "no_member_at_original_address",
        })
    }
}
