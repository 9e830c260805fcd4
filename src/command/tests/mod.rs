//! Tests of the meaning of commands.

mod catalogue;
pub(crate) mod generator;
mod hostile;
mod naive;
mod newer_servers;
mod stage_keys;
mod stored_documents;

use bson::{RawDocument, RawDocumentBuf};

use super::{
    Exposes, KnownNames, Meaning, Reach, ReadOptions, Request, Resource, Sequence, Unclear, read, unknown_name,
};

/// The meaning of `body`, as an `OP_MSG` without document sequences.
fn read_body(body: &RawDocument) -> Result<Meaning<'_>, Unclear> {
    read(&Request { body, database: None, sequences: &[] }, ReadOptions::default())
}

fn read_with<'a>(
    body: &'a RawDocument,
    sequences: &'a [Sequence<'a>],
    javascript: bool,
) -> Result<Meaning<'a>, Unclear> {
    read(&Request { body, database: None, sequences }, ReadOptions { javascript, stored_functions: false, known: None })
}

/// As [`read_with`], with the search for `$where` instead of that for any JavaScript.
fn read_stored<'a>(body: &'a RawDocument, sequences: &'a [Sequence<'a>]) -> Result<Meaning<'a>, Unclear> {
    read(
        &Request { body, database: None, sequences },
        ReadOptions { javascript: false, stored_functions: true, known: None },
    )
}

/// The reaches as text, for example `Read shop.orders, Write vault.x`, or the error.
fn text(meaning: &Result<Meaning<'_>, Unclear>) -> String {
    match meaning {
        Ok(meaning) => meaning.reaches.iter().map(reach_text).collect::<Vec<_>>().join(", "),
        Err(unclear) => format!("{unclear:?}"),
    }
}

/// `*` is the whole server, `shop.*` a whole database, `shop` a database as such, `-` no namespace. A system collection
/// has what it exposes in brackets. `~` is an incidental reach.
fn reach_text(reach: &Reach<'_>) -> String {
    let resource = match reach.resource {
        Resource::NoNamespace => "-".to_owned(),
        Resource::Database(database) => database.to_owned(),
        Resource::Collection { database, collection } => format!("{database}.{collection}"),
        Resource::WholeDatabase(database) => format!("{database}.*"),
        Resource::WholeServer => "*".to_owned(),
        Resource::SystemCollection { database, collection, exposes: Exposes::Database } => {
            format!("{database}.{collection} [{database}.*]")
        }
        Resource::SystemCollection { database, collection, exposes: Exposes::Server } => {
            format!("{database}.{collection} [*]")
        }
        Resource::SystemCollection { database, collection, exposes: Exposes::Itself } => {
            format!("{database}.{collection} [itself]")
        }
    };
    format!("{}{:?} {resource}", if reach.incidental { "~" } else { "" }, reach.class)
}

/// Documents one after the other, as in a document sequence.
fn concatenated(documents: &[RawDocumentBuf]) -> Vec<u8> {
    documents.iter().flat_map(|document| document.as_bytes().to_vec()).collect()
}
