"""The list of problems, and the programs that are run."""

import subprocess


class Problems:
    """Collects problems, so that one run shows all of them."""

    def __init__(self):
        self.found = []
        self.checks = 0

    def add(self, where, what):
        self.found.append(f"{where}: {what}")

    def unless(self, holds, where, what):
        """One check: a problem unless `holds`."""
        self.checks += 1
        if not holds:
            self.add(where, what)

    def done(self, what):
        """Ends a group of checks with a line."""
        print(f"{what}: {'ok' if not self.found else f'{len(self.found)} problems so far'}", flush=True)

    def report(self):
        """Prints the problems; returns the exit code."""
        for problem in self.found:
            print(f"PROBLEM {problem}")
        print(f"{self.checks} checks, {len(self.found)} problems")
        return 1 if self.found else 0


def run(*command, **options):
    """Runs a program; returns exit code, standard output, and standard error."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    return done.returncode, done.stdout, done.stderr
