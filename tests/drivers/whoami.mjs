// The user that mongod sees for a client of the Node.js driver, see whoami.py. Usage: whoami.mjs URI...

import { createRequire } from "node:module";

// `require` finds the driver in NODE_PATH; an import would ignore that variable.
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
