"""Builds the Debian and RPM packages from the metadata in Cargo.toml, and installs the Debian one in a chroot.

The chroot is this machine with an overlay in memory, so
nothing of it remains.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from problems import run

# What the prebuilt tools do not know yet, and how they read it. `cargo deb` of cargo knows all of it.
OLD_FORMS = {'edition = "2024"': 'edition = "2021"', 'debug = "line-tables-only"': "debug = 1", '"noreplace"': "true"}

RPM_FILES = ["/usr/bin/mongate", "/etc/mongate/config.toml", "/usr/lib/systemd/system/mongate.service",
             "/usr/share/man/man1/mongate-run.1.gz", "/usr/share/bash-completion/completions/mongate"]

# Runs in the chroot, in a network of its own. $1: the package; $2: the same with a higher version; $3: certificates.
INSTALL = r"""
set -eux
dpkg --install "$1"
test "$(stat -c '%U:%G %a' /etc/mongate /etc/mongate/config.toml | tr '\n' ' ')" = \
    "root:mongate 750 root:mongate 640 "
mongate --version | grep '^mongate '
gzip -t /usr/share/man/man1/mongate.1.gz
bash -c '. /usr/share/bash-completion/completions/mongate; complete -p mongate'
test ! -e /etc/systemd/system/multi-user.target.wants/mongate.service
# The configuration is all comments; without them it is complete.
sed -i 's/^# *\(\[\|[a-z_]* = \)/\1/' /etc/mongate/config.toml
install -m 0640 -g mongate "$3/client.pem" "$3/ca.pem" /etc/mongate
as_mongate="setpriv --reuid mongate --regid mongate --clear-groups --inh-caps=-all"
$as_mongate mongate check --offline --config /etc/mongate/config.toml
command=$(sed -n 's/^ExecStart=//p' /lib/systemd/system/mongate.service)
ip link set lo up
$as_mongate $command 2>/tmp/mongate.log &
gateway=$!
for _ in $(seq 300); do if grep ' started ' /tmp/mongate.log; then break; fi; sleep 0.1; done
kill "$gateway"
wait "$gateway"
grep ' stopped ' /tmp/mongate.log
dpkg --install "$2"
dpkg-query -W mongate | grep -F 9.9.9-1
grep '^address = "127.0.0.1:27017"' /etc/mongate/config.toml
dpkg --remove mongate
test ! -e /usr/bin/mongate
test -e /etc/mongate/config.toml
dpkg --purge mongate
test ! -e /etc/mongate/config.toml
# Files of the administrator stay.
test -e /etc/mongate/client.pem
"""

CHROOT = r"""
set -eu
mount -t tmpfs mongate "$1/root"
mkdir "$1/root/upper" "$1/root/work" "$1/root/merged"
mount -t overlay -o "lowerdir=/,upperdir=$1/root/upper,workdir=$1/root/work" mongate "$1/root/merged"
mkdir -p "$1/root/merged/packages"
cp -r "$1"/out/. "$1/certificates" "$1/root/merged/packages"
cd /
exec chroot "$1/root/merged" bash -c "$2" bash /packages/first.deb /packages/second.deb /packages/certificates
"""


def check(root, scratch, binary, generated, problems):
    if binary is None:
        print("packages: NOT CHECKED, no mongate was built; use --binary")
        return
    target, manifest, out = scratch / "target", scratch / "manifest", scratch / "out"
    for directory in (target / "release", manifest, out):
        directory.mkdir(parents=True)
    stripped = target / "release/mongate"
    shutil.copy(binary, stripped)
    code, _out, err = run(root / "deploy/packages/split-debug", stripped)
    sizes = [file.stat().st_size for file in (stripped, Path(f"{stripped}.debug"), Path(binary))]
    _code, sections, _err = run("readelf", "--sections", "--wide", stripped)
    is_split = code == 0 and ".gnu_debuglink" in sections and ".symtab" not in sections and sizes[0] * 2 < sizes[2]
    problems.unless(is_split, "deploy/packages/split-debug", f"sizes {sizes}: {err}")
    (target / "release/packaging").symlink_to(Path(generated).resolve())
    for path in root.iterdir():
        if path.name not in ("Cargo.toml", "target", ".git"):
            (manifest / path.name).symlink_to(path)
    text = (root / "Cargo.toml").read_text()
    for form, old in OLD_FORMS.items():
        problems.unless(form in text, "Cargo.toml", f"has no {form}; adapt packages.py")
        text = text.replace(form, old)
    (manifest / "Cargo.toml").write_text(text)
    environment = os.environ | {"CARGO_TARGET_DIR": str(target)}

    def build(*command):
        done = subprocess.run(command, cwd=manifest, env=environment, capture_output=True, text=True, check=False)
        problems.unless(done.returncode == 0, command[0], done.stdout + done.stderr)

    build("cargo-deb", "--quiet", "--no-build", "--no-strip", "--fast", "-Z", "gz", "--output", out / "first.deb")
    # The next version is the same package with another number.
    build("dpkg-deb", "--raw-extract", out / "first.deb", scratch / "second")
    control = scratch / "second/DEBIAN/control"
    control.write_text(re.sub("^Version: .*", "Version: 9.9.9-1", control.read_text(), flags=re.M))
    build("dpkg-deb", "-Znone", "--build", scratch / "second", out / "second.deb")
    build("cargo-generate-rpm", "--target-dir", target, "--auto-req", "disabled", "--payload-compress", "none",
          "-o", out / "mongate.rpm")
    code, found, err = run("lintian", "--allow-root", "--fail-on", "error", out / "first.deb")
    problems.unless(code == 0, "lintian", found + err)
    code, listed, err = run("rpm", "-qp", "--list", "--scripts", out / "mongate.rpm")
    missing = [name for name in (*RPM_FILES, "useradd --system", "try-restart") if name not in listed]
    problems.unless(code == 0 and not missing, "rpm", f"{missing} is missing: {err}")
    version = re.search(r'^version = "(.*)"', text, re.M)[1]
    log = (root / "deploy/packages/debian/changelog").read_text()
    problems.unless(log.startswith(f"mongate ({version}-1) "), "deploy/packages/debian/changelog", f"lacks {version}")
    problems.done("packages: built, lintian, contents")
    install(root, scratch, problems)


def install(root, scratch, problems):
    if os.geteuid() != 0:
        print("packages: NOT INSTALLED, which only root can do in an overlay")
        return
    certificates = scratch / "certificates"
    if not certificates.exists():
        run(root / "certs/generate.sh", "--out", certificates)
    (scratch / "root").mkdir()
    code, out, err = run("unshare", "--mount", "--net", "sh", "-c", CHROOT, "sh", scratch, INSTALL)
    problems.unless(code == 0, "the Debian package in a chroot", (out + err)[-2000:])
    problems.done("packages: installed, started, upgraded, removed and purged")
