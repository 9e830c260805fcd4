"""What MongoEngine does with one collection, and with one that its caller may not use. Usage: engine.py URI DATABASE

Prints one JSON line: the document after two saves, an update and an aggregation; the indexes that MongoEngine made; the
names of the collections and databases; and the code of the error for a document of the other collection.
"""

import json
import sys

import mongoengine
from pymongo.errors import OperationFailure


class Order(mongoengine.Document):
    name = mongoengine.StringField()
    count = mongoengine.IntField()
    meta = {"collection": "orders", "indexes": ["name"], "strict": False}


class Secret(mongoengine.Document):
    meta = {"collection": "secret", "auto_create_index": False, "strict": False}


def code_of(work):
    try:
        work()
    except OperationFailure as error:
        return error.code
    return None


def main():
    uri, name = sys.argv[1:]
    client = mongoengine.connect(name, host=uri)
    order = Order(name="tea", count=1).save()
    order.count = 2
    order.save()
    Order.objects(id=order.id).update_one(inc__count=1)
    shown = list(Order.objects(name="tea").aggregate([{"$project": {"_id": 0, "count": 1}}]))
    database = mongoengine.get_db()
    report = {
        "shown": shown,
        "counted": Order.objects(count__gt=2).count(),
        "indexes": sorted(Order.objects._collection.index_information()),
        "collections": sorted(database.list_collection_names()),
        "databases": sorted(client.list_database_names()),
        "secret": code_of(lambda: Secret.objects.first()),
    }
    Order.objects(name="tea").delete()
    report["left"] = Order.objects(name="tea").count()
    print(json.dumps(report, sort_keys=True))


main()
