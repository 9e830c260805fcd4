//! Who the gateway is for mongod: a connection authenticates with the certificate that it was made with, and mongod is
//! asked whom it took us for.
//!
//! `authenticate` names no user: mongod derives it from the certificate. That it took us for that user, and not for a member
//! of its cluster, which may do everything, is asked on every connection, in the same breath, so that it costs no time.
//!
//! Refuses to say `hello`: the client's own has to be the first of its connection.
//!
//! Spec: mongodb/specifications `source/auth/auth.md` § MONGODB-X509.

use std::sync::Arc;

use bson::{RawDocument, RawDocumentBuf, rawdoc};
use tokio::io::{AsyncRead, AsyncWrite};

use super::own_commands::{self, OwnCommandError};
use super::{ConnectFailure, UpstreamStream};
use crate::identity::{DistinguishedName, printable};

/// mongod's code for a user that it does not have.
pub(super) const USER_NOT_FOUND: i32 = 11;

/// And for credentials that it does not take.
pub(super) const AUTHENTICATION_FAILED: i32 = 18;

/// The requests of one authentication; both are sent before the first answer is read.
const AUTHENTICATE_ID: i32 = 2;
const STATUS_ID: i32 = 3;

/// Where users that have certificates live.
const EXTERNAL: &str = "$external";

/// What members of a cluster are for each other.
const SYSTEM_USER: (&str, &str) = ("__system", "local");

/// Roles that are told of one user; nobody reads more.
const ROLES_MAX: usize = 32;

/// The longest name of a user or role that is told, in characters.
const NAME_CHARACTERS_MAX: usize = 256;

/// What a server knows of the users of its deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Users {
    /// Nobody has heard it yet.
    #[default]
    Unknown,
    /// It has them, as a primary, a secondary, a mongos or a server of its own.
    Kept,
    /// It may have none yet, as a member that copies its data for the first time.
    Awaited,
    /// It never has any, as an arbiter.
    None,
}

/// The user that mongod takes a certificate for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MongoUser {
    /// In `$external`; fit for a log.
    pub name: String,
    /// As `read@shop`; the first few.
    pub roles: Vec<String>,
}

/// What the last authentication with one set of certificates came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    /// Which set of certificates that was, counted from 0.
    pub generation: u64,
    /// The user, or why there is none.
    pub user: Result<Arc<MongoUser>, String>,
}

/// Why a connection has no user, although mongod answers.
#[derive(Debug)]
pub(super) enum AuthenticationError {
    /// There is none of that name.
    NoUser(ConnectFailure),
    /// Anything else.
    Other(ConnectFailure),
}

impl Users {
    pub(super) fn from_number(number: u8) -> Self {
        let all = [Self::Unknown, Self::Kept, Self::Awaited, Self::None];
        all.into_iter().find(|users| *users as u8 == number).unwrap_or_default()
    }
}

/// Authenticates `stream` and returns the user that it has from now on.
///
/// Not cancel safe, and after [`AuthenticationError::Other`] the connection must not be used. After [`AuthenticationError::NoUser`] it has no user, and
/// is as good as before.
pub(super) async fn authenticate(stream: &mut UpstreamStream) -> Result<MongoUser, AuthenticationError> {
    let subject = stream.made_with.credentials.certificate.subject.clone();
    let theirs = stream.server_certificate().map(|facts| facts.subject);
    let is_of_cluster = theirs.is_some_and(|theirs| theirs.is_of_same_cluster(&subject));
    let broken = |cause| AuthenticationError::Other(ConnectFailure::Proof { cause });
    let (authenticated, status) = exchange_both(&mut stream.tls).await.map_err(broken)?;
    if let Err(cause) = authenticated {
        return Err(match cause {
            OwnCommandError::Refused { code: USER_NOT_FOUND, .. } => {
                AuthenticationError::NoUser(ConnectFailure::Authentication { cause })
            }
            // mongod has no users with such a certificate where it does not take it for a member's either.
            OwnCommandError::Refused { code: AUTHENTICATION_FAILED, .. } if is_of_cluster => {
                AuthenticationError::Other(ConnectFailure::ClusterMember)
            }
            _ => AuthenticationError::Other(ConnectFailure::Authentication { cause }),
        });
    }
    judge(&status.map_err(broken)?, &subject).map_err(AuthenticationError::Other)
}

/// What came to both commands; fails where the connection does.
async fn exchange_both<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
) -> Result<(Outcome, Outcome), OwnCommandError> {
    let authenticate = rawdoc! { "authenticate": 1, "mechanism": "MONGODB-X509", "$db": EXTERNAL };
    let status = rawdoc! { "connectionStatus": 1, "$db": "admin" };
    own_commands::send(stream, AUTHENTICATE_ID, 0, &authenticate).await?;
    own_commands::send(stream, STATUS_ID, 0, &status).await?;
    let authenticated = answer(stream, AUTHENTICATE_ID).await?;
    let status = answer(stream, STATUS_ID).await?;
    Ok((authenticated, status))
}

/// A reply, or the error that the command failed with.
type Outcome = Result<RawDocumentBuf, OwnCommandError>;

async fn answer<S: AsyncRead + Unpin>(stream: &mut S, request_id: i32) -> Result<Outcome, OwnCommandError> {
    match own_commands::receive(stream, request_id).await {
        Ok(reply) if reply.more_to_come => {
            Err(OwnCommandError::Malformed("a stream of replies that was not asked for"))
        }
        Ok(reply) => Ok(Ok(reply.body)),
        Err(refused @ OwnCommandError::Refused { .. }) => Ok(Err(refused)),
        Err(broken) => Err(broken),
    }
}

