//! MONGODB-OIDC: reads the messages of a client that authenticates with a token, and builds the replies.
//!
//! Knows the form of the messages only. Whether a token is valid is decided elsewhere, and no error repeats the token.
//!
//! Spec: mongodb/specifications `source/auth/auth.md` § MONGODB-OIDC; the forms of the drivers are in the tests.

use std::fmt;

use bson::raw::RawBsonRef;
use bson::spec::BinarySubtype;
use bson::{Binary, RawArrayBuf, RawDocument, RawDocumentBuf, rawdoc};

use crate::wire::error_reply::CommandError;

/// The name of the mechanism.
pub const MECHANISM: &str = "MONGODB-OIDC";

/// The id of every conversation: a connection has one at a time. Drivers demand a 32-bit integer.
const CONVERSATION: i32 = 1;

/// The longest payload in bytes: the longest token, and room for fields that later drivers may add.
const PAYLOAD_BYTES_MAX: usize = 32 * 1024;

/// What a `saslStart` begins. Its `Debug` does not show the token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SaslStart<'a> {
    /// An authentication with this token.
    Token(&'a str),
    /// A client with a person in front of it asks where the person can log in.
    PrincipalRequest,
    /// An authentication with another mechanism.
    OtherMechanism,
}

/// What a hello has in `speculativeAuthenticate`. Its `Debug` does not show the token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Speculation<'a> {
    /// There is no such field.
    Absent,
    /// A token, as in a `saslStart`.
    Token(&'a str),
    /// Another mechanism.
    OtherMechanism,
    /// Something that begins no authentication: it is not answered, and the driver sends a `saslStart`.
    Unusable,
}

impl fmt::Debug for SaslStart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::PrincipalRequest => "PrincipalRequest",
            Self::OtherMechanism => "OtherMechanism",
        })
    }
}

impl fmt::Debug for Speculation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "Absent",
            Self::Token(_) => "Token",
            Self::OtherMechanism => "OtherMechanism",
            Self::Unusable => "Unusable",
        })
    }
}

/// Why a message of the mechanism is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OidcError {
    /// The command, or the document in its payload, is not valid BSON.
    #[error("the command or its payload is not valid BSON")]
    Malformed,
    /// A field occurs twice, so that two readers could read two values.
    #[error("the field {0} occurs twice")]
    Twice(&'static str),
    /// The payload is missing, or is not binary data.
    #[error("payload must be binary data of subtype 0")]
    Payload,
    /// The payload is longer than any token.
    #[error("payload has more than {PAYLOAD_BYTES_MAX} bytes")]
    TooLong,
    /// The token is missing, or is not a string.
    #[error("the payload has no string jwt")]
    NoToken,
    /// A `saslContinue` without an open conversation, or with the id of another one.
    #[error("there is no conversation to continue; begin with saslStart")]
    NoConversation,
}

/// Where a person can log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityProvider {
    /// The issuer, from which drivers find its endpoints.
    pub issuer: String,
    /// The id of the application at the issuer.
    pub client_id: Option<String>,
    /// What a driver asks the issuer for.
    pub request_scopes: Vec<String>,
}

/// Reads a `saslStart`.
///
/// Fields that it does not know are accepted: drivers add `options`, `autoAuthorize`, `maxTimeMS`, `$readPreference`,
/// `$clusterTime` and those of the Stable API.
pub fn start(command: &RawDocument) -> Result<SaslStart<'_>, OidcError> {
    let [mechanism, payload] = fields(command, ["mechanism", "payload"])?;
    match mechanism {
        Some(RawBsonRef::String(MECHANISM)) => {}
        // What has a name of another mechanism, or none, is for mongod, which says what is wrong with it.
        _ => return Ok(SaslStart::OtherMechanism),
    }
    match token(payload)? {
        Some(token) => Ok(SaslStart::Token(token)),
        None => Ok(SaslStart::PrincipalRequest),
    }
}

/// The token in the `saslContinue` that ends a conversation of two steps.
pub fn continuation(command: &RawDocument) -> Result<&str, OidcError> {
    let [id, payload] = fields(command, ["conversationId", "payload"])?;
    let is_open = match id {
        Some(RawBsonRef::Int32(id)) => id == CONVERSATION,
        Some(RawBsonRef::Int64(id)) => id == i64::from(CONVERSATION),
        _ => false,
    };
    if !is_open {
        return Err(OidcError::NoConversation);
    }
    token(payload)?.ok_or(OidcError::NoToken)
}

