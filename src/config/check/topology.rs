//! Checks `topology` of a listener and the keys that belong to it.

use std::net::SocketAddr;

use super::claimed_addresses::ClaimedAddresses;
use super::readers;
use crate::config::error::joined;
use crate::config::error::quoted;
use crate::config::given::Given;
use crate::config::section::Section;
use crate::config::sections::Deployment;
use crate::config::sections::MemberAddress;
use crate::config::sections::MemberAddresses;
use crate::config::sections::ReadPreference;
use crate::config::sections::Topology;
use crate::config::values::HostPort;
use crate::config::values::ListenAddress;

/// The default number of member ports. A replica set has at most 7 voting members, and rarely more members.
const MEMBERS_USUAL: usize = 7;

/// The longest range of ports. A replica set has at most 50 members.
const PORTS_MAX: u16 = 256;

#[derive(Clone, Copy, PartialEq, Eq)]
enum TopologyKind {
    Members,
    LoadBalanced,
    Direct,
}

/// The topology of a listener. `deployment` is that of its upstream, if it is known.
pub(super) fn topology(
    section: &mut Section<'_>,
    address: Option<&ListenAddress>,
    deployment: Option<&Deployment>,
    claimed: &mut ClaimedAddresses,
) -> Option<Topology> {
    let has_members = deployment.is_some_and(Deployment::has_members);
    let kind =
        section.or("topology", if has_members { TopologyKind::Members } else { TopologyKind::Direct }, |given| {
            kind(given, deployment)
        });
    if kind != TopologyKind::Members {
        for key in ["member_ports", "member_addresses", "advertise"] {
            section.misplaced(key, "is only used with topology = \"members\"; remove it");
        }
    }
    if kind != TopologyKind::LoadBalanced {
        section.misplaced("read_preference", "is only used with topology = \"load_balanced\"; remove it");
    }
    match kind {
        TopologyKind::Direct => Some(Topology::Direct),
        TopologyKind::LoadBalanced => {
            Some(Topology::LoadBalanced(section.or("read_preference", ReadPreference::Primary, read_preference)))
        }
        TopologyKind::Members => members(section, address?, deployment?.listed().len(), claimed).map(Topology::Members),
    }
}

/// The topology of a listener that intercepts: clients connect to the addresses of the members themselves.
pub(super) fn of_intercepted(section: &mut Section<'_>) -> Topology {
    for key in ["topology", "member_ports", "member_addresses", "advertise", "read_preference"] {
        section.misplaced(
            key,
            "is not used with intercept = true, where clients use the addresses of the members themselves; remove it",
        );
    }
    Topology::Direct
}

fn kind(given: &Given<'_>, deployment: Option<&Deployment>) -> Result<TopologyKind, String> {
    const KINDS: &[(&str, TopologyKind)] = &[
        ("members", TopologyKind::Members),
        ("load_balanced", TopologyKind::LoadBalanced),
        ("direct", TopologyKind::Direct),
    ];
    let kind = readers::choice(given, KINDS)?;
    match deployment {
        Some(Deployment::Single(_)) if kind == TopologyKind::Members => Err(
            "requires an upstream with members, and this upstream has one address; list its members in members, or set \
             topology = \"direct\""
                .to_owned(),
        ),
        _ => Ok(kind),
    }
}

fn read_preference(given: &Given<'_>) -> Result<ReadPreference, String> {
    const MODES: &[(&str, ReadPreference)] = &[
        ("primary", ReadPreference::Primary),
        ("primaryPreferred", ReadPreference::PrimaryPreferred),
        ("secondary", ReadPreference::Secondary),
        ("secondaryPreferred", ReadPreference::SecondaryPreferred),
        ("nearest", ReadPreference::Nearest),
    ];
    readers::choice(given, MODES)
}

