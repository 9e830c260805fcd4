//! Whether the gateway could listen on the addresses of the configuration.

use std::io;

use socket2::{Domain, SockAddr, Socket, Type};

use super::report::{About, Finding, FindingKind, Status};
use crate::config::{Config, ListenAddress, ListenerConfig};

/// An address that cannot be used, with its key.
struct Unusable {
    key: String,
    address: ListenAddress,
    error: io::Error,
}

impl Unusable {
    fn is_in_use(&self) -> bool {
        self.error.kind() == io::ErrorKind::AddrInUse
    }

    fn to_finding(&self) -> Finding {
        let (key, address) = (&self.key, &self.address);
        let (severity, sentence, remedy) = match self.error.kind() {
            io::ErrorKind::AddrInUse => (
                Status::Error,
                "is in use by another process".to_owned(),
                format!("stop that process, or choose another address; `ss -lpn` shows the process of {address}"),
            ),
            // The check may run on another machine than the gateway.
            io::ErrorKind::AddrNotAvailable => (
                Status::Warning,
                "is not an address of this machine".to_owned(),
                "correct it, unless the gateway runs on another machine".to_owned(),
            ),
            _ => (
                Status::Warning,
                format!("cannot be bound by this user: {}", self.error),
                "run the gateway as a user that may bind it, or choose another address".to_owned(),
            ),
        };
        Finding {
            severity,
            kind: FindingKind::Configuration,
            about: About::Key(key.clone()),
            sentence: format!("= {address} {sentence}"),
            remedy,
        }
    }
}

/// Tries every address of the configuration, and releases it at once. No client can connect meanwhile.
///
/// A gateway that runs with the same configuration holds its addresses: if all of them are in use, that is one warning.
pub(super) fn check(config: &Config, findings: &mut Vec<Finding>) {
    let addresses = addresses(config);
    let fixed = addresses.iter().filter(|(_, address)| !address.has_port_0()).count();
    let unusable: Vec<_> = addresses
        .into_iter()
        .filter_map(|(key, address)| Some(Unusable { error: try_address(&address).err()?, key, address }))
        .collect();
    if unusable.len() == fixed && fixed > 1 && unusable.iter().all(Unusable::is_in_use) {
        findings.push(Finding {
            severity: Status::Warning,
            kind: FindingKind::Configuration,
            about: About::Key("admin.address".to_owned()),
            sentence: "and all addresses of listeners are in use, probably by a gateway with this configuration"
                .to_owned(),
            remedy: "nothing, if a gateway runs with it; otherwise choose other addresses".to_owned(),
        });
        return;
    }
    findings.extend(unusable.iter().map(Unusable::to_finding));
}

fn addresses(config: &Config) -> Vec<(String, ListenAddress)> {
    let admin = ("admin.address".to_owned(), ListenAddress::Tcp(config.admin.address));
    let of_listener = |listener: &ListenerConfig| {
        let key = format!("listener.{}.address", listener.name);
        listener.addresses().into_iter().map(move |address| (key.clone(), address))
    };
    std::iter::once(admin).chain(config.listeners.values().flat_map(of_listener)).collect()
}

/// Binds an IP address without listening. A unix domain socket is in use if a process accepts connections on it.
fn try_address(address: &ListenAddress) -> io::Result<()> {
    match address {
        ListenAddress::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
            // As the gateway does: connections that have ended recently do not count.
            socket.set_reuse_address(true)?;
            socket.bind(&SockAddr::from(*address))
        }
        ListenAddress::Unix(path) => {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            // Does not wait: a process that accepts no more clients has a full queue.
            socket.set_nonblocking(true)?;
            match socket.connect(&SockAddr::unix(path)?).map_err(|error| error.kind()) {
                Ok(()) | Err(io::ErrorKind::WouldBlock) => Err(io::ErrorKind::AddrInUse.into()),
                Err(io::ErrorKind::PermissionDenied) => Err(io::ErrorKind::PermissionDenied.into()),
                Err(_) => Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn config(admin: &str, listener: &str) -> Config {
        let text = format!(
            "[admin]\naddress = '{admin}'\n[upstream.a]\naddress = 'mongo:27017'\ntls.certificate_file = 'c.pem'\n\
             tls.ca_file = 'ca.pem'\n[listener.a]\nupstream = 'a'\naddress = '{listener}'\n\
             allow_remote_plaintext = true\n"
        );
        Config::parse(&text, std::path::Path::new("config.toml"), []).unwrap()
    }

    fn found(config: &Config) -> Vec<(Status, String)> {
        let mut findings = Vec::new();
        check(config, &mut findings);
        let shown = |finding: Finding| match finding.about {
            About::Key(key) => (finding.severity, format!("{key} {}", finding.sentence)),
            about => panic!("{about:?}"),
        };
        findings.into_iter().map(shown).collect()
    }

    #[test]
    fn an_address_in_use_is_an_error_unless_all_of_them_are() {
        let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [first, second] = sockets.each_ref().map(|socket| socket.local_addr().unwrap().to_string());
        assert_eq!(found(&config("127.0.0.1:0", "127.0.0.1:0")), []);
        for (admin, listener, key) in
            [("127.0.0.1:0", first.as_str(), "listener.a.address"), (&first, "[::1]:1", "admin.address")]
        {
            let found = found(&config(admin, listener));
            let expected = format!("{key} = {first} is in use by another process");
            assert_eq!(found, [(Status::Error, expected)]);
        }
        let found = found(&config(&first, &second));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].0 == Status::Warning && found[0].1.contains("probably by a gateway"), "{found:?}");
    }

    #[test]
    fn an_address_of_another_machine_is_a_warning() {
        let found = found(&config("127.0.0.1:0", "192.0.2.1:27017"));
        let expected = "listener.a.address = 192.0.2.1:27017 is not an address of this machine".to_owned();
        assert_eq!(found, [(Status::Warning, expected)]);
    }

    #[test]
    fn a_unix_socket_is_in_use_while_a_process_accepts_on_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mongate.sock");
        let config = config("127.0.0.1:0", &format!("unix:{}", path.display()));
        assert_eq!(found(&config), []);
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(found(&config).len(), 1);
        drop(socket);
        assert_eq!(found(&config), [], "a socket that was left behind");
    }
}
