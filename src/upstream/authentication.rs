//! Authenticates a connection with its client certificate (MONGODB-X509), and verifies the resulting user.
//!
//! `authenticate` names no user: mongod derives it from the certificate. `connectionStatus` then shows whether mongod
//! authenticated that user, or treats the gateway as a cluster member with all privileges. Both commands are sent at
//! once, so the check costs no round trip. Sends no `hello`: the client's own has to be the first of its connection.
//!
//! Spec: mongodb/specifications `source/auth/auth.md` § MONGODB-X509.

use std::sync::Arc;

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use tokio::io::{AsyncRead, AsyncWrite};

use super::failure::ConnectFailure;
use super::mongo_user::MongoUser;
use super::own_commands::{self, OwnCommandError, declared};
use super::server_error_codes::{AUTHENTICATION_FAILED, USER_NOT_FOUND};
use super::stream::UpstreamStream;
use crate::identity::{DistinguishedName, printable};

/// Request IDs of one authentication. Both requests are sent before the first reply is read.
const AUTHENTICATE_ID: i32 = 2;
const STATUS_ID: i32 = 3;

/// The database of users that authenticate with a certificate.
const EXTERNAL: &str = "$external";

/// The user of cluster members.
const SYSTEM_USER: (&str, &str) = ("__system", "local");

/// Roles of a user that are reported.
const ROLES_MAX: usize = 32;

/// The longest reported name of a user or role, in characters.
const NAME_CHARACTERS_MAX: usize = 256;

/// What is known about the users of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Users {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// It has the users of its deployment: a primary, a secondary, a mongos or a standalone server.
    Kept,
    /// It may have no users yet: a member during its initial sync.
    Awaited,
    /// It never has users: an arbiter.
    None,
}

/// The result of the last authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticationResult {
    /// The generation of the certificate set, counted from 0.
    pub generation: u64,
    /// The user, or why there is none.
    pub user: Result<Arc<MongoUser>, String>,
}

/// Why a proven connection could not be authenticated.
#[derive(Debug)]
pub(super) enum AuthenticationError {
    /// mongod does not know the user.
    NoUser(ConnectFailure),
    /// Any other reason.
    Other(ConnectFailure),
}

impl Users {
    pub(super) fn from_number(number: u8) -> Self {
        let all = [Self::Unknown, Self::Kept, Self::Awaited, Self::None];
        all.into_iter().find(|users| *users as u8 == number).unwrap_or_default()
    }
}

/// Authenticates `stream` and returns its user.
///
/// Not cancel safe. After [`AuthenticationError::NoUser`] the connection can be used without a user; after
/// [`AuthenticationError::Other`] it must not be used.
pub(super) async fn authenticate(stream: &mut UpstreamStream) -> Result<MongoUser, AuthenticationError> {
    let subject = stream.made_with.credentials.certificate.subject.clone();
    let server = stream.server_certificate().map(|facts| facts.subject);
    let is_of_cluster = server.is_some_and(|server| server.is_of_same_cluster(&subject));
    let broken = |cause| AuthenticationError::Other(ConnectFailure::Proof { cause });
    let (authenticated, status) = run_both(&mut stream.tls, stream.declares_api).await.map_err(broken)?;
    if let Err(cause) = authenticated {
        return Err(match cause {
            OwnCommandError::Refused { code: USER_NOT_FOUND, .. } => {
                AuthenticationError::NoUser(ConnectFailure::Authentication { cause })
            }
            // mongod also fails with this code if the certificate can only be used by cluster members.
            OwnCommandError::Refused { code: AUTHENTICATION_FAILED, .. } if is_of_cluster => {
                AuthenticationError::Other(ConnectFailure::ClusterMember)
            }
            _ => AuthenticationError::Other(ConnectFailure::Authentication { cause }),
        });
    }
    verify_user(&status.map_err(broken)?, &subject).map_err(AuthenticationError::Other)
}

