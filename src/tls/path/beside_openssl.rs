//! The table "what is accepted, next to OpenSSL" of `docs/certificate-verification.md`: each row is a case here, judged
//! by the gateway and by `openssl verify`.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
};
use rustls::CertificateError;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::certificate::{CertificateOrigin, CertificatePurpose, PathCertificate};
use super::policies::InitialPolicies;
use super::search::{PathContext, verify};
use super::{PathAnchors, openssl};
use crate::tls::test_pki::{CertificateAuthority, der_children, der_parts, der_value};

const PAGE: &str = include_str!("../../../docs/certificate-verification.md");

/// 2030, when every certificate that rcgen makes by default is valid.
const NOW: u64 = 1_893_456_000;

/// What a peer sends, and what is trusted.
pub(super) struct Chain {
    leaf: CertificateDer<'static>,
    sent: Vec<CertificateDer<'static>>,
    trusted: Vec<CertificateDer<'static>>,
    purpose: CertificatePurpose,
    trusts_intermediates: bool,
    legacy: bool,
}

type Change<'a> = &'a dyn Fn(&mut CertificateParams);

impl Chain {
    /// Root, intermediate and leaf certificate.
    fn new(root: Change<'_>, middle: Change<'_>, leaf: Change<'_>) -> Self {
        let root = CertificateAuthority::new_with("Root", root);
        let middle = root.intermediate_with("Middle", middle);
        let leaf = middle.issue_with("mongo", &["mongo.example"], leaf).der;
        Self::of(leaf, &[&middle.der], &[&root.der])
    }

    fn of(
        leaf: CertificateDer<'static>,
        sent: &[&CertificateDer<'static>],
        trusted: &[&CertificateDer<'static>],
    ) -> Self {
        Self {
            leaf,
            sent: sent.iter().map(|der| (*der).clone()).collect(),
            trusted: trusted.iter().map(|der| (*der).clone()).collect(),
            purpose: CertificatePurpose::Server,
            trusts_intermediates: false,
            legacy: false,
        }
    }

    fn with_partial_chain(self) -> Self {
        Self { trusts_intermediates: true, ..self }
    }

    fn of_client(self) -> Self {
        Self { purpose: CertificatePurpose::Client, ..self }
    }

    fn with_legacy(self) -> Self {
        Self { legacy: true, ..self }
    }

    fn judge(&self) -> Result<(), CertificateError> {
        let is_anchor = |der: &&CertificateDer<'static>| {
            let parsed = PathCertificate::from_der(der, CertificateOrigin::TrustAnchor);
            self.trusts_intermediates || parsed.is_some_and(|parsed| parsed.is_self_signed())
        };
        let (anchors, others): (Vec<_>, Vec<_>) = self.trusted.iter().partition(is_anchor);
        let owned = |ders: Vec<&CertificateDer<'static>>| ders.into_iter().cloned().collect::<Vec<_>>();
        let context = PathContext {
            intermediates: &self.sent,
            anchors: &PathAnchors::new(&owned(anchors), &owned(others)),
            algorithms: rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all,
            purpose: self.purpose,
            accepts_legacy: self.legacy,
            now: UnixTime::since_unix_epoch(Duration::from_secs(NOW)),
            policies: InitialPolicies::default(),
        };
        verify(&self.leaf, &context).map(|_| ())
    }

    /// As mongod and drivers verify: without an evaluation of policies.
    fn judge_with_openssl(&self) -> Option<bool> {
        let purpose = match self.purpose {
            CertificatePurpose::Server => "sslserver",
            CertificatePurpose::Client => "sslclient",
        };
        let mut arguments = vec!["-purpose", purpose];
        arguments.extend(self.trusts_intermediates.then_some("-partial_chain"));
        let sent: Vec<&[u8]> = self.sent.iter().map(AsRef::as_ref).collect();
        let trusted: Vec<&[u8]> = self.trusted.iter().map(AsRef::as_ref).collect();
        openssl::accepts(&self.leaf, &sent, &trusted, NOW, &arguments)
    }
}

fn nothing(_: &mut CertificateParams) {}

/// Adds an extension `2.5.29.NUMBER`.
fn with(params: &mut CertificateParams, number: u64, critical: bool, content: Vec<u8>) {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, number], content);
    extension.set_criticality(critical);
    params.custom_extensions.push(extension);
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    der_value(0x30, &parts.concat())
}

