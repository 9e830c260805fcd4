//! A new gateway process takes over the address of an old one, while clients that never retry go on.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bson::doc;

use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::raw::Connection;
use crate::kit::scratch;
use crate::kit::waiting::until;

const CLIENTS: usize = 8;
/// Operations between two steps of a hand-over.
const OPERATIONS: usize = 200;
const END_TIMEOUT: Duration = Duration::from_mins(1);

/// Clients that connect, run two commands and close, again and again. An error is counted, and never retried.
#[derive(Default)]
struct Load {
    done: AtomicUsize,
    errors: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

impl Load {
    fn run(&self, connect: impl Fn() -> anyhow::Result<Connection>) {
        while !self.stopped.load(Ordering::Relaxed) {
            match operation(&connect) {
                Ok(()) => drop(self.done.fetch_add(1, Ordering::Relaxed)),
                Err(error) => self.errors.lock().unwrap().push(format!("{error:#}")),
            }
        }
    }

    fn await_operations(&self) {
        let target = self.done.load(Ordering::Relaxed) + OPERATIONS;
        until("the clients have run more operations", || (self.done.load(Ordering::Relaxed) >= target).then_some(()));
    }
}

fn operation(connect: impl Fn() -> anyhow::Result<Connection>) -> anyhow::Result<()> {
    let mut client = connect()?;
    client.run(&doc! { "hello": 1, "$db": "admin" })?;
    client.run(&doc! { "insert": "operations", "documents": [{ "by": "hand_over" }], "$db": "hand_over" })?;
    Ok(())
}

/// Runs `steps` while clients use the address; fails if one of their operations fails. Keeps what `steps` returns, the
/// last gateway, until the clients have ended.
fn under_load<T>(connect: impl Fn() -> anyhow::Result<Connection> + Sync, steps: impl FnOnce(&Load) -> T) {
    let load = Load::default();
    let last = thread::scope(|scope| {
        // Ends the clients also when a step panics.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&load.stopped);
        for _ in 0..CLIENTS {
            scope.spawn(|| load.run(&connect));
        }
        load.await_operations();
        let last = steps(&load);
        load.await_operations();
        last
    });
    drop(last);
    let errors = load.errors.into_inner().unwrap();
    assert_eq!(errors, Vec::<String>::new(), "failed operations");
}

fn options(mongod: &Mongod, address: &str) -> GatewayOptions {
    GatewayOptions {
        listener_address: Some(address.to_owned()),
        listener: "reuse_port = true\n".to_owned(),
        tables: "[shutdown]\nwait_for_clients = true\n".to_owned(),
        ..GatewayOptions::to(mongod)
    }
}

/// Replaces the gateway three times, one after the other.
fn hand_over(mongod: &Mongod, address: &str, mut old: Gateway, load: &Load) -> Gateway {
    for _ in 0..3 {
        let new = Gateway::start(&options(mongod, address));
        load.await_operations();
        old.terminate().unwrap();
        assert!(old.wait(END_TIMEOUT).unwrap().success());
        load.await_operations();
        assert!(new.metric("mongate_connections_total", &[("outcome", "completed")]) > 0.0);
        old = new;
    }
    old
}

#[test]
fn a_port_is_handed_over_without_a_failed_operation() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let first = Gateway::start(&options(&mongod, "127.0.0.1:0"));
    let address = first.address().to_owned();
    under_load(|| Connection::plain(&address), |load| hand_over(&mongod, &address, first, load));
}

#[test]
fn a_unix_socket_is_handed_over_without_a_failed_operation() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let directory = scratch::directory("hand-over").unwrap();
    let path: PathBuf = directory.path().join("m.sock");
    let address = format!("unix:{}", path.display());
    let first = Gateway::start(&options(&mongod, &address));
    let connect = || Connection::unix(Path::new(&path));
    under_load(connect, |load| hand_over(&mongod, &address, first, load));
}

#[test]
fn a_new_process_that_cannot_start_takes_no_client() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let first = Gateway::start(&options(&mongod, "127.0.0.1:0"));
    let address = first.address().to_owned();
    under_load(
        || Connection::plain(&address),
        |load| {
            for _ in 0..5 {
                // The administration port is in use.
                let taken = ("MONGATE_ADMIN__ADDRESS".to_owned(), first.admin_address().to_owned());
                let options = GatewayOptions { environment: vec![taken], ..options(&mongod, &address) };
                let (code, output) = Gateway::start_in_vain(&options).unwrap();
                assert_ne!(code, Some(0), "{output}");
            }
            load.await_operations();
        },
    );
}
