//! The cases whose instructions are counted.

use std::hint::black_box;

use anyhow::ensure;
use bson::{Document, doc};

use super::counted;
use super::messages::{batch_of_16_mb, find, insert_of_1000, message, ping, scan_reply, scan_request};
use super::relayed::{Relayed, Rules};

/// A case: one row of the table.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Number of operations in one run; the figures are per operation.
    pub(crate) operations: u64,
    /// Runs the case; the work between the calls of [`counted`] is not counted.
    pub(crate) run: fn() -> anyhow::Result<()>,
}

const MANY: u64 = 200;
const FEW: u64 = 8;
const MEBIBYTE: usize = 1024 * 1024;

const RULES: usize = 100;
const MANY_RULES: usize = 10_000;

/// All cases. `figures.txt` has their names.
pub(crate) const CASES: [Case; 11] = [
    Case { name: "scan: ping", operations: MANY, run: || scan(&ping(), MANY) },
    Case { name: "scan: find", operations: MANY, run: || scan(&find(), MANY) },
    Case { name: "scan: insert of 1,000 documents", operations: FEW, run: || scan(&insert_of_1000(), FEW) },
    Case { name: "scan: reply of 16 MB", operations: FEW, run: scan_large_reply },
    Case { name: "relay: ping", operations: MANY, run: || round_trips(&ping(), &ok(), Rules::Off, MANY) },
    Case {
        name: "relay: ping, policy of 100 rules",
        operations: MANY,
        run: || round_trips(&ping(), &ok(), Rules::Count(RULES), MANY),
    },
    Case {
        name: "relay: find, policy of 100 rules",
        operations: MANY,
        run: || round_trips(&find(), &ok(), Rules::Count(RULES), MANY),
    },
    Case {
        name: "relay: find, policy of 10,000 rules",
        operations: MANY,
        run: || round_trips(&find(), &ok(), Rules::Count(MANY_RULES), MANY),
    },
    Case { name: "relay: insert of 1 MiB", operations: FEW, run: || round_trips(&insert(), &ok(), Rules::Off, FEW) },
    Case {
        name: "relay: insert of 1 MiB, policy of 100 rules",
        operations: FEW,
        run: || round_trips(&insert(), &ok(), Rules::Count(RULES), FEW),
    },
    Case {
        name: "relay: reply of 1 MiB, policy of 100 rules",
        operations: FEW,
        run: || round_trips(&find(), &batch(), Rules::Count(RULES), FEW),
    },
];

fn ok() -> Document {
    doc! { "ok": 1.0 }
}

fn insert() -> Document {
    doc! { "insert": "orders", "documents": [{ "text": "x".repeat(MEBIBYTE) }], "$db": "shop" }
}

fn batch() -> Document {
    let documents = [doc! { "text": "x".repeat(MEBIBYTE) }];
    doc! { "cursor": { "id": 0_i64, "ns": "shop.orders", "firstBatch": documents }, "ok": 1.0 }
}

fn scan(body: &Document, operations: u64) -> anyhow::Result<()> {
    let message = message(body);
    ensure!(scan_request(&message).is_some(), "the scan finds no command");
    counted(&mut || {
        for _ in 0..operations {
            black_box(scan_request(black_box(&message)));
        }
    });
    Ok(())
}

fn scan_large_reply() -> anyhow::Result<()> {
    let message = message(&batch_of_16_mb());
    ensure!(scan_reply(&message) == Some(true), "the scan finds no ok");
    counted(&mut || {
        for _ in 0..FEW {
            black_box(scan_reply(black_box(&message)));
        }
    });
    Ok(())
}

fn round_trips(request: &Document, reply: &Document, rules: Rules, operations: u64) -> anyhow::Result<()> {
    let mut relayed = Relayed::new(rules)?;
    let (request, reply) = (message(request), message(reply));
    // The first round trips look up metric handles and grow buffers.
    for _ in 0..2 {
        relayed.round_trip(&request, &reply, &mut |work| work())?;
    }
    for _ in 0..operations {
        relayed.round_trip(&request, &reply, &mut |work| counted(work))?;
    }
    Ok(())
}
