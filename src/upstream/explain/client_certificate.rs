//! Explains failures of the gateway's client certificate: none is available, mongod rejects it, or its user is wrong.

use std::time::SystemTime;

use rustls::AlertDescription;

use super::explanation::{AUTHENTICATION_FAILED, ConnectExplanation, HOST_UNREACHABLE, SSL_HANDSHAKE_FAILED, listed};
use super::target::Target;
use crate::identity::{CertificateFacts, date_text};
use crate::tls::{CertificateRequest, UpstreamTlsError, alert_text};
use crate::upstream::own_commands::OwnCommandError;
use crate::upstream::server_error_codes::USER_NOT_FOUND;

pub(super) fn explain_no_certificate(
    target: &Target,
    peer: &str,
    cause: Option<&UpstreamTlsError>,
) -> ConnectExplanation {
    let (reason, remedy) = match cause {
        None => (
            "the SPIFFE Workload API has not answered".to_owned(),
            format!("check the agent at {}, or raise {}", target.certificate_source, target.key("connect_timeout")),
        ),
        Some(cause @ UpstreamTlsError::Workload(_)) => (cause.to_string(), cause.remedy()),
        // The cause may name a file, so it is for the operator only.
        Some(cause) => (
            "the certificate from the SPIFFE Workload API cannot be used".to_owned(),
            format!("{cause}; {}", cause.remedy()),
        ),
    };
    ConnectExplanation {
        label: "no_certificate",
        // A certificate may be available when a driver retries.
        client_code: HOST_UNREACHABLE,
        sentence: format!("there is no client certificate for {peer} yet: {reason}"),
        remedy,
    }
}

pub(super) fn explain_rejected_certificate(
    target: &Target,
    peer: &str,
    alert: Option<AlertDescription>,
    request: Option<&CertificateRequest>,
) -> ConnectExplanation {
    let certificate = target.certificate.as_ref();
    let subject = certificate.map(|certificate| format!(" (subject {})", certificate.subject)).unwrap_or_default();
    let alert = alert.map(|alert| format!(": alert {}", alert_text(alert))).unwrap_or_default();
    ConnectExplanation {
        label: "client_certificate_refused",
        client_code: SSL_HANDSHAKE_FAILED,
        sentence: format!("mongod at {peer} rejected the gateway's client certificate{subject}{alert}"),
        remedy: certificate
            .map(|certificate| rejected_certificate_remedy(target, certificate, request))
            .unwrap_or_default(),
    }
}

fn rejected_certificate_remedy(
    target: &Target,
    certificate: &CertificateFacts,
    request: Option<&CertificateRequest>,
) -> String {
    let mut remedy = Vec::new();
    if !certificate.allows("clientAuth") {
        remedy.push(
            "the certificate may not be used by TLS clients: issue it with extendedKeyUsage clientAuth".to_owned(),
        );
    }
    if certificate.not_after < SystemTime::now() {
        remedy.push(format!("the certificate expired on {}: renew it", date_text(certificate.not_after)));
    }
    if !certificate.subject.is_readable_by_mongod() {
        remedy.push("mongod cannot read the subject: issue the certificate with UTF8String values".to_owned());
    }
    let acceptable = request.map(|request| request.acceptable_cas.as_slice()).unwrap_or_default();
    let issuer = &certificate.issuer;
    if !acceptable.is_empty() && !target.issuers.iter().any(|issuer| acceptable.contains(issuer)) {
        remedy.push(format!(
            "mongod accepts certificates of {}, but the gateway's certificate was issued by {issuer}: use a \
             certificate of an accepted CA, or add the issuer to mongod's net.tls.CAFile, or, if an accepted CA \
             signed the issuer, append the issuer's certificate to the gateway's certificate file",
            listed(acceptable)
        ));
    }
    if remedy.is_empty() {
        remedy.push(format!(
            "check that mongod's net.tls.CAFile contains the certificate of {issuer} itself and not another CA of that \
             name, and that its net.tls.CRLFile does not revoke the client certificate"
        ));
    }
    remedy.push(format!(
        "the certificate is {}; mongod's log has the reason under id 23255 or 23256",
        target.certificate_source
    ));
    remedy.join("; ")
}

/// `is_user_failure` is whether the user is wrong, as opposed to the server being unable to authenticate now.
pub(super) fn explain_authentication(
    target: &Target,
    peer: &str,
    cause: &OwnCommandError,
    is_user_failure: bool,
) -> ConnectExplanation {
    let (upstream, user, certificate) = (&target.upstream, target.user(), &target.certificate_source);
    let (reason, remedy) = match cause {
        OwnCommandError::Refused { code, code_name, errmsg } => (
            match (code_name.is_empty(), errmsg.is_empty()) {
                (_, true) => cause.to_string(),
                (true, false) => format!("{errmsg} ({code})"),
                (false, false) => format!("{errmsg} ({code_name}, {code})"),
            },
            if *code == USER_NOT_FOUND {
                format!(
                    "create the user: db.getSiblingDB(\"$external\").runCommand({{createUser: {}, roles: [{{role: \
                     \"read\", db: \"DATABASE\"}}]}}), with the roles that it needs; the certificate is {certificate}",
                    javascript_string(&user)
                )
            } else {
                format!(
                    "check that MONGODB-X509 is in mongod's authenticationMechanisms, and check mongod's log; the \
                     certificate is {certificate}"
                )
            },
        ),
        other => (other.to_string(), format!("check the log of mongod at {}", target.address)),
    };
    ConnectExplanation {
        label: "authentication_failed",
        client_code: if is_user_failure { AUTHENTICATION_FAILED } else { HOST_UNREACHABLE },
        sentence: format!("mongod at {peer} did not authenticate upstream {upstream} as {user}: {reason}"),
        remedy,
    }
}

pub(super) fn explain_wrong_user(target: &Target, peer: &str, users: &[String]) -> ConnectExplanation {
    let user = target.user();
    ConnectExplanation {
        label: "wrong_user",
        client_code: AUTHENTICATION_FAILED,
        sentence: if users.is_empty() {
            format!("mongod at {peer} authenticated {user}, but reports that no user is authenticated")
        } else {
            format!("mongod at {peer} authenticated {} instead of {user}", users.join(" and "))
        },
        remedy: format!(
            "check mongod's log for how it maps certificates to users; the certificate is {}",
            target.certificate_source
        ),
    }
}

pub(super) fn explain_cluster_member(target: &Target, peer: &str) -> ConnectExplanation {
    ConnectExplanation {
        label: "cluster_member",
        client_code: AUTHENTICATION_FAILED,
        sentence: format!(
            "mongod at {peer} takes the client certificate of upstream {} ({}) for that of a member of its cluster, \
             which has all privileges",
            target.upstream,
            target.user()
        ),
        remedy: format!(
            "use a client certificate whose O, OU or DC differs from those of mongod's own certificate; the current \
             one is {}",
            target.certificate_source
        ),
    }
}

/// `text` as a string literal of JavaScript.
fn javascript_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
