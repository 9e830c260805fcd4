// A denied command and then an allowed one, see refused.py.
// Usage: DATABASE=... mongosh URI --file refused.mongosh.js

const database = db.getSiblingDB(process.env.DATABASE);
const report = { code: null, codeName: null, message: "", rows: null, same: null };
const place = () => db.adminCommand({ whatsmyuri: 1 }).you;
const before = place();
try {
  report.orders = database.orders.find().toArray().length;
} catch (error) {
  Object.assign(report, { code: error.code, codeName: error.codeName, message: error.errmsg ?? error.message });
}
try {
  database.kept.insertOne({ n: 1 });
  report.inserted = true;
} catch (error) {
  report.insert = { code: error.code, codeName: error.codeName };
}
Object.assign(report, { rows: database.menu.find().toArray().length, same: place() === before });
print(JSON.stringify(report));
