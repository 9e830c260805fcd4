//! A service mesh and its policy: what each workload may read, over mutual TLS and with every driver. Also what each
//! driver reports when a command is denied, and that its connection stays usable.

use std::process::Command;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::error::ErrorKind;
use mongodb::options::ClientOptions;
use serde::Deserialize;

use crate::kit::certificates::{First, Pki, Wanted};
use crate::kit::drivers;
use crate::kit::gateway::{Gateway, GatewayOptions};
use crate::kit::mongod::Mongod;
use crate::kit::process;
use crate::reports;

/// A script takes a second or two; a busy machine needs longer.
pub const SCRIPT_TIMEOUT: Duration = Duration::from_mins(2);
const RULE: &str = "
    [[policy.rule]]
    name = 'full-sleep-may-not-read'
    action = 'deny'
    from = [{ principals = ['cluster.local/ns/full/sa/sleep'] }]
    to = [{ commands = ['find'], databases = ['mesh'], collections = ['orders'] }]
";
const REFUSED: &str =
    "mongate: not authorized on mesh to execute command find: denied by rule \"full-sleep-may-not-read\"";

/// What a driver reports about a find in `orders` and a later find in `menu`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Error code of the find in `orders`.
    pub code: Option<i32>,
    pub code_name: Option<String>,
    pub message: String,
    /// Number of documents in `orders`.
    pub orders: Option<usize>,
    /// Number of documents in `menu`; `None` without a connection.
    pub rows: Option<usize>,
    /// Whether both commands used the same connection.
    pub same: Option<bool>,
    /// What mongosh reports about an insert.
    pub insert: Option<Code>,
}

/// Code and name of an error.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Code {
    pub code: Option<i32>,
    pub code_name: Option<String>,
}

/// The expected result of a client.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// It reads both collections.
    Reads,
    /// It is denied one collection, reads the other one, and keeps its connection.
    Denied,
    /// Its connection is rejected with this text.
    Rejected(&'static str),
}

#[tokio::test(flavor = "multi_thread")]
async fn each_workload_of_a_mesh_reads_only_what_the_policy_allows_and_learns_why() {
    let Some(mongod) = Mongod::shared_standalone() else { return };
    for collection in ["orders", "menu"] {
        let documents =
            [doc! { "_id": 1 }, doc! { "_id": 2 }].map(|found| doc! { "q": &found, "u": &found, "upsert": true });
        mongod.run(&doc! { "update": collection, "updates": documents.to_vec(), "$db": "mesh" }).unwrap();
    }
    let pki = Pki::new().unwrap();
    let [strict, permissive] = ["strict", "permissive"].map(|mode| edge(&mongod, &pki, mode));
    let tls = |gateway: &Gateway, id: &'static str| {
        static NAMES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let stem = format!("workload-{}", NAMES.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let client = pki.issue(&stem, &Wanted { names: vec![id], ..Wanted::default() }).unwrap();
        let (ca, client) = (pki.ca_file(), client.combined(First::Certificate).unwrap());
        let files = format!("tls=true&tlsCAFile={}&tlsCertificateKeyFile={}", ca.display(), client.display());
        format!("{}&{files}", reports::uri(gateway))
    };
    let (sleep, legacy) = ("spiffe://cluster.local/ns/full/sa/sleep", "spiffe://cluster.local/ns/legacy/sa/sleep");
    let rows = [
        (tls(&strict, sleep), Expected::Denied),
        (tls(&strict, legacy), Expected::Reads),
        (tls(&strict, "spiffe://other.local/ns/full/sa/sleep"), Expected::Rejected("trust domain other.local")),
        (reports::uri(&strict), Expected::Rejected("requires mutual TLS")),
        (tls(&permissive, sleep), Expected::Denied),
        (reports::uri(&permissive), Expected::Reads),
    ];
    for (uri, expected) in rows {
        check("the Rust driver", &of_rust(&uri).await, expected);
        for (name, command) in scripts(&uri) {
            // mongosh runs no script when it cannot connect.
            if name == "mongosh" && matches!(expected, Expected::Rejected(_)) {
                let told = process::run(name, command, SCRIPT_TIMEOUT).unwrap_err().to_string();
                check(name, &Report { message: told, ..Report::default() }, expected);
                continue;
            }
            let output = process::run(name, command, SCRIPT_TIMEOUT).unwrap();
            check(name, &serde_json::from_str(output.trim()).unwrap(), expected);
        }
    }
}

