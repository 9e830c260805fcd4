// What mongosh with a token may do, see account.py.

const shop = db.getSiblingDB("shop");
const report = {};
// mongosh waits for a reply only where the call is in the block itself.
try {
  const status = db.adminCommand({ connectionStatus: 1 });
  report.users = status.authInfo.authenticatedUsers.map((user) => user.user);
} catch (error) {
  report.users = { code: error.code };
}
try {
  report.orders = shop.orders.find().batchSize(1).toArray().length;
} catch (error) {
  report.orders = { code: error.code };
}
try {
  report.insert = shop.orders.insertOne({}).acknowledged;
} catch (error) {
  report.insert = { code: error.code };
}
print(JSON.stringify(report));
