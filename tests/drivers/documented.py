"""One client with the documented connection string. Usage: documented.py URI DATABASE

Writes and reads, directly from one server or through the whole set, and prints one JSON line: the hello of the server
that it came to last, and the addresses that the driver knows.
"""

import json
import sys
import time

from pymongo import MongoClient, WriteConcern
from pymongo.read_preferences import SecondaryPreferred
from pymongo.server_api import ServerApi

EXTRA = {"api": {"server_api": ServerApi("1")}}


def main():
    uri, name, *kind = sys.argv[1:]
    options = EXTRA[kind[0]] if kind else {}
    with MongoClient(uri, serverSelectionTimeoutMS=45000, **options) as client:
        hello = client.admin.command("hello")
        if hello.get("isWritablePrimary"):
            # One server may be all that is left.
            collection = client[name].get_collection("documented", write_concern=WriteConcern(w=1))
            collection.insert_one({"hosts": hello.get("hosts")})
        documents = client[name].get_collection("documented", read_preference=SecondaryPreferred())
        # A secondary has the document a moment later.
        while not (read := documents.count_documents({})):
            time.sleep(0.05)
        print(json.dumps({
            "me": hello.get("me"),
            "hosts": [host for field in ("hosts", "passives", "arbiters") for host in hello.get(field, [])],
            "is_primary": hello.get("isWritablePrimary", False),
            "is_secondary": hello.get("secondary", False),
            "nodes": sorted(f"{host}:{port}" for host, port in client.topology_description.server_descriptions()),
            "read": read,
        }))


main()
