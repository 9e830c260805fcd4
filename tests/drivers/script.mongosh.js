// The driver script for mongosh. Usage: URI=... DATABASE=... mongosh $URI --file script.mongosh.js
//
// Prints one JSON line per step, which is the same for every driver (expected.jsonl). Steps that mongosh does not
// support are left out: GridFS, concurrent work, exhaust cursors, and the count of commands.

const name = process.env.DATABASE;
const database = db.getMongo().getDB(name);

function say(step, facts) {
  const all = { step, ...facts };
  print(JSON.stringify(Object.fromEntries(Object.keys(all).sort().map((key) => [key, all[key]]))));
}

function range(first, end) {
  return Array.from({ length: end - first }, (_, i) => first + i);
}

function sum(numbers) {
  return numbers.reduce((total, n) => total + n, 0);
}

function codeOf(action) {
  try {
    action();
  } catch (error) {
    return error.code;
  }
  return null;
}

function writeAndRead(numbers) {
  say("ping", { ok: database.runCommand({ ping: 1 }).ok });
  const limits = database.runCommand({ hello: 1 });
  say("limits", { document: limits.maxBsonObjectSize, message: limits.maxMessageSizeBytes });

  numbers.insertOne({ _id: 0, n: 0, group: 0, text: "item 0" });
  const rest = range(1, 20000).map((i) => ({ _id: i, n: i, group: i % 7, text: `item ${i}` }));
  say("insert", { inserted: Object.keys(numbers.insertMany(rest).insertedIds).length });

  const found = numbers.find({ n: { $gte: 10, $lt: 15 } }, { _id: 0, n: 1 }).sort({ n: -1 });
  say("find", { n: found.toArray().map((document) => document.n) });
  say("find_one", { text: numbers.findOne({ _id: 4711 }).text, missing: numbers.findOne({ _id: -1 }) === null });
  const batches = numbers.find().sort({ _id: 1 }).limit(1000).batchSize(10).toArray().map((document) => document.n);
  say("batches", { count: batches.length, sum: sum(batches) });
  const early = numbers.find().sort({ _id: 1 }).batchSize(5);
  const taken = [];
  while (taken.length < 7) taken.push(early.next().n);
  early.close();
  say("early_close", { n: taken });
  say("counts", { documents: numbers.countDocuments({ group: 3 }), estimated: numbers.estimatedDocumentCount() });
  say("distinct", { groups: numbers.distinct("group").sort() });
}

function change(numbers) {
  const one = numbers.updateOne({ _id: 1 }, { $set: { text: "one" } });
  const many = numbers.updateMany({ group: 5 }, { $inc: { n: 1 } });
  const upserted = numbers.updateOne({ _id: "new" }, { $set: { n: -1 } }, { upsert: true });
  say("update", { one: one.modifiedCount, many: many.modifiedCount, upserted: upserted.insertedId });
  const after = numbers.findOneAndUpdate({ _id: 2 }, { $inc: { n: 40 } }, { returnDocument: "after" });
  const removed = numbers.findOneAndDelete({ _id: "new" });
  const replaced = numbers.replaceOne({ _id: 3 }, { n: 33 });
  say("find_and_modify", { after: after.n, removed: removed.n, replaced: replaced.modifiedCount });
  const deleted = numbers.deleteMany({ _id: { $gte: 19990 } });
  say("delete", { one: numbers.deleteOne({ _id: 0 }).deletedCount, many: deleted.deletedCount });
}

function aggregate(numbers) {
  database.groups.insertMany(range(0, 7).map((i) => ({ _id: i, name: `group ${i}` })));
  const grouped = numbers.aggregate([
    { $match: { _id: { $lt: 100 } } },
    { $group: { _id: "$group", n: { $sum: "$n" } } },
    { $sort: { n: 1 } },
  ]);
  say("group", { sums: grouped.toArray().map((document) => document.n) });
  const joined = numbers.aggregate([
    { $match: { _id: { $in: [8, 9] } } },
    { $lookup: { from: "groups", localField: "group", foreignField: "_id", as: "found" } },
    { $sort: { _id: 1 } },
  ]);
  say("lookup", { names: joined.toArray().map((document) => document.found[0].name) });
  numbers.aggregate([{ $match: { group: 2 } }, { $out: "second" }]).toArray();
  say("out", { count: database.second.countDocuments({}) });
}

function indexes(numbers) {
  const names = () => numbers.getIndexes().map((index) => index.name).sort();
  const created = [numbers.createIndex({ n: 1 }), numbers.createIndex({ group: 1, text: -1 })];
  const listed = names();
  numbers.dropIndex(created[0]);
  say("indexes", { created, listed, left: names() });
}

