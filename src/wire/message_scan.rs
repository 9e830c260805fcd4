//! Scans the body of one message while it is being forwarded: flags, sections, and the top-level elements of the
//! command.
//!
//! Nothing is copied or buffered here. A [`FieldVisitor`], of a request or of a reply, interprets the elements. After
//! an error the rest of the message is not scanned. The next message is not affected, because the header has the
//! length.
//!
//! Spec: `MongoDB` wire protocol § `OP_MSG`, § `OP_QUERY`, § `OP_REPLY`.

use std::ops::Range;

use crate::wire::bson_scan::{DocumentScan, Element, Malformed, Scanned, cstring, kind};
use crate::wire::header::{HEADER_BYTES, Header, OpCode};

/// Receives the parts of a message that a scan finds.
pub trait FieldVisitor {
    /// Whether the scan looks for the ID in a `cursor` document and calls [`FieldVisitor::cursor`] with it.
    const READS_CURSOR: bool = false;

    /// Flag bits of an `OP_MSG`. Not called for legacy messages, whose flags have other meanings.
    fn flags(&mut self, flags: u32);
    /// The full collection name of an `OP_QUERY`, without its NUL.
    fn query_namespace(&mut self, namespace: &[u8]);
    /// A top-level element of the command document.
    fn element(&mut self, element: &Element<'_>);
    /// The identifier of a document sequence.
    fn sequence(&mut self, _identifier: &[u8]) {}
    /// The next bytes of the documents of that sequence.
    fn sequence_bytes(&mut self, _documents: &[u8]) {}
    /// The last of these bytes have been given.
    fn sequence_end(&mut self) {}
    /// The cursor ID of a reply; 0 if the cursor is exhausted.
    fn cursor(&mut self, _id: i64) {}
}

/// Flag bits of `OP_MSG`.
pub mod flag {
    /// All flags that this version of the protocol defines.
    pub const KNOWN: u32 = CHECKSUM_PRESENT | MORE_TO_COME | EXHAUST_ALLOWED;
    /// A CRC-32C follows the sections.
    pub const CHECKSUM_PRESENT: u32 = 1;
    /// In a request: the sender expects no reply. In a reply: another reply follows without a request.
    pub const MORE_TO_COME: u32 = 1 << 1;
    /// The client accepts several replies to this request.
    pub const EXHAUST_ALLOWED: u32 = 1 << 16;
    /// The bits that a receiver must reject if it does not know them.
    pub const REQUIRED: u32 = 0xFFFF;
}

/// The part of the message that comes next.
#[derive(Debug, Clone, Copy)]
enum Ahead {
    Flags,
    QueryHead,
    ReplyHead,
    Section,
    Sequence,
    /// This many bytes of a document sequence.
    Skip(u32),
    Command(DocumentScan),
    /// The `cursor` document of a reply. The outer scan is at its start, and skips what the inner scan has read.
    Cursor {
        outer: DocumentScan,
        inner: DocumentScan,
    },
    /// The command inside a `$query` wrapper. The rest of the message is not read.
    Wrapped(DocumentScan),
    Checksum,
    /// The rest of the message is not scanned: it is of an unknown type, or malformed.
    Unread,
}

/// A scan of one message.
#[derive(Debug, Clone, Copy)]
pub struct MessageScan {
    op_code: OpCode,
    ahead: Ahead,
    /// Bytes of the whole message, header included.
    length: u32,
    /// Bytes of the message that have not been consumed.
    left: u32,
    /// Start and end of the body of an `OP_MSG` in the message; the end is 0 until the body has been read.
    body: (u32, u32),
    commands: u32,
    checksum_bytes: u32,
    malformed: bool,
}

impl MessageScan {
    /// Starts at the first byte after the header.
    pub fn new(header: &Header) -> Self {
        let ahead = match header.op_code {
            OpCode::MSG => Ahead::Flags,
            OpCode::QUERY => Ahead::QueryHead,
            OpCode::REPLY => Ahead::ReplyHead,
            _ => Ahead::Unread,
        };
        Self {
            op_code: header.op_code,
            ahead,
            length: header.length,
            left: header.length.saturating_sub(u32::try_from(HEADER_BYTES).unwrap_or(u32::MAX)),
            body: (0, 0),
            commands: 0,
            checksum_bytes: 0,
            malformed: matches!(ahead, Ahead::Unread),
        }
    }

