//! The gateway under a service manager, whose part the test plays: messages about its state, and passed sockets.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bson::doc;
use sd_notify::NotifyState;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::ports;
use crate::kit::raw::Connection;
use crate::kit::scratch;
use crate::kit::waiting::until;

const CLIENTS: usize = 8;
/// Operations between two steps of a restart.
const OPERATIONS: usize = 200;
const END_TIMEOUT: Duration = Duration::from_mins(1);

/// Clients that connect, run a command and close, again and again.
#[derive(Default)]
struct Load {
    done: AtomicUsize,
    /// Operations on connections that a stopping gateway closed. Drivers repeat them.
    interrupted: AtomicUsize,
    refused: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl Load {
    fn run(&self, connect: &impl Fn() -> anyhow::Result<Connection>) {
        while !self.is_over.load(Ordering::Relaxed) {
            match connect() {
                Ok(mut client) => {
                    let command = doc! { "insert": "operations", "documents": [{ "a": 1 }], "$db": "service_manager" };
                    let count = if client.run(&command).is_ok() { &self.done } else { &self.interrupted };
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => self.refused.lock().unwrap().push(format!("{error:#}")),
            }
        }
    }

    fn await_operations(&self) {
        let target = self.done.load(Ordering::Relaxed) + OPERATIONS;
        until("the clients have run more operations", || (self.done.load(Ordering::Relaxed) >= target).then_some(()));
    }
}

/// Restarts a gateway with this passed socket three times, while clients connect.
fn check_restarts(
    mongod: &Mongod,
    address: &str,
    socket: OwnedFd,
    connect: impl Fn() -> anyhow::Result<Connection> + Sync,
) {
    const RESTARTS: usize = 3;
    let passed_sockets = vec![("test".to_owned(), Arc::new(socket))];
    let listener_address = Some(address.to_owned());
    let options = GatewayOptions { listener_address, passed_sockets, ..GatewayOptions::to(mongod) };
    let load = Load::default();
    thread::scope(|scope| {
        // Ends the clients also when a step panics. The last gateway lives longer.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let mut gateway = Gateway::start(&options);
        let _end = End(&load.is_over);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| load.run(&connect))).collect();
        for _ in 0..RESTARTS {
            load.await_operations();
            gateway.terminate().unwrap();
            assert!(gateway.wait(END_TIMEOUT).unwrap().success());
            // No gateway runs: this client waits in the kernel's queue.
            let mut waiting = connect().unwrap();
            gateway = Gateway::start(&options);
            waiting.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
        }
        load.await_operations();
        load.is_over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
    });
    assert_eq!(load.refused.into_inner().unwrap(), Vec::<String>::new(), "refused connections");
    // Each client had at most one connection while a gateway stopped.
    assert!(load.interrupted.into_inner() <= RESTARTS * CLIENTS);
}

#[test]
fn a_restart_refuses_no_client_of_a_passed_tcp_socket() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    check_restarts(&mongod, &address, socket.into(), || Connection::plain(&address));
}

#[test]
fn a_restart_refuses_no_client_of_a_passed_unix_socket() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let directory = scratch::directory("service-manager").unwrap();
    let path = directory.path().join("m.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let address = format!("unix:{}", path.display());
    check_restarts(&mongod, &address, socket.into(), || Connection::unix(Path::new(&path)));
}

#[test]
fn passed_sockets_are_told_apart_by_their_names_and_are_not_inherited_further() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let [first, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [address, other] = [&first, &second].map(|socket| socket.local_addr().unwrap().to_string());
    let mut options = GatewayOptions {
        listener_address: Some(address.clone()),
        tables: format!("[listener.other]\naddress = {other:?}\nupstream = \"test\"\n"),
        passed_sockets: vec![
            ("other".to_owned(), Arc::new(second.into())),
            ("test".to_owned(), Arc::new(first.into())),
        ],
        ..GatewayOptions::to(&mongod)
    };
    let gateway = Gateway::start(&options);
    for address in [&address, &other] {
        Connection::plain(address).unwrap().run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    }
    for descriptor in [3, 4] {
        let path = format!("/proc/{}/fdinfo/{descriptor}", gateway.process_id());
        let info = std::fs::read_to_string(path).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
        assert_ne!(flags & libc::O_CLOEXEC, 0, "descriptor {descriptor} would be inherited: {info}");
    }
    drop(gateway);
    options.passed_sockets.swap_remove(0);
    let (code, output) = Gateway::start_in_vain(&options).unwrap();
    assert_eq!(code, Some(1));
    assert!(output.contains("FileDescriptorName=other and ListenStream="), "{output}");
}