/// A gateway at the edge of the mesh, with the policy.
fn edge(mongod: &Mongod, pki: &Pki, mode: &str) -> Gateway {
    let server =
        pki.issue(&format!("gateway-{mode}"), &Wanted::server()).unwrap().combined(First::Certificate).unwrap();
    let (server, ca) = (server.display(), pki.ca_file());
    let tls = format!("[listener.test.tls]\ncertificate_file = '{server}'\nca_file = '{}'\n", ca.display());
    Gateway::start(&GatewayOptions {
        top: "trust_domain = 'cluster.local'\n".to_owned(),
        listener: format!("mode = '{mode}'\n"),
        tables: format!("{tls}{RULE}"),
        ..GatewayOptions::to(mongod)
    })
}

/// The script of every installed driver.
fn scripts(uri: &str) -> Vec<(&'static str, Command)> {
    let script = |name: &str| drivers::scripts().join(name);
    let mut commands = Vec::new();
    if let Some(mut python) = drivers::python() {
        python.arg(script("refused.py")).args([uri, "mesh"]);
        commands.push(("PyMongo", python));
    }
    if let Some(mut node) = drivers::node() {
        node.arg(script("refused.mjs")).args([uri, "mesh"]);
        commands.push(("the Node.js driver", node));
    }
    if let Some(mut mongosh) = drivers::mongosh() {
        mongosh
            .env("DATABASE", "mesh")
            .args(["--quiet", "--norc", &format!("{uri}&maxPoolSize=1"), "--file"])
            .arg(script("refused.mongosh.js"));
        commands.push(("mongosh", mongosh));
    }
    commands
}

async fn of_rust(uri: &str) -> Report {
    let mut options = ClientOptions::parse(uri).await.unwrap();
    options.max_pool_size = Some(1);
    let client = Client::with_options(options).unwrap();
    let mut report = Report::default();
    if let Err(error) = ask_with_rust(&client, &mut report).await {
        report.message = error.to_string();
    }
    client.shutdown().immediate(true).await;
    report
}

async fn ask_with_rust(client: &Client, report: &mut Report) -> mongodb::error::Result<()> {
    let place = || async { client.database("admin").run_command(doc! { "whatsmyuri": 1 }).await };
    let count = |collection: &'static str| async move {
        let found = client.database("mesh").collection::<Document>(collection).find(doc! {}).await?;
        futures::TryStreamExt::try_collect::<Vec<_>>(found).await.map(|found| found.len())
    };
    let before = place().await?;
    match count("orders").await {
        Ok(found) => report.orders = Some(found),
        Err(error) => {
            let ErrorKind::Command(error) = *error.kind else { return Err(error) };
            (report.code, report.code_name, report.message) = (Some(error.code), Some(error.code_name), error.message);
        }
    }
    report.rows = Some(count("menu").await?);
    report.same = Some(before.get("you") == place().await?.get("you"));
    Ok(())
}

fn check(name: &str, report: &Report, expected: Expected) {
    let error = (report.code, report.code_name.as_deref(), report.message.as_str());
    let went_on = (report.rows, report.same);
    match expected {
        Expected::Reads => {
            assert_eq!((report.orders, went_on), (Some(2), (Some(2), Some(true))), "{name}: {report:?}");
            assert_eq!(error, (None, None, ""), "{name}");
        }
        Expected::Denied => {
            assert_eq!(error, (Some(13), Some("Unauthorized"), REFUSED), "{name}");
            assert_eq!((report.orders, went_on), (None, (Some(2), Some(true))), "{name}: {report:?}");
        }
        Expected::Rejected(told) => {
            assert!(report.message.contains(told), "{name}: {told:?} is not in {report:?}");
            assert_eq!((report.orders, went_on), (None, (None, None)), "{name}: {report:?}");
        }
    }
}
