"""Checks what runs outside of Kubernetes: the systemd units, and the Dockerfiles."""

import re

from problems import run

# Highest exposure level of `systemd-analyze security`, times ten.
EXPOSURE_MAX = 20
# DL3008: versions of Debian packages. They change with every security update, and old ones disappear.
IGNORED = ["--ignore", "DL3008"]


def check(root, scratch, problems):
    unit = (root / "deploy/systemd/mongate.service").read_text()
    where = "deploy/systemd/mongate.service"
    # systemd-analyze complains about a program that is not installed.
    file = scratch / "mongate.service"
    file.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit, flags=re.M))
    socket = (root / "deploy/systemd/mongate.socket").read_text()
    (scratch / "mongate.socket").write_text(socket)
    # It also reads the other units of this machine, and complains about them.
    code, out, err = run("systemd-analyze", "verify", "--man=no", file, scratch / "mongate.socket")
    said = [line for line in (out + err).splitlines() if "mongate" in line]
    problems.unless(code == 0 and not said, where, f"systemd-analyze verify: {said or err}")
    threshold = f"--threshold={EXPOSURE_MAX}"
    code, out, err = run("systemd-analyze", "security", "--offline=true", threshold, file)
    problems.unless(code == 0 and "Overall exposure level" in out, where, (out + err)[-200:])
    values = dict(re.findall(r"^(\w+)=(.*)$", unit, re.M))
    problems.unless(int(values["TimeoutStopSec"].removesuffix("s")) > 60, where, "is killed during the drain")
    problems.unless(int(values["LimitNOFILE"]) >= 2 * 10000 + 256, where, "has too few descriptors for the defaults")
    problems.unless(values["StartLimitIntervalSec"] == "0", where, "stays down when certificates come late")
    problems.unless(values["Type"] == "notify" and "WatchdogSec" in values, where, "ignores the gateway's messages")
    values = dict(re.findall(r"^(\w+)=(.*)$", socket, re.M))
    listens = values.get("FileDescriptorName") and "Accept" not in values
    problems.unless(listens, "deploy/systemd/mongate.socket", "passes no listening socket with a name")
    problems.done("systemd: verify and security")
    dockerfiles = sorted(root.glob("compose/Dockerfile")) + sorted(root.glob("deploy/**/Dockerfile"))
    problems.unless(dockerfiles, "Dockerfile", "none was found")
    for dockerfile in dockerfiles:
        code, out, err = run("hadolint", *IGNORED, dockerfile)
        problems.unless(code == 0, str(dockerfile.relative_to(root)), out + err)
    problems.done(f"hadolint: {len(dockerfiles)} Dockerfiles")
