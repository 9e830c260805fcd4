//! What is known about one client, for the line that is written about it.

use std::net::IpAddr;
use std::sync::Arc;

use super::principals::{Presence, Present};
use crate::identity::{ClientFacts, Identified};
use crate::listener::{ClientAddress, PeerUser, ProxyHeader, ProxySource};

/// A client: where it is and, in a box that most connections on a plaintext port do not need, who.
#[derive(Debug)]
pub(super) struct Caller {
    /// Where the client is, as far as is known: from its PROXY header, or else from its socket.
    address: ClientAddress,
    more: Option<Box<More>>,
}

#[derive(Debug, Default)]
struct More {
    proxy: Option<ClientAddress>,
    user: Option<PeerUser>,
    presence: Option<Presence>,
}

impl Caller {
    pub(super) fn new(address: ClientAddress) -> Self {
        Self { address, more: None }
    }

    /// Adds what the kernel and a trusted proxy say of where the client is, and returns what they say of who it is.
    pub(super) fn add<'a>(&mut self, user: Option<PeerUser>, header: Option<&'a ProxyHeader>) -> ClientFacts<'a> {
        if let Some(user) = user {
            self.more().user = Some(user);
        }
        // Of a proxied client, the socket shows the proxy.
        let proxied = header.filter(|header| header.source != ProxySource::Proxy);
        if let Some(header) = proxied {
            self.more().proxy = Some(self.address);
            if let ProxySource::Client(address) = header.source {
                self.address = ClientAddress::Tcp(address);
            }
        }
        let located = proxied.is_none_or(|header| header.source != ProxySource::Unknown);
        let address = if let ClientAddress::Tcp(address) = self.address { Some(address.ip()) } else { None };
        ClientFacts {
            certificate: None,
            proxy: header.and_then(|header| header.identity.as_ref()),
            uid: user.filter(|_| proxied.is_none()).map(|user| user.uid),
            address: address.filter(|_| located),
        }
    }

    /// Counts the client as present from now on.
    pub(super) fn enter(&mut self, who: Identified, present: &Arc<Present>) {
        self.more().presence = Some(present.enter(who));
    }

    pub(super) fn address(&self) -> ClientAddress {
        self.address
    }

    /// Where the client is, as far as rules may rely on it: not where only a proxy is known.
    pub(super) fn source(&self) -> Option<IpAddr> {
        match self.address {
            ClientAddress::Tcp(address) if self.proxy() != Some(self.address) => Some(address.ip()),
            _ => None,
        }
    }

    /// Whom the client's bytes came through.
    pub(super) fn proxy(&self) -> Option<ClientAddress> {
        self.more.as_ref()?.proxy
    }

    pub(super) fn user(&self) -> Option<PeerUser> {
        self.more.as_ref()?.user
    }

    /// Who the client is; `None` is nobody.
    pub(super) fn who(&self) -> Option<&Arc<Identified>> {
        self.more.as_ref()?.presence.as_ref().map(Presence::who)
    }

    fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: PeerUser = PeerUser { uid: 1001, gid: 100, pid: Some(7) };

    fn tcp(address: &str) -> ClientAddress {
        ClientAddress::Tcp(address.parse().unwrap())
    }

    /// The address shown, the proxy shown, and what counts for who the client is.
    fn check(from: ClientAddress, header: Option<ProxySource>, expected: &str) {
        let mut caller = Caller::new(from);
        let user = (from == ClientAddress::Unix).then_some(USER);
        let header = header.map(|source| ProxyHeader { source, identity: None });
        let facts = caller.add(user, header.as_ref());
        let proxy = caller.proxy().map(|proxy| format!(" by {proxy}")).unwrap_or_default();
        let told = format!("{}{proxy}, uid {:?}, address {:?}", caller.address(), facts.uid, facts.address);
        assert_eq!(caller.source(), facts.address);
        assert_eq!(told, expected);
    }

    #[test]
    fn what_the_socket_shows_of_a_proxied_client_is_the_proxy() {
        let client = ProxySource::Client("10.1.3.7:80".parse().unwrap());
        check(tcp("127.0.0.1:9"), None, "127.0.0.1:9, uid None, address Some(127.0.0.1)");
        check(tcp("127.0.0.1:9"), Some(client), "10.1.3.7:80 by 127.0.0.1:9, uid None, address Some(10.1.3.7)");
        check(tcp("127.0.0.1:9"), Some(ProxySource::Proxy), "127.0.0.1:9, uid None, address Some(127.0.0.1)");
        check(tcp("127.0.0.1:9"), Some(ProxySource::Unknown), "127.0.0.1:9 by 127.0.0.1:9, uid None, address None");
        check(ClientAddress::Unix, None, "unix, uid Some(1001), address None");
        check(ClientAddress::Unix, Some(client), "10.1.3.7:80 by unix, uid None, address Some(10.1.3.7)");
        check(ClientAddress::Unix, Some(ProxySource::Proxy), "unix, uid Some(1001), address None");
        check(ClientAddress::Unix, Some(ProxySource::Unknown), "unix by unix, uid None, address None");
    }

    #[test]
    fn a_plain_client_costs_no_memory_beside_its_address() {
        let mut caller = Caller::new(tcp("127.0.0.1:9"));
        caller.add(None, None);
        assert!(caller.more.is_none());
        assert!(size_of::<Caller>() <= size_of::<ClientAddress>() + 8);
    }
}
