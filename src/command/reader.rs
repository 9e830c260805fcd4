//! A command that is being read: its body, its document sequences, and what was found in them so far.

use bson::RawDocument;
use bson::raw::RawElement;
use smallvec::SmallVec;

use super::javascript::{self, Found, ValueUse};
use super::listing::Listing;
use super::meaning::{ReadOptions, Sequence, needs_sequences};
use super::reaches::Reaches;
use super::strict::{self, Documents, Fields};
use super::table::{Class, Command};
use super::unclear::Unclear;

/// A command that is being read.
pub(super) struct Reader<'a, 'r> {
    pub(super) command: &'static Command,
    pub(super) database: &'a str,
    pub(super) fields: &'r Fields<'a>,
    pub(super) options: ReadOptions<'r>,
    pub(super) reaches: Reaches<'a>,
    pub(super) found: Found,
    pub(super) essential: bool,
    pub(super) listing: Option<Listing>,
    pub(super) cursors: SmallVec<[i64; 1]>,
    pub(super) sessions: SmallVec<[&'a [u8; 16]; 1]>,
    /// Whether values are searched for JavaScript.
    searches: bool,
    sequences: &'r [Sequence<'a>],
}

impl<'a, 'r> Reader<'a, 'r> {
    pub(super) fn new(
        command: &'static Command,
        database: &'a str,
        fields: &'r Fields<'a>,
        sequences: &'r [Sequence<'a>],
        options: ReadOptions<'r>,
    ) -> Self {
        Self {
            command,
            database,
            fields,
            options,
            reaches: Reaches::default(),
            found: Found::default(),
            essential: false,
            listing: None,
            cursors: SmallVec::new(),
            sessions: SmallVec::new(),
            searches: options.javascript,
            sequences,
        }
    }

    /// Whether values are searched for JavaScript.
    pub(super) fn searches(&self) -> bool {
        self.searches
    }

    /// Prepares the search for `$where` where [`ReadOptions::stored_functions`] asks for it and `body` or a document
    /// sequence may contain one. The documents of an `insert` are stored and never run.
    pub(super) fn expect_stored_functions(&mut self, body: &RawDocument) {
        if self.options.stored_functions && !self.searches && self.command.name != "insert" {
            self.searches = javascript::may_have_where(body.as_bytes())
                || self.sequences.iter().any(|sequence| javascript::may_have_where(sequence.documents));
        }
    }

    /// The value of the first element.
    pub(super) fn command_value(&self) -> Result<&'r RawElement<'a>, Unclear> {
        self.fields.first().ok_or(Unclear::NoCommand)
    }

    /// The value of an argument that the command requires.
    pub(super) fn argument(&self, field: &'static str) -> Result<&'r RawElement<'a>, Unclear> {
        self.fields.get(field).ok_or(Unclear::Argument(field))
    }

    /// The documents of `field`, from the body or from a document sequence.
    pub(super) fn documents(&self, field: &'static str) -> Result<Option<Documents<'a>>, Unclear> {
        if let Some(element) = self.fields.get(field) {
            let array = strict::array(element).ok_or(Unclear::Argument(field))?;
            return Ok(Some(Documents::Array(array.iter_elements())));
        }
        let sequence = self.sequences.iter().find(|sequence| sequence.identifier == field.as_bytes());
        if sequence.is_none() && needs_sequences(self.command, self.options) {
            return Err(Unclear::Argument(field));
        }
        Ok(sequence.map(|sequence| Documents::Sequence(sequence.documents)))
    }

    /// Adds the collection that the first element names.
    pub(super) fn own_collection(&mut self, class: Class) -> Result<(), Unclear> {
        self.collection_at(self.command_value()?, class)
    }

    /// Adds the collection that the argument `field` names.
    pub(super) fn collection_in(&mut self, field: &'static str, class: Class) -> Result<(), Unclear> {
        self.collection_at(self.argument(field)?, class)
    }

    /// Adds the collection that `element` names.
    pub(super) fn collection_at(&mut self, element: &RawElement<'a>, class: Class) -> Result<(), Unclear> {
        let name = strict::text(element).ok_or(Unclear::CollectionName)?;
        self.reaches.add_collection(self.database, name, class)
    }

    /// Adds the namespace (`database.collection`) that `element` names.
    pub(super) fn namespace_at(&mut self, element: &RawElement<'a>, class: Class) -> Result<(), Unclear> {
        self.reaches.add_namespace(strict::text(element).ok_or(Unclear::CollectionName)?, class)
    }

    /// Searches one value for JavaScript, if the options ask for it and there is more to be found.
    pub(super) fn search_javascript(&mut self, element: &RawElement<'a>, value_use: ValueUse) -> Result<(), Unclear> {
        if self.searches && !self.found.stored_functions {
            javascript::search(element, value_use, &mut self.found)?;
        }
        Ok(())
    }
}
