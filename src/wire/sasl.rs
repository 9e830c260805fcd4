//! Reads the user name from the message that begins a client's authentication.
//!
//! The name is a claim of the client, not proven. Other parts of the message, such as a password, are read only as far
//! as needed to find the name, and never kept.
//!
//! Spec: RFC 5802 § 7 (SCRAM), RFC 4616 § 2 (PLAIN); mongodb/specifications `source/auth/auth.md`.

use bson::RawDocument;
use bson::raw::RawBsonRef;

use crate::wire::hello;

/// The longest name that is kept, in characters. mongod has no limit, but the name is written to log lines.
const NAME_CHARACTERS_MAX: usize = 256;

/// All mechanisms of MongoDB.
const MECHANISMS: [&str; 7] =
    ["SCRAM-SHA-1", "SCRAM-SHA-256", "MONGODB-X509", "PLAIN", "GSSAPI", "MONGODB-AWS", "MONGODB-OIDC"];

/// The user that a client claims to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaslUser {
    /// For example `SCRAM-SHA-256`; `other` for every mechanism that MongoDB does not have.
    pub mechanism: &'static str,
    /// `None` if the mechanism has no user name in its first message.
    pub user: Option<String>,
    /// Authentication database of the user, for example `admin`.
    pub database: String,
}

/// Whether `command` is one that begins an authentication. A hello can begin one too, and is not included here.
pub fn begins(command: &[u8]) -> bool {
    matches!(command, b"saslStart" | b"authenticate")
}

/// Whether a client authenticates with something of its own that mongod verifies, such as a password: with this
/// `saslStart`, or as this hello announces. X.509 and tokens are not among that, because they end at the gateway.
pub fn brings_own_credential(command: &RawDocument) -> bool {
    let Some(Ok((name, _))) = command.iter().next() else { return false };
    match name.as_str() {
        "saslStart" => names_own_mechanism(command),
        name if hello::is_hello(name.as_bytes()) => {
            // A driver asks for the mechanisms of a user only if it has a password for it.
            let asks = matches!(command.get("saslSupportedMechs"), Ok(Some(_)));
            asks || command.get_document("speculativeAuthenticate").is_ok_and(names_own_mechanism)
        }
        _ => false,
    }
}

/// Whether mongod would go by the certificate of the connection after this hello: it begins an authentication with it,
/// or says that the client is a server.
pub fn relies_on_certificate(hello: &RawDocument) -> bool {
    hello.iter().any(|element| match element {
        Ok((name, value)) => match name.as_str() {
            "speculativeAuthenticate" => !value.as_document().is_some_and(names_own_mechanism),
            name => matches!(name, "internalClient" | "hostInfo"),
        },
        Err(_) => true,
    })
}

/// Whether `command` is a `saslStart` with one mechanism, neither X.509 nor tokens.
fn names_own_mechanism(command: &RawDocument) -> bool {
    let is_start = command.iter().next().is_some_and(|first| first.is_ok_and(|(name, _)| name.as_str() == "saslStart"));
    let mut mechanisms =
        command.iter().filter(|element| element.as_ref().map_or(true, |(name, _)| name.as_str() == "mechanism"));
    let (Some(Ok((_, RawBsonRef::String(mechanism)))), None) = (mechanisms.next(), mechanisms.next()) else {
        return false;
    };
    is_start && !matches!(mechanism, "MONGODB-X509" | "MONGODB-OIDC")
}

/// The user whose authentication this command begins: `saslStart`, `authenticate`, or a hello that contains one of
/// them.
pub fn user_of(command: &RawDocument) -> Option<SaslUser> {
    let (name, _) = command.iter().next()?.ok()?;
    if begins(name.as_str().as_bytes()) {
        return named_in(command, "$db");
    }
    if hello::is_hello(name.as_str().as_bytes()) {
        return named_in(command.get_document("speculativeAuthenticate").ok()?, "db");
    }
    None
}

fn named_in(command: &RawDocument, database: &str) -> Option<SaslUser> {
    let (name, _) = command.iter().next()?.ok()?;
    let mechanism = command.get_str("mechanism").unwrap_or_default();
    let user = match name.as_str() {
        "authenticate" => command.get_str("user").ok().map(ToOwned::to_owned),
        "saslStart" => payload(command).and_then(|payload| name_in_payload(mechanism, payload)),
        _ => return None,
    };
    Some(SaslUser {
        mechanism: known(mechanism),
        user: user.filter(|user| !user.is_empty()).map(|user| cut(&user)),
        database: cut(command.get_str(database).unwrap_or_default()),
    })
}

