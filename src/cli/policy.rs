//! `mongate policy`: explains and tests the policy of a configuration, and imports policies from Istio.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use super::config_file::ConfigFile;
use super::exit;
use super::runtime::in_runtime;
use super::token_file;
use crate::check;
use crate::config::Config;
use crate::review::{
    self, AssumedCaller, Body, Cases, Decision, ExplainError, Imported, PolicyReview, QuestionError, RequestedCommand,
    SessionCaller,
};

/// A body has at most 16 MiB as BSON; the same body as JSON can be several times as large.
const INPUT_BYTES_MAX: u64 = 128 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Show whether a command is allowed, and which rule decides
    ///
    /// Prints the namespaces that the command reaches, for each rule whether it matches and why not, the verdict, and
    /// the error that a client would read. With --body, the whole command is judged, as in the gateway. Without --body,
    /// a minimal body is made from the command, the database and the collection. Opens no connection. Exits with 0 if
    /// the command passes, with 77 if it is denied, with 78 if the configuration cannot be used, with 65 if the body
    /// cannot be read, and with 2 if the options are incomplete or contradict each other.
    Explain(Box<ExplainArguments>),
    /// Compare the policy with a table of expected decisions
    ///
    /// FILE is TOML with a [[case]] for each expected decision. All cases run. Exits with 0 if all decisions are as
    /// expected, with 1 if not, with 78 if the configuration cannot be used, and with 65 if the file cannot be read.
    Test {
        /// Table of cases; "-" reads standard input
        file: PathBuf,
        #[command(flatten)]
        config: ConfigFile,
        /// Decide as at this time, to see what changes when rules expire; default: now
        #[arg(long, value_name = "TIME", value_parser = time)]
        at: Option<SystemTime>,
        /// Print every case as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the id that a session has in mongod
    ///
    /// Under a policy the gateway replaces the id of every session, so that a caller cannot use the sessions of
    /// another. ID is the id in the application's log. The command prints the id in mongod's log. It reads no
    /// configuration and connects to nothing. Exits with 0, or with 65 if ID is not a UUID.
    SessionId {
        /// Principal of the caller: a SPIFFE ID, with or without spiffe://, or the subject of a certificate
        #[arg(long, required_unless_present = "listener", value_parser = NonEmptyStringValueParser::new())]
        principal: Option<String>,
        /// Listener of a caller without a principal
        #[arg(
            long,
            value_name = "NAME",
            conflicts_with = "principal",
            value_parser = NonEmptyStringValueParser::new()
        )]
        listener: Option<String>,
        /// Id of the session in the application: a UUID
        id: String,
    },
    /// Import a policy from Istio documents
    ///
    /// Reads `AuthorizationPolicy` and `PeerAuthentication` (security.istio.io/v1 and v1beta1) and prints [policy] as
    /// TOML. If some fields cannot apply to MongoDB, reports each of them and prints nothing. Exits with 0 if
    /// everything was imported, and with 65 if not.
    Import {
        /// YAML file with one or more documents; "-" reads standard input
        #[arg(long, value_name = "FILE")]
        istio: PathBuf,
        /// Write to this new file instead of standard output; never overwrites a file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// The port of MongoDB in the mesh; rules that are only for other ports are left out
        #[arg(long, default_value_t = 27017, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
    },
}

#[derive(Debug, Args)]
pub(super) struct ExplainArguments {
    #[command(flatten)]
    config: ConfigFile,
    /// The principal of the caller: a SPIFFE ID, with or without spiffe://, or the subject of a certificate
    #[arg(long, required_unless_present_any = ["nobody", "token_file"], conflicts_with_all = ["nobody", "token_file"])]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    principal: Option<String>,
    /// An unauthenticated caller
    #[arg(long, conflicts_with = "token_file")]
    nobody: bool,
    /// The caller is the principal of the token in this file; fetches the keys of its issuer
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The name of the command, or an alias
    #[arg(long, required_unless_present = "body")]
    command: Option<String>,
    /// The database of the command
    #[arg(long, required_unless_present = "body")]
    database: Option<String>,
    /// The collection of the command
    #[arg(long)]
    collection: Option<String>,
    /// The whole command in MongoDB extended JSON; "-" reads it from standard input
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    body: Option<String>,
    /// The listener of the caller; needed only if there are several and rules depend on the listener
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The address of the caller
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// Decide as at this time, to see what changes when rules expire; default: now
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<SystemTime>,
    /// Print the explanation as JSON
    #[arg(long)]
    json: bool,
}

/// A time in the form of RFC 3339.
fn time(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339(text).map_err(|error| format!("{error}; write it as in 2026-12-01T18:00:00Z"))
}

pub(super) fn run(command: PolicyCommand) -> ExitCode {
    match command {
        PolicyCommand::Explain(arguments) => explain(*arguments),
        PolicyCommand::Test { file, config, at, json } => test(&file, &config, at, json),
        PolicyCommand::SessionId { principal, listener, id } => {
            session_id(principal.as_deref(), listener.as_deref(), &id)
        }
        PolicyCommand::Import { istio, out, port } => import(&istio, out.as_deref(), port),
    }
}

