// A denied command and then an allowed one, see refused.py. Usage: refused.mjs URI DATABASE

import { createRequire } from "node:module";

// `require` finds the driver in NODE_PATH; an import would ignore that variable.
const { MongoClient } = createRequire(import.meta.url)("mongodb");

const [uri, name] = process.argv.slice(2);
const report = { code: null, codeName: null, message: "", rows: null, same: null };
const client = new MongoClient(uri, { maxPoolSize: 1 });
const place = async () => (await client.db("admin").command({ whatsmyuri: 1 })).you;
const count = async (collection) => (await client.db(name).collection(collection).find().toArray()).length;
try {
  const before = await place();
  try {
    report.orders = await count("orders");
  } catch (error) {
    Object.assign(report, { code: error.code, codeName: error.codeName, message: error.errmsg });
  }
  Object.assign(report, { rows: await count("menu"), same: (await place()) === before });
} catch (error) {
  report.message = error.message;
}
await client.close();
console.log(JSON.stringify(report));
