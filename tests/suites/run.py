#!/usr/bin/env python3
"""Runs PyMongo's own test suite directly and through the gateway, and compares the outcome of each test.

It is run by hand, because the suite takes many minutes: `docs/compatibility.md` has a result.
Each way has a mongod of its own, so that nothing that one run leaves behind changes the other one.
Both clients speak plaintext to their address; the gateway uses mutual TLS towards mongod.
A test that has different outcomes runs again, alone, both ways: what differs each time is a difference,
the rest depends on the time that a test takes.

Needs mongod, openssl, and pip with a registry. Uses the free ports from --port on.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as xml

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
# They need the internet, or servers that this comparison does not have.
LEFT_OUT = ["test_dns.py", "test_srv_polling.py"]
START_LIMIT_S = 60
STOP_LIMIT_S = 40
PORTS_PER_WAY = 20


def options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mongod", default="mongod", help="path of mongod")
    parser.add_argument("--mongate", default=str(TOP / "target/release/mongate"), help="path of mongate")
    parser.add_argument("--modes", default="off,session,request", help="modes of the pool, comma-separated")
    parser.add_argument("--max-connections", type=int, default=8, help="of the pool with mode request")
    parser.add_argument("--topology", choices=["standalone", "set"], default="set", help="set: with one member")
    parser.add_argument("--repeat", type=int, default=3, help="how often a test with different outcomes runs again")
    parser.add_argument("--test-limit", type=int, default=120, help="seconds for one test")
    parser.add_argument("--port", type=int, default=28100, help="first of the ports")
    parser.add_argument("--work", default=str(TOP / "target/suites"), help="directory of downloads and results")
    parser.add_argument("tests", nargs="*", help="files of the suite, for example test_bulk.py; default: all")
    return parser.parse_args()


def pymongo_version():
    """The version that the tests of this repository use."""
    lines = (TOP / "tests/drivers/requirements.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("pymongo=="))


def suite(work):
    """The interpreter with PyMongo, and the directory with its tests."""
    version = pymongo_version()
    python = work / f"venv-{version}/bin/python"
    source = work / f"pymongo-{version}"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], check=True)
        needed = [f"pymongo=={version}", "pytest>=8.2", "pytest-asyncio", "pytest-timeout"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *needed], check=True)
    if not source.exists():
        sdist = ["--quiet", "--no-deps", "--no-binary", "pymongo", f"pymongo=={version}"]
        subprocess.run([str(python), "-m", "pip", "download", *sdist, "--dest", str(work)], check=True)
        with tarfile.open(work / f"pymongo-{version}.tar.gz") as archive:
            archive.extractall(work)
        # The tests import the installed packages, which contain the compiled modules.
        for package in ["pymongo", "bson", "gridfs"]:
            (source / package).rename(source / f"{package}.source")
    return python, source


@contextlib.contextmanager
def running(command, log):
    """A process, which is stopped at the end."""
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(port, process):
    """Returns when the port accepts connections."""
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"{process.args[0]} does not listen on port {port}; its log is in the directory --work")


def mongod_command(args, certificates, data, port):
    """mongod with failpoints, which takes clients with and without TLS."""
    command = [args.mongod, "--dbpath", str(data), "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket"]
    command += ["--setParameter", "enableTestCommands=1", "--wiredTigerCacheSizeGB", "0.5"]
    command += ["--tlsMode", "preferTLS", "--tlsAllowConnectionsWithoutCertificates"]
    command += ["--tlsCAFile", str(certificates / "ca.pem")]
    command += ["--tlsCertificateKeyFile", str(certificates / "server.pem")]
    return command + (["--replSet", "suite"] if args.topology == "set" else [])


INITIATE = """
import pymongo, sys
port = int(sys.argv[1])
client = pymongo.MongoClient("localhost", port, directConnection=True)
client.admin.command("replSetInitiate", {"_id": "suite", "members": [{"_id": 0, "host": f"localhost:{port}"}]})
pymongo.MongoClient("localhost", port, replicaSet="suite").admin.command("ping")
"""


def configuration(args, certificates, mode, mongod, port):
    """The gateway's configuration file."""
    member = f'"localhost:{mongod}"'
    upstream = f"members = [{member}]\nreplica_set = \"suite\"" if args.topology == "set" else f"address = {member}"
    limit = f"max_connections = {args.max_connections}" if mode == "request" else ""
    advertise = 'advertise = "localhost"' if args.topology == "set" else ""
    return f"""
[admin]
address = "127.0.0.1:{port + 10}"
[upstream.suite]
{upstream}
[upstream.suite.pool]
mode = "{mode}"
{limit}
[upstream.suite.tls]
certificate_file = "{certificates}/client.pem"
ca_file = "{certificates}/ca.pem"
[listener.suite]
address = "127.0.0.1:{port}"
upstream = "suite"
{advertise}
"""


