"""The driver script for PyMongo. Usage: script.py URI DATABASE

Prints one JSON line per step, which is the same for every driver (expected.jsonl). The last line counts the commands
that PyMongo sent, by name.
"""

import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import gridfs
from bson import Int64
from pymongo import DeleteOne, InsertOne, MongoClient, ReturnDocument, UpdateOne, WriteConcern, monitoring
from pymongo.cursor import CursorType
from pymongo.errors import BulkWriteError, OperationFailure


class SentCommands(monitoring.CommandListener):
    """Counts the commands of the driver by name."""

    def __init__(self):
        self.counts = Counter()

    def started(self, event):
        self.counts[event.command_name] += 1

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


class ExhaustCommands(SentCommands):
    """Counts the getMore of an exhaust cursor once, although PyMongo reports it again with each reply."""

    def __init__(self, counts):
        self.counts = counts
        self.streams = set()

    def started(self, event):
        if event.command_name == "getMore":
            if event.command["getMore"] in self.streams:
                return
            self.streams.add(event.command["getMore"])
        super().started(event)


def say(step, **facts):
    print(json.dumps({"step": step, **facts}, sort_keys=True, separators=(",", ":")), flush=True)


def code_of(action):
    try:
        action()
    except OperationFailure as error:
        return error.code
    return None


def write_and_read(db):
    numbers = db.numbers
    say("ping", ok=int(db.command("ping")["ok"]))
    limits = db.command("hello")
    say("limits", document=limits["maxBsonObjectSize"], message=limits["maxMessageSizeBytes"])

    numbers.insert_one({"_id": 0, "n": 0, "group": 0, "text": "item 0"})
    rest = [{"_id": i, "n": i, "group": i % 7, "text": f"item {i}"} for i in range(1, 20000)]
    say("insert", inserted=len(numbers.insert_many(rest).inserted_ids))

    found = numbers.find({"n": {"$gte": 10, "$lt": 15}}, {"_id": 0, "n": 1}).sort("n", -1)
    say("find", n=[document["n"] for document in found])
    say("find_one", text=numbers.find_one({"_id": 4711})["text"], missing=numbers.find_one({"_id": -1}) is None)
    batches = [document["n"] for document in numbers.find(limit=1000, batch_size=10).sort("_id", 1)]
    say("batches", count=len(batches), sum=sum(batches))
    early = numbers.find(batch_size=5).sort("_id", 1)
    taken = [next(early)["n"] for _ in range(7)]
    early.close()
    say("early_close", n=taken)
    say("counts", documents=numbers.count_documents({"group": 3}), estimated=numbers.estimated_document_count())
    say("distinct", groups=sorted(numbers.distinct("group")))


def change(db):
    numbers = db.numbers
    one = numbers.update_one({"_id": 1}, {"$set": {"text": "one"}})
    many = numbers.update_many({"group": 5}, {"$inc": {"n": 1}})
    upserted = numbers.update_one({"_id": "new"}, {"$set": {"n": -1}}, upsert=True)
    say("update", one=one.modified_count, many=many.modified_count, upserted=upserted.upserted_id)
    after = numbers.find_one_and_update({"_id": 2}, {"$inc": {"n": 40}}, return_document=ReturnDocument.AFTER)
    removed = numbers.find_one_and_delete({"_id": "new"})
    replaced = numbers.replace_one({"_id": 3}, {"n": 33})
    say("find_and_modify", after=after["n"], removed=removed["n"], replaced=replaced.modified_count)
    deleted = numbers.delete_many({"_id": {"$gte": 19990}})
    say("delete", one=numbers.delete_one({"_id": 0}).deleted_count, many=deleted.deleted_count)


def aggregate(db):
    db.groups.insert_many([{"_id": i, "name": f"group {i}"} for i in range(7)])
    grouped = db.numbers.aggregate(
        [{"$match": {"_id": {"$lt": 100}}}, {"$group": {"_id": "$group", "n": {"$sum": "$n"}}}, {"$sort": {"n": 1}}]
    )
    say("group", sums=[document["n"] for document in grouped])
    joined = db.numbers.aggregate(
        [
            {"$match": {"_id": {"$in": [8, 9]}}},
            {"$lookup": {"from": "groups", "localField": "group", "foreignField": "_id", "as": "found"}},
            {"$sort": {"_id": 1}},
        ]
    )
    say("lookup", names=[document["found"][0]["name"] for document in joined])
    db.numbers.aggregate([{"$match": {"group": 2}}, {"$out": "second"}])
    say("out", count=db.second.count_documents({}))


def indexes(db):
    names = [db.numbers.create_index("n"), db.numbers.create_index([("group", 1), ("text", -1)])]
    listed = sorted(index["name"] for index in db.numbers.list_indexes())
    db.numbers.drop_index(names[0])
    say("indexes", created=names, listed=listed, left=sorted(index["name"] for index in db.numbers.list_indexes()))


def bulk(db):
    # The third operation fails; the later ones run only in an unordered bulk.
    operations = [InsertOne({"_id": 1}), InsertOne({"_id": 2}), InsertOne({"_id": 1}), InsertOne({"_id": 3})]
    operations += [UpdateOne({"_id": 2}, {"$set": {"n": 2}}), DeleteOne({"_id": 1})]
    for collection, ordered in (("ordered", True), ("unordered", False)):
        try:
            db[collection].bulk_write(operations, ordered=ordered)
        except BulkWriteError as error:
            errors = [[one["index"], one["code"]] for one in error.details["writeErrors"]]
            facts = {"inserted": error.details["nInserted"], "modified": error.details["nModified"]}
            say(f"bulk_{collection}", errors=errors, deleted=error.details["nRemoved"], **facts)


