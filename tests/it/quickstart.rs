//! The first thing that anyone runs: `examples/quickstart.rs`, as `cargo test` has built it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use bson::doc;

use crate::kit::mongod_binary;
use crate::kit::process::Process;
use crate::kit::provision;
use crate::kit::raw::Connection;

/// It takes two seconds; a busy machine may need many.
const TIMEOUT: Duration = Duration::from_mins(1);

#[test]
fn it_proves_that_it_works_and_ends() {
    let Some(mut quickstart) = start(&["--once", "--port", "0"]) else { return };
    let status = quickstart.wait(TIMEOUT).unwrap();
    let said = quickstart.stdout();
    assert!(status.success(), "{said}");
    for part in ["mongod refuses", "found tea", "command=\"insert\",outcome=\"ok\"", "command=\"find\"", "it works"] {
        assert!(said.contains(part), "it did not say {part}:\n{said}");
    }
    assert!(!Path::new(&word_after(&quickstart, "certificates")).exists());
}

#[test]
fn it_serves_until_ctrl_c_and_leaves_nothing() {
    let Some(mut quickstart) = start(&["--port", "0"]) else { return };
    quickstart.wait_for_line(TIMEOUT, |line| line.text.contains("serving until").then_some(())).unwrap();
    let address = word_after(&quickstart, "gateway");
    let directory = word_after(&quickstart, "certificates");
    let mut client = Connection::plain(address.trim_end_matches(',')).unwrap();
    assert_eq!(client.run(&doc! { "count": "orders", "$db": "shop" }).unwrap().get_i32("n").unwrap(), 3);
    assert!(Path::new(&directory).exists());
    quickstart.signal(libc::SIGINT).unwrap();
    assert!(quickstart.wait(TIMEOUT).unwrap().success());
    assert!(!Path::new(&directory).exists());
}

#[test]
fn a_port_that_is_taken_is_named_with_a_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let Some(mut quickstart) = start(&["--once", "--port", &port]) else { return };
    assert_eq!(quickstart.wait(TIMEOUT).unwrap().code(), Some(1));
    let said = quickstart.tail();
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("--port N"), "{said}");
}

fn start(arguments: &[&str]) -> Option<Process> {
    provision::or_skip("a real mongod", mongod_binary::locate())?;
    let mut command = Command::new(provision::or_skip("the example quickstart", program())?);
    command.args(arguments);
    Some(Process::start("quickstart", command).unwrap())
}

/// Cargo names programs to tests, but not examples: it stands beside them.
fn program() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).context("this program was not built by cargo")?;
    let program = profile.join("examples/quickstart");
    anyhow::ensure!(program.exists(), "`cargo test` builds it, and so does `cargo build --examples`");
    Ok(program)
}

/// The first word that it says about `what`.
fn word_after(quickstart: &Process, what: &str) -> String {
    let said = quickstart.stdout();
    let line = said.lines().find_map(|line| line.trim_start().strip_prefix(what));
    line.unwrap_or_else(|| panic!("nothing about {what}:\n{said}")).split_whitespace().next().unwrap().to_owned()
}
