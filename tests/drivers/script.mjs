// The driver script for the Node.js driver. Usage: script.mjs URI DATABASE
//
// Prints one JSON line per step, which is the same for every driver (expected.jsonl). The last line counts the commands
// that the driver sent, by name.

import { createRequire } from "node:module";

// `require` finds the driver in NODE_PATH; an import would ignore that variable.
const { GridFSBucket, Long, MongoClient } = createRequire(import.meta.url)("mongodb");

const range = (first, end) => Array.from({ length: end - first }, (_, i) => first + i);
const sum = (numbers) => numbers.reduce((total, n) => total + n, 0);

function say(step, facts) {
  const all = { step, ...facts };
  console.log(JSON.stringify(Object.fromEntries(Object.keys(all).sort().map((key) => [key, all[key]]))));
}

async function codeOf(action) {
  try {
    await action();
  } catch (error) {
    return error.code;
  }
  return null;
}

async function writeAndRead(db) {
  const numbers = db.collection("numbers");
  say("ping", { ok: (await db.command({ ping: 1 })).ok });
  const limits = await db.command({ hello: 1 });
  say("limits", { document: limits.maxBsonObjectSize, message: limits.maxMessageSizeBytes });

  await numbers.insertOne({ _id: 0, n: 0, group: 0, text: "item 0" });
  const rest = range(1, 20000).map((i) => ({ _id: i, n: i, group: i % 7, text: `item ${i}` }));
  say("insert", { inserted: (await numbers.insertMany(rest)).insertedCount });

  const found = numbers.find({ n: { $gte: 10, $lt: 15 } }, { projection: { _id: 0, n: 1 } }).sort({ n: -1 });
  say("find", { n: (await found.toArray()).map((document) => document.n) });
  const missing = (await numbers.findOne({ _id: -1 })) === null;
  say("find_one", { text: (await numbers.findOne({ _id: 4711 })).text, missing });
  const batches = [];
  const cursor = numbers.find({}, { limit: 1000, batchSize: 10 }).sort({ _id: 1 });
  for await (const document of cursor) batches.push(document.n);
  say("batches", { count: batches.length, sum: sum(batches) });
  const early = numbers.find({}, { batchSize: 5 }).sort({ _id: 1 });
  const taken = [];
  while (taken.length < 7) taken.push((await early.next()).n);
  await early.close();
  say("early_close", { n: taken });
  const documents = await numbers.countDocuments({ group: 3 });
  say("counts", { documents, estimated: await numbers.estimatedDocumentCount() });
  say("distinct", { groups: (await numbers.distinct("group")).sort() });
}

async function change(db) {
  const numbers = db.collection("numbers");
  const one = await numbers.updateOne({ _id: 1 }, { $set: { text: "one" } });
  const many = await numbers.updateMany({ group: 5 }, { $inc: { n: 1 } });
  const upserted = await numbers.updateOne({ _id: "new" }, { $set: { n: -1 } }, { upsert: true });
  say("update", { one: one.modifiedCount, many: many.modifiedCount, upserted: upserted.upsertedId });
  const after = await numbers.findOneAndUpdate({ _id: 2 }, { $inc: { n: 40 } }, { returnDocument: "after" });
  const removed = await numbers.findOneAndDelete({ _id: "new" });
  const replaced = await numbers.replaceOne({ _id: 3 }, { n: 33 });
  say("find_and_modify", { after: after.n, removed: removed.n, replaced: replaced.modifiedCount });
  const deleted = await numbers.deleteMany({ _id: { $gte: 19990 } });
  say("delete", { one: (await numbers.deleteOne({ _id: 0 })).deletedCount, many: deleted.deletedCount });
}

