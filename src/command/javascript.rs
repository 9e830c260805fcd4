//! Finds JavaScript in BSON values: operators that run it, and values of the BSON type for code.

use std::sync::LazyLock;

use bson::raw::RawElement;
use bson::spec::ElementType;
use memchr::memmem::Finder;

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

/// What a search found.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Any JavaScript.
    pub(super) javascript: bool,
    /// JavaScript that sees the functions and values in `system.js`: only `$where` does, `$function` and `$accumulator`
    /// do not. Tested with mongod 6.0.5.
    pub(super) stored_functions: bool,
}

/// Adds to `found` the JavaScript that `element` contains at any depth.
pub(super) fn search(element: &RawElement<'_>, value_use: ValueUse, found: &mut Found) -> Result<(), Unclear> {
    search_in(element, value_use, found, 1)
}

/// Whether the bytes of a BSON document may contain a key `$where`. Far cheaper than reading its elements.
pub(super) fn may_have_where(bytes: &[u8]) -> bool {
    static WHERE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"$where\0"));
    WHERE.find(bytes).is_some()
}

fn search_in(element: &RawElement<'_>, value_use: ValueUse, found: &mut Found, depth: usize) -> Result<(), Unclear> {
    let name = key(element);
    if name == "$where" {
        *found = Found { javascript: true, stored_functions: true };
        return Ok(());
    }
    if matches!(name, "$function" | "$accumulator") || name.starts_with("$_internalJs") {
        found.javascript = true;
    }
    match element.element_type() {
        ElementType::JavaScriptCode | ElementType::JavaScriptCodeWithScope => {
            found.javascript |= value_use == ValueUse::Evaluated;
            Ok(())
        }
        ElementType::EmbeddedDocument => {
            let document = strict::document(element).ok_or(Unclear::NotBson)?;
            all(strict::elements(document), value_use, found, depth)
        }
        ElementType::Array => {
            all(strict::items(strict::array(element).ok_or(Unclear::NotBson)?), value_use, found, depth)
        }
        _ => Ok(()),
    }
}

fn all<'a>(
    elements: impl Iterator<Item = Result<RawElement<'a>, Unclear>>,
    value_use: ValueUse,
    found: &mut Found,
    depth: usize,
) -> Result<(), Unclear> {
    if depth == DEPTH_MAX {
        return Err(Unclear::TooDeep);
    }
    for element in elements {
        search_in(&element?, value_use, found, depth + 1)?;
        if found.stored_functions {
            break;
        }
    }
    Ok(())
}

/// mongod accepts fewer than 200 levels of nested BSON.
const DEPTH_MAX: usize = 200;
