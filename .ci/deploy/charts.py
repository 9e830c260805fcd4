"""Renders the Helm chart and the Kustomize component, and validates the result against Kubernetes' schemas."""

import contextlib
import io
import re
import shutil

import kubernetes_validate
import yaml

import manifests
from problems import run

OLDEST = "1.29"
NEWEST = ".".join(kubernetes_validate.latest_version().split(".")[:2])
# Values that need a newer Kubernetes than OLDEST.
NEEDS = {"gateway-pod-certificate": "1.34"}
UPSTREAM = ["--set", "config.upstream.o.address=m:27017"]
PLAIN = [*UPSTREAM, "--set", "config.listener.o.allow_remote_plaintext=true"]
NAMED = [*PLAIN, "--set", "certificates.upstream.secret.name=s"]
SIDECAR = [*UPSTREAM, "--set", "form=sidecar,certificates.upstream.secret.name=s"]
POD_CERTIFICATE = ["--set", "certificates.upstream.source=podCertificate"]

# Values that the chart refuses, and a part of the message.
REFUSED = [
    ([], "config.upstream: is missing"),
    ([*NAMED, "--set", "bogus=1"], "additional properties 'bogus' not allowed"),
    ([*NAMED, "--set", "form=daemon"], "value must be one of 'sidecar', 'node', 'gateway'"),
    ([*NAMED, "--set", "config.listeners.o.upstream=o"], "additional properties 'listeners' not allowed"),
    (UPSTREAM, "would accept unencrypted traffic"),
    (PLAIN, "certificates.upstream.secret.name: is missing"),
    ([*NAMED, "--set", "config.admin.address=127.0.0.1:9717"], "probes: http needs an admin.address"),
    ([*SIDECAR, "--set", "networkPolicy.enabled=true"], "cannot tell a sidecar from its application"),
    ([*SIDECAR, "--set", "monitoring.podMonitor.enabled=true"], "cannot reach the administration port on loopback"),
    ([*UPSTREAM, "--set", "config.upstream.p.address=m:1"], "config.listener: is missing"),
    ([*NAMED, *POD_CERTIFICATE, "--kube-version", "1.33"], "needs Kubernetes 1.34"),
    ([*NAMED, *POD_CERTIFICATE, "--kube-version", "1.34"], "pod certificates come without CA certificates"),
    ([*UPSTREAM, "--kube-version", "1.28"], "chart requires kubeVersion"),
]


def check(root, scratch, problems):
    """Returns every rendered set of documents: name, version of Kubernetes, and documents."""
    helm = scratch / "helm"
    # A copy, because the dependency of the example is packed into it.
    shutil.copytree(root / "deploy/helm", helm)
    code, out, err = run("helm", "dependency", "build", helm / "example-sidecar")
    problems.unless(code == 0, "deploy/helm/example-sidecar", out + err)
    rendered = []
    values = sorted((helm / "mongate/ci").glob("*.yaml"))
    problems.unless(len(values) >= 5, "deploy/helm/mongate/ci", "has fewer than five sets of values")
    for file in values:
        lint(helm / "mongate", file, problems)
        for version in {NEEDS.get(file.stem, OLDEST), NEWEST}:
            rendered += template(helm / "mongate", ["--values", file], file.stem, version, problems)
    for name, file in documented_values(root, scratch):
        rendered += template(helm / "mongate", ["--values", file], name, NEWEST, problems)
    lint(helm / "example-sidecar", None, problems)
    for version in (OLDEST, NEWEST):
        rendered += template(helm / "example-sidecar", [], "example-sidecar", version, problems)
    problems.done(f"helm: lint and {len(rendered)} renderings")
    refusals(helm / "mongate", problems)
    checksum(helm / "mongate", problems)
    options(helm, problems)
    code, out, err = run("kubectl", "kustomize", root / "deploy/kustomize/example")
    problems.unless(code == 0, "deploy/kustomize/example", err)
    for version in (OLDEST, NEWEST):
        rendered.append(("kustomize", version, [doc for doc in yaml.safe_load_all(out) if doc]))
    for name, version, documents in rendered:
        validate(f"{name}, Kubernetes {version}", version, documents, problems)
        manifests.check(f"{name}, Kubernetes {version}", documents, problems)
    problems.done("manifests: schemas and assertions")
    return rendered


