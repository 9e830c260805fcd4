// The members of a replica set as mongosh sees them, see members.py.
// Usage: URI=... DATABASE=... mongosh $URI --file members.mongosh.js
//
// `explain` shows which server replied to a read. The gateway does not rewrite that name.

const name = process.env.DATABASE;
const database = db.getMongo().getDB(name);

function say(step, facts) {
  const all = { step, ...facts };
  print(JSON.stringify(Object.fromEntries(Object.keys(all).sort().map((key) => [key, all[key]]))));
}

// Reads ten times and returns the ports of the servers and the number of documents.
function read(tags) {
  db.getMongo().setReadPref("secondary", tags);
  const ports = new Set();
  let count = 0;
  for (let i = 0; i < 10; i++) {
    ports.add(database.members.find().explain().serverInfo.port);
    count += database.members.find().batchSize(10).toArray().length;
  }
  db.getMongo().setReadPref("primary");
  return { ports: [...ports], count };
}

const members = rs.status().members;
const zoneOf = (port) => rs.conf().members.find((member) => member.host.endsWith(`:${port}`)).tags.zone;
const kindOf = (port) => members.find((member) => member.name.endsWith(`:${port}`)).stateStr.toLowerCase();
const each = (values) => [...new Set(values)].sort();

const hello = db.hello();
const kinds = [
  ...(hello.arbiters ?? []).map(() => "arbiter"),
  "primary",
  ...hello.hosts.concat(hello.passives ?? []).filter((host) => host !== hello.primary).map(() => "secondary"),
];
say("topology", { name: hello.setName, servers: kinds.sort() });
const documents = Array.from({ length: 50 }, (_, i) => ({ _id: i }));
const written = database.members.insertMany(documents, { writeConcern: { w: 4 } });
say("written", { count: Object.keys(written.insertedIds).length });
const anywhere = read();
say("secondary", { by: each(anywhere.ports.map(kindOf)), count: anywhere.count });
for (const zone of ["south", "far"]) {
  const tagged = read([{ zone }]);
  say("tagged", { by: each(tagged.ports.map(zoneOf)), count: tagged.count });
}
const impatient = new Mongo(`${process.env.URI}&serverSelectionTimeoutMS=1000`);
let found = true;
try {
  // This opens a new connection.
  impatient.setReadPref("secondary", [{ zone: "dark" }]);
  impatient.getDB(name).members.findOne();
} catch (error) {
  // mongosh has its own error classes, so this compares the message.
  if (!/Server selection timed out/.test(error.message)) throw error;
  found = false;
}
say("hidden", { found });
database.dropDatabase();
say("addresses", { all: hello.hosts.concat(hello.passives ?? [], hello.arbiters ?? []).sort() });