fn members(
    section: &mut Section<'_>,
    address: &ListenAddress,
    listed: usize,
    claimed: &mut ClaimedAddresses,
) -> Option<MemberAddresses> {
    let advertise = section.optional("advertise", readers::advertised_host);
    let ListenAddress::Tcp(own) = address else {
        section.note(
            "topology",
            "must be \"load_balanced\" or \"direct\" on a unix domain socket, because each member needs an IP address \
             and port"
                .to_owned(),
        );
        return None;
    };
    if own.ip().is_unspecified() && advertise.is_none() {
        section.missing(
            "advertise",
            "set the host name or IP address that clients reach this listener at, as in advertise = \"gateway.local\", \
             because they cannot connect to the unspecified address",
        );
    }
    let slots = if section.has("member_addresses") {
        section.misplaced("member_ports", "cannot be combined with member_addresses; remove one of them");
        named(section, *own, claimed)?
    } else {
        consecutive(section, *own, listed, claimed)
    };
    if advertise.is_some() && has_duplicates(slots.iter().map(|slot| slot.address.port())) {
        section.note(
            "advertise",
            "is one host for all members; give each of member_addresses a different port".to_owned(),
        );
    }
    Some(MemberAddresses { slots, advertise })
}

/// The addresses of `member_ports` or of its default.
fn consecutive(
    section: &mut Section<'_>,
    own: SocketAddr,
    listed: usize,
    claimed: &mut ClaimedAddresses,
) -> Vec<MemberAddress> {
    let usual = MEMBERS_USUAL.max(listed);
    let last = own.port().saturating_add(u16::try_from(usual - 1).unwrap_or(u16::MAX));
    let given = section.has("member_ports");
    let range = section.or("member_ports", (own.port(), last), |given| {
        let (first, last) = readers::ports(given)?;
        if own.port() == 0 {
            return Err("requires a port other than 0 in address".to_owned());
        }
        if first != own.port() {
            return Err(format!("must begin with the port of the listener, {}", own.port()));
        }
        if last - first >= PORTS_MAX {
            return Err(format!("has more than {PORTS_MAX} ports; choose a shorter range"));
        }
        Ok((first, last))
    });
    if own.port() == 0 {
        // The kernel chooses a free port for each.
        return vec![MemberAddress { address: own, member: None }; usual];
    }
    let mut slots = Vec::new();
    for port in range.0..=range.1 {
        let address = SocketAddr::new(own.ip(), port);
        let key = joined(section.path(), "member_ports");
        if port != own.port()
            && let Err(sentence) = claimed.claim(&key, &ListenAddress::Tcp(address))
        {
            let hint = if given { "" } else { ", or set member_ports" };
            section.note("member_ports", format!("has port {port}, which {sentence}{hint}"));
        }
        slots.push(MemberAddress { address, member: None });
    }
    slots
}

/// The addresses of `member_addresses`. The listener's own address is moved to the front.
fn named(section: &mut Section<'_>, own: SocketAddr, claimed: &mut ClaimedAddresses) -> Option<Vec<MemberAddress>> {
    const WRONG: &str = "must be a table of members and addresses, as in \"mongo-0.mongo:27017\" = \"127.0.0.1:27017\"";
    let key = joined(section.path(), "member_addresses");
    let mut slots = section.pairs("member_addresses", WRONG, |member, given| {
        let member: HostPort = member.parse().map_err(|error| format!("is not a member: the name {error}"))?;
        let ListenAddress::Tcp(address) = readers::listen_address(given)? else {
            return Err("must be an IP address and port, as in \"127.0.0.1:27018\"".to_owned());
        };
        if address.ip().is_loopback() != own.ip().is_loopback() && !address.ip().is_loopback() {
            return Err(format!("must be a loopback address, like the listener's address {own}"));
        }
        if address != own {
            claimed.claim(&joined(&key, &quoted(&member.to_string())), &ListenAddress::Tcp(address))?;
        }
        Ok(MemberAddress { address, member: Some(member) })
    })?;
    let members = slots.iter().filter_map(|slot| slot.member.as_ref());
    if has_duplicates(members.map(|member| member.to_string().to_ascii_lowercase())) {
        section.note("member_addresses", "has a member twice; remove one of the two".to_owned());
    }
    let Some(first) = slots.iter().position(|slot| slot.address == own) else {
        section.note(
            "member_addresses",
            format!("must give one of the members the listener's own address, {own}, where clients connect first"),
        );
        return None;
    };
    if slots.iter().filter(|slot| slot.address == own).count() > 1 {
        section.note("member_addresses", format!("gives {own} to two members; give each member a different address"));
    }
    slots.swap(0, first);
    Some(slots)
}

fn has_duplicates<T: PartialEq>(values: impl Iterator<Item = T>) -> bool {
    let values: Vec<T> = values.collect();
    values.iter().enumerate().any(|(at, value)| values.iter().skip(at + 1).any(|other| other == value))
}