fn payload(command: &RawDocument) -> Option<&[u8]> {
    match command.get("payload").ok()?? {
        RawBsonRef::Binary(payload) => Some(payload.bytes),
        _ => None,
    }
}

fn name_in_payload(mechanism: &str, payload: &[u8]) -> Option<String> {
    match mechanism {
        "SCRAM-SHA-1" | "SCRAM-SHA-256" => scram_name(payload),
        "PLAIN" => plain_name(payload),
        _ => None,
    }
}

/// `n,a=authzid,n=name,r=nonce`: the GS2 header has two parts, and the second may contain an authorization identity.
/// Attributes follow.
fn scram_name(payload: &[u8]) -> Option<String> {
    let mut attributes = payload.split(|byte| *byte == b',').skip(2);
    let name = attributes.find_map(|attribute| attribute.strip_prefix(b"n="))?;
    // In a name, a comma is encoded as `=2C` and an equals sign as `=3D`.
    Some(String::from_utf8_lossy(name).replace("=2C", ",").replace("=3D", "="))
}

/// Authorization identity, NUL, name, NUL, password. The first may be empty.
fn plain_name(payload: &[u8]) -> Option<String> {
    let mut parts = payload.splitn(3, |byte| *byte == 0);
    let (authorization, name, _password) = (parts.next()?, parts.next()?, parts.next()?);
    let name = if authorization.is_empty() { name } else { authorization };
    Some(String::from_utf8_lossy(name).into_owned())
}

fn known(mechanism: &str) -> &'static str {
    MECHANISMS.into_iter().find(|known| *known == mechanism).unwrap_or("other")
}