    /// Bytes of the message that have not been consumed; 0 when the message is complete.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// The body of an `OP_MSG` as a range from the first byte of the message; `None` until the body has been read.
    pub fn body(&self) -> Option<Range<usize>> {
        let (start, end) = self.body;
        (end > 0).then_some(start as usize..end as usize)
    }

    /// The declared end of that body; `None` before the body begins, and after it has been read.
    pub fn body_end(&self) -> Option<usize> {
        match &self.ahead {
            Ahead::Command(scan) if self.op_code == OpCode::MSG && scan.left() > 0 => {
                Some((self.length - self.left) as usize + scan.left() as usize)
            }
            _ => None,
        }
    }

    /// Whether the message so far is malformed, or of a type that is not scanned.
    pub fn is_malformed(&self) -> bool {
        self.malformed
    }

    /// Continues in `input`, which starts at the first byte that the previous call did not consume. Returns the number
    /// of consumed bytes.
    ///
    /// Bytes of the next message are not consumed. At most `bson_scan::KEPT_BYTES_MAX` bytes of this message remain
    /// unconsumed; the caller passes them again, followed by more.
    pub fn advance(&mut self, input: &[u8], visitor: &mut impl FieldVisitor) -> usize {
        let mut at = 0;
        while self.left > 0 {
            let rest = input.get(at..).unwrap_or_default();
            let rest = rest.get(..self.left as usize).unwrap_or(rest);
            if rest.is_empty() {
                break;
            }
            let step = self.step(rest, visitor).unwrap_or_else(|Malformed| {
                self.give_up();
                Some(0)
            });
            let Some(step) = step else {
                // The whole message has arrived and the scan still needs more: a length in it exceeds its end.
                if rest.len() == self.left as usize {
                    self.give_up();
                    continue;
                }
                break;
            };
            at += step;
            self.left -= u32::try_from(step).unwrap_or(self.left);
        }
        if self.left == 0 && !self.is_finished() {
            self.give_up();
        }
        at
    }

