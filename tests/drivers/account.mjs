// What a client of the Node.js driver with a token may do, see account.py. Usage: account.mjs URI

import { createRequire } from "node:module";

// `require` finds the driver in NODE_PATH; an import would ignore that variable.
const { MongoClient } = createRequire(import.meta.url)("mongodb");

const client = new MongoClient(process.argv[2], { serverSelectionTimeoutMS: 20000 });

async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error.code === undefined) throw error;
    return { code: error.code };
  }
}

const orders = client.db("shop").collection("orders");
const status = await attempt(() => client.db("admin").command({ connectionStatus: 1 }));
const report = {
  users: status.authInfo ? status.authInfo.authenticatedUsers.map((user) => user.user) : status,
  orders: await attempt(async () => (await orders.find({}, { batchSize: 1 }).toArray()).length),
  insert: await attempt(async () => (await orders.insertOne({})).acknowledged),
};
await client.close();
console.log(JSON.stringify(report));
