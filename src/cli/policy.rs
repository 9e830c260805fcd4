//! `mongate policy`: asks the policy of a configuration, tests it, or makes one of Istio's documents.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use super::{ConfigFile, EXIT_CONFIGURATION, EXIT_FAILED, complain};
use crate::config::Config;
use crate::review::{
    self, Body, Caller, Cases, Decision, ExplainError, Imported, QuestionError, Reviewed, SessionCaller, Wanted,
};

/// The command is denied; `EX_NOPERM` of sysexits.h.
const EXIT_DENIED: u8 = 77;

/// A body, a table or a document that cannot be read; `EX_DATAERR` of sysexits.h.
const EXIT_DATA: u8 = 65;

/// Options that say too little or contradict each other; as clap exits.
const EXIT_USAGE: u8 = 2;

/// A whole body may have 16 MiB; in JSON some times that.
const INPUT_BYTES_MAX: u64 = 128 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// Say what becomes of a command, and which rule decides
    ///
    /// Names the namespaces that the command reaches, each rule with what of it matches or not, the verdict, and the
    /// words that a refused client reads. With --body the whole command is judged, as the gateway would; without one, a
    /// body is made up from the command, the database and the collection. Connects to nothing. Exits with 0 when the
    /// command passes, with 77 when it is denied, with 78 when the configuration cannot be used, with 65 when the body
    /// cannot be read, and with 2 when the options say too little or contradict each other.
    Explain(Box<ExplainArguments>),
    /// Compare the policy with a table of expectations
    ///
    /// FILE is TOML with one [[case]] for each expectation. All cases run. Exits with 0 when all came out as expected,
    /// with 1 when some did not, with 78 when the configuration cannot be used, with 65 when the file cannot be read.
    Test {
        /// Table of cases; "-" is standard input
        file: PathBuf,
        #[command(flatten)]
        config: ConfigFile,
        /// Print every case as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the id that a session has in mongod
    ///
    /// While a policy is in force, the gateway replaces the id of every session, so that callers cannot use each other's.
    /// ID is the id in the application's log; the one that is printed is in mongod's log. Reads no configuration and
    /// connects to nothing. Exits with 0, or with 65 when ID is not a UUID.
    SessionId {
        /// Principal of the caller: a SPIFFE ID, with or without spiffe://, or the subject of a certificate
        #[arg(long, required_unless_present = "listener", value_parser = NonEmptyStringValueParser::new())]
        principal: Option<String>,
        /// Listener of a caller without a principal
        #[arg(long, value_name = "NAME", conflicts_with = "principal")]
        listener: Option<String>,
        /// Id of the session in the application: a UUID
        id: String,
    },
    /// Make a policy of documents of a mesh
    ///
    /// Reads `AuthorizationPolicy` and `PeerAuthentication` (security.istio.io/v1 and v1beta1) and prints [policy] as TOML.
    /// What cannot apply to MongoDB is refused field by field, and then nothing is printed. Exits with 0 when all of it
    /// was imported, with 65 when not.
    Import {
        /// YAML file with one or more documents; "-" is standard input
        #[arg(long, value_name = "FILE")]
        istio: PathBuf,
        /// Write to this new file instead of standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// The port of MongoDB in the mesh: rules for it are kept, rules for other ports only are left out
        #[arg(long, default_value_t = 27017, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
    },
}

#[derive(Debug, Args)]
pub(super) struct ExplainArguments {
    #[command(flatten)]
    config: ConfigFile,
    /// Who asks: a SPIFFE id, with or without spiffe://, or the subject of a certificate
    #[arg(long, required_unless_present = "nobody", conflicts_with = "nobody", value_parser = NonEmptyStringValueParser::new())]
    principal: Option<String>,
    /// A caller without identity
    #[arg(long)]
    nobody: bool,
    /// The command, by its name or an alias
    #[arg(long, required_unless_present = "body")]
    command: Option<String>,
    /// The database that it is sent to
    #[arg(long, required_unless_present = "body")]
    database: Option<String>,
    /// The collection
    #[arg(long)]
    collection: Option<String>,
    /// The whole command in MongoDB extended JSON; "-" reads it from standard input
    #[arg(long, value_name = "JSON", allow_hyphen_values = true)]
    body: Option<String>,
    /// The listener that the caller comes through; may be left out where there is only one, or no rule looks at it
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The address that the caller comes from
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: PolicyCommand) -> ExitCode {
    match command {
        PolicyCommand::Explain(arguments) => explain(*arguments),
        PolicyCommand::Test { file, config, json } => test(&file, &config, json),
        PolicyCommand::SessionId { principal, listener, id } => {
            session_id(principal.as_deref(), listener.as_deref(), &id)
        }
        PolicyCommand::Import { istio, out, port } => import(&istio, out.as_deref(), port),
    }
}

