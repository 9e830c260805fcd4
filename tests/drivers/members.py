"""The members of a replica set as PyMongo sees them. Usage: members.py URI DATABASE

Prints one JSON line per step, which is the same for every driver (members.jsonl), and last the known addresses.
"""

import json
import sys
import time

from pymongo import MongoClient, WriteConcern, monitoring
from pymongo.errors import ServerSelectionTimeoutError
from pymongo.read_preferences import Secondary

KINDS = {"RSPrimary": "primary", "RSSecondary": "secondary", "RSArbiter": "arbiter"}


class Finds(monitoring.CommandListener):
    """Records the address of each find."""

    def __init__(self):
        self.addresses = []

    def started(self, event):
        if event.command_name == "find":
            self.addresses.append(event.connection_id)

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


def say(step, **facts):
    print(json.dumps({"step": step, **facts}, sort_keys=True, separators=(",", ":")), flush=True)


def servers(client):
    """Returns all servers as soon as the driver knows the type of each."""
    while True:
        description = client.topology_description
        known = description.server_descriptions().values()
        if description.topology_type_name == "ReplicaSetWithPrimary" and all(s.is_server_type_known for s in known):
            return {server.address: server for server in known}
        time.sleep(0.01)


def read(client, finds, name, preference):
    """Reads ten times and returns the number of documents and the server of each read."""
    finds.addresses.clear()
    collection = client[name].get_collection("members", read_preference=preference)
    total = sum(len(list(collection.find({}, batch_size=10))) for _ in range(10))
    return total, [servers(client)[address] for address in finds.addresses]


def main():
    uri, name = sys.argv[1:]
    finds = Finds()
    with MongoClient(uri, event_listeners=[finds], serverSelectionTimeoutMS=20000, localThresholdMS=1000) as client:
        client.admin.command("ping")
        known = servers(client)
        kinds = sorted(KINDS.get(server.server_type_name, server.server_type_name) for server in known.values())
        say("topology", name=client.topology_description.replica_set_name, servers=kinds)
        # Four members hold data, including the hidden one.
        everywhere = client[name].get_collection("members", write_concern=WriteConcern(w=4))
        say("written", count=len(everywhere.insert_many({"_id": i} for i in range(50)).inserted_ids))
        total, by = read(client, finds, name, Secondary())
        say("secondary", by=sorted({KINDS[server.server_type_name] for server in by}), count=total)
        for zone in ["south", "far"]:
            total, by = read(client, finds, name, Secondary(tag_sets=[{"zone": zone}]))
            say("tagged", by=sorted({server.tags["zone"] for server in by}), count=total)
    with MongoClient(uri, serverSelectionTimeoutMS=1000) as client:
        try:
            client[name].get_collection("members", read_preference=Secondary(tag_sets=[{"zone": "dark"}])).find_one()
            say("hidden", found=True)
        except ServerSelectionTimeoutError:
            say("hidden", found=False)
        client.drop_database(name)
    say("addresses", all=sorted(f"{host}:{port}" for host, port in known))


main()