/// The policy 1.2.3.NUMBER; `anyPolicy` for 0.
fn policy(number: u8) -> Vec<u8> {
    if number == 0 { vec![6, 4, 0x55, 0x1d, 0x20, 0] } else { vec![6, 3, 0x2a, 3, number] }
}

fn policies(numbers: &'static [u8]) -> impl Fn(&mut CertificateParams) {
    move |params| {
        let list: Vec<_> = numbers.iter().map(|number| sequence(&[policy(*number)])).collect();
        with(params, 32, true, sequence(&list));
    }
}

/// `policyConstraints` with `requireExplicitPolicy` or `inhibitPolicyMapping`.
fn constraint(tag: u8) -> impl Fn(&mut CertificateParams) {
    move |params| with(params, 36, true, sequence(&[vec![tag, 1, 0]]))
}

const EXPLICIT: u8 = 0x80;
const NO_MAPPING: u8 = 0x81;

fn inhibit_any(params: &mut CertificateParams) {
    with(params, 54, true, vec![2, 1, 0]);
}

fn mapping(from: u8, to: u8) -> impl Fn(&mut CertificateParams) {
    move |params| with(params, 33, true, sequence(&[sequence(&[policy(from), policy(to)])]))
}

fn all<'a>(changes: &'a [Change<'a>]) -> impl Fn(&mut CertificateParams) + 'a {
    move |params| changes.iter().for_each(|change| change(params))
}

const OTHER: u8 = 0xa0;
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const DIRECTORY: u8 = 0xa4;
const URI: u8 = 0x86;
const IP: u8 = 0x87;
const REGISTERED: u8 = 0x88;

const PERMITTED: u8 = 0xa0;
const EXCLUDED: u8 = 0xa1;

/// `nameConstraints` with one subtree.
fn subtree(list: u8, form: u8, base: &[u8]) -> impl Fn(&mut CertificateParams) + use<> {
    let content = sequence(&[der_value(list, &sequence(&[der_value(form, base)]))]);
    move |params| with(params, 30, true, content.clone())
}

/// A name with an organization.
fn organization(name: &str) -> Vec<u8> {
    let attribute = sequence(&[vec![6, 3, 0x55, 4, 10], der_value(12, name.as_bytes())]);
    sequence(&[der_value(0x31, &attribute)])
}

/// Replaces the names of a certificate.
fn names(list: &[(u8, &[u8])]) -> impl Fn(&mut CertificateParams) + use<> {
    let content = sequence(&list.iter().map(|(form, value)| der_value(*form, value)).collect::<Vec<_>>());
    move |params| {
        params.subject_alt_names.clear();
        with(params, 17, false, content.clone());
    }
}

/// A chain whose intermediate has one constraint, and whose leaf certificate has one name.
fn constrained(list: u8, form: u8, base: &[u8], name: &[u8]) -> Chain {
    Chain::new(&nothing, &subtree(list, form, base), &names(&[(form, name)]))
}

fn other_name() -> Vec<u8> {
    // 1.2.3, [0] UTF8String
    [vec![6, 2, 0x2a, 3], der_value(0xa0, &der_value(12, b"cart@acme.example"))].concat()
}

fn expired(params: &mut CertificateParams) {
    params.not_after = rcgen::date_time_ymd(2024, 2, 1);
}

fn early(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2090, 1, 1);
}

fn unknown(critical: bool) -> impl Fn(&mut CertificateParams) {
    move |params| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(critical);
        params.custom_extensions.push(extension);
    }
}

/// Adds `nsCertType`.
fn netscape(content: &'static [u8], critical: bool) -> impl Fn(&mut CertificateParams) {
    move |params| {
        let mut extension = CustomExtension::from_oid_content(&[2, 16, 840, 1, 113_730, 1, 1], content.to_vec());
        extension.set_criticality(critical);
        params.custom_extensions.push(extension);
    }
}

// `nsCertType` with one bit. The last one is damaged.
const NETSCAPE_CLIENT: &[u8] = &[3, 2, 7, 0x80];
const NETSCAPE_SERVER: &[u8] = &[3, 2, 6, 0x40];
const NETSCAPE_TLS_CA: &[u8] = &[3, 2, 2, 0x04];
const NETSCAPE_NOTHING: &[u8] = &[3, 1, 0];
const NETSCAPE_DAMAGED: &[u8] = &[5, 0];