/// Whom `status`, the answer to `connectionStatus`, shows to be authenticated: it must be the user of `subject`, alone.
fn judge(status: &RawDocument, subject: &DistinguishedName) -> Result<MongoUser, ConnectFailure> {
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
            Ok(MongoUser { name: cut(user), roles: roles.collect() })
        }
        others => {
            let shown: Vec<_> = others.iter().take(ROLES_MAX).map(|(user, database)| shown(user, database)).collect();
            Err(ConnectFailure::WrongUser { users: shown })
        }
    }
}

/// The documents of an array, as name and database; `None` if it is not made of such.
fn entries(info: &RawDocument, array: &str, name: &str) -> Option<Vec<(String, String)>> {
    let entry = |element: bson::RawBsonRef<'_>| {
        let entry = element.as_document()?;
        Some((entry.get_str(name).ok()?.to_owned(), entry.get_str("db").ok()?.to_owned()))
    };
    info.get_array(array).ok()?.into_iter().map(|element| entry(element.ok()?)).collect()
}

/// Whether `theirs` is `ours` as mongod writes it.
///
/// Only text beyond ASCII may differ: mongod brings it into a normal form that we do not know.
fn is_same_name(ours: &str, theirs: &str) -> bool {
    if ours == theirs {
        return true;
    }
    let (ours, theirs) = (parts(ours), parts(theirs));
    let is_same = |(ours, theirs): (&&str, &&str)| {
        let kind = |part: &str| part.split_once('=').map(|(kind, _)| kind.to_owned());
        ours == theirs || (has_bytes(ours) && kind(ours) == kind(theirs))
    };
    ours.len() == theirs.len() && ours.iter().zip(&theirs).all(is_same)
}

/// The attributes of a name, whether they stand beside each other or belong together.
fn parts(name: &str) -> Vec<&str> {
    let mut is_escaped = false;
    let is_separator = move |character: char| {
        let separates = !is_escaped && matches!(character, ',' | '+');
        is_escaped = !is_escaped && character == '\\';
        separates
    };
    name.split(is_separator).collect()
}

/// Whether a value has bytes from 0x80 on, which are written `\C3`.
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
    format!("{}@{}", cut(name), cut(database))
}

fn cut(text: &str) -> String {
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
    fn a_connection_has_the_user_of_its_certificate_and_no_other() {
        let name = subject();
        let user = judge(&status(&[(name.as_str(), "$external")]), &name).unwrap();
        assert_eq!((user.name.as_str(), user.roles), (name.as_str(), vec!["read@shop".into(), "find\\u{a}@x".into()]));
        for (users, expected) in [
            (&[][..], "wrong"),
            (&[("CN=other", "$external")], "wrong"),
            (&[(name.as_str(), "admin")], "wrong"),
            (&[(name.as_str(), "$external"), ("root", "admin")], "wrong"),
            (&[("__system", "local")], "member"),
            (&[(name.as_str(), "$external"), ("__system", "local")], "member"),
        ] {
            let failure = judge(&status(users), &name).unwrap_err();
            let found = match failure {
                ConnectFailure::WrongUser { .. } => "wrong",
                ConnectFailure::ClusterMember => "member",
                _ => "other",
            };
            assert_eq!(found, expected, "{users:?}");
        }
    }

    #[test]
    fn an_answer_without_users_proves_nothing() {
        for answer in [
            rawdoc! { "ok": 1.0 },
            rawdoc! { "authInfo": 1, "ok": 1.0 },
            rawdoc! { "authInfo": { "authenticatedUsers": 1 }, "ok": 1.0 },
            rawdoc! { "authInfo": { "authenticatedUsers": ["CN=svc-a"] }, "ok": 1.0 },
            rawdoc! { "authInfo": { "authenticatedUsers": [{ "user": "CN=svc-a" }] }, "ok": 1.0 },
            rawdoc! { "authInfo": { "authenticatedUsers": [{ "user": 1, "db": "$external" }] }, "ok": 1.0 },
        ] {
            assert!(matches!(judge(&answer, &subject()), Err(ConnectFailure::Proof { .. })), "{answer:?}");
        }
    }

    #[test]
    fn names_may_differ_in_what_is_not_ascii_and_in_nothing_else() {
        for (ours, theirs, expected) in [
            ("CN=a,O=Acme", "CN=a,O=Acme", true),
            ("CN=a,O=Acme", "CN=b,O=Acme", false),
            ("CN=a,O=Acme", "O=Acme,CN=a", false),
            ("CN=a,O=Acme", "CN=a", false),
            // A letter of its own, and the same with a mark behind it.
            ("CN=Zu\\CC\\88rich,O=a", "CN=Z\\C3\\BCrich,O=a", true),
            // A ligature, which becomes two letters.
            ("CN=\\EF\\AC\\81n,O=a", "CN=fin,O=a", true),
            ("CN=\\EF\\AC\\81n,O=a", "CN=fin,O=b", false),
            ("CN=\\EF\\AC\\81n,O=a", "OU=fin,O=a", false),
            ("CN=\\EF\\BC\\8C,O=a", "CN=\\,,O=a", true),
            ("CN=a\\,b,O=a", "CN=a\\,c,O=a", false),
            ("CN=a\\\\,O=a", "CN=a\\\\,O=b", false),
            ("CN=x+OU=\\C3\\BC,O=a", "CN=x+OU=u,O=a", true),
            ("", "", true),
        ] {
            assert_eq!(is_same_name(ours, theirs), expected, "{ours} {theirs}");
        }
    }
}
