//! Explains why the gateway rejected a server's certificate.

use std::net::IpAddr;
use std::time::SystemTime;

use super::explanation::{ConnectExplanation, SSL_HANDSHAKE_FAILED, listed};
use super::target::Target;
use crate::identity::{CertificateFacts, DistinguishedName, Validity, date_text, printable};
use crate::tls::{CertificateDefect, OcspDefect, certificate_error_text};
use crate::upstream::failure::ServerCertificateRejection as Rejection;

pub(super) fn explain_server_certificate(
    target: &Target,
    peer: &str,
    rejection: &Rejection,
    certificate: Option<&CertificateFacts>,
) -> ConnectExplanation {
    let Reason { label, cause, remedy } = explain_rejection(target, rejection, certificate);
    let subject = certificate.map(|facts| facts.subject.to_string()).unwrap_or_default();
    ConnectExplanation {
        label,
        client_code: SSL_HANDSHAKE_FAILED,
        sentence: format!("the certificate of {peer} was rejected: {cause} (subject {subject})"),
        remedy,
    }
}

/// The texts about one rejection.
struct Reason {
    label: &'static str,
    /// Begins with "it" where it is about the certificate.
    cause: String,
    remedy: String,
}

fn explain_rejection(target: &Target, rejection: &Rejection, certificate: Option<&CertificateFacts>) -> Reason {
    let key = |name: &str| target.key(&format!("tls.{name}"));
    let server_name = &target.server_name;
    match rejection {
        Rejection::UnknownIssuer => explain_unknown_issuer(target, certificate),
        Rejection::NameMismatch => explain_name_mismatch(target, certificate),
        Rejection::NoNames => Reason {
            label: "server_certificate_no_names",
            cause: match certificate.map(|facts| facts.other_names.join(", ")).unwrap_or_default() {
                none if none.is_empty() => {
                    format!("it has no subject alternative name, so it is not for {server_name}")
                }
                others => format!(
                    "its subject alternative name has neither a DNS name nor an IP address, only: {others}; so it is \
                     not for {server_name}"
                ),
            },
            remedy: reissue_remedy(target),
        },
        Rejection::Version1 => Reason {
            label: "server_certificate_version_1",
            cause: format!(
                "it is an X.509 version {} certificate, which has no subject alternative name",
                certificate.map_or(1, |facts| facts.version)
            ),
            remedy: reissue_remedy(target),
        },
        Rejection::CommonNameMismatch => Reason {
            label: "server_certificate_name_mismatch",
            cause: format!("it has no subject alternative name, and its common name is not {server_name}"),
            remedy: format!(
                "set {} to its common name, or issue it again for {server_name}; verify = \"chain\" skips the name \
                 check",
                key("server_name")
            ),
        },
        Rejection::IdentityMismatch => Reason {
            label: "server_certificate_identity_mismatch",
            cause: match certificate.map(uris).unwrap_or_default() {
                none if none.is_empty() => "it has no URI among its names".to_owned(),
                uris => format!("it is for {uris}, which is not an accepted identity"),
            },
            remedy: format!(
                "add one of its URIs to {}, or give mongod a certificate with one of: {}",
                key("server_identities"),
                target.identities.join(", ")
            ),
        },
        Rejection::Expired | Rejection::NotYetValid => explain_dates(target, rejection, certificate),
        Rejection::IssuerDates { issuer, is_trust_anchor } => explain_issuer_dates(target, issuer, *is_trust_anchor),
        Rejection::Revoked => Reason {
            label: "server_certificate_revoked",
            cause: "it, or the certificate of an issuer, is revoked".to_owned(),
            remedy: format!(
                "give mongod a new certificate (net.tls.certificateKeyFile), or update {}",
                key("crl_file")
            ),
        },
        Rejection::Ocsp(defect) => explain_ocsp(target, defect),
        Rejection::CaCertificate => Reason {
            label: "server_certificate_invalid",
            cause: "it is a CA certificate (CA:TRUE), which may not be used by a server".to_owned(),
            remedy: format!(
                "use it to issue a certificate for the server: {}; or, if {} contains it, set {} = true",
                openssl_command(server_name),
                key("ca_file"),
                key("legacy_certificates")
            ),
        },
        Rejection::Invalid(cause) => Reason {
            label: "server_certificate_invalid",
            cause: certificate_error_text(cause),
            remedy: invalid_remedy(CertificateDefect::of(cause)).to_owned(),
        },
    }
}

