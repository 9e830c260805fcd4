"""A command that is refused, and a permitted one after it: refused.py URI DATABASE

Prints one JSON line: what PyMongo reports of a find in `orders`, how many documents a find in `menu` gives afterwards, and
whether both went over the same connection. Before and after, mongod tells where it is spoken to from.
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