    /// Skips `bytes` bytes that [`MessageScan::advance`] has not consumed, when the caller cannot wait for more. The
    /// message then counts as malformed. Does nothing if `bytes` is 0.
    pub fn give_up_on(&mut self, bytes: usize) {
        if bytes > 0 {
            self.give_up();
            self.left = self.left.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    fn give_up(&mut self) {
        self.malformed = true;
        self.ahead = Ahead::Unread;
    }

    /// Whether the message may end here: all sections are complete, there is exactly one command, and the checksum has
    /// been read if the flags announce one.
    fn is_finished(&self) -> bool {
        match self.ahead {
            Ahead::Checksum => self.commands == 1,
            Ahead::Section | Ahead::Skip(0) if self.op_code == OpCode::MSG => {
                self.commands == 1 && self.checksum_bytes == 0
            }
            Ahead::Section | Ahead::Skip(0) | Ahead::Unread => true,
            _ => false,
        }
    }

    /// Reads the next part at the start of `rest` and returns its length; `None` if it has not arrived completely.
    fn step(&mut self, rest: &[u8], visitor: &mut impl FieldVisitor) -> Result<Option<usize>, Malformed> {
        match &mut self.ahead {
            Ahead::Flags => Ok(self.msg_flags(rest, visitor)?.then_some(4)),
            Ahead::QueryHead => self.query_head(rest, visitor),
            Ahead::ReplyHead => Ok(self.reply_head(rest, visitor)),
            Ahead::Section => self.section(rest),
            Ahead::Sequence => self.sequence(rest, visitor),
            Ahead::Skip(0) => {
                self.ahead = Ahead::Section;
                Ok(Some(0))
            }
            Ahead::Skip(bytes) => {
                let step = rest.len().min(*bytes as usize);
                *bytes -= u32::try_from(step).unwrap_or(*bytes);
                visitor.sequence_bytes(rest.get(..step).unwrap_or_default());
                if *bytes == 0 {
                    visitor.sequence_end();
                }
                Ok(Some(step))
            }
            Ahead::Command(_) | Ahead::Wrapped(_) => self.command(rest, visitor),
            Ahead::Cursor { .. } => Ok(self.cursor(rest, visitor)),
            Ahead::Checksum => Err(Malformed),
            Ahead::Unread => Ok(Some(rest.len())),
        }
    }

    fn msg_flags(&mut self, rest: &[u8], visitor: &mut impl FieldVisitor) -> Result<bool, Malformed> {
        let Some(bits) = rest.first_chunk() else { return Ok(false) };
        let bits = u32::from_le_bytes(*bits);
        visitor.flags(bits);
        if bits & flag::REQUIRED & !(flag::CHECKSUM_PRESENT | flag::MORE_TO_COME) != 0 {
            return Err(Malformed);
        }
        if bits & flag::CHECKSUM_PRESENT != 0 {
            self.checksum_bytes = 4;
        }
        self.ahead = Ahead::Section;
        Ok(true)
    }

    /// Flags, full collection name, number to skip, number to return. The query document follows.
    fn query_head(&mut self, rest: &[u8], visitor: &mut impl FieldVisitor) -> Result<Option<usize>, Malformed> {
        let Some(after) = rest.get(4..) else { return Ok(None) };
        let Some((namespace, after)) = cstring(after)? else { return Ok(None) };
        if after.len() < 8 {
            return Ok(None);
        }
        visitor.query_namespace(namespace);
        self.ahead = Ahead::Command(DocumentScan::default());
        Ok(Some(4 + namespace.len() + 1 + 8))
    }

    /// Flags, cursor ID, starting point, number of documents. The first document is the reply to the command.
    fn reply_head(&mut self, rest: &[u8], visitor: &mut impl FieldVisitor) -> Option<usize> {
        let count = rest.get(16..20)?.first_chunk()?;
        visitor.cursor(i64::from_le_bytes(*rest.get(4..)?.first_chunk()?));
        self.ahead =
            if i32::from_le_bytes(*count) > 0 { Ahead::Command(DocumentScan::default()) } else { Ahead::Skip(0) };
        Some(20)
    }

    fn section(&mut self, rest: &[u8]) -> Result<Option<usize>, Malformed> {
        if self.op_code != OpCode::MSG {
            // The projection of a query, or further documents of a reply, are not needed.
            return Ok(Some(rest.len()));
        }
        if self.left == self.checksum_bytes {
            if rest.len() < 4 {
                return Ok(None);
            }
            self.ahead = Ahead::Checksum;
            return Ok(Some(4));
        }
        match rest.first() {
            Some(0) if self.commands == 0 => {
                self.commands = 1;
                self.body.0 = self.length - self.left + 1;
                self.ahead = Ahead::Command(DocumentScan::default());
                Ok(Some(1))
            }
            Some(1) => {
                self.ahead = Ahead::Sequence;
                Ok(Some(1))
            }
            _ => Err(Malformed),
        }
    }

    /// Size and identifier of a document sequence. The visitor gets the bytes of its documents.
    fn sequence(&mut self, rest: &[u8], visitor: &mut impl FieldVisitor) -> Result<Option<usize>, Malformed> {
        let Some((size, after)) = rest.split_first_chunk() else { return Ok(None) };
        let size = u32::try_from(i32::from_le_bytes(*size)).map_err(|_| Malformed)?;
        let Some((identifier, _)) = cstring(after)? else { return Ok(None) };
        let head = u32::try_from(4 + identifier.len() + 1).map_err(|_| Malformed)?;
        if size < head || size > self.left.saturating_sub(self.checksum_bytes) {
            return Err(Malformed);
        }
        visitor.sequence(identifier);
        self.ahead = Ahead::Skip(size - head);
        Ok(Some(head as usize))
    }

    fn command(&mut self, rest: &[u8], visitor: &mut impl FieldVisitor) -> Result<Option<usize>, Malformed> {
        let (scan, wrapped) = match &mut self.ahead {
            Ahead::Command(scan) => (scan, false),
            Ahead::Wrapped(scan) => (scan, true),
            _ => return Err(Malformed),
        };
        let (used, found) = scan.next(rest)?;
        // `left` of the scan counts from the end of the consumed bytes.
        if u64::from(scan.left()) + used as u64 + u64::from(self.checksum_bytes) > u64::from(self.left) {
            return Err(Malformed);
        }
        match found {
            Scanned::NeedMore => return Ok((used > 0).then_some(used)),
            Scanned::End => {
                self.body.1 = self.length - self.left + u32::try_from(used).unwrap_or_default();
                self.ahead = if wrapped { Ahead::Unread } else { Ahead::Section };
            }
            Scanned::Element(element) => {
                if self.op_code == OpCode::QUERY && !wrapped && is_wrapper(&element) {
                    self.ahead = Ahead::Wrapped(DocumentScan::default());
                    return Ok(Some(used - element.value.map_or(0, <[u8]>::len)));
                }
                visitor.element(&element);
                if is_cursor(&element, visitor) {
                    let mut outer = *scan;
                    let again = outer.enter(&element);
                    self.ahead = Ahead::Cursor { outer, inner: DocumentScan::default() };
                    return Ok(Some(used - again));
                }
            }
        }
        Ok(Some(used))
    }

    /// Finds the ID in the `cursor` document of a reply, after a batch of any length. The rest is skipped.
    fn cursor(&mut self, rest: &[u8], visitor: &mut impl FieldVisitor) -> Option<usize> {
        let Ahead::Cursor { outer, inner } = &mut self.ahead else { return None };
        let value = rest.get(..outer.pass(0) as usize).unwrap_or(rest);
        let (used, found) = inner.next(value).unwrap_or((0, Scanned::End));
        let left = outer.pass(used);
        match found {
            // If the value has arrived completely and the ID has not, there is no cursor; mongod sends no such reply.
            Scanned::NeedMore if used == 0 && value.len() < left as usize => return None,
            Scanned::NeedMore if left > 0 && used > 0 => {}
            Scanned::Element(element) if element.name != b"id" => {}
            Scanned::Element(element) => {
                visitor.cursor(element.number().unwrap_or_default());
                self.ahead = Ahead::Command(*outer);
            }
            Scanned::NeedMore | Scanned::End => self.ahead = Ahead::Command(*outer),
        }
        Some(used)
    }
}

fn is_cursor<F: FieldVisitor>(element: &Element<'_>, _: &F) -> bool {
    F::READS_CURSOR && element.kind == kind::DOCUMENT && element.name == b"cursor"
}

/// Whether the element is the wrapper that old drivers put around a command in an `OP_QUERY`, to add options to it.
fn is_wrapper(element: &Element<'_>) -> bool {
    element.index == 0 && element.kind == kind::DOCUMENT && matches!(element.name, b"$query" | b"query")
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};
    use proptest::prelude::*;

    use super::*;
    use crate::wire::reply::ReplyFacts;
    use crate::wire::request::RequestFacts;

    fn header(length: usize, op_code: OpCode) -> Header {
        Header { length: u32::try_from(length).unwrap(), request_id: 7, response_to: 0, op_code }
    }

    fn bytes_of(document: &Document) -> Vec<u8> {
        bson::serialize_to_vec(document).unwrap()
    }

    fn body_section(document: &Document) -> Vec<u8> {
        [vec![0], bytes_of(document)].concat()
    }

    fn sequence_section(identifier: &str, documents: &[Document]) -> Vec<u8> {
        let documents: Vec<u8> = documents.iter().flat_map(bytes_of).collect();
        let size = i32::try_from(4 + identifier.len() + 1 + documents.len()).unwrap();
        [&[1][..], &size.to_le_bytes(), identifier.as_bytes(), &[0], &documents].concat()
    }

    fn msg_body(flags: u32, sections: &[Vec<u8>]) -> Vec<u8> {
        [flags.to_le_bytes().to_vec(), sections.concat()].concat()
    }

    fn query_body(namespace: &str, document: &Document) -> Vec<u8> {
        [&[0; 4][..], namespace.as_bytes(), &[0], &[0; 4], &(-1_i32).to_le_bytes(), &bytes_of(document)].concat()
    }

    /// Scans `body` in pieces of `cut` bytes, and passes unconsumed bytes again as the relay does.
    fn scan<F: FieldVisitor + Default>(op_code: OpCode, body: &[u8], cut: usize) -> (F, bool) {
        let mut scan = MessageScan::new(&header(HEADER_BYTES + body.len(), op_code));
        let (mut facts, mut start, mut end) = (F::default(), 0, 0);
        loop {
            start += scan.advance(&body[start..end], &mut facts);
            if scan.left() == 0 {
                assert_eq!(start, body.len());
                return (facts, scan.is_malformed());
            }
            assert!(end < body.len(), "the scan requests more bytes than the message has");
            end = (end + cut).min(body.len());
        }
    }

    fn check_request(op_code: OpCode, body: &[u8], command: Option<&str>, database: Option<&str>) {
        for cut in [1, 3, 64, body.len().max(1)] {
            let (facts, malformed): (RequestFacts, bool) = scan(op_code, body, cut);
            assert!(!malformed);
            assert_eq!(facts.command(), command.map(str::as_bytes));
            assert_eq!(facts.database().map(|d| d.to_text().into_owned()).as_deref(), database);
        }
    }

    fn check_malformed(op_code: OpCode, body: &[u8]) {
        for cut in [1, body.len().max(1)] {
            assert!(scan::<RequestFacts>(op_code, body, cut).1, "accepted: {body:?}");
        }
    }

    #[test]
    fn the_body_is_found_at_any_position_and_in_pieces_of_any_size() {
        let document = doc! { "update": "orders", "ordered": true, "$db": "shop" };
        let sequence = [&[1][..], &13_i32.to_le_bytes(), b"updates\0", &[0]].concat();
        let body = body_section(&document);
        for sections in [[body.clone(), sequence.clone()], [sequence, body.clone()]] {
            let payload = [vec![0; 4], sections.concat()].concat();
            let header = header(HEADER_BYTES + payload.len(), OpCode::MSG);
            let start = HEADER_BYTES + payload.windows(body.len()).position(|b| b == body).unwrap() + 1;
            let expected = start..start + body.len() - 1;
            let (mut scan, mut facts, mut at, mut announced) =
                (MessageScan::new(&header), RequestFacts::default(), 0, None);
            for end in 1..=payload.len() {
                at += scan.advance(&payload[at..end], &mut facts);
                announced = announced.or(scan.body_end());
                assert_eq!(scan.body().is_some(), end >= expected.end - HEADER_BYTES, "{end}");
            }
            assert_eq!((scan.body(), announced), (Some(expected.clone()), Some(expected.end)));
            assert_eq!(facts.sequences().collect::<Vec<_>>(), [b"updates"]);
        }
    }

    #[test]
    fn the_command_of_a_request_is_read_in_every_format() {
        let find = doc! { "find": "orders", "filter": { "$db": "vault" }, "$db": "shop" };
        check_request(OpCode::MSG, &msg_body(0, &[body_section(&find)]), Some("find"), Some("shop"));
        let insert = doc! { "insert": "orders", "$db": "shop" };
        let documents = sequence_section("documents", &[doc! { "ping": 1, "$db": "no" }, doc! {}]);
        let orders = [[body_section(&insert), documents.clone()], [documents, body_section(&insert)]];
        for sections in orders {
            check_request(OpCode::MSG, &msg_body(2, &sections), Some("insert"), Some("shop"));
            let with_checksum = [msg_body(1, &sections), vec![1, 2, 3, 4]].concat();
            check_request(OpCode::MSG, &with_checksum, Some("insert"), Some("shop"));
        }
        let hello = doc! { "isMaster": 1, "client": { "x": "y".repeat(900) } };
        check_request(OpCode::QUERY, &query_body("admin.$cmd", &hello), Some("isMaster"), Some("admin"));
        for wrapper in ["$query", "query"] {
            let wrapped = query_body("shop.$cmd", &doc! { wrapper: hello.clone(), "$readPreference": {} });
            check_request(OpCode::QUERY, &wrapped, Some("isMaster"), Some("shop"));
        }
        check_request(OpCode::QUERY, &query_body("shop.orders", &doc! { "shutdown": 1 }), None, Some("shop"));
    }

    #[test]
    fn messages_that_mongod_would_reject_are_malformed_and_consumed_completely() {
        let ping = body_section(&doc! { "ping": 1, "$db": "admin" });
        check_malformed(OpCode::MSG, &[]);
        check_malformed(OpCode::MSG, &msg_body(0, &[]));
        check_malformed(OpCode::MSG, &msg_body(4, std::slice::from_ref(&ping)));
        check_malformed(OpCode::MSG, &msg_body(0, &[ping.clone(), ping.clone()]));
        check_malformed(OpCode::MSG, &msg_body(0, &[sequence_section("documents", &[])]));
        check_malformed(OpCode::MSG, &msg_body(0, &[ping.clone(), vec![9]]));
        check_malformed(OpCode::MSG, &msg_body(1, std::slice::from_ref(&ping)));
        for size in [0, 3, -1, 1000_i32] {
            check_malformed(
                OpCode::MSG,
                &msg_body(0, &[ping.clone(), [&[1][..], &size.to_le_bytes(), b"a\0"].concat()]),
            );
        }
        check_malformed(OpCode::MSG, &msg_body(0, &[ping.clone(), [&[1][..], &8_i32.to_le_bytes(), b"abcd"].concat()]));
        check_malformed(OpCode::MSG, &msg_body(0, &[[&[0][..], &500_i32.to_le_bytes(), &[0]].concat()]));
        check_malformed(OpCode(2002), b"whatever");
        check_malformed(OpCode::QUERY, b"\0\0\0\0no end");
    }

    #[test]
    fn the_outcome_of_a_reply_is_read_in_both_formats() {
        let big = doc! { "cursor": { "firstBatch": ["x".repeat(70_000)] }, "ok": 1.0 };
        let failed = doc! { "ok": 0, "errmsg": "no", "code": 13, "codeName": "Unauthorized" };
        let op_reply = |d: &Document| [&[8, 0, 0, 0][..], &[0; 12], &1_i32.to_le_bytes(), &bytes_of(d)].concat();
        for cut in [1, 1000, 100_000] {
            for (op_code, body) in [(OpCode::MSG, msg_body(2, &[body_section(&big)])), (OpCode::REPLY, op_reply(&big))]
            {
                let (facts, malformed): (ReplyFacts, bool) = scan(op_code, &body, cut);
                assert!(!malformed);
                assert_eq!(facts.ok(), Some(true));
                assert_eq!(facts.more_to_come(), op_code == OpCode::MSG);
            }
            let bodies = [(OpCode::MSG, msg_body(0, &[body_section(&failed)])), (OpCode::REPLY, op_reply(&failed))];
            for (op_code, body) in bodies {
                let (facts, _): (ReplyFacts, bool) = scan(op_code, &body, cut);
                assert_eq!((facts.ok(), facts.code()), (Some(false), Some(13)));
                assert_eq!(facts.code_name(), Some(b"Unauthorized".as_slice()));
            }
        }
    }

    #[test]
    fn the_cursor_of_a_reply_is_found_after_a_batch_of_any_length() {
        let batch = |length: usize| vec![doc! { "id": 9_i64, "text": "x".repeat(length) }];
        let behind =
            |id: i64, length| doc! { "cursor": { "firstBatch": batch(length), "id": id, "ns": "s.c" }, "ok": 1.0 };
        let before = doc! { "cursor": { "id": 7_i64, "nextBatch": batch(3000) }, "ok": 1.0, "x": 1 };
        for (reply, cursor) in [
            (behind(7, 0), Some(7)),
            (behind(-7, 300), Some(-7)),
            (behind(7, 100_000), Some(7)),
            (behind(0, 600), Some(0)),
            (before, Some(7)),
            (doc! { "cursor": { "ns": "s.c" }, "ok": 1.0 }, None),
            (doc! { "cursor": {}, "ok": 1.0 }, None),
            (doc! { "cursor": 3, "cursors": { "id": 3_i64 }, "id": 3_i64, "ok": 1.0 }, None),
            (doc! { "value": { "cursor": { "id": 3_i64 } }, "ok": 1.0 }, None),
        ] {
            for cut in [1, 7, 1000, 200_000] {
                for checksum in [false, true] {
                    let mut body = msg_body(u32::from(checksum), &[body_section(&reply)]);
                    body.extend(std::iter::repeat_n(0xAB, usize::from(checksum) * 4));
                    let (facts, malformed): (ReplyFacts, bool) = scan(OpCode::MSG, &body, cut);
                    assert!(!malformed, "{reply}");
                    assert_eq!((facts.cursor(), facts.ok()), (cursor, Some(true)), "{reply} in pieces of {cut}");
                }
            }
        }
    }

    #[test]
    fn a_malformed_cursor_document_does_not_affect_the_fields_after_it() {
        let mut body = msg_body(0, &[body_section(&doc! { "cursor": { "ab": 1, "id": 7_i64 }, "ok": 1.0 })]);
        let at = body.windows(3).position(|bytes| bytes == b"ab\0").unwrap();
        for kind in [0, 0x03, 0x55] {
            body[at - 1] = kind;
            for cut in [1, 1000] {
                let (facts, malformed): (ReplyFacts, bool) = scan(OpCode::MSG, &body, cut);
                assert_eq!((facts.cursor(), facts.ok(), malformed), (None, Some(true), false));
            }
        }
    }

    #[test]
    fn cursor_transaction_and_hello_fields_of_a_request_are_read() {
        let session =
            |n: u8| doc! { "id": bson::Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: vec![n; 16] } };
        let facts = |command: Document| {
            let body = msg_body(0, &[body_section(&command)]);
            scan::<RequestFacts>(OpCode::MSG, &body, 5).0
        };
        assert_eq!(facts(doc! { "getMore": 7_i64, "collection": "c" }).cursor(), Some(7));
        assert_eq!(facts(doc! { "killCursors": "c", "cursors": [8_i64, 9_i64] }).cursor(), Some(8));
        assert_eq!(facts(doc! { "find": "c", "filter": { "cursors": [8_i64] } }).cursor(), None);
        let inside =
            |n| facts(doc! { "insert": "c", "lsid": session(n), "autocommit": false, "$db": "s" }).transaction();
        assert!(inside(1).is_some());
        assert_eq!(inside(1), inside(1));
        assert_ne!(inside(1), inside(2));
        assert_eq!(facts(doc! { "insert": "c", "lsid": session(1) }).transaction(), None);
        let hello = facts(doc! { "hello": 1, "maxAwaitTimeMS": 10, "speculativeAuthenticate": {} });
        assert!(hello.waits() && hello.speculates());
        let hello = facts(doc! { "hello": 1, "client": { "topologyVersion": 1 } });
        assert!(!hello.waits() && !hello.speculates());
    }

