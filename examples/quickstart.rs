//! Shows the gateway in one command: a real mongod that requires client certificates, the gateway in front of it, and a
//! driver without TLS.
//!
//! ```text
//! cargo run --release --example quickstart              # serves until Ctrl-C
//! cargo run --release --example quickstart -- --once    # ends after the proof
//! ```
//! Certificates, data and configuration are in temporary directories, which are removed at the end.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example prints to its reader")]

use std::fs;
use std::future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bson::{Document, doc};
use clap::Parser;
use mongate::config::Config;
use mongate::gateway::BoundGateway;
use mongate::lifecycle::service_manager::ServiceEnvironment;
use mongate::telemetry::metrics::Metrics;
use mongodb::Client;
use mongodb::options::ClientOptions;
use tokio::signal::unix::{SignalKind, signal};

#[path = "../tests/kit/mod.rs"]
mod kit;

use kit::certificates::First;
use kit::mongod::{Mongod, MongodOptions};
use kit::{http, mongod_binary};

/// The usual administration port, used if it is free.
const ADMIN_PORT: u16 = 9717;
/// A driver without TLS never succeeds, so it does not retry for the usual 30 s.
const FAILING_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Starts a mongod that requires client certificates and the gateway in front of it, and shows that both work.
#[derive(Debug, Parser)]
struct Arguments {
    /// End after the proof instead of serving until Ctrl-C
    #[arg(long)]
    once: bool,
    /// Port of the gateway on 127.0.0.1; 0 takes a free port
    #[arg(long, value_name = "N", default_value_t = 27017)]
    port: u16,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nquickstart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    refuse_taken_port(arguments.port)?;
    println!("mongate quickstart\n");
    println!("  looking for a mongod; the first run fetches one of 42 MB if there is none");
    let binary = mongod_binary::locate()?;
    say("mongod", &binary.display().to_string());
    tokio::runtime::Runtime::new()?.block_on(show(arguments))
}

/// Runs the example until it ends or a signal arrives; either way everything it started is removed.
async fn show(arguments: &Arguments) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        result = tell(arguments) => return result,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    println!("\n  stopped; mongod, certificates and data are removed");
    Ok(())
}

async fn tell(arguments: &Arguments) -> anyhow::Result<()> {
    let mongod = tokio::task::spawn_blocking(|| Mongod::try_start(MongodOptions::default())).await??;
    say("certificates", &mongod.pki.directory().display().to_string());
    say("mongod address", &format!("{}, requires a client certificate", mongod.address()));

    let (file, text) = write_configuration(&mongod, arguments.port)?;
    say("configuration", &file.display().to_string());
    println!();
    for line in text.lines() {
        println!("{}", format!("      {line}").trim_end());
    }
    println!();

    // Without environment variables, so that the configuration shown is complete.
    let config = Config::parse(&text, &file, [])?;
    let gateway = BoundGateway::bind(&config, None, ServiceEnvironment::default(), Metrics::install()?)?;
    let address = gateway.listeners().map(|(_, address)| address.to_string()).next().context("no listener")?;
    let admin = gateway.admin_address();
    say("gateway", &format!("{address}, plain MongoDB in, mutual TLS out"));
    say("administration", &format!("http://{admin}/metrics, /status, /readyz, /livez"));
    println!();

    tokio::select! {
        // It never receives a signal; it ends when it is dropped.
        _ = gateway.run(async || future::pending().await) => Ok(()),
        result = prove_and_serve(arguments, &mongod, &address, admin) => result,
    }
}

async fn prove_and_serve(
    arguments: &Arguments,
    mongod: &Mongod,
    address: &str,
    admin: SocketAddr,
) -> anyhow::Result<()> {
    say("without TLS", &format!("mongod refuses: {}", prove_that_plain_fails(mongod).await?));
    say("through mongate", &prove_that_the_gateway_works(address).await?);
    show_metrics(admin).await?;
    if arguments.once {
        println!("\n  it works");
        return Ok(());
    }
    suggest(address, admin);
    future::pending().await
}

