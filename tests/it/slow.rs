//! Commands that take as long as a test wants, and how many of them mongod is busy with.

use bson::{Document, doc};

use crate::kit::mongod::Mongod;
use crate::kit::waiting::until;

/// A database of its own with one document, which is what a slow find looks at.
pub fn prepare(mongod: &Mongod, database: &str) {
    mongod.run(&doc! { "insert": "c", "documents": [{ "looked": "at" }], "$db": database }).unwrap();
}

/// Finds that document after so many milliseconds.
pub fn find(database: &str, milliseconds: u32) -> Document {
    doc! { "find": "c", "filter": { "$where": format!("sleep({milliseconds}) || true") }, "$db": database }
}

/// Waits until mongod is busy with so many of them.
pub fn await_running(mongod: &Mongod, database: &str, count: usize) {
    until(&format!("mongod runs {count} slow commands"), || (running(mongod, database) == count).then_some(()));
}

/// How many of them mongod is busy with.
pub fn running(mongod: &Mongod, database: &str) -> usize {
    let filter = doc! { "currentOp": 1, "ns": format!("{database}.c"), "op": "query", "$db": "admin" };
    mongod.run(&filter).unwrap().get_array("inprog").unwrap().len()
}
