// The Node.js driver with servers behind one address, see balanced.py. Usage: balanced.mjs URI DATABASE

import { createRequire } from "node:module";

// `require` finds the driver in NODE_PATH; an import would ignore that variable.
const { MongoClient } = createRequire(import.meta.url)("mongodb");

const [uri, name] = process.argv.slice(2);

function say(step, facts) {
  const all = { step, ...facts };
  console.log(JSON.stringify(Object.fromEntries(Object.keys(all).sort().map((key) => [key, all[key]]))));
}

async function interleaved(collection) {
  const cursors = Array.from({ length: 4 }, () => collection.find({}, { batchSize: 5 }).sort({ _id: 1 }));
  const sums = cursors.map(() => 0);
  for (let round = 0; round < 100; round++) {
    for (const [i, cursor] of cursors.entries()) sums[i] += (await cursor.next())._id;
  }
  for (const cursor of cursors) await cursor.close();
  return sums;
}

let description = null;
const client = new MongoClient(uri);
client.on("topologyDescriptionChanged", (event) => (description = event.newDescription));
await client.connect();
const collection = client.db(name).collection("balanced");
say("topology", { servers: [...description.servers.values()].map((server) => server.type) });
const documents = Array.from({ length: 100 }, (_, i) => ({ _id: i }));
say("insert", { count: (await collection.insertMany(documents)).insertedCount });
say("cursors", { sums: await Promise.all(Array.from({ length: 4 }, () => interleaved(collection))) });

const added = { _id: { $gte: 1000 } };
const session = client.startSession();
session.startTransaction();
await collection.insertOne({ _id: 1000 }, { session });
await collection.insertOne({ _id: 1001 }, { session });
const inside = await collection.countDocuments(added, { session });
const outside = await collection.countDocuments(added);
await session.commitTransaction();
session.startTransaction();
await collection.deleteOne({ _id: 1000 }, { session });
await session.abortTransaction();
await session.endSession();
say("transaction", { inside, outside, after: await collection.countDocuments(added) });

const stream = client.db(name).collection("watched").watch();
// The first request starts the stream.
await stream.tryNext();
await client.db(name).collection("watched").insertMany([{ _id: 0 }, { _id: 1 }, { _id: 2 }]);
const ids = [];
while (ids.length < 3) ids.push((await stream.next()).documentKey._id);
await stream.close();
say("change_stream", { ids });
await client.db(name).dropDatabase();
await client.close();
