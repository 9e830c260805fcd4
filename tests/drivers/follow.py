"""A client that works while its replica set changes. Usage: follow.py URI DATABASE STOP

Four workers write, and read from secondaries, until the file STOP exists. Prints a line whenever the members change and
at the first read from each member. The last line has the counts of connection events by address, and every failure.
"""

import json
import os
import sys
import threading
import time
from collections import Counter, defaultdict

from pymongo import MongoClient, monitoring
from pymongo.errors import PyMongoError
from pymongo.monitoring import ConnectionClosedReason
from pymongo.read_preferences import Secondary

PACE = 0.005
LOCK = threading.Lock()


def text(address):
    return f"{address[0]}:{address[1]}"


def say(**facts):
    with LOCK:
        print(json.dumps(facts), flush=True)


class Finds(monitoring.CommandListener):
    def __init__(self):
        self.seen = set()

    def started(self, event):
        if event.command_name == "find" and event.connection_id not in self.seen:
            self.seen.add(event.connection_id)
            say(read=text(event.connection_id))

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


class Members(monitoring.TopologyListener):
    def opened(self, event):
        pass

    def closed(self, event):
        pass

    def description_changed(self, event):
        servers = event.new_description.server_descriptions().values()
        say(members={text(server.address): server.server_type_name for server in servers})


class Pools(monitoring.ConnectionPoolListener):
    """Counts created, failed and cleared connections by address."""

    def __init__(self):
        self.counts = defaultdict(Counter)

    def pool_cleared(self, event):
        self.counts[text(event.address)]["cleared"] += 1

    def connection_closed(self, event):
        if event.reason in (ConnectionClosedReason.ERROR, ConnectionClosedReason.STALE):
            self.counts[text(event.address)]["closed"] += 1

    def connection_created(self, event):
        self.counts[text(event.address)]["created"] += 1

    def pool_created(self, event):
        pass

    def pool_ready(self, event):
        pass

    def pool_closed(self, event):
        pass

    def connection_ready(self, event):
        pass

    def connection_check_out_started(self, event):
        pass

    def connection_check_out_failed(self, event):
        pass

    def connection_checked_out(self, event):
        pass

    def connection_checked_in(self, event):
        pass


def work(client, name, stop, worker, failures):
    collection = client[name].followed
    secondaries = collection.with_options(read_preference=Secondary())
    number = 0
    while not os.path.exists(stop):
        try:
            collection.insert_one({"_id": worker * 1_000_000 + number})
            secondaries.find_one({"_id": worker * 1_000_000})
        except PyMongoError as error:
            failures.append(f"{type(error).__name__}: {error}")
        number += 1
        time.sleep(PACE)


def main():
    uri, name, stop = sys.argv[1:]
    pools, failures = Pools(), []
    listeners = [Finds(), Members(), pools]
    # A threshold that makes every secondary eligible.
    with MongoClient(uri, event_listeners=listeners, localThresholdMS=5000) as client:
        threads = [threading.Thread(target=work, args=(client, name, stop, i, failures)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        say(pools={address: dict(counts) for address, counts in pools.counts.items()}, failures=failures)


main()
