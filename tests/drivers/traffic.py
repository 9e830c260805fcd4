"""Writes and reads until it is stopped. Usage: traffic.py URI DATABASE

Prints one JSON line per operation: {"write": number, "member": address} or {"read": number, "member": address} after
success, {"failed": kind, "error": class} after failure.
"""

import itertools
import json
import sys
import threading
import time

from pymongo import MongoClient, WriteConcern, monitoring
from pymongo.errors import PyMongoError
from pymongo.read_preferences import Secondary

# Seconds between two operations of a thread: frequent operations without much load.
PACE = 0.02
OUTPUT = threading.Lock()


class Answers(monitoring.CommandListener):
    """Records which server replied to the last command of each thread."""

    def __init__(self):
        self.last = threading.local()

    def started(self, event):
        pass

    def succeeded(self, event):
        self.last.member = "%s:%d" % event.connection_id

    def failed(self, event):
        pass


def say(**facts):
    with OUTPUT:
        print(json.dumps(facts), flush=True)


def repeat(answers, kind, action):
    for number in itertools.count():
        try:
            action(number)
            say(**{kind: number, "member": answers.last.member})
        except PyMongoError as error:
            say(failed=kind, error=type(error).__name__)
        time.sleep(PACE)


def main():
    uri, name = sys.argv[1:]
    answers = Answers()
    # Short timeouts, as an impatient application sets them.
    times = {"connectTimeoutMS": 1000, "heartbeatFrequencyMS": 1000, "socketTimeoutMS": 3000}
    times |= {"localThresholdMS": 10000, "serverSelectionTimeoutMS": 4000}
    client = MongoClient(uri, event_listeners=[answers], **times)
    database = client[name]
    written = database.get_collection("traffic", write_concern=WriteConcern("majority"))
    read = database.get_collection("traffic", read_preference=Secondary())
    threads = [
        threading.Thread(target=repeat, args=(answers, "write", lambda number: written.insert_one({"_id": number}))),
        *(threading.Thread(target=repeat, args=(answers, "read", lambda _: read.find_one({}))) for _ in range(3)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main()
