//! Facts of a request: its command, its database and collection, and whether it expects a reply.

use crate::wire::bson_scan::{DocumentScan, Element, Scanned, kind};
use crate::wire::field_names::{ComparedPart, FieldFault, FieldNames};
use crate::wire::message_scan::{FieldVisitor, flag};
use crate::wire::short_text::ShortText;

/// The longest command name that is kept, in bytes. The longest of mongod has 53.
const COMMAND_BYTES_MAX: usize = 64;
/// The longest database name that mongod accepts, in bytes.
const DATABASE_BYTES_MAX: usize = 64;
/// The longest `database.collection` that mongod accepts, in bytes.
const NAMESPACE_BYTES_MAX: usize = 255;

/// Bytes kept of the identifier of a document sequence; the identifiers of all commands are shorter.
const SEQUENCE_BYTES_MAX: usize = 16;
/// Document sequences in one message.
///
/// Spec: mongodb/specifications `source/message/OP_MSG.md`; mongod closes the connection at a third.
const SEQUENCES_MAX: usize = 2;

/// The facts of one request, collected while it is being read.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent property of the message")]
pub struct RequestFacts {
    flags: u32,
    is_query: bool,
    is_command_query: bool,
    named: bool,
    command: Option<ShortText<COMMAND_BYTES_MAX>>,
    database: Option<ShortText<DATABASE_BYTES_MAX>>,
    first_value: Option<ShortText<NAMESPACE_BYTES_MAX>>,
    collection_field: Option<ShortText<NAMESPACE_BYTES_MAX>>,
    cursor: Option<i64>,
    session: Option<u64>,
    in_transaction: bool,
    waits: bool,
    speculates: bool,
    load_balanced: bool,
    is_raw: bool,
    sequences: [Option<ShortText<SEQUENCE_BYTES_MAX>>; SEQUENCES_MAX],
    has_odd_sequence: bool,
    compares_names: bool,
    /// Whether the documents of the current sequence are compared.
    in_compared_sequence: bool,
    /// Kept from message to message, once there was a sequence to compare.
    field_names: Option<Box<FieldNames>>,
    fault: Option<FieldFault>,
}

impl RequestFacts {
    /// Resets all facts for the next message. Afterwards, no field names are compared until
    /// [`RequestFacts::compare_names`].
    pub fn clear(&mut self) {
        // Field by field: setting an absent text to `None` does not have to overwrite its bytes.
        let Self {
            flags,
            is_query,
            is_command_query,
            named,
            command,
            database,
            first_value,
            collection_field,
            cursor,
            session,
            in_transaction,
            waits,
            speculates,
            load_balanced,
            is_raw,
            sequences,
            has_odd_sequence,
            compares_names,
            in_compared_sequence,
            field_names: _,
            fault,
        } = self;
        for fact in [
            is_query,
            is_command_query,
            named,
            in_transaction,
            waits,
            speculates,
            load_balanced,
            is_raw,
            has_odd_sequence,
            compares_names,
            in_compared_sequence,
        ] {
            *fact = false;
        }
        *fault = None;
        (*flags, *command, *database, *cursor, *session) = (0, None, None, None, None);
        (*first_value, *collection_field) = (None, None);
        *sequences = [None, None];
    }

    /// Whether the command name has been read, so that [`RequestFacts::command`] is final.
    pub fn is_named(&self) -> bool {
        self.named
    }

    /// The command: the name of the first element. `None` before it is read, for a name longer than 64 bytes, and for
    /// an `OP_QUERY` that is not a command.
    pub fn command(&self) -> Option<&[u8]> {
        self.command.as_ref().map(ShortText::as_bytes)
    }

    /// `$db`, or the database of an `OP_QUERY`.
    pub fn database(&self) -> Option<&ShortText<DATABASE_BYTES_MAX>> {
        self.database.as_ref()
    }

    /// The value of the first element if it is a string: the collection, or the full namespace, of most commands.
    pub fn first_value(&self) -> Option<&ShortText<NAMESPACE_BYTES_MAX>> {
        self.first_value.as_ref()
    }

    /// The value of the field `collection` if it is a string: the collection of a `getMore`.
    pub fn collection_field(&self) -> Option<&ShortText<NAMESPACE_BYTES_MAX>> {
        self.collection_field.as_ref()
    }

    /// The cursor ID of a `getMore`, or the first cursor ID of a `killCursors`.
    pub fn cursor(&self) -> Option<i64> {
        self.cursor
    }

    /// A number that identifies the session of a command in a transaction; `None` outside of a transaction.
    pub fn transaction(&self) -> Option<u64> {
        if self.in_transaction { self.session.or(Some(0)) } else { None }
    }

    /// Whether the server may delay the reply on purpose, as for the streaming hello of a driver's monitor.
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// Whether a hello contains the first step of an authentication (`speculativeAuthenticate`).
    pub fn speculates(&self) -> bool {
        self.speculates
    }

    /// Whether a hello has `loadBalanced: true`.
    pub fn load_balanced(&self) -> bool {
        self.load_balanced
    }

    /// Whether the message is an `OP_QUERY`.
    pub fn is_query(&self) -> bool {
        self.is_query
    }

    /// The identifiers of the document sequences read so far, except odd ones.
    pub fn sequences(&self) -> impl Iterator<Item = &[u8]> {
        self.sequences.iter().flatten().map(ShortText::as_bytes)
    }

    /// Whether there is a document sequence that no command accepts: a third one, or one with a long identifier.
    pub fn has_odd_sequence(&self) -> bool {
        self.has_odd_sequence
    }

