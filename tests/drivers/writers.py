"""Eight writers that run until a file exists. Usage: writers.py URI DATABASE STOP

Each writer inserts documents one by one, with majority write concern and retryable writes. Prints how many
acknowledged writes every writer has at least, whenever that number grows. The last line has each id with the time of
its acknowledgement, and every failure.
"""

import json
import os
import sys
import threading
import time

from pymongo import MongoClient, WriteConcern
from pymongo.errors import PyMongoError

WRITERS = 8
# Seconds between two writes: short enough to measure a pause, long enough for a machine that is busy with elections.
PACE = 0.005


class Writers:
    def __init__(self, collection, stop):
        self.collection = collection
        self.stop = stop
        self.lock = threading.Lock()
        # The count of acknowledged writes of each writer, and the least of them that was printed.
        self.counts = [0] * WRITERS
        self.printed = 0
        self.acknowledged = []
        self.failures = []

    def write(self, worker):
        number = 0
        while not os.path.exists(self.stop):
            identifier = worker * 1_000_000 + number
            number += 1
            try:
                self.collection.insert_one({"_id": identifier})
            except PyMongoError as error:
                with self.lock:
                    self.failures.append(f"{type(error).__name__}: {error}")
                continue
            with self.lock:
                self.acknowledged.append([identifier, time.time()])
                self.counts[worker] += 1
                if min(self.counts) > self.printed:
                    self.printed += 1
                    print(json.dumps({"least": self.printed}), flush=True)
            time.sleep(PACE)


def main():
    uri, name, stop = sys.argv[1:]
    with MongoClient(uri) as client:
        collection = client[name].get_collection("writes", write_concern=WriteConcern("majority"))
        writers = Writers(collection, stop)
        threads = [threading.Thread(target=writers.write, args=(worker,)) for worker in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(json.dumps({"acknowledged": writers.acknowledged, "failures": writers.failures}))


main()
