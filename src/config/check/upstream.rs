//! `[upstream.NAME]` and its files.

use std::path::Path;
use std::time::Duration;

use super::readers;
use crate::config::raw::Given;
use crate::config::raw::Section;
use crate::config::sections::MaterialSource;
use crate::config::sections::TlsFiles;
use crate::config::sections::TlsVersion;
use crate::config::sections::UpstreamConfig;
use crate::config::sections::UpstreamTlsConfig;
use crate::config::sections::Verify;
use crate::config::sections::WorkloadApi;

/// Spares for a busy moment, where the operator names no other number.
const WARM_CONNECTIONS_MAX: usize = 16;

pub(super) fn upstream(name: String, mut section: Section<'_>, directory: &Path) -> Option<UpstreamConfig> {
    let address = section.required(
        "address",
        "write host and port of a mongod or mongos, as in address = \"mongo.example:27017\"",
        |given| {
            let text = given.text("host:port, as in \"mongo.example:27017\"")?;
            text.parse().map_err(readers::sentence)
        },
    );
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
    let tcp_keepalive = readers::keepalive(&mut section);
    Some(UpstreamConfig {
        name,
        address: address?,
        connect_timeout,
        tcp_keepalive,
        warm_connections,
        warm_connections_max: warm_connections_max.unwrap_or(WARM_CONNECTIONS_MAX.max(warm_connections)),
        certificate_recycle_after,
        tls: tls?,
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
    let server_identities = section.or("server_identities", Vec::new(), readers::uris);
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
pub(super) struct Purpose {
    certificate: &'static str,
    authorities: &'static str,
}

const UPSTREAM: Purpose = Purpose {
    certificate: "name the PEM file of the certificate that is shown to mongod, as in certificate_file = \
                  \"certs/client.pem\"",
    authorities: "name the PEM file of the authorities that mongod's certificate may come from, as in ca_file = \
                  \"certs/ca.pem\"",
};

pub(super) const LISTENER: Purpose = Purpose {
    certificate: "name the PEM file of the certificate that is shown to clients, as in certificate_file = \
                  \"certs/gateway.pem\"",
    authorities: "name the PEM file of the authorities that clients' certificates may come from, as in ca_file = \
                  \"certs/mesh-ca.pem\"",
};

pub(super) fn files(section: &mut Section<'_>, directory: &Path, purpose: &Purpose) -> Option<TlsFiles> {
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