    /// From here on, compares the field names of documents that the message wants to be stored in document sequences:
    /// see [`RequestFacts::field_fault`]. Those of the body are not compared.
    pub fn compare_names(&mut self) {
        if !self.compares_names && (self.sequences().next().is_some() || self.has_odd_sequence) {
            // Nothing is known of the documents before this point.
            self.fault = Some(FieldFault::Malformed);
        }
        self.compares_names = true;
    }

    /// What is wrong with the documents of the document sequences so far.
    pub fn field_fault(&self) -> Option<FieldFault> {
        self.fault
    }

    /// The number of field names that are remembered: each takes about 20 bytes. 0 for usual documents.
    pub fn field_names_held(&self) -> usize {
        self.field_names.as_ref().map_or(0, |names| names.names_held())
    }

    /// What is compared in the documents of a sequence. The statements of an update are compared only where they change
    /// the buckets of a time series as they are.
    fn compared_part(&self, identifier: &[u8]) -> Option<ComparedPart> {
        let collection = self.first_value.as_ref().map(ShortText::as_bytes);
        match identifier {
            b"documents" => Some(ComparedPart::Everything),
            b"updates" if collection.is_none_or(|name| name.starts_with(b"system.buckets.")) || self.is_raw => {
                Some(ComparedPart::Field(b"u"))
            }
            _ => None,
        }
    }

    /// Whether the message has a flag that the protocol does not define.
    pub fn has_unknown_flag(&self) -> bool {
        self.flags & !flag::KNOWN != 0
    }

    /// Whether the sender expects no reply, not even an error.
    pub fn more_to_come(&self) -> bool {
        self.flags & flag::MORE_TO_COME != 0
    }

    /// Whether a checksum follows the sections.
    pub fn has_checksum(&self) -> bool {
        self.flags & flag::CHECKSUM_PRESENT != 0
    }

    /// The flags of an `OP_MSG`; 0 for any other message.
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// The receiver does not get the flag that allows several replies.
    pub fn clear_exhaust(&mut self) {
        self.flags &= !flag::EXHAUST_ALLOWED;
    }

    /// Whether the sender accepts several replies to this request (exhaust cursor).
    pub fn exhaust_allowed(&self) -> bool {
        self.flags & flag::EXHAUST_ALLOWED != 0
    }
}

impl FieldVisitor for RequestFacts {
    fn flags(&mut self, flags: u32) {
        self.flags = flags;
    }

    fn query_namespace(&mut self, namespace: &[u8]) {
        self.is_query = true;
        let mut parts = namespace.splitn(2, |b| *b == b'.');
        self.database = parts.next().and_then(ShortText::new);
        self.is_command_query = parts.next() == Some(b"$cmd");
        self.named = !self.is_command_query;
    }

    fn sequence(&mut self, identifier: &[u8]) {
        let free = self.sequences.iter_mut().find(|entry| entry.is_none());
        match (free, ShortText::new(identifier)) {
            (Some(entry), Some(identifier)) => *entry = Some(identifier),
            _ => self.has_odd_sequence = true,
        }
        self.in_compared_sequence = false;
        if self.compares_names
            && let Some(part) = self.compared_part(identifier)
        {
            self.in_compared_sequence = true;
            match &mut self.field_names {
                Some(names) => names.restart(part),
                None => self.field_names = Some(Box::new(FieldNames::new(part))),
            }
        }
    }

    fn sequence_bytes(&mut self, documents: &[u8]) {
        if self.in_compared_sequence
            && let Some(names) = &mut self.field_names
        {
            names.read(documents);
            self.fault = self.fault.or(names.fault());
        }
    }

    fn sequence_end(&mut self) {
        if self.in_compared_sequence
            && let Some(names) = &mut self.field_names
        {
            self.fault = self.fault.or(names.final_fault());
            names.release();
            self.in_compared_sequence = false;
        }
    }

    fn element(&mut self, element: &Element<'_>) {
        if element.index == 0 {
            self.named = true;
            if !self.is_query || self.is_command_query {
                self.command = ShortText::new(element.name);
                self.first_value = element.string().and_then(ShortText::new);
                if element.name == b"getMore" {
                    self.cursor = element.number();
                }
            }
            return;
        }
        match element.name {
            b"$db" if !self.is_query => self.database = element.string().and_then(ShortText::new),
            b"collection" => self.collection_field = element.string().and_then(ShortText::new),
            b"cursors" => self.cursor = first_number(element),
            b"lsid" => self.session = element.value.and_then(session_number),
            b"autocommit" => self.in_transaction = element.number() == Some(0),
            b"maxAwaitTimeMS" | b"topologyVersion" => self.waits = true,
            b"speculativeAuthenticate" => self.speculates = true,
            b"loadBalanced" => self.load_balanced = element.number() == Some(1),
            b"rawData" => self.is_raw = true,
            _ => {}
        }
    }
}

/// The first element of a short array, if it is a number.
fn first_number(element: &Element<'_>) -> Option<i64> {
    let array = element.value.filter(|_| element.kind == kind::ARRAY)?;
    match DocumentScan::default().next(array) {
        Ok((_, Scanned::Element(first))) => first.number(),
        _ => None,
    }
}

/// Eight bytes of a session ID. It is a random UUID, so they distinguish the few sessions of a connection.
fn session_number(session: &[u8]) -> Option<u64> {
    let (_, tail) = session.split_last_chunk::<9>()?;
    tail.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}
