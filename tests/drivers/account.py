"""What a client of PyMongo with a token may do. Usage: account.py URI

Prints one JSON line: the users that mongod sees, the number of orders, and the code of the error instead.
"""

import json
import sys

from pymongo import MongoClient
from pymongo.errors import OperationFailure


def attempt(work):
    try:
        return work()
    except OperationFailure as error:
        return {"code": error.code}


with MongoClient(sys.argv[1], serverSelectionTimeoutMS=20000) as client:
    status = attempt(lambda: client.admin.command("connectionStatus"))
    report = {
        "users": [user["user"] for user in status["authInfo"]["authenticatedUsers"]],
        "orders": attempt(lambda: len(list(client.shop.orders.find(batch_size=1)))),
        "insert": attempt(lambda: client.shop.orders.insert_one({}).acknowledged),
    }
    print(json.dumps(report), flush=True)