fn explain(arguments: ExplainArguments) -> ExitCode {
    let config = match arguments.config.load() {
        Ok(loaded) => loaded.config,
        Err(error) => return exit::fail(exit::CONFIGURATION, &error),
    };
    let json = match arguments.body {
        Some(dash) if dash == "-" => read_all(io::stdin()).map(Some),
        json => Ok(json),
    };
    let body = match json {
        Ok(json) => json.map(|json| Body::parse(&json)).transpose(),
        Err(error) => return exit::fail(exit::DATA, &format!("cannot read the body from standard input: {error}")),
    };
    let body = match body {
        Ok(body) => body,
        Err(error) => return exit::fail(exit::DATA, &error),
    };
    let requested = RequestedCommand {
        command: arguments.command,
        database: arguments.database,
        collection: arguments.collection,
        body,
    };
    let principal = match arguments.token_file.map(|file| principal_of(&config, &file)).transpose() {
        Ok(of_token) => of_token.or(arguments.principal),
        Err(error) => return exit::fail(exit::DATA, &error),
    };
    let caller = AssumedCaller::new(principal.as_deref(), arguments.source, arguments.listener);
    let at = arguments.at.unwrap_or_else(SystemTime::now);
    match PolicyReview::new(&config, at).and_then(|policy| policy.explain(&caller, &requested)) {
        Ok(explanation) => {
            print(&if arguments.json { explanation.to_json() } else { explanation.to_string() });
            match explanation.decision {
                Decision::Allow | Decision::WouldDeny => ExitCode::SUCCESS,
                Decision::Deny => ExitCode::from(exit::DENIED),
            }
        }
        Err(error @ ExplainError::Policy(_)) => exit::fail(exit::CONFIGURATION, &error),
        Err(error @ ExplainError::Question(QuestionError::Body(_))) => exit::fail(exit::DATA, &error),
        Err(error @ ExplainError::Question(QuestionError::Incomplete(_))) => exit::fail(exit::USAGE, &error),
    }
}

/// The principal of the token in `file`.
fn principal_of(config: &Config, file: &Path) -> Result<String, String> {
    let token = token_file::read(file)?;
    let found = in_runtime(check::principal_of_token(config, &token));
    found.map_err(|error| error.to_string())?.map_err(|problem| format!("{}: {problem}", file.display()))
}

fn test(file: &Path, config: &ConfigFile, at: Option<SystemTime>, json: bool) -> ExitCode {
    let config = match config.load() {
        Ok(loaded) => loaded.config,
        Err(error) => return exit::fail(exit::CONFIGURATION, &error),
    };
    let policy = match PolicyReview::new(&config, at.unwrap_or_else(SystemTime::now)) {
        Ok(policy) => policy,
        Err(error) => return exit::fail(exit::CONFIGURATION, &error),
    };
    let text = match read_input(file) {
        Ok(text) => text,
        Err(error) => return exit::fail(exit::DATA, &format!("cannot read {}: {error}", file.display())),
    };
    match Cases::parse(&text).and_then(|cases| cases.run(&policy)) {
        Ok(outcome) => {
            print(&if json { outcome.to_json() } else { outcome.to_string() });
            if outcome.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) }
        }
        Err(error) => exit::fail(exit::DATA, &format!("{} cannot be used:\n{error}", file.display())),
    }
}

fn session_id(principal: Option<&str>, listener: Option<&str>, id: &str) -> ExitCode {
    let caller = match (principal, listener) {
        (Some(principal), _) => SessionCaller::Principal(principal),
        (None, listener) => SessionCaller::Listener(listener.unwrap_or_default()),
    };
    match review::session_id_in_mongod(caller, id) {
        Ok(id) => {
            print(&id);
            ExitCode::SUCCESS
        }
        Err(error) => exit::fail(exit::DATA, &error),
    }
}

fn import(istio: &Path, out: Option<&Path>, port: u16) -> ExitCode {
    let text = match read_input(istio) {
        Ok(text) => text,
        Err(error) => return exit::fail(exit::DATA, &format!("cannot read {}: {error}", istio.display())),
    };
    let origin = istio.file_name().filter(|name| *name != "-").map(|name| name.to_string_lossy().into_owned());
    let Imported { text, notes } = match review::import(&text, port, origin.as_deref().unwrap_or("standard input")) {
        Ok(imported) => imported,
        Err(error) => return exit::fail(exit::DATA, &format!("{}: {error}", istio.display())),
    };
    for note in notes {
        let _ = writeln!(io::stderr(), "mongate: note: {note}");
    }
    let Some(out) = out else {
        print(&text);
        return ExitCode::SUCCESS;
    };
    // Never overwrites: the file may be a configuration that was written by hand.
    match File::create_new(out).and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::fail(exit::FAILED, &format!("cannot write {}: {error}", out.display())),
    }
}

fn read_input(file: &Path) -> io::Result<String> {
    if file.as_os_str() == "-" { read_all(io::stdin()) } else { read_all(File::open(file)?) }
}

fn read_all(input: impl Read) -> io::Result<String> {
    let mut text = String::new();
    input.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        return Err(io::Error::other(format!("the input is larger than {} MiB", INPUT_BYTES_MAX >> 20)));
    }
    Ok(text)
}

fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
}
