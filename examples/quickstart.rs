//! The whole thing in one command: a real mongod that requires client certificates, the gateway in front of it, and a
//! driver that knows nothing of TLS.
//!
//! ```text
//! cargo run --release --example quickstart              # serves until Ctrl-C
//! cargo run --release --example quickstart -- --once    # ends after the proof
//! ```
//! Certificates, data and configuration live in temporary directories, which go when it ends.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example speaks to its reader")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bson::{Document, doc};
use clap::Parser;
use mongodb::Client;
use mongodb::options::ClientOptions;
use tokio::signal::unix::{SignalKind, signal};

#[path = "../tests/kit/mod.rs"]
mod kit;

use kit::certificates::First;
use kit::mongod::{Mongod, MongodOptions};
use kit::{http, mongod_binary};

/// Where the administration port is unless something else is there.
const ADMIN_PORT: u16 = 9717;
/// A driver without TLS never gets through; it need not try for its usual half minute.
const FAILING_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Starts a mongod that requires client certificates and the gateway in front of it, and proves that it works.
#[derive(Debug, Parser)]
struct Arguments {
    /// End after the proof instead of serving until Ctrl-C
    #[arg(long)]
    once: bool,
    /// Port on 127.0.0.1 that the gateway takes
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
    println!("  looking for a mongod; the first time, one of 42 MB is fetched");
    let binary = mongod_binary::locate()?;
    say("mongod", &binary.display().to_string());
    tokio::runtime::Runtime::new()?.block_on(show(arguments))
}

/// The story, with an end that leaves nothing behind whenever a signal comes.
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
    println!("\n  stopped; nothing is left behind");
    Ok(())
}

async fn tell(arguments: &Arguments) -> anyhow::Result<()> {
    let mongod = tokio::task::spawn_blocking(|| Mongod::try_start(MongodOptions::default())).await??;
    say("certificates", &mongod.pki.directory().display().to_string());
    say("serves", &format!("{}, and takes nobody without a certificate", mongod.address()));

    let (file, text) = write_configuration(&mongod, arguments.port)?;
    say("configuration", &file.display().to_string());
    println!();
    for line in text.lines() {
        println!("      {line}");
    }
    println!();

    let gateway = seam::start(&text, &mongod).await?;
    say("gateway", &format!("{}, plain MongoDB in, mutual TLS out", gateway.address));
    println!();

    say("without TLS", &format!("mongod refuses: {}", prove_that_plain_fails(&mongod).await?));
    say("through mongate", &prove_that_the_gateway_works(gateway.address).await?);
    if let Some(admin) = gateway.admin {
        show_metrics(admin).await?;
    }
    if arguments.once {
        println!("\n  it works");
        return Ok(());
    }
    suggest(gateway.address, gateway.admin);
    std::future::pending().await
}

fn say(what: &str, how: &str) {
    println!("  {what:<16} {how}");
}

/// Looks before anything else is started; the gateway would say the same later.
fn refuse_taken_port(port: u16) -> anyhow::Result<()> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) => bail!("cannot listen on 127.0.0.1:{port} ({error}); choose another port with `-- --port N`"),
    }
}

fn write_configuration(mongod: &Mongod, port: u16) -> anyhow::Result<(PathBuf, String)> {
    let admin_port = if TcpListener::bind((Ipv4Addr::LOCALHOST, ADMIN_PORT)).is_ok() { ADMIN_PORT } else { 0 };
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

/// What the driver says when it speaks to mongod without TLS, shortened to the cause.
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

async fn prove_that_the_gateway_works(address: SocketAddr) -> anyhow::Result<String> {
    let client = Client::with_uri_str(format!("mongodb://{address}")).await?;
    let orders = client.database("shop").collection::<Document>("orders");
    let some = ["bread", "tea", "salt"].map(|item| doc! { "item": item, "paid": item == "tea" });
    let inserted = orders.insert_many(some).await.context("an insert through the gateway failed")?.inserted_ids.len();
    let found = orders.find_one(doc! { "paid": true }).await.context("a find through the gateway failed")?;
    let found = found.context("what was inserted is not there")?;
    client.shutdown().await;
    Ok(format!("inserted {inserted} documents, found {}", found.get_str("item")?))
}

async fn show_metrics(admin: SocketAddr) -> anyhow::Result<()> {
    let answer = tokio::task::spawn_blocking(move || http::get(&admin.to_string(), "/metrics")).await??;
    let counted = |line: &&str| {
        line.starts_with("mongate_commands_total") && (line.contains("\"insert\"") || line.contains("\"find\""))
    };
    for line in answer.body.lines().filter(counted) {
        say("counted", line);
    }
    Ok(())
}

fn suggest(address: SocketAddr, admin: Option<SocketAddr>) {
    println!("\n  Now yours, with no key, certificate or TLS option:\n");
    println!("      mongosh mongodb://{address}/shop");
    println!(
        "      python3 -c 'import pymongo; print(list(pymongo.MongoClient(\"mongodb://{address}\").shop.orders.find()))'"
    );
    if let Some(admin) = admin {
        println!("      curl http://{admin}/metrics");
        println!("      curl http://{admin}/status");
    }
    println!("\n  serving until Ctrl-C");
}

/// SEAM. Until the library has its gateway, this is a pipe into TLS: no metrics, no admin port. To be replaced by
/// `Config::parse(&text, &file, [])`, `Gateway::bind(config)` and what that returns.
mod seam {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use anyhow::Context;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsConnector;

    use super::kit::mongod::Mongod;

    pub(super) struct Running {
        pub(super) address: SocketAddr,
        pub(super) admin: Option<SocketAddr>,
    }

    #[expect(clippy::disallowed_methods, reason = "goes with the seam")]
    pub(super) async fn start(text: &str, mongod: &Mongod) -> anyhow::Result<Running> {
        let address = text.split("[listener.quickstart]\naddress = \"").nth(1).and_then(|rest| rest.split('"').next());
        let listener = TcpListener::bind(address.context("no address")?).await?;
        let (upstream, connector) = (mongod.address(), connector(mongod)?);
        let running = Running { address: listener.local_addr()?, admin: None };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (upstream, connector) = (upstream.clone(), connector.clone());
                tokio::spawn(pipe(client, upstream, connector));
            }
        });
        Ok(running)
    }

    async fn pipe(mut client: TcpStream, upstream: String, connector: TlsConnector) -> anyhow::Result<()> {
        let socket = TcpStream::connect(upstream).await?;
        let mut upstream = connector.connect(ServerName::try_from("127.0.0.1")?, socket).await?;
        tokio::io::copy_bidirectional(&mut client, &mut upstream).await?;
        Ok(())
    }

    fn connector(mongod: &Mongod) -> anyhow::Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        roots.add(mongod.pki.ca_der())?;
        let (certificate, key) = mongod.client.der();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        Ok(TlsConnector::from(Arc::new(config)))
    }
}
