//! Checks `[upstream.NAME]`, and the PEM files of upstreams and listeners.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use super::identity_readers;
use super::readers;
use crate::config::given::Given;
use crate::config::section::Section;
use crate::config::sections::CredentialConfig;
use crate::config::sections::Deployment;
use crate::config::sections::MaterialSource;
use crate::config::sections::Mechanism;
use crate::config::sections::Ocsp;
use crate::config::sections::PoolConfig;
use crate::config::sections::PoolMode;
use crate::config::sections::Seeds;
use crate::config::sections::SendProxy;
use crate::config::sections::TlsFiles;
use crate::config::sections::TlsVersion;
use crate::config::sections::UpstreamConfig;
use crate::config::sections::UpstreamTlsConfig;
use crate::config::sections::Verify;
use crate::config::sections::WorkloadApi;

/// Default of `warm_connections_max`.
const WARM_CONNECTIONS_MAX: usize = 16;

const SEND_PROXY: &[(&str, SendProxy)] = &[("off", SendProxy::Off), ("v2", SendProxy::V2)];

const NO_SPARES: &str = "cannot be combined with send_proxy, because a spare connection is made before its client is \
                         known, and the PROXY header comes first; remove it, or set it to 0";

const POOL_MODES: &[(&str, PoolMode)] =
    &[("off", PoolMode::Off), ("session", PoolMode::Session), ("request", PoolMode::Request)];

/// The largest limit of a pool.
const POOL_CONNECTIONS_MAX: usize = 100_000;

const NO_POOL: &str = "cannot be combined with send_proxy, because the PROXY header names the client that a connection \
                       was opened for, and the clients that use the connection later have other addresses; set mode = \
                       \"off\", or remove send_proxy";

pub(super) fn upstream(name: String, mut section: Section<'_>, directory: &Path) -> Option<UpstreamConfig> {
    let deployment = deployment(&mut section);
    let connect_timeout = section.or("connect_timeout", Duration::from_secs(5), |given| {
        readers::duration(given, Duration::from_millis(100), 5 * readers::MINUTE)
    });
    let send_proxy = section.or("send_proxy", SendProxy::Off, |given| readers::choice(given, SEND_PROXY));
    let spares = |given: &Given<'_>| match readers::spares(given)? {
        number if number > 0 && send_proxy != SendProxy::Off => Err(NO_SPARES.to_owned()),
        number => Ok(number),
    };
    let warm_connections = section.or("warm_connections", if send_proxy == SendProxy::Off { 2 } else { 0 }, spares);
    let warm_connections_max = section.optional("warm_connections_max", |given| {
        let max = spares(given)?;
        if max < warm_connections {
            return Err(format!(
                "is less than warm_connections = {warm_connections}; raise it, or lower warm_connections"
            ));
        }
        Ok(max)
    });
    let pool = pool(section.table("pool"), send_proxy);
    let certificate_recycle_after = section.or("certificate_recycle_after", 10 * readers::MINUTE, |given| {
        readers::duration(given, Duration::from_secs(1), 24 * readers::HOUR)
    });
    let tls = upstream_tls(section.table("tls"), directory);
    let authentication = authentication(&mut section);
    let credentials = credentials(&mut section, tls.as_ref(), directory);
    let tcp_keepalive = readers::keepalive(&mut section);
    Some(UpstreamConfig {
        name,
        deployment: deployment?,
        connect_timeout,
        tcp_keepalive,
        send_proxy,
        warm_connections,
        warm_connections_max: warm_connections_max.unwrap_or(WARM_CONNECTIONS_MAX.max(warm_connections)),
        pool,
        certificate_recycle_after,
        tls: tls?,
        authentication,
        credentials: credentials?,
    })
}

/// `address`, or `members` or `srv` with the kind of deployment.
fn deployment(section: &mut Section<'_>) -> Option<Deployment> {
    let sharded = section.has("sharded") && section.or("sharded", false, readers::boolean);
    if section.has("members") || section.has("srv") {
        section.misplaced("address", "cannot be combined with members or srv; remove one of them");
        return members(section, sharded);
    }
    section.misplaced("replica_set", "cannot be combined with address; list the members in members, or set srv");
    if sharded {
        section.note("sharded", "requires several mongos; list them in members, or set srv".to_owned());
    }
    let address = section.required(
        "address",
        "set the host and port of a mongod or mongos, as in address = \"mongo.example:27017\", or list the members of \
         a replica set in members",
        |given| given.text("host:port, as in \"mongo.example:27017\"")?.parse().map_err(readers::sentence),
    );
    address.map(Deployment::Single)
}

