"""The user that mongod sees for a client of PyMongo. Usage: whoami.py URI...

Prints one JSON line per URI, with the user or the error.
"""

import json
import sys

from pymongo import MongoClient
from pymongo.errors import PyMongoError


def whoami(uri):
    try:
        with MongoClient(uri, serverSelectionTimeoutMS=5000) as client:
            status = client.admin.command("connectionStatus")
            return {"users": [user["user"] for user in status["authInfo"]["authenticatedUsers"]]}
    except PyMongoError as error:
        return {"code": getattr(error, "code", None), "message": str(error)}


for uri in sys.argv[1:]:
    print(json.dumps(whoami(uri)), flush=True)