fn explain_ocsp(target: &Target, defect: &OcspDefect) -> Reason {
    let key = target.key("tls.ocsp");
    let remedy = match defect {
        OcspDefect::Revoked { .. } => {
            "give mongod a new certificate (net.tls.certificateKeyFile), and find out why this one was revoked"
                .to_owned()
        }
        OcspDefect::Unknown | OcspDefect::OtherCertificate => {
            "ask the CA why its OCSP responder does not answer for this certificate; mongod staples what it gets from \
             the URI in the certificate (authorityInfoAccess)"
                .to_owned()
        }
        OcspDefect::Missing => format!(
            "let mongod reach the OCSP responder in its certificate (authorityInfoAccess) and set the parameter \
             ocspEnabled, or issue the certificate without the TLS feature; {key} = \"off\" ignores it"
        ),
        OcspDefect::NoIssuer => format!(
            "add the CA certificate that issued it to {}, or let mongod send it; {key} = \"off\" ignores the response",
            target.key("tls.ca_file")
        ),
        OcspDefect::Outdated { .. } | OcspDefect::NotYetValid { .. } => format!(
            "check that mongod can reach the OCSP responder (its log, parameter tlsOCSPStaplingTimeoutSecs), and the \
             clocks of this host and of the responder; {key} = \"off\" ignores the response"
        ),
        OcspDefect::TooLong | OcspDefect::Malformed | OcspDefect::ResponderError(_) | OcspDefect::Signer(_) => format!(
            "check the OCSP responder of the CA with openssl ocsp, and restart mongod, which asks it again; {key} = \
             \"off\" ignores the response"
        ),
    };
    let label = if defect.is_revocation() { "server_certificate_revoked" } else { "server_certificate_ocsp" };
    Reason { label, cause: defect.to_string(), remedy }
}

fn explain_unknown_issuer(target: &Target, certificate: Option<&CertificateFacts>) -> Reason {
    let issuer = certificate.map(|facts| facts.issuer.to_string()).unwrap_or_default();
    let (ca_file, source) = (target.key("tls.ca_file"), &target.trust_anchors_source);
    let is_among = |names: &[DistinguishedName]| certificate.is_some_and(|facts| names.contains(&facts.issuer));
    let (cause, remedy) = if is_among(&target.intermediates) {
        (
            format!(
                "it was issued by {issuer}, an intermediate CA in {source}, and no path leads from there to a trust \
                 anchor"
            ),
            format!(
                "add the certificate of the root CA to {ca_file} ({source}), or set {} = true to trust {issuer} itself",
                target.key("tls.partial_chain")
            ),
        )
    } else if is_among(&target.trust_anchors) {
        (
            format!("it names {issuer} as its issuer, but the trust anchor of that name did not sign it"),
            format!(
                "the CA was created again under the same name: update {ca_file} ({source}) to mongod's CA certificate"
            ),
        )
    } else {
        (
            format!("it was issued by {issuer}, which is not among the trust anchors"),
            format!(
                "add the CA certificate that signed it to {ca_file} ({source}), the trust anchors are now: {}; if an \
                 intermediate is missing, mongod must send it",
                listed(&target.trust_anchors)
            ),
        )
    };
    Reason { label: "server_certificate_unknown_issuer", cause, remedy }
}

fn explain_name_mismatch(target: &Target, certificate: Option<&CertificateFacts>) -> Reason {
    let names = certificate.map(CertificateFacts::names).unwrap_or_default();
    let server_name = &target.server_name;
    if certificate.is_some_and(|facts| has_address_as_dns_name(facts, server_name)) {
        return Reason {
            label: "server_certificate_name_mismatch",
            cause: format!("it has the IP address {server_name} as a DNS name, which does not count as an address"),
            remedy: format!(
                "issue it again with {server_name} as an IP address: {}; verify = \"chain\" skips the name check",
                openssl_command(server_name)
            ),
        };
    }
    let first = names.first().map(ToString::to_string).unwrap_or_default();
    let remedy = if first.contains("://") {
        let key = target.key("tls.server_identities");
        format!("set {key} to [\"{first}\"], or give mongod a certificate with the name {server_name}")
    } else {
        let key = target.key("tls.server_name");
        format!(
            "set {key} to one of its names (such as \"{first}\"), or give mongod a certificate with the name \
             {server_name}; verify = \"chain\" skips the name check"
        )
    };
    Reason {
        label: "server_certificate_name_mismatch",
        cause: format!("it is for {}, not for {server_name}", names.join(", ")),
        remedy,
    }
}

/// Whether `server_name` is an IP address that the certificate has as the text of a DNS name.
fn has_address_as_dns_name(certificate: &CertificateFacts, server_name: &str) -> bool {
    let address = |text: &str| text.parse::<IpAddr>().ok();
    let wanted = address(server_name);
    wanted.is_some() && certificate.dns_names.iter().any(|name| address(name) == wanted)
}

