"""What PyMongo lists. Usage: lists.py URI DATABASE

Prints one JSON line: the names of the collections, alone, one by one, and in batches of two; the names of the views;
the type and the options of each collection; whether `create_collection` notices that `orders` exists; and the names of
the databases.
"""

import json
import sys

from pymongo import MongoClient
from pymongo.errors import CollectionInvalid


def exists(database, name):
    try:
        database.create_collection(name)
    except CollectionInvalid:
        return True
    return False


def main():
    uri, name = sys.argv[1:]
    with MongoClient(uri) as client:
        database = client[name]
        details = {found["name"]: [found["type"], found["options"]] for found in database.list_collections()}
        report = {
            "names": sorted(database.list_collection_names()),
            "one": database.list_collection_names(filter={"name": "orders"}),
            "none": database.list_collection_names(filter={"name": "secret"}),
            "views": sorted(database.list_collection_names(filter={"type": "view"})),
            "batches": sorted(found["name"] for found in database.list_collections(cursor={"batchSize": 2})),
            "details": details,
            "exists": exists(database, "orders"),
            "databases": sorted(client.list_database_names()),
            "sizes": sorted(found["name"] for found in client.list_databases()),
        }
    print(json.dumps(report, sort_keys=True))


main()
