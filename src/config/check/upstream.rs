//! `[upstream.NAME]` and its files.

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
use crate::config::sections::Seeds;
use crate::config::sections::TlsFiles;
use crate::config::sections::TlsVersion;
use crate::config::sections::UpstreamConfig;
use crate::config::sections::UpstreamTlsConfig;
use crate::config::sections::Verify;
use crate::config::sections::WorkloadApi;

/// Spares for a busy moment, where the operator names no other number.
const WARM_CONNECTIONS_MAX: usize = 16;

pub(super) fn upstream(name: String, mut section: Section<'_>, directory: &Path) -> Option<UpstreamConfig> {
    let deployment = deployment(&mut section);
    let connect_timeout = section.or("connect_timeout", Duration::from_secs(5), |given| {
        readers::duration(given, Duration::from_millis(100), 5 * readers::MINUTE)
    });
    let warm_connections = section.or("warm_connections", 2, readers::spares);
    let warm_connections_max = section.optional("warm_connections_max", |given| {
        let max = readers::spares(given)?;
        if max < warm_connections { Err(format!("is below warm_connections = {warm_connections}")) } else { Ok(max) }
    });
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
        warm_connections,
        warm_connections_max: warm_connections_max.unwrap_or(WARM_CONNECTIONS_MAX.max(warm_connections)),
        certificate_recycle_after,
        tls: tls?,
        authentication,
        credentials: credentials?,
    })
}

/// `address`, or `members` or `srv` and what they are.
fn deployment(section: &mut Section<'_>) -> Option<Deployment> {
    let sharded = section.has("sharded") && section.or("sharded", false, readers::boolean);
    if section.has("members") || section.has("srv") {
        section.misplaced("address", "stands beside members or srv; an upstream is one server, or several: remove one");
        return members(section, sharded);
    }
    section
        .misplaced("replica_set", "stands beside address; name the members of the set in members, or in DNS with srv");
    if sharded {
        section.note("sharded", "is for several mongos; name them in members, or in DNS with srv".to_owned());
    }
    let address = section.required(
        "address",
        "write host and port of a mongod or mongos, as in address = \"mongo.example:27017\", or those of the members of a \
         replica set in members",
        |given| given.text("host:port, as in \"mongo.example:27017\"")?.parse().map_err(readers::sentence),
    );
    address.map(Deployment::Single)
}

fn members(section: &mut Section<'_>, sharded: bool) -> Option<Deployment> {
    let is_srv = section.has("srv");
    let seeds = if is_srv {
        section.misplaced("members", "stands beside srv; the members are named here, or in DNS: remove one");
        section.optional("srv", readers::srv).map(Seeds::Srv)
    } else {
        section.optional("members", readers::members).map(Seeds::Members)
    };
    if sharded {
        section
            .misplaced("replica_set", "stands beside sharded = true; mongos are members of no replica set: remove one");
        return Some(Deployment::Sharded { seeds: seeds? });
    }
    let name = if is_srv {
        section.optional("replica_set", readers::replica_set)
    } else {
        let what = "name the replica set that the members are of, as in replica_set = \"rs0\", or write sharded = true \
                    where they are mongos";
        section.required("replica_set", what, readers::replica_set)
    };
    Some(Deployment::ReplicaSet { seeds: seeds?, name })
}

fn authentication(section: &mut Section<'_>) -> Option<Mechanism> {
    const MECHANISMS: &[(&str, Mechanism)] = &[("MONGODB-X509", Mechanism::MongodbX509)];
    if !section.has("authentication") {
        return None;
    }
    let what = "say how the gateway authenticates, as in mechanism = \"MONGODB-X509\"";
    section.table("authentication").required("mechanism", what, |given| readers::choice(given, MECHANISMS))
}

fn credentials(
    section: &mut Section<'_>,
    tls: Option<&UpstreamTlsConfig>,
    directory: &Path,
) -> Option<Vec<CredentialConfig>> {
    const CREDENTIAL: &str =
        "must be tables, each begun by a line [[upstream.NAME.credential]]; no variable can hold them";
    let Some(sections) = section.repeated_tables("credential", CREDENTIAL) else { return Some(Vec::new()) };
    let authorities = tls.and_then(|tls| match &tls.source {
        MaterialSource::Files(files) => Some((files.ca_file.clone(), files.crl_file.clone())),
        MaterialSource::WorkloadApi(agent) => Some((agent.ca_file.clone()?, agent.crl_file.clone())),
    });
    if tls.is_some() && authorities.is_none() && !sections.is_empty() {
        section.note(
            "credential",
            "needs ca_file in the table tls: beside certificates of files, the authorities are those of a file"
                .to_owned(),
        );
    }
    let (ca_file, crl_file) = authorities.unwrap_or_default();
    sections.into_iter().map(|section| credential(section, &ca_file, crl_file.as_ref(), directory)).collect()
}

