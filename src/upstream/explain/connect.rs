//! Explains failures of the network and of the TLS handshake, and passes all other failures to the other files of this
//! folder.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;

use rustls::Error as TlsError;

use super::client_certificate::{
    explain_authentication, explain_cluster_member, explain_no_certificate, explain_rejected_certificate,
    explain_wrong_user,
};
use super::explanation::{ConnectExplanation, HOST_UNREACHABLE, SSL_HANDSHAKE_FAILED};
use super::server_certificate::explain_server_certificate;
use super::target::Target;
use crate::config::SendProxy;
use crate::tls::connection_error_text;
use crate::upstream::failure::{ConnectFailure, Phase};
use crate::upstream::own_commands::OwnCommandError;

/// Explains why no connection to `target` could be made. `address` is the address of the attempt, if there was one.
pub(in crate::upstream) fn explain(
    target: &Target,
    address: Option<SocketAddr>,
    failure: &ConnectFailure,
) -> ConnectExplanation {
    let peer = target.peer(address);
    match failure {
        ConnectFailure::NoCertificate { cause } => explain_no_certificate(target, &peer, cause.as_deref()),
        ConnectFailure::NotResolvable { .. } => ConnectExplanation {
            label: "not_resolvable",
            client_code: HOST_UNREACHABLE,
            sentence: format!("the name {} cannot be resolved", target.address.host),
            remedy: format!("check {} and the DNS configuration of this host", target.key("address")),
        },
        ConnectFailure::Unreachable { attempts } => explain_unreachable(target, attempts),
        ConnectFailure::TimedOut { phase, limit } => ConnectExplanation {
            label: "timed_out",
            client_code: HOST_UNREACHABLE,
            sentence: format!(
                "{} {peer} did not finish within {}",
                phase_name(*phase),
                humantime::format_duration(*limit)
            ),
            remedy: timeout_remedy(target, *phase),
        },
        ConnectFailure::ServerCertificate { rejection, certificate } => {
            explain_server_certificate(target, &peer, rejection, certificate.as_deref())
        }
        ConnectFailure::NotTls { cause } => explain_not_tls(target, &peer, cause),
        ConnectFailure::Handshake { cause } => ConnectExplanation {
            label: "handshake_failed",
            client_code: SSL_HANDSHAKE_FAILED,
            sentence: format!("the TLS handshake with {peer} failed: {}", connection_error_text(cause)),
            remedy: format!(
                "check that both sides support a common TLS version ({}, and net.tls.disabledProtocols of mongod), an \
                 ECDHE cipher suite with AES-GCM or ChaCha20-Poly1305 (opensslCipherConfig), and the type of key in \
                 mongod's certificate; mongate check names what mongod offers, and mongod's log has its reason",
                target.key("tls.min_version")
            ),
        },
        ConnectFailure::ClientCertificateRejected { alert, request } => {
            explain_rejected_certificate(target, &peer, *alert, request.as_ref())
        }
        ConnectFailure::Proof { cause: cause @ OwnCommandError::Refused { code: 1.., .. } } => ConnectExplanation {
            label: "ping_failed",
            client_code: HOST_UNREACHABLE,
            sentence: format!("{peer} does not serve the gateway: {cause}"),
            remedy: server_remedy(target),
        },
        ConnectFailure::Proof { cause } => ConnectExplanation {
            label: "ping_failed",
            client_code: HOST_UNREACHABLE,
            sentence: format!("{peer} does not answer like a mongod: {cause}"),
            remedy: server_remedy(target),
        },
        ConnectFailure::Authentication { cause } => {
            explain_authentication(target, &peer, cause, failure.is_user_failure())
        }
        ConnectFailure::WrongUser { users } => explain_wrong_user(target, &peer, users),
        ConnectFailure::ClusterMember => explain_cluster_member(target, &peer),
        ConnectFailure::Lost { cause } => ConnectExplanation {
            label: "monitor_lost",
            client_code: HOST_UNREACHABLE,
            sentence: format!("the monitoring connection to {peer} was lost: {cause}"),
            remedy: server_remedy(target),
        },
    }
}

