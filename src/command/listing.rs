//! Commands that list collections or databases, and whether a reply that shows only some of them keeps the others
//! secret.
//!
//! A filter chooses among all of them in the server, before the gateway removes what the caller may not see. It must
//! not say more about them than the reply does.

use bson::{RawBsonRef, RawDocument};

use super::strict::{self, Fields, elements, items, key};

/// What a reply lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Listing {
    /// The collections and views of the command's database.
    Collections,
    /// The databases of the server.
    Databases,
}

/// `None` if the arguments of a `listCollections` could tell of a collection that the reply does not show.
///
/// Without a filter, the size of a batch tells only how many collections there are. With a filter it would tell whether
/// a hidden collection matches.
pub(super) fn of_collections(fields: &Fields<'_>) -> Option<Listing> {
    let is_safe = |filter: &RawDocument| {
        shows_only(filter, &COLLECTION_FIELDS, 0) && (filter.is_empty() || !has_batch_size(fields))
    };
    has_no_filter_or(fields, is_safe).then_some(Listing::Collections)
}

/// `None` if the arguments of a `listDatabases` could tell of a database that the reply does not show.
pub(super) fn of_databases(fields: &Fields<'_>) -> Option<Listing> {
    has_no_filter_or(fields, |filter| shows_only(filter, &DATABASE_FIELDS, 0)).then_some(Listing::Databases)
}

fn has_no_filter_or(fields: &Fields<'_>, is_safe: impl Fn(&RawDocument) -> bool) -> bool {
    let is_safe = |filter: &RawDocument| is_safe(filter) && !is_costly(filter, 0);
    fields.get("filter").is_none_or(|filter| strict::document(filter).is_some_and(is_safe))
}

/// Whether a filter can take so long for an entry that the time of the reply shows whether a hidden entry matches.
fn is_costly(filter: &RawDocument, depth: usize) -> bool {
    filter.as_bytes().len() > FILTER_BYTES_MAX
        || depth > DEPTH_MAX
        || elements(filter).any(|element| {
            let Ok(element) = element else { return true };
            match element.value() {
                Ok(RawBsonRef::RegularExpression(regex)) => is_costly_pattern(regex.pattern.as_str()),
                Ok(RawBsonRef::String(pattern)) if key(&element) == "$regex" => is_costly_pattern(pattern),
                Ok(RawBsonRef::Document(inner)) => is_costly(inner, depth + 1),
                Ok(RawBsonRef::Array(inner)) => inner.into_iter().any(|item| match item {
                    Ok(RawBsonRef::RegularExpression(regex)) => is_costly_pattern(regex.pattern.as_str()),
                    Ok(RawBsonRef::Document(inner)) => is_costly(inner, depth + 1),
                    Ok(RawBsonRef::Array(_)) | Err(_) => true,
                    Ok(_) => false,
                }),
                Ok(_) => false,
                Err(_) => true,
            }
        })
}

/// Whether a regular expression has more than one quantifier, so that it can match in many ways. A `?` behind `(`
/// begins a group.
fn is_costly_pattern(pattern: &str) -> bool {
    let groups = pattern.matches("(?").count();
    let quantifiers = pattern.bytes().filter(|byte| matches!(byte, b'*' | b'+' | b'?' | b'{')).count();
    quantifiers.saturating_sub(groups) > 1
}

fn has_batch_size(fields: &Fields<'_>) -> bool {
    let Some(cursor) = fields.get("cursor") else { return false };
    strict::document(cursor).is_none_or(|cursor| !cursor.is_empty())
}

/// Whether a filter depends only on fields that every entry of a reply still has. Expressions are excluded: they show
/// by their errors what hidden entries have.
fn shows_only(filter: &RawDocument, names: &[&str], depth: usize) -> bool {
    depth < DEPTH_MAX
        && elements(filter).all(|element| {
            let Ok(element) = element else { return false };
            match key(&element) {
                "$and" | "$or" | "$nor" => strict::array(&element).is_some_and(|branches| {
                    items(branches).all(|branch| {
                        let branch = branch.ok().and_then(|branch| strict::document(&branch));
                        branch.is_some_and(|branch| shows_only(branch, names, depth + 1))
                    })
                }),
                "$comment" => true,
                name => {
                    let top = name.split_once('.').map_or(name, |(top, _)| top);
                    names.contains(&top)
                }
            }
        })
}

/// The gateway removes `options` from some entries.
const COLLECTION_FIELDS: [&str; 4] = ["name", "type", "info", "idIndex"];

const DATABASE_FIELDS: [&str; 3] = ["name", "sizeOnDisk", "empty"];

/// Tools send names, and a pattern of a few characters.
const FILTER_BYTES_MAX: usize = 1024;

/// Far more than tools nest.
const DEPTH_MAX: usize = 16;