fn members(section: &mut Section<'_>, sharded: bool) -> Option<Deployment> {
    let is_srv = section.has("srv");
    let seeds = if is_srv {
        section.misplaced("members", "cannot be combined with srv; remove one of them");
        section.optional("srv", readers::srv).map(Seeds::Srv)
    } else {
        section.optional("members", readers::members).map(Seeds::Members)
    };
    if sharded {
        section.misplaced("replica_set", "cannot be combined with sharded = true; remove one of them");
        return Some(Deployment::Sharded { seeds: seeds? });
    }
    let name = if is_srv {
        section.optional("replica_set", readers::replica_set)
    } else {
        let what = "set the name of the replica set, as in replica_set = \"rs0\", or set sharded = true if the members \
                    are mongos";
        section.required("replica_set", what, readers::replica_set)
    };
    Some(Deployment::ReplicaSet { seeds: seeds?, name })
}

fn pool(mut section: Section<'_>, send_proxy: SendProxy) -> PoolConfig {
    let default = if send_proxy == SendProxy::Off { PoolMode::Session } else { PoolMode::Off };
    let mode = section.or("mode", default, |given| match readers::choice(given, POOL_MODES)? {
        mode if mode != PoolMode::Off && send_proxy != SendProxy::Off => Err(NO_POOL.to_owned()),
        mode => Ok(mode),
    });
    // In a session a client waits for others only because of a limit that the operator has set.
    let most = if mode == PoolMode::Request { 100 } else { POOL_CONNECTIONS_MAX };
    let max_connections = section.or("max_connections", most, |given| given.whole_number(1, POOL_CONNECTIONS_MAX));
    let idle_timeout = section.or("idle_timeout", 5 * readers::MINUTE, |given| {
        readers::duration(given, Duration::from_secs(1), 24 * readers::HOUR)
    });
    let wait_timeout = section.or("wait_timeout", Duration::from_secs(10), |given| {
        readers::duration(given, Duration::from_millis(100), 5 * readers::MINUTE)
    });
    PoolConfig { mode, max_connections, idle_timeout, wait_timeout }
}

fn authentication(section: &mut Section<'_>) -> Option<Mechanism> {
    const MECHANISMS: &[(&str, Mechanism)] = &[("MONGODB-X509", Mechanism::MongodbX509)];
    if !section.has("authentication") {
        return None;
    }
    let what = "set how the gateway authenticates, as in mechanism = \"MONGODB-X509\"";
    section.table("authentication").required("mechanism", what, |given| readers::choice(given, MECHANISMS))
}

fn credentials(
    section: &mut Section<'_>,
    tls: Option<&UpstreamTlsConfig>,
    directory: &Path,
) -> Option<Vec<CredentialConfig>> {
    const CREDENTIAL: &str =
        "must be tables that begin with a line [[upstream.NAME.credential]]; environment variables cannot set them";
    let Some(sections) = section.repeated_tables("credential", CREDENTIAL) else { return Some(Vec::new()) };
    let ca_files = tls.and_then(|tls| match &tls.source {
        MaterialSource::Files(files) => Some(CaFiles {
            ca_file: files.ca_file.clone(),
            partial_chain: files.partial_chain,
            crl_file: files.crl_file.clone(),
        }),
        MaterialSource::WorkloadApi(agent) => Some(CaFiles {
            ca_file: agent.ca_file.clone()?,
            partial_chain: agent.partial_chain,
            crl_file: agent.crl_file.clone(),
        }),
    });
    if tls.is_some() && ca_files.is_none() && !sections.is_empty() {
        section.note(
            "credential",
            "requires ca_file in the table tls, because a credential from files needs CA certificates from a file"
                .to_owned(),
        );
    }
    let ca_files = ca_files.unwrap_or_default();
    sections.into_iter().map(|section| credential(section, &ca_files, directory)).collect()
}

/// The files of an upstream that its credentials share.
#[derive(Default)]
struct CaFiles {
    ca_file: PathBuf,
    partial_chain: bool,
    crl_file: Option<PathBuf>,
}

