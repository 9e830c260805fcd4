//! Names of databases and collections, as mongod accepts them.

use super::unclear::Unclear;

/// Accepts a valid name of a database; `$external` and `a$x` are valid.
///
/// Spec: the MongoDB manual § Naming Restrictions, for Unix; mongod 6.0 refuses the same names.
pub(super) fn database(name: &str) -> Result<&str, Unclear> {
    let fits = (1..=DATABASE_BYTES_MAX).contains(&name.len());
    let is_plain = !name.bytes().any(|byte| matches!(byte, b'/' | b'\\' | b'.' | b' ' | b'"' | 0));
    if fits && is_plain { Ok(name) } else { Err(Unclear::DatabaseName) }
}

/// Accepts a valid name of a collection. A name that begins with `$` is not valid: `$cmd.aggregate` names a cursor.
pub(super) fn collection(name: &str) -> Result<&str, Unclear> {
    let fits = (1..=COLLECTION_BYTES_MAX).contains(&name.len());
    let is_plain = !name.starts_with(['$', '.']) && !name.bytes().any(|byte| byte == 0);
    if fits && is_plain { Ok(name) } else { Err(Unclear::CollectionName) }
}

/// The database and the collection of `database.collection`, split at the first dot.
pub(super) fn namespace(name: &str) -> Result<(&str, &str), Unclear> {
    let (database_name, collection_name) = name.split_once('.').ok_or(Unclear::CollectionName)?;
    Ok((database(database_name)?, collection(collection_name)?))
}

/// mongod refuses a name of 64 bytes.
const DATABASE_BYTES_MAX: usize = 63;

/// mongod allows at most 255 bytes for `database.collection`.
const COLLECTION_BYTES_MAX: usize = 253;