/// `msSGC` and `nsSGC`
const SGC: [&[u64]; 2] = [&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3], &[2, 16, 840, 1, 113_730, 4, 1]];

fn other_purpose(oid: &'static [u64]) -> impl Fn(&mut CertificateParams) {
    move |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(oid.to_vec())]
}

/// A CA without `basicConstraints`.
fn unmarked_ca(params: &mut CertificateParams) {
    params.is_ca = IsCa::NoCa;
}

fn purposes(usages: &'static [ExtendedKeyUsagePurpose]) -> impl Fn(&mut CertificateParams) {
    move |params| params.extended_key_usages = usages.to_vec()
}

fn key_usages(usages: &'static [KeyUsagePurpose]) -> impl Fn(&mut CertificateParams) {
    move |params| params.key_usages = usages.to_vec()
}

/// A chain whose CA keys have this type.
fn keys(algorithm: &'static rcgen::SignatureAlgorithm) -> Chain {
    let root = CertificateAuthority::new_for(KeyPair::generate_for(algorithm).unwrap(), "Root");
    Chain::of(root.issue("mongo", &["mongo.example"]).der, &[], &[&root.der])
}

/// A chain with an intermediate that two roots signed, one of which has expired.
fn cross_signed() -> Chain {
    let (new, old) = (CertificateAuthority::new("New root"), CertificateAuthority::new_with("Old root", expired));
    let middle = old.intermediate("Middle");
    let again = new.cross_sign(&middle);
    let leaf = middle.issue("mongo", &["mongo.example"]).der;
    Chain::of(leaf, &[&middle.der, &again], &[&old.der, &new.der])
}

/// A root that was expired and renewed with the same key and name; the peer still sends the old one.
fn renewed_root() -> Chain {
    let new = CertificateAuthority::new("Root");
    let old = new.renewed(expired);
    Chain::of(new.issue("mongo", &["mongo.example"]).der, &[&old], &[&old, &new.der])
}

mod pss {
    use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, RsaPssSaltLength};
    use aws_lc_rs::signature::{RSA_PSS_SHA256, RSA_PSS_SHA512};

    use super::*;

    /// The parameters of RSASSA-PSS: the last byte of the SHA-2 digest's OID, and the salt's length.
    fn parameters(digest: u8, salt: u8) -> Vec<u8> {
        let digest = sequence(&[vec![6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, digest], vec![5, 0]]);
        let mask = sequence(&[vec![6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8], digest.clone()]);
        // A salt of more than 127 bytes needs a leading zero.
        let salt = if salt < 0x80 { vec![2, 1, salt] } else { vec![2, 2, 0, salt] };
        sequence(&[der_value(0xa0, &digest), der_value(0xa1, &mask), der_value(0xa2, &salt)])
    }

    fn identifier(parameters: &[u8]) -> Vec<u8> {
        sequence(&[vec![6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10], parameters.to_vec()])
    }

    /// `certificate` with another signature algorithm. With `key`, its own key gets these parameters of id-RSASSA-PSS.
    fn resigned(
        certificate: &CertificateDer<'_>,
        signer: &KeyPair,
        digest: u8,
        salt: u8,
        key: Option<&[u8]>,
    ) -> CertificateDer<'static> {
        let fields = der_children(der_parts(der_parts(certificate).0).0);
        let mut fields: Vec<Vec<u8>> = fields.into_iter().map(<[u8]>::to_vec).collect();
        let algorithm = identifier(&parameters(digest, salt));
        fields[2] = algorithm.clone();
        if let Some(key) = key {
            let bits = der_children(der_parts(&fields[6]).0)[1].to_vec();
            fields[6] = sequence(&[identifier(key), bits]);
        }
        let data = sequence(&fields);
        let encoding = if digest == 3 { RSA_PSS_SHA512 } else { RSA_PSS_SHA256 };
        let encoding = encoding.with_pss_salt_length(RsaPssSaltLength::Custom(salt.into()));
        let signer = RsaKeyPair::from_pkcs8(&signer.serialize_der()).unwrap();
        let mut signature = vec![0; signer.public_modulus_len()];
        signer.sign(encoding_of(encoding), &aws_lc_rs::rand::SystemRandom::new(), &data, &mut signature).unwrap();
        let bits = der_value(3, &[&[0], signature.as_slice()].concat());
        sequence(&[data, algorithm, bits]).into()
    }

    /// aws-lc-rs wants an encoding that lives for ever.
    fn encoding_of(
        encoding: aws_lc_rs::signature::RsaSignatureEncoding,
    ) -> &'static aws_lc_rs::signature::RsaSignatureEncoding {
        Box::leak(Box::new(encoding))
    }

    /// A root whose leaf certificate has a signature with this salt. `key` is as in [`resigned`], for the root.
    pub(super) fn chain(digest: u8, salt: u8, key: Option<&[u8]>) -> Chain {
        let root = CertificateAuthority::new_for(KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(), "Root");
        let leaf = root.issue("mongo", &["mongo.example"]).der;
        let anchor = resigned(&root.der, root.key(), digest, salt, key);
        Chain::of(resigned(&leaf, root.key(), digest, salt, None), &[], &[&anchor])
    }

    pub(super) fn restricted(digest: u8, least_salt: u8, salt: u8) -> Chain {
        chain(digest, salt, Some(&parameters(digest, least_salt)))
    }

    /// The parameters of the key name another digest than the signature.
    pub(super) fn other_digest() -> Chain {
        chain(1, 32, Some(&parameters(3, 32)))
    }
}