/// If the dates of the certificate itself are valid, the rejection is about the certificate of an issuer.
fn explain_dates(target: &Target, rejection: &Rejection, certificate: Option<&CertificateFacts>) -> Reason {
    let is_valid =
        |facts: &CertificateFacts| matches!(facts.validity(SystemTime::now()), Validity::Current | Validity::EndsSoon);
    let is_of_issuer = certificate.is_some_and(is_valid);
    let issuer = certificate.map(|facts| facts.issuer.to_string()).unwrap_or_default();
    let date =
        |pick: fn(&CertificateFacts) -> SystemTime| certificate.map(|facts| date_text(pick(facts))).unwrap_or_default();
    if *rejection == Rejection::NotYetValid {
        return Reason {
            label: "server_certificate_not_yet_valid",
            cause: if is_of_issuer {
                format!("the certificate of {issuer}, or of an issuer above it, is not valid yet")
            } else {
                format!("it is not valid before {}", date(|facts| facts.not_before))
            },
            remedy: "check the clocks of this host and of the CA".to_owned(),
        };
    }
    let (cause, remedy) = if is_of_issuer {
        (
            format!("the certificate of {issuer}, or of an issuer above it, has expired"),
            format!(
                "renew the CA certificate; with the same key and name, the certificates that it signed stay valid. \
                 Then update {} and mongod's files",
                target.key("tls.ca_file")
            ),
        )
    } else {
        (
            format!("it expired on {}", date(|facts| facts.not_after)),
            "renew mongod's certificate (net.tls.certificateKeyFile); if it was renewed already, restart mongod or run \
             rotateCertificates"
                .to_owned(),
        )
    };
    Reason { label: "server_certificate_expired", cause, remedy }
}

fn invalid_remedy(defect: Option<&CertificateDefect>) -> &'static str {
    match defect {
        Some(CertificateDefect::Signature { .. } | CertificateDefect::Key { .. }) => {
            "issue the certificate again with RSA of at least 2048 bits, ECDSA on P-256, P-384 or P-521, or Ed25519, \
             and with SHA-256 or better"
        }
        Some(CertificateDefect::NameConstraint { .. }) => {
            "issue the certificate with names that the CA permits, or the CA certificate with other name constraints; \
             openssl x509 -text shows both"
        }
        Some(CertificateDefect::Policies) => {
            "issue the certificate with a policy (certificatePolicies) that every CA of its chain has, or the CA \
             certificate without requireExplicitPolicy; openssl x509 -text shows them"
        }
        Some(CertificateDefect::CriticalExtension { .. }) => {
            "issue that certificate without the extension, or do not mark it as critical"
        }
        Some(CertificateDefect::NetscapeType) => "issue the certificate without nsCertType, or with its value server",
        Some(CertificateDefect::TooManyIntermediates { .. }) => {
            "let a CA that is closer to the root issue the certificate, or add an intermediate CA certificate to \
             ca_file and set partial_chain = true"
        }
        Some(CertificateDefect::KeyUsage) => "issue the certificate with keyUsage digitalSignature",
        Some(CertificateDefect::Issuer(_)) => {
            "use an issuer that is a CA (CA:TRUE, keyUsage keyCertSign), and that pathLenConstraint and \
             extendedKeyUsage allow to issue certificates of servers"
        }
        _ => {
            "give mongod a certificate that a TLS server may use (extendedKeyUsage serverAuth, a current signature \
             algorithm)"
        }
    }
}

fn explain_issuer_dates(target: &Target, issuer: &CertificateFacts, is_trust_anchor: bool) -> Reason {
    let (subject, ca_file) = (&issuer.subject, target.key("tls.ca_file"));
    let name = if is_trust_anchor {
        format!("the CA certificate {subject} in {} ({ca_file})", target.trust_anchors_source)
    } else {
        format!("the certificate of its issuer {subject}")
    };
    if issuer.validity(SystemTime::now()) == Validity::NotYet {
        return Reason {
            label: "server_certificate_not_yet_valid",
            cause: format!("{name} is not valid before {}", date_text(issuer.not_before)),
            remedy: "check the clocks of this host and of the CA".to_owned(),
        };
    }
    Reason {
        label: "server_certificate_expired",
        cause: format!("{name} expired on {}", date_text(issuer.not_after)),
        remedy: format!(
            "renew the CA certificate; with the same key and name, the certificates that it signed stay valid. Then \
             update {ca_file} ({}) and mongod's files; mongate reloads them without a restart",
            target.trust_anchors_source
        ),
    }
}

fn reissue_remedy(target: &Target) -> String {
    format!(
        "issue it again with its name, as X.509 version 3: {}; or set {} = true to accept this kind of certificate",
        openssl_command(&target.server_name),
        target.key("tls.legacy_certificates")
    )
}

/// A command that issues a certificate for `server_name`.
fn openssl_command(server_name: &str) -> String {
    let kind = if server_name.parse::<IpAddr>().is_ok() { "IP" } else { "DNS" };
    format!(
        "openssl x509 -req -in REQUEST -CA CA -CAkey CA-KEY -CAcreateserial -days 365 -out NEW \
         -extfile <(echo subjectAltName={kind}:{server_name})"
    )
}

/// URIs among the names of a certificate, for a message.
fn uris(certificate: &CertificateFacts) -> String {
    certificate.uris.iter().map(|uri| printable(uri)).collect::<Vec<_>>().join(", ")
}
