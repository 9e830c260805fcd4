//! Tests of what commands mean.

mod catalogue;
mod generator;
mod hostile;
mod naive;

use bson::{RawDocument, RawDocumentBuf};

use super::{Look, Meaning, Place, Reach, Request, Sequence, Shows, Unclear, read};

/// What `body` means, as an `OP_MSG` without sequences.
fn read_body(body: &RawDocument) -> Result<Meaning<'_>, Unclear> {
    read(&Request { body, database: None, sequences: &[] }, Look::default())
}

fn read_with<'a>(
    body: &'a RawDocument,
    sequences: &'a [Sequence<'a>],
    javascript: bool,
) -> Result<Meaning<'a>, Unclear> {
    read(&Request { body, database: None, sequences }, Look { javascript })
}

/// The reaches as text: `Read shop.orders, Write vault.x`, or why there are none.
fn text(meaning: &Result<Meaning<'_>, Unclear>) -> String {
    match meaning {
        Ok(meaning) => meaning.reaches.iter().map(reach_text).collect::<Vec<_>>().join(", "),
        Err(unclear) => format!("{unclear:?}"),
    }
}

/// `*` is everything, `shop.*` a whole database, `shop` a database by name, `-` nothing; a window has what it shows in
/// brackets.
fn reach_text(reach: &Reach<'_>) -> String {
    let place = match reach.place {
        Place::Nowhere => "-".to_owned(),
        Place::Database(database) => database.to_owned(),
        Place::Collection { database, collection } => format!("{database}.{collection}"),
        Place::WholeDatabase(database) => format!("{database}.*"),
        Place::WholeServer => "*".to_owned(),
        Place::Window { database, collection, shows: Shows::Database } => {
            format!("{database}.{collection} [{database}.*]")
        }
        Place::Window { database, collection, shows: Shows::Server } => format!("{database}.{collection} [*]"),
    };
    format!("{:?} {place}", reach.class)
}

/// Documents one after the other, as a sequence has them.
fn concatenated(documents: &[RawDocumentBuf]) -> Vec<u8> {
    documents.iter().flat_map(|document| document.as_bytes().to_vec()).collect()
}