/// Reads `speculativeAuthenticate` of a hello.
pub fn speculation(hello: &RawDocument) -> Speculation<'_> {
    match fields(hello, ["speculativeAuthenticate"]) {
        Ok([None]) => Speculation::Absent,
        Ok([Some(RawBsonRef::Document(inner))]) => speculated(inner),
        Ok([Some(_)]) | Err(_) => Speculation::Unusable,
    }
}

fn speculated(inner: &RawDocument) -> Speculation<'_> {
    match inner.iter().next() {
        Some(Ok((name, _))) if name.as_str() == "saslStart" => {}
        Some(Ok((name, _))) if name.as_str() == "authenticate" => return Speculation::OtherMechanism,
        // It may have a token behind its first field.
        _ => return Speculation::Unusable,
    }
    match start(inner) {
        Ok(SaslStart::Token(token)) => Speculation::Token(token),
        Ok(SaslStart::OtherMechanism) => Speculation::OtherMechanism,
        // A driver sends it only with a token.
        Ok(SaslStart::PrincipalRequest) | Err(_) => Speculation::Unusable,
    }
}

/// The reply to a token that is accepted. `payload` has to be there although it is empty.
pub fn accepted() -> RawDocumentBuf {
    rawdoc! { "conversationId": CONVERSATION, "done": true, "payload": payload(Vec::new()), "ok": 1.0 }
}

/// The field `speculativeAuthenticate` in the reply to a hello whose token is accepted. Where it is not, the reply to
/// hello has no such field: drivers take a document with an error for the end of the connection.
pub fn accepted_in_hello() -> RawDocumentBuf {
    rawdoc! { "conversationId": CONVERSATION, "done": true, "payload": payload(Vec::new()) }
}

/// The reply to a principal request.
pub fn log_in_at(provider: &IdentityProvider) -> RawDocumentBuf {
    let mut document = rawdoc! { "issuer": provider.issuer.as_str() };
    if let Some(client_id) = &provider.client_id {
        document.append(bson::raw::cstr!("clientId"), client_id.as_str());
    }
    if !provider.request_scopes.is_empty() {
        let scopes: RawArrayBuf = provider.request_scopes.iter().map(String::as_str).collect();
        document.append(bson::raw::cstr!("requestScopes"), scopes);
    }
    let payload = payload(document.into_bytes());
    rawdoc! { "conversationId": CONVERSATION, "done": false, "payload": payload, "ok": 1.0 }
}

/// The authentication fails. Drivers drop a cached token only on this code.
pub fn failed(reason: &str) -> CommandError {
    CommandError {
        code: 18,
        code_name: "AuthenticationFailed",
        message: format!("mongate: authentication failed: {reason}"),
    }
}

/// The command is for authenticated clients. `command` is printable.
pub fn unauthenticated(command: &str) -> CommandError {
    let message = format!(
        "mongate: command {command} requires authentication; add authMechanism={MECHANISM} to the connection string"
    );
    CommandError { code: 13, code_name: "Unauthorized", message }
}

/// The token of the client has expired: the driver fetches another one and repeats the command. `command` is printable.
pub fn expired(command: &str) -> CommandError {
    let message =
        format!("mongate: command {command} requires reauthentication since the token of this client has expired");
    CommandError { code: 391, code_name: "ReauthenticationRequired", message }
}

/// The client uses another mechanism.
pub fn other_mechanism() -> CommandError {
    let message = format!(
        "mongate: this listener authenticates clients with {MECHANISM}; set authMechanism={MECHANISM} in the \
         connection string"
    );
    CommandError { code: 334, code_name: "MechanismUnavailable", message }
}

/// The error for a client that has begun with a password, and now wants to be the user of a certificate: the only
/// certificate that mongod sees is that of the gateway.
pub fn no_certificate() -> CommandError {
    let message = "mongate: a client that has begun to authenticate with a password has no certificate; connect again \
                   without a password"
        .to_owned();
    CommandError { code: 334, code_name: "MechanismUnavailable", message }
}