function bulk() {
  // The third operation fails; the later ones run only in an unordered bulk.
  const inserts = [1, 2, 1, 3].map((_id) => ({ insertOne: { document: { _id } } }));
  const update = { updateOne: { filter: { _id: 2 }, update: { $set: { n: 2 } } } };
  const operations = [...inserts, update, { deleteOne: { filter: { _id: 1 } } }];
  for (const [collection, ordered] of [["ordered", true], ["unordered", false]]) {
    try {
      database[collection].bulkWrite(operations, { ordered });
    } catch (error) {
      const errors = error.writeErrors.map((one) => [one.index, one.code]);
      const { insertedCount: inserted, modifiedCount: modified, deletedCount: deleted } = error.result;
      say(`bulk_${collection}`, { errors, inserted, modified, deleted });
    }
  }
}

function unacknowledged() {
  // With one connection the read runs after the writes.
  const uri = process.env.URI;
  const client = new Mongo(`${uri}${uri.includes("?") ? "&" : "/?"}maxPoolSize=1`);
  const silent = client.getDB(name).silent;
  const without = { writeConcern: { w: 0 } };
  const acknowledged = range(0, 100).map((_id) => silent.insertOne({ _id }, without).acknowledged);
  silent.insertOne({ _id: 0 }, without);
  silent.updateMany({}, { $set: { n: 1 } }, without);
  silent.deleteOne({ _id: 99 }, without);
  say("unacknowledged", { acknowledged: acknowledged.includes(true), count: silent.countDocuments({ n: 1 }) });
  client.close();
}

function large() {
  database.large.insertOne({ _id: 0, data: "d".repeat(15 * 1024 * 1024) });
  say("large_document", { length: database.large.findOne({ _id: 0 }).data.length });
  database.batch.insertMany(range(0, 47).map((_id) => ({ _id, data: "m".repeat(1_000_000) })));
  const total = { $group: { _id: null, bytes: { $sum: { $strLenBytes: "$data" } } } };
  const { bytes } = database.batch.aggregate([total]).next();
  say("large_batch", { count: database.batch.countDocuments({}), bytes });
  const lengths = database.batch.find({ _id: { $lt: 20 } }).toArray().map((document) => document.data.length);
  say("large_read", { bytes: sum(lengths) });
}

function databases() {
  const names = () => {
    const all = db.adminCommand({ listDatabases: 1, nameOnly: true }).databases.map((found) => found.name);
    return all.filter((found) => found.startsWith(name)).map((found) => found.slice(name.length)).sort();
  };
  const other = db.getSiblingDB(`${name}_other`);
  other.first.insertOne({ _id: 1 });
  other.createCollection("second");
  say("databases", { collections: other.getCollectionNames().sort(), names: names() });
  other.dropDatabase();
  say("drop_database", { names: names() });
}

function errors(numbers) {
  say("errors", {
    command: codeOf(() => database.runCommand({ noSuchCommand: 1 })),
    cursor: codeOf(() => database.runCommand({ getMore: Long("4711"), collection: "numbers" })),
    duplicate: codeOf(() => numbers.insertOne({ _id: 5 })),
    operator: codeOf(() => numbers.findOne({ n: { $noSuchOperator: 1 } })),
    stage: codeOf(() => numbers.aggregate([{ $noSuchStage: {} }]).toArray()),
  });
}

function sessions() {
  const session = db.getMongo().startSession({ causalConsistency: true });
  const collection = session.getDatabase(name).session;
  collection.insertOne({ _id: 1 });
  say("session", { count: collection.countDocuments({}) });
  session.endSession();
}

function transactions() {
  database.createCollection("account");
  const session = db.getMongo().startSession();
  const account = session.getDatabase(name).account;
  session.startTransaction();
  account.insertMany([{ _id: 1 }, { _id: 2 }]);
  const before = database.account.countDocuments({});
  session.commitTransaction();
  const committed = database.account.countDocuments({});
  session.startTransaction();
  account.insertOne({ _id: 3 });
  session.abortTransaction();
  session.endSession();
  say("transaction", { before, committed, aborted: database.account.countDocuments({}) });
}

function changeStream() {
  database.createCollection("watched");
  const stream = database.watched.watch([], { maxAwaitTimeMS: 100 });
  // The first request starts the stream.
  stream.tryNext();
  database.watched.insertMany([{ _id: 1 }, { _id: 2 }]);
  database.watched.updateOne({ _id: 1 }, { $set: { n: 1 } });
  database.watched.deleteOne({ _id: 2 });
  const events = [];
  while (events.length < 4) {
    const event = stream.tryNext();
    if (event !== null) events.push([event.operationType, event.documentKey._id]);
  }
  stream.close();
  say("change_stream", { events });
}

writeAndRead(database.numbers);
change(database.numbers);
aggregate(database.numbers);
indexes(database.numbers);
bulk();
unacknowledged();
large();
databases();
errors(database.numbers);
sessions();
if (database.runCommand({ hello: 1 }).setName) {
  transactions();
  changeStream();
}
database.dropDatabase();