/// The certificate again with an extension twice.
fn twice(params: &mut CertificateParams) {
    policies(&[1])(params);
    policies(&[1])(params);
}

/// Every case: its name in the table, and the chain.
fn cases() -> Vec<(&'static str, Chain)> {
    let ca = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let no_ca = |params: &mut CertificateParams| params.is_ca = IsCa::NoCa;
    let flat = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let (root, acme) = (CertificateAuthority::new("Root"), organization("Acme"));
    let middle = root.intermediate("Middle");
    let leaf = || middle.issue("mongo", &["mongo.example"]).der;
    let one = policies(&[1]);
    let explicit = constraint(EXPLICIT);
    let required = |params: &mut CertificateParams| all(&[&one, &explicit])(params);
    let any_required = |params: &mut CertificateParams| all(&[&one, &explicit, &inhibit_any])(params);
    let map = mapping(1, 2);
    let mapped = |params: &mut CertificateParams| all(&[&one, &explicit, &map])(params);
    let no_mapping = constraint(NO_MAPPING);
    let old_anchor = CertificateAuthority::new_version_1("Old root");
    let self_signed = CertificateAuthority::new_with("mongo", no_ca);
    let authority = CertificateAuthority::new("mongo");
    let upper_case = CertificateAuthority::new("ROOT  ca");
    let lower_case = upper_case.renamed("Root CA");
    vec![
        // Certificate policies.
        ("critical certificatePolicies in the leaf certificate", Chain::new(&nothing, &nothing, &one)),
        ("critical certificatePolicies in every certificate", Chain::new(&one, &one, &one)),
        ("critical policyConstraints, and one policy in the whole chain", Chain::new(&nothing, &required, &one)),
        (
            "critical policyConstraints, and a leaf certificate without a policy",
            Chain::new(&nothing, &required, &nothing),
        ),
        (
            "critical policyConstraints, and a leaf certificate with another policy",
            Chain::new(&nothing, &required, &policies(&[2])),
        ),
        ("critical policyConstraints in the trust anchor, and no policy", Chain::new(&explicit, &nothing, &nothing)),
        ("critical inhibitAnyPolicy, and one policy in the whole chain", Chain::new(&nothing, &any_required, &one)),
        (
            "critical inhibitAnyPolicy with policyConstraints, and a leaf certificate with anyPolicy",
            Chain::new(&nothing, &any_required, &policies(&[0])),
        ),
        (
            "critical policyMappings to the policy of the leaf certificate",
            Chain::new(&nothing, &mapped, &policies(&[2])),
        ),
        ("critical policyMappings from the policy of the leaf certificate", Chain::new(&nothing, &mapped, &one)),
        ("critical policyMappings below inhibitPolicyMapping, and an explicit policy", {
            let root = CertificateAuthority::new("Root");
            let upper = root.intermediate_with("Upper", all(&[&one, &no_mapping]));
            let middle = upper.intermediate_with("Middle", mapped);
            let leaf = middle.issue_with("mongo", &["mongo.example"], policies(&[2])).der;
            Chain::of(leaf, &[&upper.der, &middle.der], &[&root.der])
        }),
        ("policyMappings to anyPolicy", Chain::new(&nothing, &all(&[&one, &mapping(1, 0)]), &one)),
        // Name constraints.
        ("nameConstraints: DNS name permitted", constrained(PERMITTED, DNS, b"example", b"mongo.example")),
        ("nameConstraints: DNS name not permitted", constrained(PERMITTED, DNS, b"example", b"mongo.test")),
        ("nameConstraints: DNS name excluded", constrained(EXCLUDED, DNS, b"example", b"mongo.example")),
        (
            "nameConstraints: DNS name that only ends like an excluded one",
            constrained(EXCLUDED, DNS, b"example", b"mongoexample"),
        ),
        (
            "nameConstraints: wildcard that stands for an excluded DNS name",
            constrained(EXCLUDED, DNS, b"a.mongo.example", b"*.mongo.example"),
        ),
        (
            "nameConstraints: IP address permitted",
            constrained(PERMITTED, IP, &[10, 0, 0, 0, 255, 0, 0, 0], &[10, 1, 2, 3]),
        ),
        (
            "nameConstraints: IP address not permitted",
            constrained(PERMITTED, IP, &[10, 0, 0, 0, 255, 0, 0, 0], &[11, 1, 2, 3]),
        ),
        (
            "nameConstraints: IP address excluded",
            constrained(EXCLUDED, IP, &[10, 0, 0, 0, 255, 0, 0, 0], &[10, 1, 2, 3]),
        ),
        (
            "nameConstraints: IPv6 address, and IPv4 addresses permitted",
            constrained(PERMITTED, IP, &[10, 0, 0, 0, 255, 0, 0, 0], &[0; 16]),
        ),
        (
            "nameConstraints: e-mail address permitted",
            constrained(PERMITTED, EMAIL, b"acme.example", b"dba@acme.example"),
        ),
        (
            "nameConstraints: e-mail address not permitted",
            constrained(PERMITTED, EMAIL, b"acme.example", b"dba@mail.acme.example"),
        ),
        (
            "nameConstraints: e-mail address excluded",
            constrained(EXCLUDED, EMAIL, b".acme.example", b"dba@mail.acme.example"),
        ),
        (
            "nameConstraints: SPIFFE ID of the permitted trust domain",
            constrained(PERMITTED, URI, b"cluster.local", b"spiffe://cluster.local/ns/shop/sa/cart").of_client(),
        ),
        (
            "nameConstraints: SPIFFE ID of another trust domain",
            constrained(PERMITTED, URI, b"cluster.local", b"spiffe://other.local/ns/shop/sa/cart").of_client(),
        ),
        (
            "nameConstraints: SPIFFE ID of an excluded trust domain",
            constrained(EXCLUDED, URI, b"cluster.local", b"spiffe://cluster.local/ns/shop/sa/cart").of_client(),
        ),
        (
            "nameConstraints: URI below a permitted domain",
            constrained(PERMITTED, URI, b".example", b"https://mongo.example/x"),
        ),
        (
            "nameConstraints: URI with a user before the permitted host",
            constrained(PERMITTED, URI, b"cluster.local", b"spiffe://a@cluster.local/x"),
        ),
        ("nameConstraints: URI without a host", constrained(EXCLUDED, URI, b"cluster.local", b"urn:uuid:1")),
        ("nameConstraints: subject permitted", Chain::new(&nothing, &subtree(PERMITTED, DIRECTORY, &acme), &nothing)),
        (
            "nameConstraints: subject not permitted",
            Chain::new(&nothing, &subtree(PERMITTED, DIRECTORY, &organization("Other")), &nothing),
        ),
        ("nameConstraints: subject excluded", Chain::new(&nothing, &subtree(EXCLUDED, DIRECTORY, &acme), &nothing)),
        (
            "nameConstraints: directory name among the names excluded",
            Chain::new(
                &nothing,
                &subtree(EXCLUDED, DIRECTORY, &organization("Other")),
                &names(&[(DIRECTORY, &organization("OTHER"))]),
            ),
        ),
        (
            "nameConstraints of the trust anchor: DNS name not permitted",
            Chain::new(&subtree(PERMITTED, DNS, b"test"), &nothing, &nothing),
        ),
        (
            "nameConstraints of another form than the names",
            Chain::new(&nothing, &subtree(PERMITTED, EMAIL, b"acme.example"), &nothing),
        ),
        (
            "nameConstraints: otherName, and a leaf certificate with one",
            constrained(EXCLUDED, OTHER, &other_name(), &other_name()),
        ),
        (
            "nameConstraints: otherName, and a leaf certificate without one",
            Chain::new(&nothing, &subtree(EXCLUDED, OTHER, &other_name()), &nothing),
        ),
        (
            "nameConstraints: registeredID, and a leaf certificate with one",
            constrained(PERMITTED, REGISTERED, &[0x2a, 3], &[0x2a, 3]),
        ),
        // Other extensions.
        ("unknown critical extension in the leaf certificate", Chain::new(&nothing, &nothing, &unknown(true))),
        ("unknown critical extension in an intermediate", Chain::new(&nothing, &unknown(true), &nothing)),
        ("unknown extension that is not critical", Chain::new(&unknown(false), &unknown(false), &unknown(false))),
        ("an extension twice", Chain::new(&nothing, &nothing, &twice)),
        (
            "extendedKeyUsage of a server in the chain",
            Chain::new(
                &nothing,
                &purposes(&[ExtendedKeyUsagePurpose::ServerAuth]),
                &purposes(&[ExtendedKeyUsagePurpose::ServerAuth]),
            ),
        ),
        (
            "extendedKeyUsage of clients in a server's certificate",
            Chain::new(&nothing, &nothing, &purposes(&[ExtendedKeyUsagePurpose::ClientAuth])),
        ),
        (
            "extendedKeyUsage of clients in the intermediate of a server",
            Chain::new(&nothing, &purposes(&[ExtendedKeyUsagePurpose::ClientAuth]), &nothing),
        ),
        (
            "extendedKeyUsage of servers in a client's certificate",
            Chain::new(&nothing, &nothing, &purposes(&[ExtendedKeyUsagePurpose::ServerAuth])).of_client(),
        ),
        (
            "extendedKeyUsage anyExtendedKeyUsage",
            Chain::new(&nothing, &nothing, &purposes(&[ExtendedKeyUsagePurpose::Any])),
        ),
        ("extendedKeyUsage msSGC in a server's certificate", Chain::new(&nothing, &nothing, &other_purpose(SGC[0]))),
        ("extendedKeyUsage nsSGC in a server's certificate", Chain::new(&nothing, &nothing, &other_purpose(SGC[1]))),
        (
            "extendedKeyUsage msSGC in the intermediate of a server",
            Chain::new(&nothing, &other_purpose(SGC[0]), &nothing),
        ),
        (
            "extendedKeyUsage msSGC in a client's certificate",
            Chain::new(&nothing, &nothing, &other_purpose(SGC[0])).of_client(),
        ),
        (
            "nsCertType server in a server's certificate",
            Chain::new(&nothing, &nothing, &netscape(NETSCAPE_SERVER, false)),
        ),
        (
            "critical nsCertType server in a server's certificate",
            Chain::new(&nothing, &nothing, &netscape(NETSCAPE_SERVER, true)),
        ),
        (
            "nsCertType client in a server's certificate",
            Chain::new(&nothing, &nothing, &netscape(NETSCAPE_CLIENT, false)),
        ),
        (
            "nsCertType client in a client's certificate",
            Chain::new(&nothing, &nothing, &netscape(NETSCAPE_CLIENT, false)).of_client(),
        ),
        (
            "nsCertType server in a client's certificate",
            Chain::new(&nothing, &nothing, &netscape(NETSCAPE_SERVER, false)).of_client(),
        ),
        (
            "nsCertType without a value in a server's certificate",
            Chain::new(&nothing, &nothing, &netscape(NETSCAPE_NOTHING, false)),
        ),
        (
            "nsCertType that is damaged in a server's certificate",
            Chain::new(&nothing, &nothing, &netscape(NETSCAPE_DAMAGED, false)),
        ),
        (
            "nsCertType client in an intermediate with CA:TRUE",
            Chain::new(&nothing, &netscape(NETSCAPE_CLIENT, false), &nothing),
        ),
        (
            "an intermediate with nsCertType sslCA, without basicConstraints",
            Chain::new(&nothing, &all(&[&unmarked_ca, &netscape(NETSCAPE_TLS_CA, false)]), &nothing),
        ),
        (
            "an intermediate with keyUsage keyCertSign, without basicConstraints",
            Chain::new(&nothing, &all(&[&unmarked_ca, &key_usages(&[KeyUsagePurpose::KeyCertSign])]), &nothing),
        ),
        (
            "keyUsage digitalSignature in the leaf certificate",
            Chain::new(&nothing, &nothing, &key_usages(&[KeyUsagePurpose::DigitalSignature])),
        ),
        (
            "keyUsage keyEncipherment in a server's certificate",
            Chain::new(&nothing, &nothing, &key_usages(&[KeyUsagePurpose::KeyEncipherment])),
        ),
        (
            "keyUsage keyEncipherment in a client's certificate",
            Chain::new(&nothing, &nothing, &key_usages(&[KeyUsagePurpose::KeyEncipherment])).of_client(),
        ),
        (
            "keyUsage cRLSign only in the leaf certificate",
            Chain::new(&nothing, &nothing, &key_usages(&[KeyUsagePurpose::CrlSign])),
        ),
        (
            "keyUsage without keyCertSign in an intermediate",
            Chain::new(&nothing, &key_usages(&[KeyUsagePurpose::CrlSign]), &nothing),
        ),
        ("an intermediate that is no CA", Chain::new(&nothing, &no_ca, &nothing)),
        ("a path that is longer than pathLenConstraint", Chain::new(&flat, &nothing, &nothing)),
        ("a path as long as pathLenConstraint", Chain::new(&nothing, &flat, &nothing)),
        ("a leaf certificate that is a CA", Chain::new(&nothing, &nothing, &ca)),
        // Dates and trust anchors.
        ("expired leaf certificate", Chain::new(&nothing, &nothing, &expired)),
        ("expired intermediate", Chain::new(&nothing, &expired, &nothing)),
        ("expired trust anchor", Chain::new(&expired, &nothing, &nothing)),
        ("leaf certificate that is not valid yet", Chain::new(&nothing, &nothing, &early)),
        ("intermediate that is not valid yet", Chain::new(&nothing, &early, &nothing)),
        ("trust anchor that is not valid yet", Chain::new(&early, &nothing, &nothing)),
        ("intermediate signed by an expired and by a valid trust anchor", cross_signed()),
        ("expired trust anchor next to its renewal with the same key", renewed_root()),
        ("intermediate in ca_file without its root", Chain::of(leaf(), &[], &[&middle.der])),
        (
            "intermediate in ca_file without its root, with partial_chain",
            Chain::of(leaf(), &[], &[&middle.der]).with_partial_chain(),
        ),
        ("intermediate in ca_file that the peer does not send", Chain::of(leaf(), &[], &[&middle.der, &root.der])),
        ("expired intermediate in ca_file, with partial_chain", {
            let middle = root.intermediate_with("Middle", expired);
            Chain::of(middle.issue("mongo", &["mongo.example"]).der, &[], &[&middle.der]).with_partial_chain()
        }),
        ("chain without its intermediate", Chain::of(leaf(), &[], &[&root.der])),
        (
            "issuer with the right name and another key",
            Chain::of(leaf(), &[&CertificateAuthority::new("Middle").der], &[&root.der]),
        ),
        (
            "issuer's name in other letters and spaces",
            Chain::of(lower_case.issue("mongo", &["mongo.example"]).der, &[], &[&upper_case.der]),
        ),
        (
            "self-signed leaf certificate in ca_file, no CA",
            Chain::of(self_signed.der.clone(), &[], &[&self_signed.der]),
        ),
        ("self-signed leaf certificate in ca_file, a CA", Chain::of(authority.der.clone(), &[], &[&authority.der])),
        (
            "self-signed leaf certificate in ca_file, a CA, with legacy_certificates",
            Chain::of(authority.der.clone(), &[], &[&authority.der]).with_legacy(),
        ),
        ("version 1 leaf certificate", Chain::of(root.issue_version_1("mongo").der, &[], &[&root.der])),
        (
            "version 1 leaf certificate, with legacy_certificates",
            Chain::of(root.issue_version_1("mongo").der, &[], &[&root.der]).with_legacy(),
        ),
        (
            "version 1 trust anchor",
            Chain::of(old_anchor.issue("mongo", &["mongo.example"]).der, &[], &[&old_anchor.der]),
        ),
        // Algorithms.
        ("ECDSA P-256", keys(&PKCS_ECDSA_P256_SHA256)),
        ("ECDSA P-384", keys(&PKCS_ECDSA_P384_SHA384)),
        ("ECDSA P-521", keys(&rcgen::PKCS_ECDSA_P521_SHA512)),
        ("Ed25519", keys(&PKCS_ED25519)),
        ("RSASSA-PSS, SHA-256, salt of 20 bytes", pss::chain(1, 20, None)),
        ("RSASSA-PSS, SHA-256, salt of 32 bytes", pss::chain(1, 32, None)),
        ("RSASSA-PSS, SHA-256, longest salt", pss::chain(1, 222, None)),
        ("RSASSA-PSS, SHA-256, no salt", pss::chain(1, 0, None)),
        ("RSASSA-PSS, SHA-512, salt of 20 bytes", pss::chain(3, 20, None)),
        ("key of type id-RSASSA-PSS without parameters", pss::chain(1, 20, Some(&[]))),
        ("key of type id-RSASSA-PSS with parameters", pss::restricted(1, 20, 32)),
        ("key of type id-RSASSA-PSS whose parameters need a longer salt", pss::restricted(1, 32, 20)),
        ("key of type id-RSASSA-PSS whose parameters need another digest", pss::other_digest()),
    ]
}

