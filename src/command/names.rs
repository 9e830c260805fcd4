//! Names of databases and collections, as mongod takes them.

use super::unclear::Unclear;

/// A name that a database can have: `$external` and `a$x` too.
///
/// Spec: the MongoDB manual § Naming Restrictions, of Unix; mongod 6.0 refuses the same ones.
pub(super) fn database(name: &str) -> Result<&str, Unclear> {
    let fits = (1..=DATABASE_BYTES_MAX).contains(&name.len());
    let reads = !name.bytes().any(|byte| matches!(byte, b'/' | b'\\' | b'.' | b' ' | b'"' | 0));
    if fits && reads { Ok(name) } else { Err(Unclear::DatabaseName) }
}

/// A name that a collection can have. One that begins with `$` is none: `$cmd.aggregate` is the name of a cursor.
pub(super) fn collection(name: &str) -> Result<&str, Unclear> {
    let fits = (1..=COLLECTION_BYTES_MAX).contains(&name.len());
    let reads = !name.starts_with(['$', '.']) && !name.bytes().any(|byte| byte == 0);
    if fits && reads { Ok(name) } else { Err(Unclear::CollectionName) }
}

/// Database and collection of `database.collection`, taken apart at the first dot.
pub(super) fn namespace(name: &str) -> Result<(&str, &str), Unclear> {
    let (database_name, collection_name) = name.split_once('.').ok_or(Unclear::CollectionName)?;
    Ok((database(database_name)?, collection(collection_name)?))
}

/// mongod: a name of 64 bytes is refused.
const DATABASE_BYTES_MAX: usize = 63;

/// mongod: `database.collection` has at most 255 bytes.
const COLLECTION_BYTES_MAX: usize = 253;
