//! Reads a command in an `OP_QUERY`, the legacy message that drivers still use for their first hello.
//!
//! Spec: `MongoDB` wire protocol § `OP_QUERY`.

use bson::RawDocument;
use bson::raw::RawBsonRef;

use crate::wire::bson_scan::cstring;
use crate::wire::header::HEADER_BYTES;

/// A command in an `OP_QUERY`.
#[derive(Debug, Clone, Copy)]
pub struct QueryCommand<'a> {
    /// The database of its namespace.
    pub database: &'a str,
    /// The command document, without the `$query` wrapper if there is one.
    pub command: &'a RawDocument,
}

/// Reads a complete message. `None` unless it is exactly one command: the namespace is `database.$cmd`, one document is
/// requested, none is skipped, and there is no projection and no byte after the command.
pub fn command(message: &[u8]) -> Option<QueryCommand<'_>> {
    let (namespace, rest) = cstring(message.get(HEADER_BYTES + 4..)?).ok()??;
    let database = std::str::from_utf8(namespace).ok()?.strip_suffix(".$cmd")?;
    let (skip, rest) = rest.split_first_chunk::<4>()?;
    let (to_return, document) = rest.split_first_chunk::<4>()?;
    if i32::from_le_bytes(*skip) != 0 || i32::from_le_bytes(*to_return).unsigned_abs() != 1 {
        return None;
    }
    let document = RawDocument::from_bytes(document).ok()?;
    let (name, first) = document.iter().next()?.ok()?;
    let command = match (name.as_str(), first) {
        ("$query" | "query", RawBsonRef::Document(inner)) => inner,
        _ => document,
    };
    Some(QueryCommand { database, command })
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;

    fn check(namespace: &str, (skip, to_return): (i32, i32), documents: &[Document], expected: Option<&str>) {
        let mut message = vec![0; HEADER_BYTES + 4];
        message.extend_from_slice(namespace.as_bytes());
        message.push(0);
        message.extend_from_slice(&skip.to_le_bytes());
        message.extend_from_slice(&to_return.to_le_bytes());
        for document in documents {
            message.extend_from_slice(&bson::serialize_to_vec(document).unwrap());
        }
        let found = command(&message).map(|query| {
            let (first, _) = query.command.iter().next().unwrap().unwrap();
            format!("{} {}", query.database, first.as_str())
        });
        assert_eq!(found.as_deref(), expected, "{namespace} {documents:?}");
        if documents.len() == 1 {
            (0..message.len()).for_each(|end| assert!(command(&message[..end]).is_none()));
        }
    }

    #[test]
    fn a_command_is_read_and_a_message_with_anything_else_is_not() {
        let hello = doc! { "isMaster": 1 };
        for to_return in [1, -1] {
            check("admin.$cmd", (0, to_return), std::slice::from_ref(&hello), Some("admin isMaster"));
        }
        for wrapper in ["$query", "query"] {
            check("admin.$cmd", (0, -1), &[doc! { wrapper: hello.clone() }], Some("admin isMaster"));
        }
        check("admin.$cmd", (0, 0), std::slice::from_ref(&hello), None);
        check("admin.$cmd", (1, -1), std::slice::from_ref(&hello), None);
        check("admin.$cmd", (0, -1), &[hello.clone(), doc! { "x": 1 }], None);
        check("admin.$cmd", (0, -1), &[doc! {}], None);
        check("admin.orders", (0, -1), std::slice::from_ref(&hello), None);
        check("admin.$cmd.sys.inprog", (0, -1), &[hello], None);
    }
}