    proptest! {
        #[test]
        fn any_bytes_give_the_same_result_in_pieces_of_any_size(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            op_code in prop::sample::select(vec![1, 2004, 2013]),
            cut in 1_usize..50,
        ) {
            let (whole, whole_malformed): (RequestFacts, bool) = scan(OpCode(op_code), &bytes, bytes.len().max(1));
            let (pieces, pieces_malformed): (RequestFacts, bool) = scan(OpCode(op_code), &bytes, cut);
            prop_assert_eq!(whole.command(), pieces.command());
            prop_assert_eq!(whole_malformed, pieces_malformed);
        }

        #[test]
        fn sections_in_any_order_and_in_pieces_give_the_same_command(
            before in 0_usize..3, after in 0_usize..3, size in 0_usize..3000, checksum: bool, cut in 1_usize..4000,
        ) {
            let filler = sequence_section("documents", &[doc! { "t": "x".repeat(size) }]);
            let body = body_section(&doc! { "insert": "orders", "ordered": true, "$db": "shop" });
            let sections: Vec<Vec<u8>> =
                (0..before).map(|_| filler.clone()).chain([body]).chain((0..after).map(|_| filler.clone())).collect();
            let mut message = msg_body(u32::from(checksum), &sections);
            message.extend(std::iter::repeat_n(0xAB, usize::from(checksum) * 4));
            let (facts, malformed): (RequestFacts, bool) = scan(OpCode::MSG, &message, cut);
            prop_assert!(!malformed);
            prop_assert_eq!(facts.command(), Some(b"insert".as_slice()));
            prop_assert_eq!(facts.first_value().unwrap().as_bytes(), b"orders");
        }
    }
}