/// The rows of the table: case, the gateway's judgement, OpenSSL's.
fn rows() -> Vec<[&'static str; 3]> {
    let (_, section) = PAGE.split_once("### What is accepted, next to OpenSSL").unwrap();
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(2);
    rows.map(|row| row.split('|').map(str::trim).skip(1).take(3).collect::<Vec<_>>().try_into().unwrap()).collect()
}

#[test]
fn the_table_of_the_page_is_right() {
    let text = |is_accepted: bool| if is_accepted { "accepted" } else { "rejected" };
    let (cases, mut found) = (cases(), Vec::new());
    let listed = rows();
    for (index, (name, chain)) in cases.iter().enumerate() {
        let own = text(chain.judge().is_ok());
        // Without openssl only the gateway's column is tested.
        let openssl = match (chain.judge_with_openssl(), listed.get(index)) {
            (Some(openssl), _) => text(openssl),
            (None, row) => row.map_or("", |row| row[2]),
        };
        found.push([*name, own, openssl]);
    }
    let table: Vec<_> = found.iter().map(|row| format!("| {} | |", row.join(" | "))).collect();
    assert_eq!(listed, found, "the table should be:\n{}", table.join("\n"));
}

#[test]
fn each_rejection_says_why() {
    for (name, part) in [
        ("critical policyConstraints, and a leaf certificate without a policy", "requires a certificate policy"),
        ("nameConstraints: subject excluded", "the name constraints of the issuer CN=Middle,O=Acme do not permit"),
        (
            "unknown critical extension in an intermediate",
            "CN=Middle,O=Acme has a critical extension that is not supported (1.2.3.4)",
        ),
        ("keyUsage cRLSign only in the leaf certificate", "keyUsage"),
        ("nsCertType client in a server's certificate", "nsCertType"),
        ("nsCertType server in a client's certificate", "nsCertType"),
        ("a leaf certificate that is a CA", "CA certificate"),
        ("version 1 leaf certificate", "version 1"),
    ] {
        let cases = cases();
        let (_, chain) = cases.iter().find(|(known, _)| *known == name).unwrap();
        let error = chain.judge().unwrap_err();
        let defect = super::super::CertificateDefect::of(&error).unwrap_or_else(|| panic!("{name}: {error:?}"));
        assert!(defect.to_string().contains(part), "{name}: {defect}");
    }
}
