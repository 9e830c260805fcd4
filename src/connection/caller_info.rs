//! What is known about one client, for its policy and its log line.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::principals::{ConnectedPrincipals, CountedConnection, TokenFacts};
use crate::identity::{ClientFacts, Identified};
use crate::listener::{ClientAddress, PeerUser, ProxyHeader, ProxySource};
use crate::upstream::ClientEndpoints;

/// The address and the identity of a client.
#[derive(Debug)]
pub(super) struct CallerInfo {
    /// From its PROXY header, or else from its socket.
    address: ClientAddress,
    /// In a box, because most connections to a plaintext port do not need it.
    details: Option<Box<CallerDetails>>,
}

#[derive(Debug, Default)]
struct CallerDetails {
    proxy: Option<ClientAddress>,
    /// From the PROXY header.
    destination: Option<SocketAddr>,
    user: Option<PeerUser>,
    counted: Option<CountedConnection>,
}

impl CallerInfo {
    /// Only the address of the client's socket is known.
    pub(super) fn new(address: ClientAddress) -> Self {
        Self { address, details: None }
    }

    /// Adds what the kernel and a trusted proxy report about the client, and returns the facts that may identify it.
    pub(super) fn add<'a>(&mut self, user: Option<PeerUser>, header: Option<&'a ProxyHeader>) -> ClientFacts<'a> {
        if let Some(user) = user {
            self.details().user = Some(user);
        }
        // The socket of a proxied client shows the proxy.
        let proxied = header.filter(|header| header.source != ProxySource::Proxy);
        if let Some(header) = proxied {
            let proxy = self.address;
            let details = self.details();
            (details.proxy, details.destination) = (Some(proxy), header.destination);
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

    /// Sets the identity of the client, and counts it among the connected principals from now on.
    pub(super) fn set_identity(&mut self, identity: Identified, connected: &Arc<ConnectedPrincipals>) {
        self.details().counted = Some(connected.count(identity));
    }

    /// The client has shown this token.
    pub(super) fn set_token(&self, token: TokenFacts) {
        if let Some(counted) = self.details.as_ref().and_then(|details| details.counted.as_ref()) {
            counted.set_token(token);
        }
    }

    /// The address of the client, or of its proxy if nothing else is known.
    pub(super) fn address(&self) -> ClientAddress {
        self.address
    }

    /// The address of the client for policy rules: `None` if only the address of its proxy is known.
    pub(super) fn source(&self) -> Option<IpAddr> {
        match self.address {
            ClientAddress::Tcp(address) if self.proxy() != Some(self.address) => Some(address.ip()),
            _ => None,
        }
    }

    /// The addresses of the client for a server: `None` if it has no IP address, or if only that of its proxy is known.
    /// `here` is the address that the client, or its proxy, connected to.
    pub(super) fn endpoints(&self, here: Option<SocketAddr>) -> Option<ClientEndpoints> {
        self.source()?;
        let ClientAddress::Tcp(source) = self.address else { return None };
        let from_header = self.details.as_ref().and_then(|details| details.destination);
        Some(ClientEndpoints::new(source, from_header.or(here)))
    }

    /// The proxy that the client is connected through.
    pub(super) fn proxy(&self) -> Option<ClientAddress> {
        self.details.as_ref()?.proxy
    }

    /// The peer credentials of a unix domain socket.
    pub(super) fn user(&self) -> Option<PeerUser> {
        self.details.as_ref()?.user
    }

    /// The identity of the client; `None` if it is unauthenticated.
    pub(super) fn identity(&self) -> Option<&Arc<Identified>> {
        self.details.as_ref()?.counted.as_ref().map(CountedConnection::identity)
    }

    fn details(&mut self) -> &mut CallerDetails {
        self.details.get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: PeerUser = PeerUser { uid: 1001, gid: 100, pid: Some(7) };

    fn tcp(address: &str) -> ClientAddress {
        ClientAddress::Tcp(address.parse().unwrap())
    }

    /// The address and the proxy in log lines, and the facts that may identify the client.
    fn check(from: ClientAddress, header: Option<ProxySource>, expected: &str) {
        let mut caller = CallerInfo::new(from);
        let user = (from == ClientAddress::Unix).then_some(USER);
        let header = header.map(|source| ProxyHeader { source, destination: None, identity: None });
        let facts = caller.add(user, header.as_ref());
        let proxy = caller.proxy().map(|proxy| format!(" by {proxy}")).unwrap_or_default();
        let shown = format!("{}{proxy}, uid {:?}, address {:?}", caller.address(), facts.uid, facts.address);
        assert_eq!(caller.source(), facts.address);
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_socket_address_of_a_proxied_client_is_that_of_the_proxy() {
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
    fn a_server_receives_the_address_of_the_client_and_never_that_of_its_proxy() {
        let (client, there) = ("10.1.3.7:80".parse().unwrap(), "10.0.0.1:27017".parse().unwrap());
        let here: SocketAddr = "127.0.0.1:5".parse().unwrap();
        let told = |from: &str, header: Option<(ProxySource, Option<SocketAddr>)>| {
            let address = if from == "unix" { ClientAddress::Unix } else { tcp(from) };
            let mut caller = CallerInfo::new(address);
            let header = header.map(|(source, destination)| ProxyHeader { source, destination, identity: None });
            caller.add(None, header.as_ref());
            caller.endpoints(Some(here))
        };
        let direct = Some(ClientEndpoints::new("127.0.0.1:9".parse().unwrap(), Some(here)));
        let proxied = ProxySource::Client(client);
        assert_eq!(told("127.0.0.1:9", None), direct);
        assert_eq!(told("127.0.0.1:9", Some((ProxySource::Proxy, None))), direct);
        assert_eq!(told("127.0.0.1:9", Some((ProxySource::Unknown, None))), None);
        assert_eq!(told("unix", None), None);
        for from in ["127.0.0.1:9", "unix"] {
            assert_eq!(told(from, Some((proxied, Some(there)))), Some(ClientEndpoints::new(client, Some(there))));
            assert_eq!(told(from, Some((proxied, None))), Some(ClientEndpoints::new(client, Some(here))));
        }
    }

    #[test]
    fn an_unauthenticated_client_costs_no_memory_except_its_address() {
        let mut caller = CallerInfo::new(tcp("127.0.0.1:9"));
        caller.add(None, None);
        assert!(caller.details.is_none());
        assert!(size_of::<CallerInfo>() <= size_of::<ClientAddress>() + 8);
    }
}
