//! What an existing view reads.

use bson::RawDocument;
use smallvec::SmallVec;

use super::meaning::{Reach, ReadOptions};
use super::pipeline;
use super::reader::Reader;
use super::strict::{self, Fields};
use super::table::{self, Class};
use super::unclear::Unclear;

/// Every resource that a view of `database` reads. `options` is the field of this name in a reply to `listCollections`,
/// with `viewOn` and `pipeline`.
///
/// An error if the definition has something that the gateway does not understand.
pub fn view_sources<'a>(database: &'a str, options: &'a RawDocument) -> Result<SmallVec<[Reach<'a>; 2]>, Unclear> {
    let fields = Fields::of(options)?;
    let create = table::find(b"create").ok_or(Unclear::UnknownCommand)?;
    let mut reader = Reader::new(create, database, &fields, &[], ReadOptions::default());
    if let Some(source) = fields.get("viewOn") {
        reader.collection_at(source, Class::Read)?;
    }
    if let Some(stages) = fields.get("pipeline") {
        pipeline::of_view(&mut reader, strict::array(stages).ok_or(Unclear::Pipeline)?)?;
    }
    Ok(reader.reaches.into_list())
}
