"""Lets a built mongate read every configuration that deploy/ renders or contains."""

import re
import shutil
import tomllib

from manifests import paths_of
from problems import run

# Pages whose configurations belong to deploy/. The tests in Rust cover all pages.
PAGES = {"install", "istio", "migrating"}


def check(root, scratch, rendered, binary, problems):
    configs = {}
    for name, version, documents in rendered:
        for document in documents:
            if "config.toml" in document.get("data", {}):
                configs[f"{name}, Kubernetes {version}"] = document["data"]["config.toml"]
    pages = [page for page in root.glob("docs/*.md") if page.stem in PAGES]
    problems.unless(len(pages) == len(PAGES), "docs/", f"does not have all of {PAGES}")
    shown = {}
    for page in pages:
        blocks = re.findall(r"^ *```toml\n(.*?)^ *```", page.read_text(), re.M | re.S)
        shown |= {f"docs/{page.name}, block {number}": block for number, block in enumerate(blocks)}
    if binary is None:
        print("configurations: NOT CHECKED, no mongate was built; use --binary")
        return
    certificates = scratch / "certificates"
    code, out, err = run(root / "certs/generate.sh", "--out", certificates)
    problems.unless(code == 0, "certs/generate.sh", out + err)
    for where, text in configs.items():
        accepts(scratch, binary, where, text, problems)
        reads_files(scratch, certificates, binary, where, text, problems)
    for where, text in shown.items():
        accepts(scratch, binary, where, text, problems)
    problems.done(f"configurations: {len(configs) + len(shown)} are accepted by mongate")


def accepts(scratch, binary, where, text, problems):
    """The configuration as it is. `policy explain` reads all of it, and opens no address and no file."""
    file = scratch / "as-it-is.toml"
    file.write_text(text)
    listener = next(iter(tomllib.loads(text)["listener"]))
    explain = ("policy", "explain", "--nobody", "--listener", listener, "--command", "ping", "--database", "admin")
    code, _out, err = run(binary, *explain, "--config", file)
    problems.unless(code in (0, 77), where, err)


def reads_files(scratch, certificates, binary, where, text, problems):
    """`check --offline`, with certificates in the places where the pod has them, and with addresses that are free."""
    directory = scratch / "pod"
    shutil.rmtree(directory, ignore_errors=True)
    for key, path in paths_of(tomllib.loads(text)):
        place = directory / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if key == "spiffe_socket":
            continue
        side = "gateway" if "/listener" in path else "client"
        authority = "mesh-ca.pem" if side == "gateway" else "ca.pem"
        source = authority if key == "ca_file" else f"{side}.pem"
        place.write_text(((certificates / source).read_text()))
        text = text.replace(f'"{path}"', f'"{place}"')
    # Any process may use port 27017 of the usual addresses.
    text = text.replace('"0.0.0.0:', '"127.83.17.9:').replace('"127.0.0.1:', '"127.83.17.9:')
    file = directory / "config.toml"
    file.write_text(text)
    code, out, err = run(binary, "check", "--offline", "--config", file)
    problems.unless(code == 0, where, out + err)