async function aggregate(db) {
  const numbers = db.collection("numbers");
  await db.collection("groups").insertMany(range(0, 7).map((i) => ({ _id: i, name: `group ${i}` })));
  const grouped = numbers.aggregate([
    { $match: { _id: { $lt: 100 } } },
    { $group: { _id: "$group", n: { $sum: "$n" } } },
    { $sort: { n: 1 } },
  ]);
  say("group", { sums: (await grouped.toArray()).map((document) => document.n) });
  const joined = numbers.aggregate([
    { $match: { _id: { $in: [8, 9] } } },
    { $lookup: { from: "groups", localField: "group", foreignField: "_id", as: "found" } },
    { $sort: { _id: 1 } },
  ]);
  say("lookup", { names: (await joined.toArray()).map((document) => document.found[0].name) });
  await numbers.aggregate([{ $match: { group: 2 } }, { $out: "second" }]).toArray();
  say("out", { count: await db.collection("second").countDocuments({}) });
}

async function indexes(db) {
  const numbers = db.collection("numbers");
  const names = async () => (await numbers.listIndexes().toArray()).map((index) => index.name).sort();
  const created = [await numbers.createIndex({ n: 1 }), await numbers.createIndex({ group: 1, text: -1 })];
  const listed = await names();
  await numbers.dropIndex(created[0]);
  say("indexes", { created, listed, left: await names() });
}

async function bulk(db) {
  // The third operation fails; the later ones run only in an unordered bulk.
  const inserts = [1, 2, 1, 3].map((_id) => ({ insertOne: { document: { _id } } }));
  const update = { updateOne: { filter: { _id: 2 }, update: { $set: { n: 2 } } } };
  const operations = [...inserts, update, { deleteOne: { filter: { _id: 1 } } }];
  for (const [name, ordered] of [["ordered", true], ["unordered", false]]) {
    try {
      await db.collection(name).bulkWrite(operations, { ordered });
    } catch (error) {
      const errors = error.writeErrors.map((one) => [one.index, one.code]);
      const { insertedCount: inserted, modifiedCount: modified, deletedCount: deleted } = error.result;
      say(`bulk_${name}`, { errors, inserted, modified, deleted });
    }
  }
}

async function unacknowledged(open, name) {
  // With one connection the read runs after the writes.
  const client = await open({ maxPoolSize: 1 });
  const silent = client.db(name).collection("silent", { writeConcern: { w: 0 } });
  const acknowledged = [];
  for (const _id of range(0, 100)) acknowledged.push((await silent.insertOne({ _id })).acknowledged);
  await silent.insertOne({ _id: 0 });
  await silent.updateMany({}, { $set: { n: 1 } });
  await silent.deleteOne({ _id: 99 });
  const count = await client.db(name).collection("silent").countDocuments({ n: 1 });
  say("unacknowledged", { acknowledged: acknowledged.includes(true), count });
  await client.close();
}

async function large(db) {
  const content = Buffer.from(range(0, 5_000_000).map((i) => i % 251));
  const bucket = new GridFSBucket(db);
  const upload = bucket.openUploadStream("file");
  upload.end(content);
  await new Promise((resolve, reject) => upload.on("finish", resolve).on("error", reject));
  const returned = Buffer.concat(await bucket.openDownloadStream(upload.id).toArray());
  say("gridfs", { length: returned.length, same: returned.equals(content) });

  await db.collection("large").insertOne({ _id: 0, data: "d".repeat(15 * 1024 * 1024) });
  say("large_document", { length: (await db.collection("large").findOne({ _id: 0 })).data.length });
  const batch = db.collection("batch");
  await batch.insertMany(range(0, 47).map((_id) => ({ _id, data: "m".repeat(1_000_000) })));
  const total = { $group: { _id: null, bytes: { $sum: { $strLenBytes: "$data" } } } };
  say("large_batch", { count: await batch.countDocuments({}), bytes: (await batch.aggregate([total]).next()).bytes });
  const lengths = (await batch.find({ _id: { $lt: 20 } }).toArray()).map((document) => document.data.length);
  say("large_read", { bytes: sum(lengths) });
}

