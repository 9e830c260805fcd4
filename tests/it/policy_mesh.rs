//! A mesh and its policy: who of three workloads may read what, over mutual TLS and with every driver; what each driver
//! reports of a refusal, and that it goes on.

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

/// A script takes a second or two; a busy machine may need many.
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

/// What a driver reports: of a find in `orders`, and of one in `menu` after it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Of the first one's error.
    pub code: Option<i32>,
    pub code_name: Option<String>,
    pub message: String,
    /// Documents that the first one gave.
    pub orders: Option<usize>,
    /// And the second one; `None` where there was no connection.
    pub rows: Option<usize>,
    /// Whether both went over the same connection.
    pub same: Option<bool>,
    /// What mongosh reports of an insert.
    pub insert: Option<Code>,
}

/// What an error says of itself.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Code {
    pub code: Option<i32>,
    pub code_name: Option<String>,
}

/// What becomes of a client.
#[derive(Debug, Clone, Copy)]
enum Becomes {
    /// It reads both.
    Reads,
    /// It is refused one, reads the other, and keeps its connection.
    Refused,
    /// It does not come in, and is told why.
    Outside(&'static str),
}

#[tokio::test(flavor = "multi_thread")]
async fn each_workload_of_a_mesh_reads_what_it_may_and_hears_why_not() {
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
        (tls(&strict, sleep), Becomes::Refused),
        (tls(&strict, legacy), Becomes::Reads),
        (tls(&strict, "spiffe://other.local/ns/full/sa/sleep"), Becomes::Outside("of the trust domain other.local")),
        (reports::uri(&strict), Becomes::Outside("requires mutual TLS")),
        (tls(&permissive, sleep), Becomes::Refused),
        (reports::uri(&permissive), Becomes::Reads),
    ];
    for (uri, becomes) in rows {
        check("the Rust driver", &of_rust(&uri).await, becomes);
        for (name, command) in scripts(&uri) {
            // A shell that cannot connect runs no script.
            if name == "mongosh" && matches!(becomes, Becomes::Outside(_)) {
                let told = process::run(name, command, SCRIPT_TIMEOUT).unwrap_err().to_string();
                check(name, &Report { message: told, ..Report::default() }, becomes);
                continue;
            }
            let output = process::run(name, command, SCRIPT_TIMEOUT).unwrap();
            check(name, &serde_json::from_str(output.trim()).unwrap(), becomes);
        }
    }
}

/// A listener of a mesh, with the rule of the issue.
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

/// The same script for each driver that can be had.
fn scripts(uri: &str) -> Vec<(&'static str, Command)> {
    let script = |name: &str| drivers::scripts().join(name);
    let mut commands = Vec::new();
    if let Some(mut python) = drivers::python() {
        python.arg(script("refused.py")).args([uri, "mesh"]);
        commands.push(("PyMongo", python));
    }
    if let Some(mut node) = drivers::node() {
        node.arg(script("refused.mjs")).args([uri, "mesh"]);
        commands.push(("the Node driver", node));
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

fn check(name: &str, report: &Report, becomes: Becomes) {
    let error = (report.code, report.code_name.as_deref(), report.message.as_str());
    let went_on = (report.rows, report.same);
    match becomes {
        Becomes::Reads => {
            assert_eq!((report.orders, went_on), (Some(2), (Some(2), Some(true))), "{name}: {report:?}");
            assert_eq!(error, (None, None, ""), "{name}");
        }
        Becomes::Refused => {
            assert_eq!(error, (Some(13), Some("Unauthorized"), REFUSED), "{name}");
            assert_eq!((report.orders, went_on), (None, (Some(2), Some(true))), "{name}: {report:?}");
        }
        Becomes::Outside(told) => {
            assert!(report.message.contains(told), "{name}: {told:?} is not in {report:?}");
            assert_eq!((report.orders, went_on), (None, (None, None)), "{name}: {report:?}");
        }
    }
}