fn explain(arguments: ExplainArguments) -> ExitCode {
    let config = match Config::load(arguments.config.config.as_deref()) {
        Ok(loaded) => loaded.config,
        Err(error) => return complain(EXIT_CONFIGURATION, &error),
    };
    let json = match arguments.body {
        Some(dash) if dash == "-" => read_all(io::stdin()).map(Some),
        json => Ok(json),
    };
    let body = match json {
        Ok(json) => json.map(|json| Body::parse(&json)).transpose(),
        Err(error) => return complain(EXIT_DATA, &format!("cannot read the body from standard input: {error}")),
    };
    let body = match body {
        Ok(body) => body,
        Err(error) => return complain(EXIT_DATA, &error),
    };
    let wanted =
        Wanted { command: arguments.command, database: arguments.database, collection: arguments.collection, body };
    let caller = Caller::new(arguments.principal.as_deref(), arguments.source, arguments.listener);
    match Reviewed::new(&config).and_then(|policy| policy.explain(&caller, &wanted)) {
        Ok(explanation) => {
            print(&if arguments.json { explanation.to_json() } else { explanation.to_string() });
            match explanation.decision {
                Decision::Allow | Decision::WouldDeny => ExitCode::SUCCESS,
                Decision::Deny => ExitCode::from(EXIT_DENIED),
            }
        }
        Err(error @ ExplainError::Policy(_)) => complain(EXIT_CONFIGURATION, &error),
        Err(error @ ExplainError::Question(QuestionError::Body(_))) => complain(EXIT_DATA, &error),
        Err(error @ ExplainError::Question(QuestionError::Incomplete(_))) => complain(EXIT_USAGE, &error),
    }
}

fn test(file: &Path, config: &ConfigFile, json: bool) -> ExitCode {
    let config = match Config::load(config.config.as_deref()) {
        Ok(loaded) => loaded.config,
        Err(error) => return complain(EXIT_CONFIGURATION, &error),
    };
    let policy = match Reviewed::new(&config) {
        Ok(policy) => policy,
        Err(error) => return complain(EXIT_CONFIGURATION, &error),
    };
    let text = match read_input(file) {
        Ok(text) => text,
        Err(error) => return complain(EXIT_DATA, &format!("cannot read {}: {error}", file.display())),
    };
    match Cases::parse(&text).and_then(|cases| cases.run(&policy)) {
        Ok(outcome) => {
            print(&if json { outcome.to_json() } else { outcome.to_string() });
            if outcome.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) }
        }
        Err(error) => complain(EXIT_DATA, &format!("{} cannot be used:\n{error}", file.display())),
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
        Err(error) => complain(EXIT_DATA, &error),
    }
}

fn import(istio: &Path, out: Option<&Path>, port: u16) -> ExitCode {
    let text = match read_input(istio) {
        Ok(text) => text,
        Err(error) => return complain(EXIT_DATA, &format!("cannot read {}: {error}", istio.display())),
    };
    let origin = istio.file_name().filter(|name| *name != "-").map(|name| name.to_string_lossy().into_owned());
    let Imported { text, notes } = match review::import(&text, port, origin.as_deref().unwrap_or("standard input")) {
        Ok(imported) => imported,
        Err(error) => return complain(EXIT_DATA, &format!("{}: {error}", istio.display())),
    };
    for note in notes {
        let _ = writeln!(io::stderr(), "mongate: note: {note}");
    }
    let Some(out) = out else {
        print(&text);
        return ExitCode::SUCCESS;
    };
    // What stands there may be a configuration that somebody wrote.
    match File::create_new(out).and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(EXIT_FAILED, &format!("cannot write {}: {error}", out.display())),
    }
}

fn read_input(file: &Path) -> io::Result<String> {
    if file.as_os_str() == "-" { read_all(io::stdin()) } else { read_all(File::open(file)?) }
}

fn read_all(input: impl Read) -> io::Result<String> {
    let mut text = String::new();
    input.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {} MiB", INPUT_BYTES_MAX >> 20)));
    }
    Ok(text)
}

fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
}