@contextlib.contextmanager
def server(args, python, work, way, first_port):
    """The port for the suite: of a mongod (`direct`), or of a gateway with this mode in front of one."""
    certificates = work / "certificates"
    if not certificates.exists():
        generate = [str(TOP / "certs/generate.sh"), "--out", str(certificates)]
        subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(tempfile.TemporaryDirectory(prefix="mongate-suite-"))
        command = mongod_command(args, certificates, data, first_port)
        process = stack.enter_context(running(command, work / f"{way}.mongod.log"))
        wait_for(first_port, process)
        if args.topology == "set":
            subprocess.run([str(python), "-c", INITIATE, str(first_port)], check=True)
        if way == "direct":
            yield first_port
            return
        port = first_port + 1
        file = work / f"{way}.toml"
        file.write_text(configuration(args, certificates, way, first_port, port))
        process = stack.enter_context(running([args.mongate, "run", "--config", str(file)], work / f"{way}.log"))
        wait_for(port, process)
        yield port


def run_tests(args, python, source, port, result, tests):
    """Runs the tests; returns the outcome of each one by its name."""
    result.unlink(missing_ok=True)
    # Without the suite's own options, which choose the asynchronous copy of each test too.
    command = [str(python), "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-m", "default"]
    command += ["-o", "addopts=", "-o", "log_cli_level=CRITICAL", "-o", f"timeout={args.test_limit}"]
    environment = {**os.environ, "DB_IP": "localhost", "DB_PORT": str(port)}
    with open(result.with_suffix(".log"), "wb") as log:
        command += [f"--junitxml={result}", *tests]
        subprocess.run(command, cwd=source, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    if not result.exists():
        raise SystemExit(f"the suite has no result; see {result.with_suffix('.log')}")
    return outcomes(result)


def outcomes(result):
    """Outcome by test: passed, failed or skipped."""
    found = {}
    for case in xml.parse(result).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        name = f"{case.get('classname')}::{case.get('name')}"
        # The error of a class's teardown is a second case with the same name.
        found[name] = "failed" if "failed" in (outcome, found.get(name)) else outcome
    return found


def as_argument(source, name):
    """The name of a test as pytest takes it: test.test_bulk.TestBulk::test_empty."""
    dotted, _, test = name.partition("::")
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        file = "/".join(parts[:length]) + ".py"
        if (source / file).exists():
            return "::".join([file, *parts[length:], test])
    return dotted


def count(found):
    """A line with the number of each outcome."""
    values = list(found.values())
    return ", ".join(f"{values.count(kind)} {kind}" for kind in ["passed", "failed", "skipped"])


def files(args, source):
    """The files of the suite to run."""
    names = args.tests or sorted(path.name for path in (source / "test").glob("test_*.py"))
    return [f"test/{name}" for name in names if name not in LEFT_OUT]


def again(args, tools, work, way, port, differing):
    """The outcomes of each of these tests in further runs."""
    python, source = tools
    seen = {name: [] for name in differing}
    for number in range(args.repeat):
        for name in differing:
            test = [as_argument(source, name)]
            found = run_tests(args, python, source, port, work / f"{way}.again{number}.xml", test)
            seen[name].append(found.get(name, "absent"))
    return seen


def main():
    """Runs the comparison; the exit code is 1 if a test has another outcome each time."""
    args = options()
    work = pathlib.Path(args.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    python, source = tools = suite(work)
    ways = ["direct", *args.modes.split(",")]
    found = {}
    for index, way in enumerate(ways):
        with server(args, python, work, way, args.port + index * PORTS_PER_WAY) as port:
            found[way] = run_tests(args, python, source, port, work / f"{way}.xml", files(args, source))
        print(f"{way}: {count(found[way])}", flush=True)
    names = sorted(set().union(*found.values()))
    differing = [name for name in names if len({found[way].get(name, "absent") for way in ways}) > 1]
    repeated = {}
    for index, way in enumerate(ways if differing else []):
        with server(args, python, work, way, args.port + index * PORTS_PER_WAY) as port:
            repeated[way] = again(args, tools, work, way, port, differing)
    stable = 0
    for name in differing:
        print(name)
        for way in ways:
            print(f"  {way}: {found[way].get(name, 'absent')}; alone: {', '.join(repeated[way][name])}")
        direct = set(repeated["direct"][name])
        stable += any(direct.isdisjoint(repeated[way][name]) for way in ways)
    (work / "outcomes.json").write_text(json.dumps({"found": found, "repeated": repeated}, indent=1))
    print(f"{len(differing)} tests differ in the suite, {stable} of them each time")
    return 1 if stable else 0


if __name__ == "__main__":
    sys.exit(main())
