//! A question to the policy: the caller, the command and its body, which is given or generated.
//!
//! A generated body is the smallest one that mongod would accept. If it would not show what the command reaches, the
//! body must be given.

use std::net::IpAddr;

use bson::{RawDocument, RawDocumentBuf};

use super::body::{self, BodyError};
use super::tree::Node;
use crate::command::table::{self, CollectionAt, Command};
use crate::command::{ReadOptions, Request, Unclear, read};
use crate::config::Config;
use crate::identity::Principal;

/// The caller of the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssumedCaller {
    /// `None` for an unauthenticated caller.
    pub principal: Option<Principal>,
    /// `None` for a unix domain socket, and for an unknown address.
    pub source: Option<IpAddr>,
    /// The name of the listener; `None` means the only listener.
    pub listener: Option<String>,
}

/// The command of the question. If a body is given, the other fields must agree with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestedCommand {
    /// The name of the command, or an alias.
    pub command: Option<String>,
    /// `$db`.
    pub database: Option<String>,
    /// The collection, if the command has one.
    pub collection: Option<String>,
    /// The whole command.
    pub body: Option<Body>,
}

/// The keys and values of a command, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Body(pub(super) Vec<(String, Node)>);

/// Why a question is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// Something is missing, or two parts contradict each other.
    #[error("{0}")]
    Incomplete(String),
    /// The body cannot be read.
    #[error(transparent)]
    Body(#[from] BodyError),
}

impl Body {
    /// Parses extended JSON, canonical or relaxed. Keeps duplicate keys, so that the policy can deny them.
    pub fn parse(json: &str) -> Result<Self, BodyError> {
        body::parse(json).map(Self)
    }
}

impl AssumedCaller {
    /// `principal` has the format of the configuration: a SPIFFE ID with or without `spiffe://`, or any other name.
    /// `None` is an unauthenticated caller.
    pub fn new(principal: Option<&str>, source: Option<IpAddr>, listener: Option<String>) -> Self {
        Self { principal: principal.map(Principal::configured), source, listener }
    }

    /// The name of the listener. An unknown name is an error. A missing name is an error if there are several listeners
    /// and a rule depends on the listener (`needed`).
    pub(super) fn listener<'a>(&'a self, config: &'a Config, needed: bool) -> Result<&'a str, QuestionError> {
        let names = || config.listeners.keys().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
        match (&self.listener, config.listeners.len()) {
            (Some(name), _) if config.listeners.contains_key(name) => Ok(name),
            (Some(name), _) => Err(incomplete(format!("there is no listener {name:?}; name one of {}", names()))),
            (None, 1) => Ok(config.listeners.keys().next().map_or("", String::as_str)),
            (None, _) if needed => Err(incomplete(format!("rules depend on the listener; name one of {}", names()))),
            (None, _) => Ok(""),
        }
    }
}

impl RequestedCommand {
    /// The body of the command.
    pub(super) fn body(&self) -> Result<RawDocumentBuf, QuestionError> {
        match &self.body {
            Some(Body(entries)) => self.given(entries),
            None => self.generated(),
        }
    }

    fn given(&self, entries: &[(String, Node)]) -> Result<RawDocumentBuf, QuestionError> {
        let Some((name, first)) = entries.first() else {
            return Err(incomplete("the body is empty; its first key must be the command"));
        };
        let in_table = table::find(name.as_bytes());
        if let Some(command) = &self.command
            && command != name
            && (in_table.is_none() || in_table != table::find(command.as_bytes()))
        {
            return Err(incomplete(format!("the command is {command:?}, but the body has {name:?}")));
        }
        let named = entries.iter().find(|(key, _)| key == "$db").map(|(_, value)| value);
        match (&self.database, named) {
            (Some(database), Some(value)) if value.text() != Some(database) => {
                return Err(incomplete(format!("the database is {database:?}, but the body has another $db")));
            }
            (None, None) => return Err(incomplete("the body has no $db; add it, or name the database")),
            _ => {}
        }
        let collection = in_table.and_then(|command| collection_of(command, first, entries));
        if let Some(requested) = &self.collection
            && collection != Some(requested)
        {
            let named = collection.map_or_else(|| "none".to_owned(), |collection| format!("{collection:?}"));
            return Err(incomplete(format!("the collection is {requested:?}, but the body names {named}")));
        }
        let database = self.database.iter().filter(|_| named.is_none());
        let database = database.map(|database| ("$db".to_owned(), Node::Text(database.clone())));
        let entries: Vec<_> = entries.iter().cloned().chain(database).collect();
        Ok(body::document(&entries, "")?)
    }

