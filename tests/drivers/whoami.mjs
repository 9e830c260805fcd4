// Whom mongod takes a client of the Node driver for, see whoami.py: whoami.mjs URI...

import { createRequire } from "node:module";

// NODE_PATH says where the driver is; an import would not look there.
const { MongoClient } = createRequire(import.meta.url)("mongodb");

async function whoami(uri) {
  const client = new MongoClient(uri, { serverSelectionTimeoutMS: 5000 });
  try {
    const status = await client.db("admin").command({ connectionStatus: 1 });
    return { users: status.authInfo.authenticatedUsers.map((user) => user.user) };
  } catch (error) {
    return { code: error.code ?? null, message: error.message };
  } finally {
    await client.close();
  }
}

for (const uri of process.argv.slice(2)) console.log(JSON.stringify(await whoami(uri)));
