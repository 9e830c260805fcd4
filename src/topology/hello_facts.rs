//! What a member says of itself and of its set, in its answer to `hello`.
//!
//! Spec: mongodb/specifications `source/server-discovery-and-monitoring/server-discovery-and-monitoring.md` § Parsing a
//! hello or legacy hello response.

use bson::oid::ObjectId;
use bson::raw::RawBsonRef;
use bson::{RawDocument, RawDocumentBuf};

use super::limits::MEMBERS_MAX;
use super::member_name::MemberName;

/// The longest name of a set that is taken.
const SET_NAME_BYTES_MAX: usize = 256;

/// The longest `topologyVersion` that is kept; mongod's has 45 bytes.
const TOPOLOGY_VERSION_BYTES_MAX: usize = 256;

/// The longest error message of a member that is kept.
const MESSAGE_CHARACTERS_MAX: usize = 300;

/// What a mongod or mongos is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloRole {
    /// Takes writes.
    Primary,
    /// Has the data, and may be read from.
    Secondary,
    /// Votes, and has no data.
    Arbiter,
    /// In the set, and nothing to be read from: hidden, or just starting, recovering or rolling back.
    Other,
    /// Made for a replica set, and in none: not initiated yet, or removed from it.
    Ghost,
    /// A router of a sharded cluster.
    Mongos,
    /// A mongod without a replica set.
    Standalone,
}

/// One answer to `hello`.
#[derive(Debug, Clone, PartialEq)]
pub struct HelloFacts {
    /// What it is.
    pub role: HelloRole,
    /// Whether the set's configuration hides it from clients.
    pub hidden: bool,
    /// The set's name.
    pub set_name: Option<String>,
    /// Of the set's configuration.
    pub set_version: Option<i64>,
    /// Of the election that made it primary; later ones are greater.
    pub election_id: Option<ObjectId>,
    /// Members that may become primary.
    pub hosts: Vec<MemberName>,
    /// Members that may not.
    pub passives: Vec<MemberName>,
    /// Members without data.
    pub arbiters: Vec<MemberName>,
    /// What the set calls it.
    pub me: Option<MemberName>,
    /// Who it takes for the primary.
    pub primary: Option<MemberName>,
    /// What a streaming `hello` is to send back.
    pub topology_version: Option<RawDocumentBuf>,
    /// The newest protocol that it speaks.
    pub max_wire_version: i32,
}

/// Why an answer says nothing of a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoHello {
    /// mongod refused to answer.
    #[error("refused hello: {message} (code {code})")]
    Refused {
        /// `MongoDB`'s number; 0 where it named none.
        code: i32,
        /// What it says; shortened, without control characters.
        message: String,
    },
    /// The document is damaged.
    #[error("answered hello with a document that cannot be read")]
    Damaged,
    /// A field is of another type than it can be.
    #[error("answered hello with an unusable `{0}`")]
    Field(&'static str),
    /// More members than any set has.
    #[error("names more than {MEMBERS_MAX} members")]
    TooManyMembers,
}

impl HelloFacts {
    /// Reads an answer.
    ///
    /// Members with names that are no `host:port` are left out, as nothing could connect to them.
    pub fn read(answer: &RawDocument) -> Result<Self, NoHello> {
        if number(answer, "ok")?.is_none_or(|ok| ok == 0) {
            let code = number(answer, "code")?.and_then(|code| i32::try_from(code).ok()).unwrap_or_default();
            let message = text(answer, "errmsg")?.unwrap_or("no reason given");
            return Err(NoHello::Refused { code, message: plain(message) });
        }
        let set_name = text(answer, "setName")?;
        if set_name.is_some_and(|name| name.is_empty() || name.len() > SET_NAME_BYTES_MAX || !is_plain(name)) {
            return Err(NoHello::Field("setName"));
        }
        let hidden = flag(answer, "hidden")?;
        let (hosts, passives, arbiters) =
            (names(answer, "hosts")?, names(answer, "passives")?, names(answer, "arbiters")?);
        if hosts.len() + passives.len() + arbiters.len() > MEMBERS_MAX {
            return Err(NoHello::TooManyMembers);
        }
        Ok(Self {
            role: role(answer, set_name.is_some(), hidden)?,
            hidden,
            set_name: set_name.map(str::to_owned),
            set_version: number(answer, "setVersion")?,
            election_id: election_id(answer)?,
            hosts,
            passives,
            arbiters,
            me: text(answer, "me")?.and_then(|name| name.parse().ok()),
            primary: text(answer, "primary")?.and_then(|name| name.parse().ok()),
            topology_version: topology_version(answer)?,
            max_wire_version: number(answer, "maxWireVersion")?
                .and_then(|version| i32::try_from(version).ok())
                .unwrap_or_default(),
        })
    }