def documented_values(root, scratch):
    """The values that the documentation shows: its YAML blocks with the key `config`."""
    for page in (*root.glob("docs/*.md"), root / "deploy/helm/mongate/README.md"):
        for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S)):
            if re.search(r"^config:", block, re.M):
                file = scratch / f"{page.stem}-{number}.yaml"
                file.write_text(block)
                yield f"{page.relative_to(root)}, block {number}", file


def lint(chart, values, problems):
    options = ["--values", values] if values else []
    code, out, err = run("helm", "lint", "--strict", "--kube-version", NEWEST, *options, chart)
    problems.unless(code == 0, f"helm lint {chart.name} {values.name if values else ''}", out + err)


def template(chart, options, name, version, problems):
    code, out, err = run("helm", "template", "prod", chart, "--namespace", "shop", "--kube-version", version, *options)
    problems.unless(code == 0, f"helm template {name}", err)
    # Trailing spaces show that an empty value was indented.
    spaces = [line for line in out.splitlines() if line != line.rstrip() and not line.strip() == ""]
    problems.unless(not spaces, f"helm template {name}", f"trailing spaces: {spaces}")
    return [(name, version, [doc for doc in yaml.safe_load_all(out) if doc])] if code == 0 else []


def refusals(chart, problems):
    for options, message in REFUSED:
        code, _out, err = run("helm", "template", "prod", chart, *options)
        is_refused = code != 0 and message in err
        problems.unless(is_refused, f"helm template {options}", f"not refused with {message!r}: {err}")
    problems.done(f"helm: {len(REFUSED)} mistakes are refused")


def checksum(chart, problems):
    """A changed policy must not restart pods, and any other change must."""

    def of(*options):
        _code, out, _err = run("helm", "template", "prod", chart, *NAMED, *options)
        return re.search(r"mongate/config: (\w+)", out)[1]

    problems.unless(of() == of("--set", "config.policy.deny_javascript=true"), "checksum", "changes with the policy")
    problems.unless(of() != of("--set", "config.log.level=debug"), "checksum", "does not change with log.level")


def options(helm, problems):
    """Texts that values have to produce."""
    sidecar = ["--set", "mongate.certificates.podHasFsGroup=true"]
    inside = {
        "[::1]:9717": "[::1]:9717",
        "127.0.0.1:9000": "127.0.0.1:9000",
        "0.0.0.0:9717": "127.0.0.1:9717",
        "[::]:9717": "[::1]:9717",
        "10.1.2.3:9717": "10.1.2.3:9717",
    }
    cases = [
        (helm / "mongate", [*NAMED, "--set", f"probes=exec,config.admin.address={address}"], f'--address, "{asked}"]')
        for address, asked in inside.items()
    ]
    for values, mode in (([], 0o444), (sidecar, 0o440)):
        cases.append((helm / "example-sidecar", values, f"defaultMode: {mode}"))
    for chart, values, expected in cases:
        code, out, err = run("helm", "template", "prod", chart, *values)
        problems.unless(code == 0 and expected in out, f"helm template {values}", f"{expected} is missing: {err}")
    problems.done(f"helm: {len(cases)} values have their effect")


def validate(where, version, documents, problems):
    for document in documents:
        # The schemas contain the kinds of Kubernetes, not those of operators; manifests.py looks at these.
        if "." in document["apiVersion"].split("/")[0] and ".k8s.io" not in document["apiVersion"]:
            continue
        problems.checks += 1
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.add(f"{where}, {document['kind']}", f"{'.'.join(map(str, error.path))}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            problems.add(f"{where}, {document['kind']}", str(error))