/// The messages that the service manager gets.
struct Messages(UnixDatagram);

impl Messages {
    /// Binds a socket at `path`, and returns the variables for it.
    fn bind(path: &Path) -> (Self, Vec<(String, String)>) {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(END_TIMEOUT)).unwrap();
        (Self(socket), vec![("NOTIFY_SOCKET".to_owned(), path.display().to_string())])
    }

    /// The next message for which `accept` holds.
    fn next(&self, accept: impl Fn(&str) -> bool) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.0.recv(&mut buffer).expect("the gateway sends the expected message");
            let message = std::str::from_utf8(&buffer[..length]).unwrap();
            if accept(message) {
                return message.to_owned();
            }
        }
    }
}

#[test]
fn the_service_manager_learns_of_start_reload_progress_and_stop() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let directory = scratch::directory("service-manager").unwrap();
    let (messages, mut environment) = Messages::bind(&directory.path().join("notify"));
    environment.push(("WATCHDOG_USEC".to_owned(), "200000".to_owned()));
    let top = "drain_timeout = \"1h\"\n".to_owned();
    let tables = "[shutdown]\nwait_for_clients = true\n".to_owned();
    let mut gateway = Gateway::start(&GatewayOptions { top, tables, environment, ..GatewayOptions::to(&mongod) });
    assert!(messages.next(|_| true).starts_with("READY=1\nSTATUS="));
    messages.next(|message| message.starts_with("STATUS=ready; upstream test: standalone at "));
    for _ in 0..3 {
        messages.next(|message| message == "WATCHDOG=1");
    }
    for _ in 0..2 {
        // systemd takes no notice of a reload that began before its signal.
        let Ok(NotifyState::MonotonicUsec(signalled)) = NotifyState::monotonic_usec_now() else { unreachable!() };
        gateway.signal(libc::SIGHUP).unwrap();
        let begin = messages.next(|message| !message.starts_with("WATCHDOG") && !message.starts_with("STATUS"));
        let time = begin.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("the reload begins");
        assert!(time.parse::<i128>().unwrap() >= signalled);
        let end = messages.next(|message| !message.starts_with("WATCHDOG") && !message.starts_with("STATUS"));
        assert_eq!(end, "READY=1");
    }
    gateway.terminate().unwrap();
    let stop = messages.next(|message| !message.starts_with("WATCHDOG") && !message.starts_with("STATUS"));
    // The wait for clients, the drain, the close of connections, and a margin: more than fits in 32 bits.
    assert_eq!(stop, "STOPPING=1\nEXTEND_TIMEOUT_USEC=7206000000");
    assert!(gateway.wait(END_TIMEOUT).unwrap().success());
}

#[test]
fn a_gateway_is_started_while_mongodb_cannot_be_reached_and_its_status_says_so() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let directory = scratch::directory("service-manager").unwrap();
    let (messages, environment) = Messages::bind(&directory.path().join("notify"));
    let upstream_address = format!("127.0.0.1:{}", ports::free().unwrap());
    let gateway = Gateway::start(&GatewayOptions { upstream_address, environment, ..GatewayOptions::to(&mongod) });
    assert!(messages.next(|_| true).starts_with("READY=1\nSTATUS=not ready; FAILED upstream test: "));
    let refused = messages.next(|message| message.contains("refused"));
    assert!(refused.starts_with("STATUS=not ready; FAILED upstream test: ") && !refused.contains('\n'), "{refused}");
    drop(gateway);
}
