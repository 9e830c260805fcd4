//! The cursors and transactions that a client has open in mongod between two commands.
//!
//! They belong to mongod's sessions and not to the connection, so that nothing is lost when a client moves to another
//! upstream connection: they only say that this is not the best moment. A cursor that a pool closes through another
//! connection stays here until it is evicted.

use crate::relay::in_flight::InFlightRequest;
use crate::wire::reply::ReplyFacts;

/// Cursors that are remembered, and transactions. At the limit the oldest is evicted, so that a hostile server costs
/// neither memory nor time.
const REMEMBERED_MAX: usize = 16;

/// mongod's error code for a transaction that it does not know, or does not know any longer.
const NO_SUCH_TRANSACTION: i32 = 251;

/// The open cursors and transactions of one connection.
#[derive(Debug, Default)]
pub(super) struct OpenState {
    cursors: Vec<i64>,
    transactions: Vec<u64>,
}

impl OpenState {
    /// Whether the client has nothing open.
    pub(super) fn is_empty(&self) -> bool {
        self.cursors.is_empty() && self.transactions.is_empty()
    }

    /// Takes note of a request and its reply.
    pub(super) fn settle(&mut self, request: &InFlightRequest, reply: &ReplyFacts) {
        let open = reply.cursor().filter(|id| *id != 0);
        // A cursor is closed when it is exhausted, killed, or unknown to mongod.
        if let Some(read) = request.cursor
            && open.is_none()
        {
            forget(&mut self.cursors, &read);
        }
        if let Some(id) = open {
            remember(&mut self.cursors, id);
        }
        let Some(transaction) = request.transaction else { return };
        let ends = matches!(request.command.name(), "commitTransaction" | "abortTransaction");
        match reply.ok() {
            Some(true) if !ends => remember(&mut self.transactions, transaction),
            Some(true) => forget(&mut self.transactions, &transaction),
            // After any other error the client aborts, or tries to commit again.
            _ if reply.code() == Some(NO_SUCH_TRANSACTION) => forget(&mut self.transactions, &transaction),
            _ => {}
        }
    }
}

fn remember<T: PartialEq>(known: &mut Vec<T>, new: T) {
    if known.contains(&new) {
        return;
    }
    if known.len() == REMEMBERED_MAX {
        known.remove(0);
    }
    known.push(new);
}

fn forget<T: PartialEq>(known: &mut Vec<T>, gone: &T) {
    known.retain(|one| one != gone);
    if known.is_empty() {
        *known = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::*;
    use crate::command::table;
    use crate::relay::in_flight::tests::request;
    use crate::wire::header::{HEADER_BYTES, Header, OpCode};
    use crate::wire::message_scan::MessageScan;

    fn facts(reply: &Document) -> ReplyFacts {
        let document = bson::serialize_to_vec(reply).unwrap();
        let body = [&[0; 5][..], &document].concat();
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let header = Header { length, request_id: 1, response_to: 1, op_code: OpCode::MSG };
        let mut facts = ReplyFacts::default();
        MessageScan::new(&header).advance(&body, &mut facts);
        facts
    }

    fn with_cursor(id: i64) -> Document {
        doc! { "cursor": { "firstBatch": [], "id": id, "ns": "s.c" }, "ok": 1.0 }
    }

    /// A command's name, the cursor that it reads, and the transaction that it belongs to.
    type Command = (&'static str, Option<i64>, Option<u64>);

    #[track_caller]
    fn check(steps: &[(Command, Document)], is_empty: bool) {
        let mut open_state = OpenState::default();
        for ((name, cursor, transaction), reply) in steps {
            let command = table::find(name.as_bytes()).unwrap().id;
            let request = InFlightRequest { command, cursor: *cursor, transaction: *transaction, ..request(1) };
            open_state.settle(&request, &facts(reply));
        }
        assert_eq!(open_state.is_empty(), is_empty, "{steps:?}: {open_state:?}");
    }

    #[test]
    fn a_cursor_is_open_until_it_is_exhausted_killed_or_unknown() {
        let find = || (("find", None, None), with_cursor(7));
        let ok = || doc! { "ok": 1.0 };
        check(&[(("find", None, None), with_cursor(0)), (("ping", None, None), ok())], true);
        check(&[find(), (("ping", None, None), ok())], false);
        check(&[find(), (("getMore", Some(7), None), with_cursor(7))], false);
        check(&[find(), (("getMore", Some(7), None), with_cursor(0))], true);
        check(&[find(), (("getMore", Some(8), None), with_cursor(0))], false);
        check(&[find(), (("getMore", Some(7), None), doc! { "ok": 0.0, "code": 43 })], true);
        check(&[find(), (("killCursors", Some(7), None), ok())], true);
        // The cursor was opened through another connection of the pool.
        check(&[(("getMore", Some(7), None), with_cursor(7))], false);
    }

    #[test]
    fn a_transaction_is_open_until_mongod_confirms_its_end() {
        let insert = |t| (("insert", None, Some(t)), doc! { "ok": 1.0, "n": 1 });
        let failed = |code| doc! { "ok": 0.0, "code": code };
        let commit = |reply| (("commitTransaction", None, Some(5)), reply);
        check(&[insert(5)], false);
        check(&[insert(5), commit(doc! { "ok": 1.0 })], true);
        check(&[insert(5), insert(6), commit(doc! { "ok": 1.0 })], false);
        check(&[insert(5), commit(failed(91))], false);
        check(&[insert(5), commit(failed(NO_SUCH_TRANSACTION))], true);
        check(&[insert(5), (("abortTransaction", None, Some(5)), doc! { "ok": 1.0 })], true);
        check(&[(("insert", None, Some(5)), failed(112))], true);
        check(&[insert(5), (("insert", None, Some(5)), failed(NO_SUCH_TRANSACTION))], true);
    }

    #[test]
    fn the_oldest_is_evicted_at_the_limit() {
        let mut open_state = OpenState::default();
        for id in 1..=1000 {
            open_state.settle(&request(1), &facts(&with_cursor(id)));
        }
        assert_eq!(open_state.cursors, (985..=1000).collect::<Vec<_>>());
    }
}