async function databases(client, name) {
  const ownNames = async () => {
    const { databases } = await client.db("admin").admin().listDatabases({ nameOnly: true });
    const names = databases.map((found) => found.name).filter((found) => found.startsWith(name));
    return names.map((found) => found.slice(name.length));
  };
  const other = client.db(`${name}_other`);
  await other.collection("first").insertOne({ _id: 1 });
  await other.createCollection("second");
  const collections = (await other.listCollections({}, { nameOnly: true }).toArray()).map((found) => found.name).sort();
  say("databases", { collections, names: (await ownNames()).sort() });
  await other.dropDatabase();
  say("drop_database", { names: await ownNames() });
}

async function errors(db) {
  const numbers = db.collection("numbers");
  say("errors", {
    command: await codeOf(() => db.command({ noSuchCommand: 1 })),
    cursor: await codeOf(() => db.command({ getMore: Long.fromNumber(4711), collection: "numbers" })),
    duplicate: await codeOf(() => numbers.insertOne({ _id: 5 })),
    operator: await codeOf(() => numbers.findOne({ n: { $noSuchOperator: 1 } })),
    stage: await codeOf(() => numbers.aggregate([{ $noSuchStage: {} }]).toArray()),
  });
}

async function sessions(client, db) {
  await client.withSession({ causalConsistency: true }, async (session) => {
    await db.collection("session").insertOne({ _id: 1 }, { session });
    say("session", { count: await db.collection("session").countDocuments({}, { session }) });
  });
}

async function transactions(client, db) {
  const account = await db.createCollection("account");
  const before = await client.withSession(async (session) => {
    session.startTransaction();
    await account.insertMany([{ _id: 1 }, { _id: 2 }], { session });
    const count = await account.countDocuments({});
    await session.commitTransaction();
    return count;
  });
  const committed = await account.countDocuments({});
  await client.withSession(async (session) => {
    session.startTransaction();
    await account.insertOne({ _id: 3 }, { session });
    await session.abortTransaction();
  });
  say("transaction", { before, committed, aborted: await account.countDocuments({}) });
}

async function changeStream(db) {
  const watched = await db.createCollection("watched");
  const stream = watched.watch([], { maxAwaitTimeMS: 100 });
  // The first request starts the stream.
  await stream.tryNext();
  await watched.insertMany([{ _id: 1 }, { _id: 2 }]);
  await watched.updateOne({ _id: 1 }, { $set: { n: 1 } });
  await watched.deleteOne({ _id: 2 });
  const events = [];
  while (events.length < 4) events.push(await stream.next());
  await stream.close();
  say("change_stream", { events: events.map((event) => [event.operationType, event.documentKey._id]) });
}

async function concurrent(db) {
  const busy = db.collection("busy");
  const work = async (worker) => {
    for (const i of range(worker * 1000, worker * 1000 + 50)) {
      await busy.insertOne({ _id: i, n: 0 });
      await busy.updateOne({ _id: i }, { $inc: { n: worker } });
    }
    const found = busy.find({ _id: { $gte: worker * 1000, $lt: worker * 1000 + 50 } });
    return sum((await found.toArray()).map((document) => document.n));
  };
  const sums = await Promise.all(range(0, 8).map(work));
  say("concurrent", { count: await busy.countDocuments({}), sums });
}

const [uri, name] = process.argv.slice(2);
const counts = {};
const open = async (options = {}) => {
  const client = new MongoClient(uri, { monitorCommands: true, ...options });
  client.on("commandStarted", ({ commandName }) => (counts[commandName] = (counts[commandName] ?? 0) + 1));
  return client.connect();
};
const client = await open();
const db = client.db(name);
await writeAndRead(db);
await change(db);
await aggregate(db);
await indexes(db);
await bulk(db);
await unacknowledged(open, name);
await large(db);
await databases(client, name);
await errors(db);
await sessions(client, db);
if ((await db.command({ hello: 1 })).setName) {
  await transactions(client, db);
  await changeStream(db);
}
await concurrent(db);
await db.dropDatabase();
await client.close();
say("commands", counts);
