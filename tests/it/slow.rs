//! Slow commands of a given duration, and the number of them that mongod is executing.

use bson::{Document, doc};

use crate::kit::mongod::Mongod;
use crate::kit::waiting::until;

/// Inserts the document that [`find`] reads. Each test uses its own database.
pub fn prepare(mongod: &Mongod, database: &str) {
    mongod.run(&doc! { "insert": "c", "documents": [{ "looked": "at" }], "$db": database }).unwrap();
}

/// Returns a find that takes this number of milliseconds.
pub fn find(database: &str, milliseconds: u32) -> Document {
    doc! { "find": "c", "filter": { "$where": format!("sleep({milliseconds}) || true") }, "$db": database }
}

/// Waits until mongod is executing `count` slow commands in this database.
///
/// A number that is too low for a moment proves nothing: at its start a `$where` reads `system.js`, and mongod then
/// lists that operation instead.
pub fn await_running(mongod: &Mongod, database: &str, count: usize) {
    until(&format!("mongod runs {count} slow commands"), || (running(mongod, database) == count).then_some(()));
}

/// Returns the number of slow commands that mongod is executing in this database.
pub fn running(mongod: &Mongod, database: &str) -> usize {
    let filter = doc! { "currentOp": 1, "ns": format!("{database}.c"), "op": "query", "$db": "admin" };
    mongod.run(&filter).unwrap().get_array("inprog").unwrap().len()
}
