//! The control socket and `mongate ctl`, on a gateway in front of a real mongod.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use bson::doc;

use crate::kit::gateway::{Gateway, GatewayOptions, run_to_end};
use crate::kit::mongod::Mongod;
use crate::kit::waiting::until;
use crate::reports::LOG_TIMEOUT;

fn options(mongod: &Mongod) -> GatewayOptions {
    GatewayOptions { tables: "[control]\nsocket = 'control.sock'\n".to_owned(), ..GatewayOptions::to(mongod) }
}

fn socket(gateway: &Gateway) -> PathBuf {
    gateway.directory().join("control.sock")
}

/// Exit code and all output of `mongate ctl` with the configuration of the gateway.
fn ctl(gateway: &Gateway, arguments: &[&str]) -> (Option<i32>, String) {
    let file = gateway.configuration_file();
    let (code, _, all) = run_to_end(&[&["ctl"], arguments, &["--config", file.to_str().unwrap()]].concat()).unwrap();
    (code, all)
}

fn is_ok(gateway: &Gateway, arguments: &[&str], expected: &str) {
    let (code, all) = ctl(gateway, arguments);
    assert_eq!((code, all.trim_end()), (Some(0), expected), "{arguments:?}");
}

#[test]
fn the_log_level_changes_and_comes_back() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::start(&options(&mongod));
    assert_eq!(fs::metadata(socket(&gateway)).unwrap().permissions().mode() & 0o777, 0o600);
    let mut connection = gateway.connect().unwrap();
    connection.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    is_ok(&gateway, &["log-level"], "info");
    is_ok(&gateway, &["log-level", "debug"], "debug until the next start or change; configured: info");
    let changed = gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "log level changed").unwrap();
    assert_eq!((&changed["log_level"], &changed["previous"]), (&"debug".into(), &"info".into()));
    assert!(changed["uid"].is_u64() && changed["pid"].is_i64(), "{changed}");
    assert!(!gateway.log().iter().any(|event| event["message"] == "command"), "not before the change");
    connection.run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "command").unwrap();

    let (code, all) = ctl(&gateway, &["log-level", "error", "--for", "1h"]);
    assert!(code == Some(0) && all.starts_with("error, in ") && all.trim_end().ends_with("info again"), "{all}");
    let (code, all) = ctl(&gateway, &["log-level", "trace", "--for", "1s"]);
    assert_eq!(code, Some(0), "{all}");
    let back = |event: &serde_json::Value| event["message"] == "log level is that of the configuration again";
    gateway.wait_for_log(LOG_TIMEOUT, back).unwrap();
    is_ok(&gateway, &["log-level"], "info");
    let (code, all) = ctl(&gateway, &["log-level", "debug", "--for", "25h"]);
    assert!(code == Some(1) && all.contains("1s to 24h"), "{all}");
}

#[test]
fn a_reload_is_awaited_and_reports_what_failed() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let options = options(&mongod);
    let gateway = Gateway::start(&options);
    let (code, all) = ctl(&gateway, &["reload"]);
    assert!(code == Some(0) && all.contains("policy: in use"), "{code:?} {all}");
    let broken = format!("{}[[policy.rule]]\naction = 'perhaps'\n", options.configuration());
    fs::write(gateway.configuration_file(), broken).unwrap();
    let path = socket(&gateway);
    let (code, _, all) = run_to_end(&["ctl", "reload", "--socket", path.to_str().unwrap()]).unwrap();
    assert!(code == Some(1) && all.contains("policy: not reloaded: "), "{code:?} {all}");
}

#[test]
fn a_drain_ends_the_gateway_and_removes_the_socket() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let mut gateway = Gateway::start(&options(&mongod));
    is_ok(&gateway, &["drain"], "the shutdown has begun");
    assert!(gateway.wait(Duration::from_secs(20)).unwrap().success());
    assert!(!socket(&gateway).exists());
    let (code, all) = ctl(&gateway, &["log-level"]);
    assert!(code == Some(1) && all.contains("no gateway listens on"), "{code:?} {all}");
}

#[test]
fn without_a_socket_the_command_says_what_to_do() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::start(&GatewayOptions::to(&mongod));
    let (code, all) = ctl(&gateway, &["reload"]);
    assert!(code == Some(78) && all.contains("control.socket is not set in"), "{code:?} {all}");
}

#[test]
fn a_file_or_a_socket_in_use_prevents_the_start() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::start(&options(&mongod));
    let twin = |path: PathBuf| GatewayOptions {
        tables: format!("[control]\nsocket = '{}'\n", path.display()),
        ..GatewayOptions::to(&mongod)
    };
    let (code, all) = Gateway::start_in_vain(&twin(socket(&gateway))).unwrap();
    assert!(code == Some(1) && all.contains("control.socket: another process listens on"), "{all}");
    let (code, all) = Gateway::start_in_vain(&twin(gateway.configuration_file())).unwrap();
    assert!(code == Some(1) && all.contains("exists and is not a socket"), "{all}");
    assert!(gateway.configuration_file().exists());
    is_ok(&gateway, &["log-level"], "info");
}

#[test]
fn hostile_clients_do_not_stop_the_others() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    let gateway = Gateway::start(&options(&mongod));
    let connect = || UnixStream::connect(socket(&gateway)).unwrap();
    for garbage in
        ["\n".to_owned(), "\u{1b}\0\n".to_owned(), "{".repeat(1 << 20), "{\"command\":\"halt\"}\n".to_owned()]
    {
        let mut client = connect();
        // The gateway does not read all of a long line.
        let _ = client.write_all(garbage.as_bytes());
        let mut reply = String::new();
        let _ = client.read_to_string(&mut reply);
        assert!(garbage.len() > 100 || reply.contains("error"), "{reply}");
    }
    gateway.wait_for_log(LOG_TIMEOUT, |event| event["message"] == "control request refused").unwrap();
    // Silent clients have all places, and lose them; further ones are closed.
    let silent: Vec<_> = (0..100).map(|_| connect()).collect();
    gateway.connect().unwrap().run(&doc! { "ping": 1, "$db": "admin" }).unwrap();
    until("a place is free", || (ctl(&gateway, &["log-level"]).0 == Some(0)).then_some(()));
    drop(silent);
}