fn credential(mut section: Section<'_>, ca_files: &CaFiles, directory: &Path) -> Option<CredentialConfig> {
    let file = |given: &Given<'_>| readers::file(given, directory);
    let what = "set the principals that use it, as in principals = [\"cluster.local/ns/shop/*\"]";
    let principals = section.required("principals", what, |given| match identity_readers::principal_patterns(given)? {
        none if none.is_empty() => Err(format!("is empty; {what}")),
        principals => Ok(principals),
    });
    let certificate_file = section.required("certificate_file", UPSTREAM.certificate, file);
    let private_key_file = section.optional("private_key_file", file);
    let private_key_password_file = section.optional("private_key_password_file", file);
    let certificate_file = certificate_file?;
    Some(CredentialConfig {
        principals: principals?,
        files: TlsFiles {
            private_key_file: private_key_file.unwrap_or_else(|| certificate_file.clone()),
            certificate_file,
            private_key_password_file,
            ca_file: ca_files.ca_file.clone(),
            partial_chain: ca_files.partial_chain,
            crl_file: ca_files.crl_file.clone(),
        },
    })
}

fn upstream_tls(mut section: Section<'_>, directory: &Path) -> Option<UpstreamTlsConfig> {
    const OCSP: &[(&str, Ocsp)] = &[("staple", Ocsp::Staple), ("off", Ocsp::Off)];
    const VERIFY: &[(&str, Verify)] = &[("full", Verify::Full), ("chain", Verify::Chain)];
    let source = if section.has("spiffe_socket") {
        workload_api(&mut section, directory).map(MaterialSource::WorkloadApi)
    } else {
        files(&mut section, directory, &UPSTREAM).map(MaterialSource::Files)
    };
    let server_name = section.optional("server_name", readers::server_name);
    let verify = section.or("verify", Verify::Full, |given| readers::choice(given, VERIFY));
    let server_identities = section.or("server_identities", Vec::new(), identity_readers::uris);
    let ocsp = section.or("ocsp", Ocsp::Staple, |given| readers::choice(given, OCSP));
    let legacy_certificates = legacy_certificates(&mut section);
    let min_version = min_version(&mut section);
    Some(UpstreamTlsConfig {
        source: source?,
        server_name,
        verify,
        server_identities,
        ocsp,
        legacy_certificates,
        min_version,
    })
}

fn workload_api(section: &mut Section<'_>, directory: &Path) -> Option<WorkloadApi> {
    for key in ["certificate_file", "private_key_file", "private_key_password_file"] {
        section.misplaced(key, "cannot be combined with spiffe_socket; remove one of them");
    }
    let socket = section.optional("spiffe_socket", |given| readers::socket(given, directory));
    let ca_file = section.optional("ca_file", |given| readers::file(given, directory));
    let partial_chain = partial_chain(section);
    let crl_file = section.optional("crl_file", |given| readers::file(given, directory));
    Some(WorkloadApi { socket: socket?, ca_file, partial_chain, crl_file })
}

/// How to set the required files, for problems about missing keys.
pub(super) struct FileRemedies {
    certificate: &'static str,
    ca: &'static str,
}

const UPSTREAM: FileRemedies = FileRemedies {
    certificate: "set the PEM file of the gateway's client certificate, as in certificate_file = \"certs/client.pem\"",
    ca: "set the PEM file of the CA certificates that verify mongod's certificate, as in ca_file = \"certs/ca.pem\"",
};

pub(super) const LISTENER: FileRemedies = FileRemedies {
    certificate: "set the PEM file of the listener's server certificate, as in certificate_file = \
                  \"certs/gateway.pem\"",
    ca: "set the PEM file of the CA certificates that verify client certificates, as in ca_file = \
         \"certs/mesh-ca.pem\"",
};

pub(super) fn files(section: &mut Section<'_>, directory: &Path, remedies: &FileRemedies) -> Option<TlsFiles> {
    let file = |given: &Given<'_>| readers::file(given, directory);
    let certificate_file = section.required("certificate_file", remedies.certificate, file);
    let private_key_file = section.optional("private_key_file", file);
    let private_key_password_file = section.optional("private_key_password_file", file);
    let ca_file = section.required("ca_file", remedies.ca, file);
    let partial_chain = partial_chain(section);
    let crl_file = section.optional("crl_file", file);
    let certificate_file = certificate_file?;
    Some(TlsFiles {
        private_key_file: private_key_file.unwrap_or_else(|| certificate_file.clone()),
        certificate_file,
        private_key_password_file,
        ca_file: ca_file?,
        partial_chain,
        crl_file,
    })
}

pub(super) fn min_version(section: &mut Section<'_>) -> TlsVersion {
    const VERSIONS: &[(&str, TlsVersion)] = &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    section.or("min_version", TlsVersion::V1_2, |given| readers::choice(given, VERSIONS))
}

fn partial_chain(section: &mut Section<'_>) -> bool {
    section.or("partial_chain", false, readers::boolean)
}

pub(super) fn legacy_certificates(section: &mut Section<'_>) -> bool {
    section.or("legacy_certificates", false, readers::boolean)
}