    /// Every member that it names: hosts, passives and arbiters.
    pub fn listed(&self) -> impl Iterator<Item = &MemberName> {
        self.hosts.iter().chain(&self.passives).chain(&self.arbiters)
    }
}

fn role(answer: &RawDocument, in_a_set: bool, hidden: bool) -> Result<HelloRole, NoHello> {
    if text(answer, "msg")? == Some("isdbgrid") {
        return Ok(HelloRole::Mongos);
    }
    if !in_a_set {
        return Ok(if flag(answer, "isreplicaset")? { HelloRole::Ghost } else { HelloRole::Standalone });
    }
    let is_primary = flag(answer, "isWritablePrimary")? || flag(answer, "ismaster")?;
    Ok(match () {
        () if is_primary => HelloRole::Primary,
        () if hidden => HelloRole::Other,
        () if flag(answer, "secondary")? => HelloRole::Secondary,
        () if flag(answer, "arbiterOnly")? => HelloRole::Arbiter,
        () => HelloRole::Other,
    })
}

/// The value of a field; `None` where it is missing or null.
fn value<'a>(answer: &'a RawDocument, name: &str) -> Result<Option<RawBsonRef<'a>>, NoHello> {
    let value = answer.get(name).map_err(|_| NoHello::Damaged)?;
    Ok(value.filter(|value| *value != RawBsonRef::Null))
}

fn text<'a>(answer: &'a RawDocument, name: &'static str) -> Result<Option<&'a str>, NoHello> {
    value(answer, name)?.map(|value| value.as_str().ok_or(NoHello::Field(name))).transpose()
}

fn flag(answer: &RawDocument, name: &'static str) -> Result<bool, NoHello> {
    let flag = value(answer, name)?.map(|value| value.as_bool().ok_or(NoHello::Field(name))).transpose()?;
    Ok(flag.unwrap_or_default())
}

/// A number of any type, its whole part.
fn number(answer: &RawDocument, name: &'static str) -> Result<Option<i64>, NoHello> {
    let Some(value) = value(answer, name)? else { return Ok(None) };
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

/// A list of members, without those whose names are none.
fn names(answer: &RawDocument, name: &'static str) -> Result<Vec<MemberName>, NoHello> {
    let Some(value) = value(answer, name)? else { return Ok(Vec::new()) };
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

fn election_id(answer: &RawDocument) -> Result<Option<ObjectId>, NoHello> {
    const NAME: &str = "electionId";
    value(answer, NAME)?.map(|value| value.as_object_id().ok_or(NoHello::Field(NAME))).transpose()
}

/// As it came: the gateway only sends it back.
fn topology_version(answer: &RawDocument) -> Result<Option<RawDocumentBuf>, NoHello> {
    const NAME: &str = "topologyVersion";
    let version = value(answer, NAME)?.map(|value| value.as_document().ok_or(NoHello::Field(NAME))).transpose()?;
    Ok(version.filter(|version| version.as_bytes().len() <= TOPOLOGY_VERSION_BYTES_MAX).map(ToOwned::to_owned))
}

fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// A message of mongod's, fit for a log line.
fn plain(message: &str) -> String {
    message.chars().take(MESSAGE_CHARACTERS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;

    fn read(answer: &Document) -> Result<HelloFacts, NoHello> {
        HelloFacts::read(&RawDocumentBuf::try_from(answer).unwrap())
    }

    fn with(extra: Document) -> Document {
        let mut answer = doc! { "ok": 1.0, "setName": "rs0", "hosts": ["a:1", "B:2"], "maxWireVersion": 17 };
        answer.extend(extra);
        answer
    }

    #[test]
    fn an_answer_of_mongod_is_read() {
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
    fn the_role_is_told_from_the_fields_of_both_hellos() {
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
        for (answer, role) in [
            (doc! { "ok": 1, "isWritablePrimary": true }, HelloRole::Standalone),
            (doc! { "ok": true, "isreplicaset": true, "info": "no config" }, HelloRole::Ghost),
            (doc! { "ok": 1_i64, "msg": "isdbgrid", "isWritablePrimary": true }, HelloRole::Mongos),
        ] {
            assert_eq!(read(&answer).unwrap().role, role, "{answer}");
        }
    }

    #[test]
    fn hostile_answers_are_refused_or_bounded() {
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
