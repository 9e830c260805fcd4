//! Tests `examples/quickstart.rs`, the first program that a new user runs. `cargo test` builds it.

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

/// The example takes two seconds; a busy machine may need many more.
const TIMEOUT: Duration = Duration::from_mins(1);

#[test]
fn once_proves_that_the_gateway_works_and_ends() {
    let Some(mut quickstart) = start(&["--once", "--port", "0"]) else { return };
    let status = quickstart.wait(TIMEOUT).unwrap();
    let output = quickstart.stdout();
    assert!(status.success(), "{output}");
    for part in ["mongod refuses", "found tea", "command=\"insert\",outcome=\"ok\"", "command=\"find\"", "it works"] {
        assert!(output.contains(part), "{part:?} is missing from the output:\n{output}");
    }
    assert!(!Path::new(&word_after(&quickstart, "certificates")).exists());
}

#[test]
fn it_serves_until_ctrl_c_and_then_removes_its_files() {
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
fn a_port_in_use_is_named_with_a_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let Some(mut quickstart) = start(&["--once", "--port", &port]) else { return };
    assert_eq!(quickstart.wait(TIMEOUT).unwrap().code(), Some(1));
    let output = quickstart.tail();
    assert!(output.contains(&format!("127.0.0.1:{port}")) && output.contains("--port N"), "{output}");
}

fn start(arguments: &[&str]) -> Option<Process> {
    provision::or_skip("a real mongod", mongod_binary::locate())?;
    let mut command = Command::new(provision::or_skip("the example quickstart", program())?);
    command.args(arguments);
    Some(Process::start("quickstart", command).unwrap())
}

/// Returns the path of the example. Cargo tells a test where binaries are, but not where examples are: they are in a
/// directory next to the test programs.
fn program() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).context("this program was not built by cargo")?;
    let program = profile.join("examples/quickstart");
    anyhow::ensure!(program.exists(), "{} does not exist; run `cargo build --examples`", program.display());
    Ok(program)
}

/// Returns the first word after `label` in the output.
fn word_after(quickstart: &Process, label: &str) -> String {
    let output = quickstart.stdout();
    let line = output.lines().find_map(|line| line.trim_start().strip_prefix(label));
    line.unwrap_or_else(|| panic!("no line starts with {label:?}:\n{output}"))
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned()
}
