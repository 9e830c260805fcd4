"""A denied command and then an allowed one. Usage: refused.py URI DATABASE

Prints one JSON line: what PyMongo reports about a find in `orders`, the number of documents of a later find in `menu`,
and whether both used the same connection. For that, mongod reports the address of its peer before and after.
"""

import json
import sys

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError


def place(client):
    return client.admin.command("whatsmyuri")["you"]


def main():
    uri, name = sys.argv[1:]
    report = {"code": None, "codeName": None, "message": "", "rows": None, "same": None}
    with MongoClient(uri, maxPoolSize=1) as client:
        try:
            before = place(client)
            try:
                report["orders"] = len(list(client[name].orders.find()))
            except OperationFailure as error:
                report.update(code=error.code, codeName=error.details["codeName"], message=error.details["errmsg"])
            report.update(rows=len(list(client[name].menu.find())), same=place(client) == before)
        except PyMongoError as error:
            report["message"] = str(error)
    print(json.dumps(report))


main()
