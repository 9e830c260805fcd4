//! Finds JavaScript in BSON values: operators that run it, and values of the BSON type for code.

use bson::raw::RawElement;
use bson::spec::ElementType;

use super::strict::{self, key};
use super::unclear::Unclear;

/// What the server does with the values that are searched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueUse {
    /// The server evaluates them, as in filters and expressions: a value that is code counts.
    Evaluated,
    /// The server stores them and never runs code in them: only operators count.
    Stored,
}

/// Whether `element` contains JavaScript, at any depth.
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

/// mongod accepts fewer than 200 levels of nested BSON.
const DEPTH_MAX: usize = 200;
