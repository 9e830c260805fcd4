"""Checks everything in deploy/ offline: python3 .ci/deploy [--binary MONGATE].

`.ci/run deploy` installs the tools (helm, kubectl, promtool, hadolint, systemd-analyze, cargo-deb, cargo-generate-rpm,
lintian, rpm, and the Python packages kubernetes-validate and promql-parser) and runs this. Prints one line per group of
checks, and every problem; exits with 1 if there is one.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import charts
import configuration
import hosts
import monitoring
import packages
import self_test
from problems import Problems

ROOT = Path(__file__).resolve().parent.parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", help="a built mongate, which checks each rendered configuration")
    parser.add_argument("--package-files", help="the directory that examples/package_files.rs has written")
    arguments = parser.parse_args()
    binary = arguments.binary
    problems = Problems()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        rendered = charts.check(ROOT, scratch, problems)
        self_test.check(rendered, problems)
        configuration.check(ROOT, scratch, rendered, binary, problems)
        monitoring.check(ROOT, problems)
        hosts.check(ROOT, scratch, problems)
        if arguments.package_files:
            packages.check(ROOT, scratch, binary, arguments.package_files, problems)
    return problems.report()


if __name__ == "__main__":
    tools = ("helm", "kubectl", "promtool", "hadolint", "systemd-analyze")
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        sys.exit(f"not on the PATH: {', '.join(missing)}; run: .ci/run deploy")
    sys.exit(main())