fn say(what: &str, how: &str) {
    println!("  {what:<16} {how}");
}

/// Fails before anything is started if the port is in use; the gateway itself would fail later.
fn refuse_taken_port(port: u16) -> anyhow::Result<()> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) => bail!("cannot listen on 127.0.0.1:{port} ({error}); choose another port with `-- --port N`"),
    }
}

fn write_configuration(mongod: &Mongod, port: u16) -> anyhow::Result<(PathBuf, String)> {
    let usual = port != 0 && TcpListener::bind((Ipv4Addr::LOCALHOST, ADMIN_PORT)).is_ok();
    let admin_port = if usual { ADMIN_PORT } else { 0 };
    let certificate = mongod.client.combined(First::Certificate)?;
    let directory = mongod.pki.directory();
    let name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let text = format!(
        r#"[admin]
address = "127.0.0.1:{admin_port}"

[upstream.quickstart]
address = "{mongod}"

[upstream.quickstart.tls]
certificate_file = "{certificate}"
ca_file = "{ca}"

[listener.quickstart]
address = "127.0.0.1:{port}"
upstream = "quickstart"
"#,
        mongod = mongod.address(),
        certificate = name(certificate),
        ca = name(mongod.pki.ca_file()),
    );
    let file = directory.join("config.toml");
    fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok((file, text))
}

/// Returns the driver's error for a connection to mongod without TLS, shortened to the cause.
async fn prove_that_plain_fails(mongod: &Mongod) -> anyhow::Result<String> {
    let mut options = ClientOptions::parse(format!("mongodb://{}/?directConnection=true", mongod.address())).await?;
    options.server_selection_timeout = Some(FAILING_TIMEOUT);
    let client = Client::with_options(options)?;
    let Err(error) = client.database("shop").run_command(doc! { "ping": 1 }).await else {
        bail!("mongod answered a client without TLS");
    };
    let text = error.to_string();
    let cause = text.split("Error: Kind: ").nth(1).and_then(|rest| rest.split(", labels").next());
    Ok(cause.unwrap_or(&text).to_owned())
}

async fn prove_that_the_gateway_works(address: &str) -> anyhow::Result<String> {
    let client = Client::with_uri_str(format!("mongodb://{address}")).await?;
    let orders = client.database("shop").collection::<Document>("orders");
    let some = ["bread", "tea", "salt"].map(|item| doc! { "item": item, "paid": item == "tea" });
    let inserted = orders.insert_many(some).await.context("an insert through the gateway failed")?.inserted_ids.len();
    let found = orders.find_one(doc! { "paid": true }).await.context("a find through the gateway failed")?;
    let found = found.context("the inserted document was not found")?;
    client.shutdown().await;
    Ok(format!("inserted {inserted} documents, found {}", found.get_str("item")?))
}

/// Prints the count of every command, including the driver's own ones, as `/metrics` shows them.
async fn show_metrics(admin: SocketAddr) -> anyhow::Result<()> {
    let answer = tokio::task::spawn_blocking(move || http::get(&admin.to_string(), "/metrics")).await??;
    let counted = |line: &&str| line.starts_with("mongate_commands_total{") && !line.ends_with(" 0");
    let mut lines: Vec<_> = answer.body.lines().filter(counted).collect();
    lines.sort_unstable();
    say("metrics", &format!("http://{admin}/metrics shows\n"));
    for line in lines {
        println!("      {line}");
    }
    Ok(())
}

fn suggest(address: &str, admin: SocketAddr) {
    println!("\n  Try it yourself, without a key, a certificate or a TLS option:\n");
    println!("      mongosh mongodb://{address}/shop");
    println!(
        "      python3 -c 'import pymongo; \
         print(list(pymongo.MongoClient(\"mongodb://{address}\").shop.orders.find()))'"
    );
    println!("      curl http://{admin}/metrics");
    println!("      curl http://{admin}/status");
    println!("\n  serving until Ctrl-C");
}