fn credential(
    mut section: Section<'_>,
    ca_file: &Path,
    crl_file: Option<&PathBuf>,
    directory: &Path,
) -> Option<CredentialConfig> {
    let file = |given: &Given<'_>| readers::file(given, directory);
    let what = "say for whom it is, as in principals = [\"cluster.local/ns/shop/*\"]";
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
            ca_file: ca_file.to_owned(),
            crl_file: crl_file.cloned(),
        },
    })
}

fn upstream_tls(mut section: Section<'_>, directory: &Path) -> Option<UpstreamTlsConfig> {
    const VERIFY: &[(&str, Verify)] = &[("full", Verify::Full), ("chain", Verify::Chain)];
    let source = if section.has("spiffe_socket") {
        workload_api(&mut section, directory).map(MaterialSource::WorkloadApi)
    } else {
        files(&mut section, directory, &UPSTREAM).map(MaterialSource::Files)
    };
    let server_name = section.optional("server_name", readers::server_name);
    let verify = section.or("verify", Verify::Full, |given| readers::choice(given, VERIFY));
    let server_identities = section.or("server_identities", Vec::new(), identity_readers::uris);
    let legacy_certificates = legacy_certificates(&mut section);
    let min_version = min_version(&mut section);
    Some(UpstreamTlsConfig {
        source: source?,
        server_name,
        verify,
        server_identities,
        legacy_certificates,
        min_version,
    })
}

fn workload_api(section: &mut Section<'_>, directory: &Path) -> Option<WorkloadApi> {
    for key in ["certificate_file", "private_key_file", "private_key_password_file"] {
        section.misplaced(key, "stands beside spiffe_socket; our certificate comes from one of them: remove the other");
    }
    let socket = section.optional("spiffe_socket", |given| readers::socket(given, directory));
    let ca_file = section.optional("ca_file", |given| readers::file(given, directory));
    let crl_file = section.optional("crl_file", |given| readers::file(given, directory));
    Some(WorkloadApi { socket: socket?, ca_file, crl_file })
}

/// What the files of one side are for, in the words of its problems.
pub(super) struct FileRemedies {
    certificate: &'static str,
    authorities: &'static str,
}

const UPSTREAM: FileRemedies = FileRemedies {
    certificate: "name the PEM file of the certificate that is shown to mongod, as in certificate_file = \
                  \"certs/client.pem\"",
    authorities: "name the PEM file of the authorities that mongod's certificate may come from, as in ca_file = \
                  \"certs/ca.pem\"",
};

pub(super) const LISTENER: FileRemedies = FileRemedies {
    certificate: "name the PEM file of the certificate that is shown to clients, as in certificate_file = \
                  \"certs/gateway.pem\"",
    authorities: "name the PEM file of the authorities that clients' certificates may come from, as in ca_file = \
                  \"certs/mesh-ca.pem\"",
};

pub(super) fn files(section: &mut Section<'_>, directory: &Path, purpose: &FileRemedies) -> Option<TlsFiles> {
    let file = |given: &Given<'_>| readers::file(given, directory);
    let certificate_file = section.required("certificate_file", purpose.certificate, file);
    let private_key_file = section.optional("private_key_file", file);
    let private_key_password_file = section.optional("private_key_password_file", file);
    let ca_file = section.required("ca_file", purpose.authorities, file);
    let crl_file = section.optional("crl_file", file);
    let certificate_file = certificate_file?;
    Some(TlsFiles {
        private_key_file: private_key_file.unwrap_or_else(|| certificate_file.clone()),
        certificate_file,
        private_key_password_file,
        ca_file: ca_file?,
        crl_file,
    })
}

pub(super) fn min_version(section: &mut Section<'_>) -> TlsVersion {
    const VERSIONS: &[(&str, TlsVersion)] = &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    section.or("min_version", TlsVersion::V1_2, |given| readers::choice(given, VERSIONS))
}

pub(super) fn legacy_certificates(section: &mut Section<'_>) -> bool {
    section.or("legacy_certificates", false, readers::boolean)
}
