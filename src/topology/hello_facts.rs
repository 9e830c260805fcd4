//! Parses a member's reply to `hello`: its role, and its view of the set.
//!
//! Spec: mongodb/specifications `source/server-discovery-and-monitoring/server-discovery-and-monitoring.md` § Parsing a
//! hello or legacy hello response.

use bson::oid::ObjectId;
use bson::raw::RawBsonRef;
use bson::{RawDocument, RawDocumentBuf};

use super::limits::MEMBERS_MAX;
use super::member_name::MemberName;

/// The longest accepted set name, in bytes.
const SET_NAME_BYTES_MAX: usize = 256;

/// The longest `topologyVersion` that is kept, in bytes. That of mongod has 45.
const TOPOLOGY_VERSION_BYTES_MAX: usize = 256;

/// The longest error message of a member that is kept, in characters.
const MESSAGE_CHARACTERS_MAX: usize = 300;

/// The role of a mongod or mongos, from its reply to `hello`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloRole {
    /// The primary of a set.
    Primary,
    /// A secondary that can be read from.
    Secondary,
    /// An arbiter: votes, and has no data.
    Arbiter,
    /// A member of a set that cannot be read from: hidden, starting, recovering or rolling back.
    Other,
    /// Started for a replica set but not a member of one: not initiated yet, or removed.
    Ghost,
    /// A router of a sharded cluster.
    Mongos,
    /// A mongod without a replica set.
    Standalone,
}

/// The facts of one reply to `hello`.
#[derive(Debug, Clone, PartialEq)]
pub struct HelloFacts {
    /// Role of the server that replied.
    pub role: HelloRole,
    /// Whether the configuration of the set hides the member from clients.
    pub hidden: bool,
    /// `setName`.
    pub set_name: Option<String>,
    /// `setVersion`: version of the set's configuration.
    pub set_version: Option<i64>,
    /// `electionId`: the election that made the member primary. Later elections have greater IDs.
    pub election_id: Option<ObjectId>,
    /// `hosts`: members that can become primary.
    pub hosts: Vec<MemberName>,
    /// `passives`: members that cannot become primary.
    pub passives: Vec<MemberName>,
    /// `arbiters`: members without data.
    pub arbiters: Vec<MemberName>,
    /// `me`: the name of this member in the configuration of the set.
    pub me: Option<MemberName>,
    /// `primary`: the primary in the view of this member.
    pub primary: Option<MemberName>,
    /// `topologyVersion`: sent back with the next streaming `hello`.
    pub topology_version: Option<RawDocumentBuf>,
    /// `maxWireVersion`: the newest wire protocol version of the server.
    pub max_wire_version: i32,
}

/// Why a reply to `hello` has no facts. Each text continues a sentence that begins with the server's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoHello {
    /// The reply is an error.
    #[error("refused hello: {message} (code {code})")]
    Refused {
        /// `MongoDB` error code; 0 if the reply has none.
        code: i32,
        /// Error message of the server, shortened and without control characters.
        message: String,
    },
    /// The document is malformed.
    #[error("replied to hello with a malformed document")]
    Damaged,
    /// A field has the wrong type or an invalid value.
    #[error("replied to hello with an invalid `{0}`")]
    Field(&'static str),
    /// More members than a set can have.
    #[error("lists more than {MEMBERS_MAX} members in its reply to hello")]
    TooManyMembers,
}

impl HelloFacts {
    /// Reads a reply to `hello`.
    ///
    /// Members whose names are not `host:port` are omitted, because no client could connect to them.
    pub fn read(reply: &RawDocument) -> Result<Self, NoHello> {
        if number(reply, "ok")?.is_none_or(|ok| ok == 0) {
            let code = number(reply, "code")?.and_then(|code| i32::try_from(code).ok()).unwrap_or_default();
            let message = text(reply, "errmsg")?.unwrap_or("no reason given");
            return Err(NoHello::Refused { code, message: plain(message) });
        }
        let set_name = text(reply, "setName")?;
        if set_name.is_some_and(|name| name.is_empty() || name.len() > SET_NAME_BYTES_MAX || !is_plain(name)) {
            return Err(NoHello::Field("setName"));
        }
        let hidden = flag(reply, "hidden")?;
        let (hosts, passives, arbiters) =
            (names(reply, "hosts")?, names(reply, "passives")?, names(reply, "arbiters")?);
        if hosts.len() + passives.len() + arbiters.len() > MEMBERS_MAX {
            return Err(NoHello::TooManyMembers);
        }
        Ok(Self {
            role: role(reply, set_name.is_some(), hidden)?,
            hidden,
            set_name: set_name.map(str::to_owned),
            set_version: number(reply, "setVersion")?,
            election_id: election_id(reply)?,
            hosts,
            passives,
            arbiters,
            me: text(reply, "me")?.and_then(|name| name.parse().ok()),
            primary: text(reply, "primary")?.and_then(|name| name.parse().ok()),
            topology_version: topology_version(reply)?,
            max_wire_version: number(reply, "maxWireVersion")?
                .and_then(|version| i32::try_from(version).ok())
                .unwrap_or_default(),
        })
    }

