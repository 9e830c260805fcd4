"""PyMongo with servers behind one address. Usage: balanced.py URI DATABASE

Each cursor and transaction must stay with its server while other commands run. Prints one JSON line per step, which is
the same for every driver.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

from pymongo import MongoClient


def say(step, **facts):
    print(json.dumps({"step": step, **facts}, sort_keys=True, separators=(",", ":")), flush=True)


def interleaved(collection):
    """Reads several cursors in turn and returns the sum of each."""
    cursors = [collection.find({}, batch_size=5).sort("_id", 1) for _ in range(4)]
    sums = [0] * len(cursors)
    for _ in range(100):
        for i, cursor in enumerate(cursors):
            sums[i] += next(cursor)["_id"]
    for cursor in cursors:
        cursor.close()
    return sums


def transactions(client, collection):
    with client.start_session() as session:
        with session.start_transaction():
            collection.insert_one({"_id": 1000}, session=session)
            collection.insert_one({"_id": 1001}, session=session)
            inside = collection.count_documents({"_id": {"$gte": 1000}}, session=session)
            outside = collection.count_documents({"_id": {"$gte": 1000}})
        session.start_transaction()
        collection.delete_one({"_id": 1000}, session=session)
        session.abort_transaction()
    say("transaction", inside=inside, outside=outside, after=collection.count_documents({"_id": {"$gte": 1000}}))


def main():
    uri, name = sys.argv[1:]
    with MongoClient(uri) as client:
        client.admin.command("ping")
        servers = client.topology_description.server_descriptions().values()
        say("topology", servers=[server.server_type_name for server in servers])
        collection = client[name].balanced
        say("insert", count=len(collection.insert_many({"_id": i} for i in range(100)).inserted_ids))
        with ThreadPoolExecutor(4) as pool:
            say("cursors", sums=list(pool.map(lambda _: interleaved(collection), range(4))))
        transactions(client, collection)
        with client[name].watched.watch() as stream:
            client[name].watched.insert_many([{"_id": i} for i in range(3)])
            say("change_stream", ids=[next(stream)["documentKey"]["_id"] for _ in range(3)])
        client.drop_database(name)


main()