/// Runs both commands. Fails only if the connection does.
async fn run_both<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    declares_api: bool,
) -> Result<(CommandResult, CommandResult), OwnCommandError> {
    let authenticate = rawdoc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": EXTERNAL };
    let status = rawdoc! { "connectionStatus": 1, "$db": "admin" };
    let [authenticate, status] = [authenticate, status].map(|command| declared(command, declares_api));
    own_commands::send(stream, AUTHENTICATE_ID, 0, &authenticate).await?;
    own_commands::send(stream, STATUS_ID, 0, &status).await?;
    let authenticated = receive(stream, AUTHENTICATE_ID).await?;
    let status = receive(stream, STATUS_ID).await?;
    Ok((authenticated, status))
}

/// The reply, or the error that the server replied with.
type CommandResult = Result<RawDocumentBuf, OwnCommandError>;

async fn receive<S: AsyncRead + Unpin>(stream: &mut S, request_id: i32) -> Result<CommandResult, OwnCommandError> {
    match own_commands::receive(stream, request_id).await {
        Ok(reply) if reply.more_to_come => Err(OwnCommandError::Malformed("an unrequested stream of replies")),
        Ok(reply) => Ok(Ok(reply.body)),
        Err(refused @ OwnCommandError::Refused { .. }) => Ok(Err(refused)),
        Err(broken) => Err(broken),
    }
}

/// The authenticated user according to `status`, the reply to `connectionStatus`. It must be `subject`, and the only
/// one.
fn verify_user(status: &RawDocument, subject: &DistinguishedName) -> Result<MongoUser, ConnectFailure> {
    let malformed = || ConnectFailure::Proof { cause: OwnCommandError::Malformed("connectionStatus without users") };
    let info = status.get_document("authInfo").map_err(|_| malformed())?;
    let users: Vec<_> = entries(info, "authenticatedUsers", "user").ok_or_else(malformed)?;
    if users.iter().any(|(user, database)| (user.as_str(), database.as_str()) == SYSTEM_USER) {
        return Err(ConnectFailure::ClusterMember);
    }
    match users.as_slice() {
        [(user, database)] if database == EXTERNAL && is_same_name(subject.as_str(), user) => {
            let roles = entries(info, "authenticatedUserRoles", "role").unwrap_or_default();
            let roles = roles.iter().take(ROLES_MAX).map(|(role, database)| shown(role, database));
            Ok(MongoUser { name: shortened(user), roles: roles.collect() })
        }
        others => {
            let shown: Vec<_> = others.iter().take(ROLES_MAX).map(|(user, database)| shown(user, database)).collect();
            Err(ConnectFailure::WrongUser { users: shown })
        }
    }
}

/// The entries of an array as name and database; `None` if the array is missing or malformed.
fn entries(info: &RawDocument, array: &str, name: &str) -> Option<Vec<(String, String)>> {
    let entry = |element: bson::RawBsonRef<'_>| {
        let entry = element.as_document()?;
        Some((entry.get_str(name).ok()?.to_owned(), entry.get_str("db").ok()?.to_owned()))
    };
    info.get_array(array).ok()?.into_iter().map(|element| entry(element.ok()?)).collect()
}

/// Whether `reported`, a name that mongod wrote, is `expected`.
///
/// Only characters beyond ASCII may differ: mongod normalises them in a way that the gateway does not reproduce.
fn is_same_name(expected: &str, reported: &str) -> bool {
    if expected == reported {
        return true;
    }
    let (expected, reported) = (parts(expected), parts(reported));
    let is_same = |(expected, reported): (&&str, &&str)| {
        let kind = |part: &str| part.split_once('=').map(|(kind, _)| kind.to_owned());
        expected == reported || (has_bytes(expected) && kind(expected) == kind(reported))
    };
    expected.len() == reported.len() && expected.iter().zip(&reported).all(is_same)
}

/// The attributes of a name, of single and of multi-valued RDNs.
fn parts(name: &str) -> Vec<&str> {
    let mut is_escaped = false;
    let is_separator = move |character: char| {
        let separates = !is_escaped && matches!(character, ',' | '+');
        is_escaped = !is_escaped && character == '\\';
        separates
    };
    name.split(is_separator).collect()
}

/// Whether an attribute contains bytes from 0x80 on, which are written as `\C3`.
fn has_bytes(part: &str) -> bool {
    let mut characters = part.chars();
    while let Some(character) = characters.next() {
        if character == '\\' && characters.next().is_some_and(|escaped| escaped.is_ascii_hexdigit()) {
            return true;
        }
    }
    false
}

fn shown(name: &str, database: &str) -> String {
    format!("{}@{}", shortened(name), shortened(database))
}