fn cut(text: &str) -> String {
    text.chars().take(NAME_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use bson::spec::BinarySubtype;
    use bson::{Binary, Document, RawDocumentBuf, doc};
    use proptest::prelude::*;

    use super::*;

    fn raw(command: &Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(command).unwrap()
    }

    #[test]
    fn passwords_are_told_from_certificates_and_tokens() {
        let hello = |name: &str, field: &str, value: Document| {
            let mut hello = doc! { name: 1, "helloOk": true };
            hello.insert(field, value);
            hello
        };
        let speculating = |inner: Document| hello("hello", "speculativeAuthenticate", inner);
        let x509 = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "db": "$external" };
        for (command, expected) in [
            (start("SCRAM-SHA-256", b""), true),
            (start("SCRAM-SHA-1", b""), true),
            (start("PLAIN", b""), true),
            (start("MONGODB-AWS", b""), true),
            (start("MONGODB-X509", b""), false),
            (start("MONGODB-OIDC", b""), false),
            (doc! { "saslStart": 1, "mechanism": 5 }, false),
            (doc! { "saslContinue": 1, "mechanism": "PLAIN" }, false),
            (x509.clone(), false),
            (doc! { "hello": 1 }, false),
            (doc! { "isMaster": 1, "saslSupportedMechs": "admin.alice" }, true),
            (speculating(start("SCRAM-SHA-256", b"")), true),
            (speculating(start("MONGODB-OIDC", b"")), false),
            (speculating(x509), false),
            (doc! { "ping": 1, "saslSupportedMechs": "admin.alice" }, false),
            (doc! {}, false),
        ] {
            assert_eq!(brings_own_credential(&raw(&command)), expected, "{command}");
        }
    }

    fn start(mechanism: &str, payload: &[u8]) -> Document {
        let payload = Binary { subtype: BinarySubtype::Generic, bytes: payload.to_vec() };
        doc! { "saslStart": 1, "mechanism": mechanism, "payload": payload, "$db": "admin" }
    }

    fn name(mechanism: &str, payload: &[u8]) -> Option<String> {
        let found = user_of(&raw(&start(mechanism, payload))).unwrap();
        assert_eq!((found.mechanism, found.database.as_str()), (mechanism, "admin"));
        found.user
    }

    #[test]
    fn the_name_is_read_from_the_first_message_of_each_mechanism() {
        for (mechanism, payload, expected) in [
            ("SCRAM-SHA-256", &b"n,,n=alice,r=rOprNGfwEbeRWgbN"[..], Some("alice")),
            ("SCRAM-SHA-1", b"n,,n=a=2Cb=3Dc=3D2C,r=x", Some("a,b=c=2C")),
            ("SCRAM-SHA-256", b"y,a=root,n=alice,r=x", Some("alice")),
            ("SCRAM-SHA-256", b"p=tls-unique,,m=1,n=alice,r=x", Some("alice")),
            ("SCRAM-SHA-256", b"n,,r=n=alice", None),
            ("SCRAM-SHA-256", b"n=alice", None),
            ("SCRAM-SHA-256", b"n,,n=,r=x", None),
            ("SCRAM-SHA-256", b"", None),
            ("SCRAM-SHA-256", b"n,,n=\xff\xfe,r=x", Some("\u{fffd}\u{fffd}")),
            ("PLAIN", b"\0alice\0secret", Some("alice")),
            ("PLAIN", b"boss\0alice\0secret", Some("boss")),
            ("PLAIN", b"alice\0secret", None),
            ("PLAIN", b"secret", None),
            ("PLAIN", b"\0\0secret", None),
            ("PLAIN", b"\0alice\0sec\0ret", Some("alice")),
            ("GSSAPI", b"n,,n=alice,r=x", None),
            ("MONGODB-AWS", b"\0alice\0secret", None),
        ] {
            assert_eq!(name(mechanism, payload).as_deref(), expected, "{mechanism} {payload:?}");
        }
        assert_eq!(name("SCRAM-SHA-256", b"n,,n=a=2Cb,r=x").as_deref(), Some("a,b"));
    }

    #[test]
    fn a_hello_and_authenticate_begin_an_authentication_too() {
        let x509 = |user: Option<&str>| SaslUser {
            mechanism: "MONGODB-X509",
            user: user.map(ToOwned::to_owned),
            database: "$external".to_owned(),
        };
        let authenticate =
            doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "user": "CN=a,O=b", "$db": "$external" };
        assert_eq!(user_of(&raw(&authenticate)), Some(x509(Some("CN=a,O=b"))));
        let mut inner = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "db": "$external" };
        for command in ["hello", "isMaster", "ismaster"] {
            let hello = doc! { command: 1, "speculativeAuthenticate": inner.clone(), "$db": "admin" };
            assert_eq!(user_of(&raw(&hello)), Some(x509(None)));
        }
        inner = start("SCRAM-SHA-256", b"n,,n=alice,r=x");
        inner.insert("db", "shop");
        let hello = doc! { "hello": 1, "speculativeAuthenticate": inner, "$db": "admin" };
        let found = user_of(&raw(&hello)).unwrap();
        assert_eq!((found.user.as_deref(), found.database.as_str()), (Some("alice"), "shop"));
    }

    #[test]
    fn an_unknown_mechanism_is_reported_as_other() {
        let found = user_of(&raw(&start("my secret", b"n,,n=alice,r=x"))).unwrap();
        assert_eq!((found.mechanism, found.user), ("other", None));
    }

    #[test]
    fn other_commands_have_no_user() {
        for command in [
            doc! { "hello": 1, "$db": "admin" },
            doc! { "hello": 1, "speculativeAuthenticate": "alice", "$db": "admin" },
            doc! { "hello": 1, "speculativeAuthenticate": { "find": 1, "user": "alice" }, "$db": "admin" },
            doc! { "find": "orders", "user": "alice", "$db": "shop" },
            doc! { "saslContinue": 1, "payload": "n,,n=alice,r=x", "$db": "admin" },
            doc! {},
        ] {
            assert_eq!(user_of(&raw(&command)), None, "{command}");
        }
    }

    #[test]
    fn a_long_name_is_truncated_and_the_password_is_not_kept() {
        let long = format!("n,,n={},r=x", "é".repeat(10_000));
        assert_eq!(name("SCRAM-SHA-256", long.as_bytes()).unwrap().chars().count(), NAME_CHARACTERS_MAX);
        let found = user_of(&raw(&start("PLAIN", b"\0alice\0secret"))).unwrap();
        assert!(!format!("{found:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn any_payload_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for mechanism in ["SCRAM-SHA-1", "SCRAM-SHA-256", "PLAIN", "GSSAPI"] {
                let _ = name(mechanism, &bytes);
            }
        }

        #[test]
        fn a_damaged_command_is_read_without_panic(at in 4_usize..100, byte: u8) {
            let mut bytes = raw(&start("SCRAM-SHA-256", b"n,,n=alice,r=x")).into_bytes();
            if let Some(damaged) = bytes.get_mut(at) {
                *damaged = byte;
            }
            if let Ok(damaged) = RawDocument::from_bytes(&bytes) {
                let _ = user_of(damaged);
            }
        }
    }
}
