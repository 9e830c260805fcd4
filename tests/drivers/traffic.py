"""Writes and reads until it is ended, one JSON line for each that succeeded: traffic.py URI DATABASE

{"write": number, "member": address} and {"read": number, "member": address}; {"failed": kind} for what did not.
"""

import itertools
import json
import sys
import threading
import time

from pymongo import MongoClient, WriteConcern, monitoring
from pymongo.errors import PyMongoError
from pymongo.read_preferences import Secondary

# Between two operations of a thread: enough to see something, and not a load.
PACE = 0.02
OUTPUT = threading.Lock()


class Answers(monitoring.CommandListener):
    """Who answered the last command of each thread."""

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


def go_on(answers, kind, action):
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
    # Times as short as an impatient application has them.
    times = {"connectTimeoutMS": 1000, "heartbeatFrequencyMS": 1000, "socketTimeoutMS": 3000}
    times |= {"localThresholdMS": 10000, "serverSelectionTimeoutMS": 4000}
    client = MongoClient(uri, event_listeners=[answers], **times)
    database = client[name]
    written = database.get_collection("traffic", write_concern=WriteConcern("majority"))
    read = database.get_collection("traffic", read_preference=Secondary())
    threads = [
        threading.Thread(target=go_on, args=(answers, "write", lambda number: written.insert_one({"_id": number}))),
        *(threading.Thread(target=go_on, args=(answers, "read", lambda _: read.find_one({}))) for _ in range(3)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main()