fn shortened(text: &str) -> String {
    printable(&text.chars().take(NAME_CHARACTERS_MAX).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(users: &[(&str, &str)]) -> RawDocumentBuf {
        let list = |key: &str, entries: &[(&str, &str)]| {
            entries.iter().map(|(name, db)| bson::doc! { key: *name, "db": *db }).collect::<Vec<_>>()
        };
        let info = bson::doc! {
            "authenticatedUsers": list("user", users),
            "authenticatedUserRoles": list("role", &[("read", "shop"), ("find\n", "x")]),
        };
        RawDocumentBuf::try_from(&bson::doc! { "authInfo": info, "ok": 1.0 }).unwrap()
    }

    fn subject() -> DistinguishedName {
        let pair = crate::tls::test_pki::CertificateAuthority::new("any").issue("svc-a", &[]);
        crate::identity::CertificateFacts::from_der(&pair.der).unwrap().subject
    }

    #[test]
    fn only_the_user_of_the_certificate_is_accepted() {
        let name = subject();
        let user = verify_user(&status(&[(name.as_str(), "$external")]), &name).unwrap();
        assert_eq!((user.name.as_str(), user.roles), (name.as_str(), vec!["read@shop".into(), "find\\u{a}@x".into()]));
        for (users, expected) in [
            (&[][..], "wrong"),
            (&[("CN=other", "$external")], "wrong"),
            (&[(name.as_str(), "admin")], "wrong"),
            (&[(name.as_str(), "$external"), ("root", "admin")], "wrong"),
            (&[("__system", "local")], "member"),
            (&[(name.as_str(), "$external"), ("__system", "local")], "member"),
        ] {
            let failure = verify_user(&status(users), &name).unwrap_err();
            let found = match failure {
                ConnectFailure::WrongUser { .. } => "wrong",
                ConnectFailure::ClusterMember => "member",
                _ => "other",
            };
            assert_eq!(found, expected, "{users:?}");
        }
    }

    #[test]
    fn a_reply_without_users_is_malformed() {
        for reply in [
            rawdoc! { "ok": 1.0 },
            rawdoc! { "authInfo": 1, "ok": 1.0 },
            rawdoc! { "authInfo": { "authenticatedUsers": 1 }, "ok": 1.0 },
            rawdoc! { "authInfo": { "authenticatedUsers": ["CN=svc-a"] }, "ok": 1.0 },
            rawdoc! { "authInfo": { "authenticatedUsers": [{ "user": "CN=svc-a" }] }, "ok": 1.0 },
            rawdoc! { "authInfo": { "authenticatedUsers": [{ "user": 1, "db": "$external" }] }, "ok": 1.0 },
        ] {
            assert!(matches!(verify_user(&reply, &subject()), Err(ConnectFailure::Proof { .. })), "{reply:?}");
        }
    }

    #[test]
    fn names_may_differ_in_characters_beyond_ascii_only() {
        for (expected, reported, same) in [
            ("CN=a,O=Acme", "CN=a,O=Acme", true),
            ("CN=a,O=Acme", "CN=b,O=Acme", false),
            ("CN=a,O=Acme", "O=Acme,CN=a", false),
            ("CN=a,O=Acme", "CN=a", false),
            // Composed and decomposed forms of a letter.
            ("CN=Zu\\CC\\88rich,O=a", "CN=Z\\C3\\BCrich,O=a", true),
            // A ligature, which mongod splits into two letters.
            ("CN=\\EF\\AC\\81n,O=a", "CN=fin,O=a", true),
            ("CN=\\EF\\AC\\81n,O=a", "CN=fin,O=b", false),
            ("CN=\\EF\\AC\\81n,O=a", "OU=fin,O=a", false),
            ("CN=\\EF\\BC\\8C,O=a", "CN=\\,,O=a", true),
            ("CN=a\\,b,O=a", "CN=a\\,c,O=a", false),
            ("CN=a\\\\,O=a", "CN=a\\\\,O=b", false),
            ("CN=x+OU=\\C3\\BC,O=a", "CN=x+OU=u,O=a", true),
            ("", "", true),
        ] {
            assert_eq!(is_same_name(expected, reported), same, "{expected} {reported}");
        }
    }
}