fn explain_unreachable(target: &Target, attempts: &[(SocketAddr, io::Error)]) -> ConnectExplanation {
    let configured = target.address.to_string();
    let attempt = |(address, cause): &(SocketAddr, io::Error)| match address.to_string() {
        address if address == configured => io_sentence(cause),
        address => format!("{address}: {}", io_sentence(cause)),
    };
    let causes = attempts.iter().map(attempt).collect::<Vec<_>>().join(", ");
    let remedy = if attempts.iter().any(|(_, cause)| is_out_of_descriptors(cause)) {
        "raise the limit of open files (ulimit -n, LimitNOFILE), or lower max_connections: each client takes two"
            .to_owned()
    } else {
        format!(
            "check that mongod runs and listens there (net.bindIp, net.port), that no firewall blocks the connection, \
             and {}",
            target.key("address")
        )
    };
    let sentence = format!("{configured} cannot be reached: {causes}");
    ConnectExplanation { label: "unreachable", client_code: HOST_UNREACHABLE, sentence, remedy }
}

fn explain_not_tls(target: &Target, peer: &str, cause: &io::Error) -> ConnectExplanation {
    let has_answered = cause.get_ref().is_some_and(<dyn StdError + Send + Sync>::is::<TlsError>);
    ConnectExplanation {
        label: "not_tls",
        client_code: SSL_HANDSHAKE_FAILED,
        sentence: if has_answered {
            format!("{peer} does not speak TLS: it answered with something else")
        } else {
            format!(
                "{peer} does not speak TLS with the gateway: it closed the connection instead of answering the TLS \
                 handshake"
            )
        },
        remedy: format!(
            "check {}, that mongod runs with net.tls.mode requireTLS (or preferTLS), that both sides support a common \
             TLS version ({}, and net.tls.disabledProtocols), cipher suite and type of key (mongate check names what \
             mongod offers), that mongod is not at its connection limit \
             (net.maxIncomingConnections), and {}",
            target.key("address"),
            target.key("tls.min_version"),
            proxy_port_remedy(target)
        ),
    }
}

/// A server closes the connection if it gets a PROXY header that it does not expect, and if it waits for one.
fn proxy_port_remedy(target: &Target) -> String {
    let key = target.key("send_proxy");
    match target.send_proxy {
        SendProxy::Off => format!("that {} is no port for PROXY headers (proxyPort; {key})", target.address),
        SendProxy::V2 => format!(
            "that {} is the port for PROXY headers, which {key} sends: proxyPort of mongod, loadBalancerPort of mongos",
            target.address
        ),
    }
}

/// Followed by the name of the server.
fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Resolve => "the name lookup for",
        Phase::Connect => "the TCP connection to",
        Phase::Handshake => "the TLS handshake with",
        Phase::Proof => "the first command to",
        Phase::Authentication => "the authentication with",
    }
}

fn timeout_remedy(target: &Target, phase: Phase) -> String {
    let (address, connect_timeout) = (&target.address, target.key("connect_timeout"));
    match phase {
        Phase::Resolve => format!("check the DNS servers of this host, or raise {connect_timeout}"),
        Phase::Connect => format!("check routes and firewalls to {address}, or raise {connect_timeout}"),
        Phase::Handshake | Phase::Proof | Phase::Authentication => format!(
            "{address} accepts connections and does not answer: check that it is mongod and not overloaded, or raise \
             {connect_timeout}"
        ),
    }
}

fn server_remedy(target: &Target) -> String {
    format!("check that {} is a mongod or mongos, and check its log", target.address)
}

fn io_sentence(cause: &io::Error) -> String {
    if is_out_of_descriptors(cause) {
        "the gateway has too many open files".to_owned()
    } else {
        cause.kind().to_string()
    }
}

/// The standard library has no error kind for this.
fn is_out_of_descriptors(cause: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(cause.raw_os_error(), Some(ENFILE | EMFILE))
}
