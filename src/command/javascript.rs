//! Finds JavaScript: operators that run it, and values that are code.

use bson::raw::RawElement;
use bson::spec::ElementType;

use super::strict::{self, key};
use super::unclear::Unclear;

/// Which values are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueUse {
    /// A value that is code counts, as in filters and expressions.
    Evaluated,
    /// ValueUse are data that is stored, and code there is never run; only operators count.
    Stored,
}

/// Whether JavaScript stands in `element`, at any depth.
pub(super) fn is_in(element: &RawElement<'_>, value_use: ValueUse) -> Result<bool, Unclear> {
    search(element, value_use, 1)
}

fn search(element: &RawElement<'_>, value_use: ValueUse, depth: usize) -> Result<bool, Unclear> {
    let name = key(element);
    if matches!(name, "$where" | "$function" | "$accumulator") || name.starts_with("$_internalJs") {
        return Ok(true);
    }
    match element.element_type() {
        ElementType::JavaScriptCode | ElementType::JavaScriptCodeWithScope => Ok(value_use == ValueUse::Evaluated),
        ElementType::EmbeddedDocument => {
            let document = strict::document(element).ok_or(Unclear::NotBson)?;
            any(strict::elements(document), value_use, depth)
        }
        ElementType::Array => any(strict::items(strict::array(element).ok_or(Unclear::NotBson)?), value_use, depth),
        _ => Ok(false),
    }
}

fn any<'a>(
    elements: impl Iterator<Item = Result<RawElement<'a>, Unclear>>,
    value_use: ValueUse,
    depth: usize,
) -> Result<bool, Unclear> {
    if depth == DEPTH_MAX {
        return Err(Unclear::TooDeep);
    }
    for element in elements {
        if search(&element?, value_use, depth + 1)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// mongod takes BSON nested less than 200 deep.
const DEPTH_MAX: usize = 200;