def unacknowledged(uri, name, listener):
    # With one connection the read runs after the writes.
    with MongoClient(uri, maxPoolSize=1, event_listeners=[listener]) as client:
        silent = client[name].get_collection("silent", write_concern=WriteConcern(w=0))
        acknowledged = [silent.insert_one({"_id": i}).acknowledged for i in range(100)]
        silent.insert_one({"_id": 0})
        silent.update_many({}, {"$set": {"n": 1}})
        silent.delete_one({"_id": 99})
        count = client[name].silent.count_documents({"n": 1})
        say("unacknowledged", acknowledged=any(acknowledged), count=count)


def large(db):
    content = bytes(i % 251 for i in range(5_000_000))
    bucket = gridfs.GridFSBucket(db)
    file_id = bucket.upload_from_stream("file", content)
    returned = bucket.open_download_stream(file_id).read()
    say("gridfs", length=len(returned), same=returned == content)

    megabyte = "m" * 1_000_000
    db.large.insert_one({"_id": 0, "data": "d" * (15 * 1024 * 1024)})
    say("large_document", length=len(db.large.find_one({"_id": 0})["data"]))
    db.batch.insert_many([{"_id": i, "data": megabyte} for i in range(47)])
    total = {"$group": {"_id": None, "bytes": {"$sum": {"$strLenBytes": "$data"}}}}
    say("large_batch", count=db.batch.count_documents({}), bytes=next(db.batch.aggregate([total]))["bytes"])
    say("large_read", bytes=sum(len(document["data"]) for document in db.batch.find({"_id": {"$lt": 20}})))


def databases(client, name):
    other = client[f"{name}_other"]
    other.first.insert_one({"_id": 1})
    other.create_collection("second")
    names = sorted(found[len(name) :] for found in client.list_database_names() if found.startswith(name))
    say("databases", collections=sorted(other.list_collection_names()), names=names)
    client.drop_database(other.name)
    say("drop_database", names=[found[len(name) :] for found in client.list_database_names() if found.startswith(name)])


def errors(db):
    say(
        "errors",
        command=code_of(lambda: db.command("noSuchCommand")),
        cursor=code_of(lambda: db.command({"getMore": Int64(4711), "collection": "numbers"})),
        duplicate=code_of(lambda: db.numbers.insert_one({"_id": 5})),
        operator=code_of(lambda: db.numbers.find_one({"n": {"$noSuchOperator": 1}})),
        stage=code_of(lambda: list(db.numbers.aggregate([{"$noSuchStage": {}}]))),
    )


def sessions(client, db):
    with client.start_session(causal_consistency=True) as session:
        db.session.insert_one({"_id": 1}, session=session)
        say("session", count=db.session.count_documents({}, session=session))


def transactions(client, db):
    db.create_collection("account")
    with client.start_session() as session, session.start_transaction():
        db.account.insert_many([{"_id": 1}, {"_id": 2}], session=session)
        before = db.account.count_documents({})
    committed = db.account.count_documents({})
    with client.start_session() as session:
        session.start_transaction()
        db.account.insert_one({"_id": 3}, session=session)
        session.abort_transaction()
    say("transaction", before=before, committed=committed, aborted=db.account.count_documents({}))


def change_stream(db):
    db.create_collection("watched")
    with db.watched.watch() as stream:
        db.watched.insert_many([{"_id": 1}, {"_id": 2}])
        db.watched.update_one({"_id": 1}, {"$set": {"n": 1}})
        db.watched.delete_one({"_id": 2})
        events = [next(stream) for _ in range(4)]
    say("change_stream", events=[[event["operationType"], event["documentKey"]["_id"]] for event in events])


def concurrent(db):
    def work(worker):
        for i in range(50):
            db.busy.insert_one({"_id": worker * 1000 + i, "n": 0})
            db.busy.update_one({"_id": worker * 1000 + i}, {"$inc": {"n": worker}})
        found = db.busy.find({"_id": {"$gte": worker * 1000, "$lt": worker * 1000 + 50}})
        return sum(document["n"] for document in found)

    with ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(work, range(8)))
    say("concurrent", count=db.busy.count_documents({}), sums=sums)


def exhaust(uri, name, listener):
    # Only PyMongo supports exhaust cursors: the server sends all batches in reply to one getMore.
    with MongoClient(uri, event_listeners=[ExhaustCommands(listener.counts)]) as client:
        numbers = client[name].numbers
        found = numbers.find({"_id": {"$gte": 1, "$lte": 1000}}, cursor_type=CursorType.EXHAUST, batch_size=10)
        count = sum(1 for _ in found)
        # The driver discards the connection of a cursor that is closed early; the pool opens a new one.
        with numbers.find(cursor_type=CursorType.EXHAUST, batch_size=10) as early:
            taken = [next(early) for _ in range(15)]
        say("exhaust", count=count, early=len(taken), ok=int(client[name].command("ping")["ok"]))


def main():
    uri, name = sys.argv[1:]
    listener = SentCommands()
    with MongoClient(uri, event_listeners=[listener]) as client:
        db = client[name]
        write_and_read(db)
        change(db)
        aggregate(db)
        indexes(db)
        bulk(db)
        unacknowledged(uri, name, listener)
        large(db)
        databases(client, name)
        errors(db)
        sessions(client, db)
        if db.command("hello").get("setName"):
            transactions(client, db)
            change_stream(db)
        concurrent(db)
        exhaust(uri, name, listener)
        client.drop_database(name)
    say("commands", **listener.counts)


main()