fn payload(bytes: Vec<u8>) -> Binary {
    Binary { subtype: BinarySubtype::Generic, bytes }
}

/// The token in a payload; `None` if the payload has none.
fn token(payload: Option<RawBsonRef<'_>>) -> Result<Option<&str>, OidcError> {
    let Some(RawBsonRef::Binary(payload)) = payload else { return Err(OidcError::Payload) };
    if payload.subtype != BinarySubtype::Generic {
        return Err(OidcError::Payload);
    }
    if payload.bytes.len() > PAYLOAD_BYTES_MAX {
        return Err(OidcError::TooLong);
    }
    let document = RawDocument::from_bytes(payload.bytes).map_err(|_| OidcError::Malformed)?;
    match fields(document, ["jwt"])? {
        [None] => Ok(None),
        // A file ends with a line feed, and drivers send it as it is.
        [Some(RawBsonRef::String(token))] => Ok(Some(token.trim_ascii_end())),
        [Some(_)] => Err(OidcError::NoToken),
    }
}

/// The values of some fields. All of the document is read, so that none occurs twice.
fn fields<'a, const N: usize>(
    document: &'a RawDocument,
    names: [&'static str; N],
) -> Result<[Option<RawBsonRef<'a>>; N], OidcError> {
    let mut found = [None; N];
    for element in document {
        let (name, value) = element.map_err(|_| OidcError::Malformed)?;
        for (place, wanted) in found.iter_mut().zip(names) {
            if name.as_str() == wanted && place.replace(value).is_some() {
                return Err(OidcError::Twice(wanted));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use bson::{Bson, Document, doc};
    use proptest::prelude::*;

    use super::*;

    fn raw(document: &Document) -> RawDocumentBuf {
        RawDocumentBuf::try_from(document).unwrap()
    }

    fn binary(document: &Document) -> Binary {
        payload(raw(document).into_bytes())
    }

    fn jwt(token: &str) -> Binary {
        binary(&doc! { "jwt": token })
    }

    fn sasl_start(payload: impl Into<Bson>) -> Document {
        doc! { "saslStart": 1, "mechanism": MECHANISM, "payload": payload.into(), "$db": "$external" }
    }

    /// A document of elements that may occur twice.
    fn elements(documents: &[Document]) -> RawDocumentBuf {
        let mut bytes: Vec<u8> = vec![0; 4];
        for document in documents {
            let one = raw(document).into_bytes();
            bytes.extend_from_slice(&one[4..one.len() - 1]);
        }
        bytes.push(0);
        let length = i32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        RawDocumentBuf::from_bytes(bytes).unwrap()
    }

    #[test]
    fn a_token_is_read_from_what_each_driver_sends() {
        let plain = sasl_start(jwt("a.b.c"));
        let mut go = plain.clone();
        go.extend(doc! { "maxTimeMS": 9_999_i64, "$readPreference": { "mode": "primaryPreferred" } });
        let mut node = plain.clone();
        node.extend(doc! { "autoAuthorize": 1, "options": { "skipEmptyExchange": true }, "later": [1] });
        let mut stable = plain.clone();
        stable.extend(doc! { "apiVersion": "1", "apiStrict": true, "apiDeprecationErrors": true, "comment": "x",
        "$clusterTime": { "clusterTime": bson::Timestamp { time: 1, increment: 1 } } });
        let file = sasl_start(jwt("a.b.c\r\n \t\n"));
        let with_user = sasl_start(binary(&doc! { "n": "me", "jwt": "a.b.c", "later": 1 }));
        for command in [plain, go, node, stable, file, with_user] {
            assert_eq!(start(&raw(&command)), Ok(SaslStart::Token("a.b.c")), "{command}");
        }
    }

    #[test]
    fn a_token_is_not_shown() {
        let shown = format!("{:?} {:?}", SaslStart::Token("a.b.c"), Speculation::Token("a.b.c"));
        assert_eq!(shown, "Token Token");
    }

    #[test]
    fn a_principal_request_has_no_token() {
        for document in [doc! {}, doc! { "n": "me@example.com" }] {
            assert_eq!(start(&raw(&sasl_start(binary(&document)))), Ok(SaslStart::PrincipalRequest));
        }
    }

    #[test]
    fn other_mechanisms_are_recognised() {
        for mechanism in ["SCRAM-SHA-256", "PLAIN", "mongodb-oidc", "MONGODB-OIDC ", ""] {
            let command = doc! { "saslStart": 1, "mechanism": mechanism, "payload": jwt("a.b.c") };
            assert_eq!(start(&raw(&command)), Ok(SaslStart::OtherMechanism), "{mechanism}");
        }
        assert_eq!(start(&raw(&doc! { "saslStart": 1 })), Ok(SaslStart::OtherMechanism));
    }

    #[test]
    fn a_message_that_can_be_read_in_two_ways_is_refused() {
        let payload_twice = elements(&[sasl_start(jwt("a.b.c")), doc! { "payload": jwt("d.e.f") }]);
        assert_eq!(start(&payload_twice), Err(OidcError::Twice("payload")));
        let mechanism_twice = elements(&[sasl_start(jwt("a.b.c")), doc! { "mechanism": "PLAIN" }]);
        assert_eq!(start(&mechanism_twice), Err(OidcError::Twice("mechanism")));
        let inner = elements(&[doc! { "jwt": "a.b.c" }, doc! { "jwt": "d.e.f" }]).into_bytes();
        assert_eq!(start(&raw(&sasl_start(payload(inner)))), Err(OidcError::Twice("jwt")));
    }

    #[test]
    fn the_payload_is_binary_data_with_a_document() {
        let of = |subtype: BinarySubtype, bytes: &[u8]| Bson::Binary(Binary { subtype, bytes: bytes.to_vec() });
        let good = jwt("a.b.c").bytes;
        for (given, expected) in [
            (Bson::Null, OidcError::Payload),
            (Bson::from("a.b.c"), OidcError::Payload),
            (Bson::from(doc! { "jwt": "a.b.c" }), OidcError::Payload),
            (of(BinarySubtype::Md5, &good), OidcError::Payload),
            (of(BinarySubtype::BinaryOld, &good), OidcError::Payload),
            (of(BinarySubtype::UserDefined(0x80), &good), OidcError::Payload),
            (of(BinarySubtype::Generic, b""), OidcError::Malformed),
            (of(BinarySubtype::Generic, b"a.b.c"), OidcError::Malformed),
            (of(BinarySubtype::Generic, &good[..good.len() - 1]), OidcError::Malformed),
            (of(BinarySubtype::Generic, &[&good[..], &[0]].concat()), OidcError::Malformed),
            (of(BinarySubtype::Generic, &vec![b'a'; 64 * 1024]), OidcError::TooLong),
            (binary(&doc! { "jwt": "a".repeat(64 * 1024) }).into(), OidcError::TooLong),
            (binary(&doc! { "jwt": 17 }).into(), OidcError::NoToken),
            (binary(&doc! { "jwt": ["a.b.c"] }).into(), OidcError::NoToken),
            (binary(&doc! { "jwt": Bson::Null }).into(), OidcError::NoToken),
        ] {
            assert_eq!(start(&raw(&sasl_start(given.clone()))), Err(expected), "{given}");
        }
        let without = doc! { "saslStart": 1, "mechanism": MECHANISM, "$db": "$external" };
        assert_eq!(start(&raw(&without)), Err(OidcError::Payload));
    }

    #[test]
    fn a_conversation_is_continued_by_its_id() {
        let command = |id: Bson, payload: Binary| doc! { "saslContinue": 1, "payload": payload, "conversationId": id };
        for id in [Bson::Int32(1), Bson::Int64(1)] {
            assert_eq!(continuation(&raw(&command(id, jwt("a.b.c\n")))), Ok("a.b.c"));
        }
        for id in [Bson::Int32(2), Bson::Int64((1 << 32) | 1), Bson::Double(1.0), Bson::Null, Bson::from("1")] {
            assert_eq!(continuation(&raw(&command(id, jwt("a.b.c")))), Err(OidcError::NoConversation));
        }
        assert_eq!(continuation(&raw(&command(Bson::Int32(1), binary(&doc! {})))), Err(OidcError::NoToken));
        assert_eq!(continuation(&raw(&doc! { "saslContinue": 1, "conversationId": 1 })), Err(OidcError::Payload));
    }

    #[test]
    fn a_hello_has_a_token_in_its_speculation() {
        let inner = doc! { "saslStart": 1, "mechanism": MECHANISM, "payload": jwt("a.b.c"), "db": "$external" };
        let scram = doc! { "saslStart": 1, "mechanism": "SCRAM-SHA-256", "payload": jwt("a.b.c"), "db": "admin" };
        let x509 = doc! { "authenticate": 1, "mechanism": "MONGODB-X509", "db": "$external" };
        let request = doc! { "saslStart": 1, "mechanism": MECHANISM, "payload": binary(&doc! {}), "db": "$external" };
        for (field, expected) in [
            (Bson::from(inner.clone()), Speculation::Token("a.b.c")),
            (scram.into(), Speculation::OtherMechanism),
            (x509.into(), Speculation::OtherMechanism),
            (request.into(), Speculation::Unusable),
            ("x".into(), Speculation::Unusable),
        ] {
            let hello = doc! { "hello": 1, "speculativeAuthenticate": field, "$db": "admin" };
            assert_eq!(speculation(&raw(&hello)), expected, "{hello}");
        }
        assert_eq!(speculation(&raw(&doc! { "hello": 1, "$db": "admin" })), Speculation::Absent);
        let twice = elements(&[
            doc! { "hello": 1, "speculativeAuthenticate": inner.clone() },
            doc! { "speculativeAuthenticate": inner },
        ]);
        assert_eq!(speculation(&twice), Speculation::Unusable);
    }

    #[test]
    fn replies_have_the_types_that_drivers_demand() {
        let check = |reply: &RawDocumentBuf, done: bool| {
            assert!(matches!(reply.get("conversationId"), Ok(Some(RawBsonRef::Int32(1)))));
            assert!(matches!(reply.get("done"), Ok(Some(RawBsonRef::Boolean(found))) if found == done));
            let Ok(Some(RawBsonRef::Binary(payload))) = reply.get("payload") else { panic!("{reply:?}") };
            assert_eq!(payload.subtype, BinarySubtype::Generic);
            payload.bytes.to_vec()
        };
        assert!(check(&accepted(), true).is_empty());
        assert!(accepted().get_f64("ok").is_ok_and(|ok| (ok - 1.0).abs() < f64::EPSILON));
        assert!(check(&accepted_in_hello(), true).is_empty());
        assert!(matches!(accepted_in_hello().get("ok"), Ok(None)));
        let mut provider =
            IdentityProvider { issuer: "https://i".to_owned(), client_id: None, request_scopes: Vec::new() };
        let document = check(&log_in_at(&provider), false);
        assert_eq!(RawDocument::from_bytes(&document).unwrap().to_owned(), rawdoc! { "issuer": "https://i" });
        (provider.client_id, provider.request_scopes) = (Some("app".to_owned()), vec!["openid".to_owned()]);
        let expected = rawdoc! { "issuer": "https://i", "clientId": "app", "requestScopes": ["openid"] };
        assert_eq!(check(&log_in_at(&provider), false), expected.as_bytes());
    }

    #[test]
    fn errors_have_the_codes_that_drivers_know() {
        for (error, code, name, text) in [
            (failed("token expired 5 minutes ago"), 18, "AuthenticationFailed", "token expired 5 minutes ago"),
            (unauthenticated("find"), 13, "Unauthorized", "command find requires authentication"),
            (expired("find"), 391, "ReauthenticationRequired", "command find requires reauthentication"),
            (other_mechanism(), 334, "MechanismUnavailable", "MONGODB-OIDC"),
        ] {
            assert_eq!((error.code, error.code_name), (code, name));
            assert!(error.message.starts_with("mongate: ") && error.message.contains(text), "{}", error.message);
        }
    }

    proptest! {
        #[test]
        fn a_damaged_message_is_read_without_panic(at in 4_usize..140, byte: u8) {
            let inner = sasl_start(jwt("a.b.c"));
            for command in [inner.clone(), doc! { "hello": 1, "speculativeAuthenticate": inner }] {
                let mut bytes = raw(&command).into_bytes();
                if let Some(damaged) = bytes.get_mut(at) {
                    *damaged = byte;
                }
                if let Ok(damaged) = RawDocument::from_bytes(&bytes) {
                    let _ = (start(damaged), continuation(damaged), speculation(damaged));
                }
            }
        }
    }
}