    fn generated(&self) -> Result<RawDocumentBuf, QuestionError> {
        let Some(name) = self.command.as_deref() else {
            return Err(incomplete("neither a command nor a body is given"));
        };
        let Some(database) = self.database.as_deref() else {
            return Err(incomplete(format!("{name} needs a database")));
        };
        let database_entry = || ("$db".to_owned(), Node::Text(database.to_owned()));
        let bare = body::document(&[(name.to_owned(), Node::Integer(1)), database_entry()], "")?;
        let Some(command) = table::find(name.as_bytes()).filter(|_| !is_refused_by_name(&bare)) else {
            // The policy judges this body anyway: the reason is part of the error message.
            return Ok(bare);
        };
        let collection = self.collection.as_deref();
        let needs = || incomplete(format!("{} needs a collection, or a body", command.name));
        let (first, field) = match (command.collection, collection) {
            (CollectionAt::None, None) => (first_of(command.name), None),
            (CollectionAt::None, Some(_)) => return Err(no_place_for_collection(command)),
            (CollectionAt::First, Some(collection)) => (Node::Text(collection.to_owned()), None),
            (CollectionAt::FirstFullNamespace, Some(collection)) => {
                (Node::Text(format!("{database}.{collection}")), None)
            }
            (CollectionAt::Field(field), Some(collection)) => {
                (first_of(command.name), Some((field.to_owned(), Node::Text(collection.to_owned()))))
            }
            (_, None) => return Err(needs()),
        };
        let mut entries = vec![(command.name.to_owned(), first)];
        entries.extend(field);
        entries.extend(arguments(command.name));
        entries.push(database_entry());
        let document = body::document(&entries, "")?;
        let request = Request { body: &document, database: None, sequences: &[] };
        let unclear = read(&request, ReadOptions { javascript: true, stored_functions: true, known: None }).err();
        match unclear {
            None => Ok(document),
            Some(why) => Err(incomplete(format!(
                "the arguments of {} decide what it reaches: give its body (without one, {why})",
                command.name
            ))),
        }
    }
}

/// Whether every body of this command is refused.
fn is_refused_by_name(bare: &RawDocument) -> bool {
    let request = Request { body: bare, database: None, sequences: &[] };
    matches!(
        read(&request, ReadOptions::default()),
        Err(Unclear::UnknownCommand | Unclear::Removed(_) | Unclear::Internal(_))
    )
}

/// The value of the first element, for a command that does not name its collection there.
fn first_of(command: &str) -> Node {
    match command {
        "getMore" => Node::Table(vec![("$numberLong".to_owned(), Node::Text("1".to_owned()))]),
        "endSessions" | "refreshSessions" | "killSessions" => Node::List(Vec::new()),
        _ => Node::Integer(1),
    }
}

/// The arguments that mongod requires.
fn arguments(command: &str) -> Vec<(String, Node)> {
    let empty = Node::List(Vec::new());
    let table = || Node::Table(Vec::new());
    let arguments = match command {
        "aggregate" => vec![("pipeline", empty), ("cursor", table())],
        "insert" => vec![("documents", empty)],
        "update" => vec![("updates", empty)],
        "delete" => vec![("deletes", empty)],
        "findAndModify" => vec![("remove", Node::Bool(true))],
        "distinct" => vec![("key", Node::Text("_id".to_owned()))],
        "createIndexes" => vec![("indexes", empty)],
        "dropIndexes" => vec![("index", Node::Text("*".to_owned()))],
        "killCursors" => vec![("cursors", empty)],
        _ => Vec::new(),
    };
    arguments.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The command's own collection, according to the body.
fn collection_of<'a>(command: &Command, first: &'a Node, entries: &'a [(String, Node)]) -> Option<&'a str> {
    match command.collection {
        CollectionAt::None => None,
        CollectionAt::First => first.text(),
        CollectionAt::FirstFullNamespace => first.text()?.split_once('.').map(|(_, collection)| collection),
        CollectionAt::Field(field) => entries.iter().find(|(key, _)| key == field)?.1.text(),
    }
}

fn no_place_for_collection(command: &Command) -> QuestionError {
    incomplete(format!("{} does not take a collection: omit it, or give a body", command.name))
}

fn incomplete(sentence: impl Into<String>) -> QuestionError {
    QuestionError::Incomplete(sentence.into())
}
