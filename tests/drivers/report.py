"""Runs one command with each URI and prints what the driver reports, one JSON line per URI, in the order of the URIs.

Usage: report.py COMMAND URI...
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pymongo
from bson import json_util


def report(command, uri):
    started = time.monotonic()
    client = pymongo.MongoClient(uri)
    body = {key: value for key, value in command.items() if key != "$db"}
    try:
        client[command["$db"]].command(body)
        kind, message = "", ""
    except pymongo.errors.PyMongoError as error:
        kind, message = type(error).__name__, str(error)
    finally:
        client.close()
    return {"kind": kind, "message": message, "seconds": time.monotonic() - started}


def main():
    command = json_util.loads(sys.argv[1])
    uris = sys.argv[2:]
    with ThreadPoolExecutor(len(uris)) as pool:
        for line in pool.map(lambda uri: report(command, uri), uris):
            print(json.dumps(line))


main()