    /// All listed members: hosts, passives and arbiters.
    pub fn listed(&self) -> impl Iterator<Item = &MemberName> {
        self.hosts.iter().chain(&self.passives).chain(&self.arbiters)
    }
}

fn role(reply: &RawDocument, in_a_set: bool, hidden: bool) -> Result<HelloRole, NoHello> {
    if text(reply, "msg")? == Some("isdbgrid") {
        return Ok(HelloRole::Mongos);
    }
    if !in_a_set {
        return Ok(if flag(reply, "isreplicaset")? { HelloRole::Ghost } else { HelloRole::Standalone });
    }
    let is_primary = flag(reply, "isWritablePrimary")? || flag(reply, "ismaster")?;
    Ok(match () {
        () if is_primary => HelloRole::Primary,
        () if hidden => HelloRole::Other,
        () if flag(reply, "secondary")? => HelloRole::Secondary,
        () if flag(reply, "arbiterOnly")? => HelloRole::Arbiter,
        () => HelloRole::Other,
    })
}

/// The value of a field; `None` if it is missing or null.
fn value<'a>(reply: &'a RawDocument, name: &str) -> Result<Option<RawBsonRef<'a>>, NoHello> {
    let value = reply.get(name).map_err(|_| NoHello::Damaged)?;
    Ok(value.filter(|value| *value != RawBsonRef::Null))
}

fn text<'a>(reply: &'a RawDocument, name: &'static str) -> Result<Option<&'a str>, NoHello> {
    value(reply, name)?.map(|value| value.as_str().ok_or(NoHello::Field(name))).transpose()
}

fn flag(reply: &RawDocument, name: &'static str) -> Result<bool, NoHello> {
    let flag = value(reply, name)?.map(|value| value.as_bool().ok_or(NoHello::Field(name))).transpose()?;
    Ok(flag.unwrap_or_default())
}

/// The whole part of a number of any type.
fn number(reply: &RawDocument, name: &'static str) -> Result<Option<i64>, NoHello> {
    let Some(value) = value(reply, name)? else { return Ok(None) };
    let whole = match value {
        RawBsonRef::Int32(number) => i64::from(number),
        RawBsonRef::Int64(number) => number,
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and NaN becomes 0")]
        RawBsonRef::Double(number) => number as i64,
        RawBsonRef::Boolean(flag) => i64::from(flag),
        _ => return Err(NoHello::Field(name)),
    };
    Ok(Some(whole))
}

/// A list of members, without invalid and duplicate names.
fn names(reply: &RawDocument, name: &'static str) -> Result<Vec<MemberName>, NoHello> {
    let Some(value) = value(reply, name)? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for (index, item) in value.as_array().ok_or(NoHello::Field(name))?.into_iter().enumerate() {
        if index >= MEMBERS_MAX {
            return Err(NoHello::TooManyMembers);
        }
        let text = item.map_err(|_| NoHello::Damaged)?.as_str().ok_or(NoHello::Field(name))?;
        names.extend(text.parse::<MemberName>().ok().filter(|name| !names.contains(name)));
    }
    Ok(names)
}

fn election_id(reply: &RawDocument) -> Result<Option<ObjectId>, NoHello> {
    const NAME: &str = "electionId";
    value(reply, NAME)?.map(|value| value.as_object_id().ok_or(NoHello::Field(NAME))).transpose()
}

/// The raw document: the gateway only sends it back.
fn topology_version(reply: &RawDocument) -> Result<Option<RawDocumentBuf>, NoHello> {
    const NAME: &str = "topologyVersion";
    let version = value(reply, NAME)?.map(|value| value.as_document().ok_or(NoHello::Field(NAME))).transpose()?;
    Ok(version.filter(|version| version.as_bytes().len() <= TOPOLOGY_VERSION_BYTES_MAX).map(ToOwned::to_owned))
}

fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// A message of mongod, shortened and on one line for a log.
fn plain(message: &str) -> String {
    message.chars().take(MESSAGE_CHARACTERS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;

    fn read(reply: &Document) -> Result<HelloFacts, NoHello> {
        HelloFacts::read(&RawDocumentBuf::try_from(reply).unwrap())
    }

    fn with(extra: Document) -> Document {
        let mut reply = doc! { "ok": 1.0, "setName": "rs0", "hosts": ["a:1", "B:2"], "maxWireVersion": 17 };
        reply.extend(extra);
        reply
    }

    #[test]
    fn a_reply_of_mongod_is_parsed() {
        let election = ObjectId::parse_str("7fffffff0000000000000003").unwrap();
        let version = doc! { "processId": ObjectId::new(), "counter": 6_i64 };
        let facts = read(&with(doc! {
            "isWritablePrimary": true, "secondary": false, "setVersion": 4, "electionId": election, "me": "A:1",
            "primary": "a:1", "passives": ["c:3"], "arbiters": ["d:4"], "topologyVersion": version.clone(),
        }))
        .unwrap();
        let listed: Vec<&str> = facts.listed().map(MemberName::as_str).collect();
        assert_eq!(listed, ["a:1", "b:2", "c:3", "d:4"]);
        assert_eq!((facts.role, facts.set_name.as_deref()), (HelloRole::Primary, Some("rs0")));
        assert_eq!((facts.set_version, facts.election_id, facts.max_wire_version), (Some(4), Some(election), 17));
        assert_eq!((facts.me, facts.primary), (Some("a:1".parse().unwrap()), Some("a:1".parse().unwrap())));
        assert_eq!(facts.topology_version.unwrap(), RawDocumentBuf::try_from(&version).unwrap());
    }

    #[test]
    fn the_role_is_read_from_replies_to_hello_and_to_legacy_hello() {
        for (extra, role, hidden) in [
            (doc! { "ismaster": true }, HelloRole::Primary, false),
            (doc! { "isWritablePrimary": false, "secondary": true }, HelloRole::Secondary, false),
            (doc! { "secondary": true, "hidden": true }, HelloRole::Other, true),
            (doc! { "secondary": true, "passive": true }, HelloRole::Secondary, false),
            (doc! { "arbiterOnly": true }, HelloRole::Arbiter, false),
            (doc! { "ismaster": false, "secondary": false }, HelloRole::Other, false),
            (doc! { "msg": "isdbgrid" }, HelloRole::Mongos, false),
        ] {
            let facts = read(&with(extra.clone())).unwrap();
            assert_eq!((facts.role, facts.hidden), (role, hidden), "{extra}");
        }
        for (reply, role) in [
            (doc! { "ok": 1, "isWritablePrimary": true }, HelloRole::Standalone),
            (doc! { "ok": true, "isreplicaset": true, "info": "no config" }, HelloRole::Ghost),
            (doc! { "ok": 1_i64, "msg": "isdbgrid", "isWritablePrimary": true }, HelloRole::Mongos),
        ] {
            assert_eq!(read(&reply).unwrap().role, role, "{reply}");
        }
    }

    #[test]
    fn hostile_replies_are_errors_or_limited() {
        let many = |count: usize| (0..count).map(|n| format!("h{n}:1")).collect::<Vec<_>>();
        for (extra, why) in [
            (doc! { "hosts": "a:1" }, NoHello::Field("hosts")),
            (doc! { "hosts": [1] }, NoHello::Field("hosts")),
            (doc! { "passives": { "0": "a:1" } }, NoHello::Field("passives")),
            (doc! { "setName": "" }, NoHello::Field("setName")),
            (doc! { "setName": "a\nb" }, NoHello::Field("setName")),
            (doc! { "setName": "x".repeat(257) }, NoHello::Field("setName")),
            (doc! { "setName": 1 }, NoHello::Field("setName")),
            (doc! { "me": 1 }, NoHello::Field("me")),
            (doc! { "electionId": "7f" }, NoHello::Field("electionId")),
            (doc! { "secondary": 1 }, NoHello::Field("secondary")),
            (doc! { "topologyVersion": [] }, NoHello::Field("topologyVersion")),
            (doc! { "arbiters": many(129) }, NoHello::TooManyMembers),
            (doc! { "hosts": many(100), "passives": many(100) }, NoHello::TooManyMembers),
            (
                doc! { "ok": 0, "code": 91, "errmsg": "shutting\ndown" },
                NoHello::Refused { code: 91, message: "shutting down".to_owned() },
            ),
        ] {
            assert_eq!(read(&with(extra.clone())), Err(why), "{extra}");
        }
        let facts = read(&with(doc! {
            "hosts": ["a:1", "a:1", "no port", "A:1", "b\0:1"], "me": "", "primary": "x",
            "topologyVersion": { "x": "y".repeat(300) }, "maxWireVersion": i64::MAX,
        }))
        .unwrap();
        assert_eq!(facts.hosts, ["a:1".parse().unwrap()]);
        assert_eq!((facts.me, facts.primary, facts.topology_version), (None, None, None));
        assert_eq!(facts.max_wire_version, 0);
    }
}
