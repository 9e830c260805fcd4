// The members of a replica set as the Node.js driver sees them, see members.py. Usage: members.mjs URI DATABASE

import { createRequire } from "node:module";

// `require` finds the driver in NODE_PATH; an import would ignore that variable.
const { MongoClient, MongoServerSelectionError, ReadPreference } = createRequire(import.meta.url)("mongodb");

const [uri, name] = process.argv.slice(2);
const KINDS = { RSPrimary: "primary", RSSecondary: "secondary", RSArbiter: "arbiter" };
const kindOf = (server) => KINDS[server.type] ?? server.type;
const each = (values) => [...new Set(values)].sort();

function say(step, facts) {
  const all = { step, ...facts };
  console.log(JSON.stringify(Object.fromEntries(Object.keys(all).sort().map((key) => [key, all[key]]))));
}

let description = null;
let wake = () => {};
const finds = [];

// Returns all servers as soon as the driver knows the type of each.
async function servers() {
  const isKnown = (server) => server.type !== "Unknown" && server.type !== "PossiblePrimary";
  while (description?.type !== "ReplicaSetWithPrimary" || ![...description.servers.values()].every(isKnown)) {
    await new Promise((resolve) => (wake = resolve));
  }
  return description.servers;
}

function open(options) {
  const client = new MongoClient(uri, { monitorCommands: true, ...options });
  client.on("topologyDescriptionChanged", (event) => {
    description = event.newDescription;
    wake();
  });
  client.on("commandStarted", (event) => event.commandName === "find" && finds.push(event.address));
  return client.connect();
}

async function read(client, preference) {
  finds.length = 0;
  const collection = client.db(name).collection("members", { readPreference: preference });
  let count = 0;
  for (let i = 0; i < 10; i++) count += (await collection.find({}, { batchSize: 10 }).toArray()).length;
  const known = await servers();
  return { count, by: finds.map((address) => known.get(address)) };
}

const secondary = (zone) => new ReadPreference("secondary", zone && [{ zone }]);
const client = await open({ serverSelectionTimeoutMS: 20000, localThresholdMS: 1000 });
const known = await servers();
say("topology", { name: description.setName, servers: [...known.values()].map(kindOf).sort() });
// Four members hold data, including the hidden one.
const everywhere = client.db(name).collection("members", { writeConcern: { w: 4 } });
const documents = Array.from({ length: 50 }, (_, i) => ({ _id: i }));
say("written", { count: (await everywhere.insertMany(documents)).insertedCount });
const anywhere = await read(client, secondary());
say("secondary", { by: each(anywhere.by.map(kindOf)), count: anywhere.count });
for (const zone of ["south", "far"]) {
  const tagged = await read(client, secondary(zone));
  say("tagged", { by: each(tagged.by.map((server) => server.tags.zone)), count: tagged.count });
}
await client.close();
const addresses = [...known.keys()].sort();
const impatient = await open({ serverSelectionTimeoutMS: 1000 });
try {
  await impatient.db(name).collection("members", { readPreference: secondary("dark") }).findOne();
  say("hidden", { found: true });
} catch (error) {
  if (!(error instanceof MongoServerSelectionError)) throw error;
  say("hidden", { found: false });
}
await impatient.db(name).dropDatabase();
await impatient.close();
say("addresses", { all: addresses });
