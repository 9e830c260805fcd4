"""Assertions on rendered manifests: what the schemas of Kubernetes do not say."""

import re
import tomllib

TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"
# Allowed values of keys, wherever they occur. The schemas have no enums. `restartPolicy` depends on its place.
ENUMS = {
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "protocol": {"TCP", "UDP", "SCTP"},
    "internalTrafficPolicy": {"Cluster", "Local"},
    "externalTrafficPolicy": {"Cluster", "Local"},
    "sessionAffinity": {"ClientIP", "None"},
    "whenUnsatisfiable": {"DoNotSchedule", "ScheduleAnyway"},
    "policyTypes": {"Ingress", "Egress"},
    "medium": {"", "Memory"},
    "keyType": {"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"},
    "operator": {"Exists", "Equal", "In", "NotIn", "DoesNotExist"},
    "effect": {"NoSchedule", "PreferNoSchedule", "NoExecute"},
    "rotationPolicy": {"Always", "Never"},
    "encoding": {"PKCS1", "PKCS8"},
    "usages": {"digital signature", "client auth", "server auth"},
    "algorithm": {"RSA", "ECDSA", "Ed25519"},
}
# `type` has other values in each of these places.
TYPES = {
    "strategy": {"RollingUpdate", "Recreate"},
    "updateStrategy": {"RollingUpdate", "OnDelete"},
    "seccompProfile": {"RuntimeDefault", "Localhost"},
    "target": {"AverageValue", "Utilization", "Value"},
    "metrics": {"Pods", "Resource", "Object", "External"},
    "policies": {"Pods", "Percent"},
    "Service": {"ClusterIP", "NodePort", "LoadBalancer"},
}
# Volumes that the restricted profile allows.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
# Kinds of operators: the fields of `spec` that they must have. There is no schema for them here.
OPERATORS = {
    "Certificate": {"secretName", "issuerRef", "usages", "privateKey"},
    "PodMonitor": {"selector", "podMetricsEndpoints"},
    "ServiceMonitor": {"selector", "endpoints"},
    "PrometheusRule": {"groups"},
}
UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600}


def check(where, documents, problems):
    by_kind = {}
    for document in documents:
        by_kind.setdefault(document["kind"], []).append(document)
        enums(where, document, problems)
        if document["kind"] in OPERATORS:
            missing = OPERATORS[document["kind"]] - set(document["spec"])
            problems.unless(not missing, f"{where}, {document['kind']}", f"has no {missing}")
    configs = {
        document["metadata"]["name"]: tomllib.loads(document["data"]["config.toml"])
        for document in by_kind.get("ConfigMap", [])
        if "config.toml" in document["data"]
    }
    problems.unless(len(configs) == 1, where, "has not exactly one configuration")
    pods = [(document, template(document)) for document in documents if template(document)]
    for document, pod in pods:
        check_pod(f"{where}, {document['kind']} {document['metadata']['name']}", document, pod, configs, problems)
    for account in by_kind.get("ServiceAccount", []):
        problems.unless(account.get("automountServiceAccountToken") is False, where, "ServiceAccount mounts its token")
    check_services(where, by_kind, pods, configs, problems)
    for policy in by_kind.get("NetworkPolicy", []):
        first = policy["spec"]["ingress"][0]["from"][0]
        is_both = {"namespaceSelector", "podSelector"} <= set(first)
        of_mongod = policy["metadata"]["name"].endswith("-mongod")
        problems.unless(is_both or not of_mongod, where, "mongod's policy lets in whole namespaces or foreign pods")
    for budget in by_kind.get("PodDisruptionBudget", []):
        labels = pods[0][1]["metadata"]["labels"].items()
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        problems.unless(wanted <= labels, where, "the PodDisruptionBudget selects other pods")
    for scaler in by_kind.get("HorizontalPodAutoscaler", []):
        target = scaler["spec"]["scaleTargetRef"]
        problems.unless(target["name"] == pods[0][0]["metadata"]["name"], where, "the autoscaler scales nothing")
        problems.unless("replicas" not in pods[0][0]["spec"], where, "replicas would undo the autoscaler's work")


def template(document):
    """The template of pods, or None."""
    spec = document.get("spec", {})
    return spec.get("template") if isinstance(spec, dict) and document["kind"] not in OPERATORS else None


def enums(where, document, problems):
    def walk(value, key, parent):
        if isinstance(value, dict):
            for inner, item in value.items():
                walk(item, inner, key)
        elif isinstance(value, list):
            for item in value:
                walk(item, key, key if isinstance(item, dict) else parent)
        else:
            place = document["kind"] if parent == "spec" else parent
            allowed = TYPES.get(place) if key == "type" else ENUMS.get(key)
            if allowed is not None:
                problems.unless(value in allowed, f"{where}, {document['kind']}", f"{key}: {value} is not in {allowed}")

    walk(document, "", "")


def check_pod(where, document, pod, configs, problems):
    spec = pod["spec"]
    wanted = {"Always"} if document["kind"] != "Job" else {"Never", "OnFailure"}
    policy = spec.get("restartPolicy", "Always")
    problems.unless(policy in wanted, where, f"restartPolicy: {policy} of the pod is not in {wanted}")
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        problems.unless(not spec.get(key), where, f"{key} is not allowed in the restricted profile")
    selector = document["spec"].get("selector", {}).get("matchLabels", {})
    problems.unless(selector.items() <= pod["metadata"]["labels"].items(), where, "the selector selects other pods")
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    for name, volume in volumes.items():
        kinds = set(volume) - {"name"}
        problems.unless(len(kinds) == 1 and kinds <= VOLUMES, where, f"volume {name} is of the kind {kinds}")
    containers = [(True, one) for one in spec.get("initContainers", [])] + [(False, one) for one in spec["containers"]]
    mounted = set()
    for is_init, container in containers:
        check_container(f"{where}, container {container['name']}", spec, is_init, container, problems)
        for mount in container.get("volumeMounts", []):
            mounted.add(mount["name"])
            problems.unless(mount["name"] in volumes, where, f"mount {mount['name']} has no volume")
    problems.unless(mounted == set(volumes), where, f"volumes that no container mounts: {set(volumes) - mounted}")
    gateways = [(is_init, container) for is_init, container in containers if container["name"] == "mongate"]
    problems.unless(len(gateways) == 1, where, "has not exactly one container mongate")
    if gateways:
        is_sidecar, gateway = gateways[0]
        check_gateway(where, spec, is_sidecar, gateway, volumes, configs, problems)


def check_container(where, spec, is_init, container, problems):
    """The restricted profile of the Pod Security Standards, and enums that depend on the place."""
    pod_context = spec.get("securityContext", {})
    context = container.get("securityContext", {})
    either = {**pod_context, **context}
    problems.unless(either.get("runAsNonRoot") is True, where, "runAsNonRoot is not true")
    problems.unless(either.get("runAsUser") != 0, where, "runs as root")
    seccomp = either.get("seccompProfile", {}).get("type")
    problems.unless(seccomp in TYPES["seccompProfile"], where, f"seccompProfile is {seccomp}")
    problems.unless(context.get("allowPrivilegeEscalation") is False, where, "allowPrivilegeEscalation is not false")
    problems.unless(not context.get("privileged"), where, "is privileged")
    capabilities = context.get("capabilities", {})
    problems.unless(capabilities.get("drop") == ["ALL"], where, "does not drop all capabilities")
    problems.unless(not capabilities.get("add"), where, "adds capabilities")
    policy = container.get("restartPolicy")
    problems.unless(policy in ((None, "Always") if is_init else (None,)), where, f"restartPolicy: {policy}")
    names = {port["name"] for port in container.get("ports", []) if "name" in port}
    problems.unless(all(len(name) <= 15 for name in names), where, f"a name of {names} is longer than 15 characters")
    for port in container.get("ports", []):
        problems.unless("hostPort" not in port, where, "has a hostPort")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        http = container.get(probe, {}).get("httpGet")
        if http:
            problems.unless("host" not in http, where, f"{probe}: httpGet.host is refused since Kubernetes 1.34")
            problems.unless(http["port"] in names, where, f"{probe}: there is no port {http['port']}")


def check_gateway(where, spec, is_sidecar, gateway, volumes, configs, problems):
    if is_sidecar:
        problems.unless(gateway.get("restartPolicy") == "Always", where, "the sidecar is no native sidecar")
        problems.unless(spec["initContainers"][0]["name"] == "mongate", where, "the sidecar does not start first")
    context = gateway["securityContext"]
    problems.unless(context.get("readOnlyRootFilesystem") is True, where, "the file system is not read-only")
    problems.unless(context.get("runAsUser") == 10001, where, "does not run as user 10001")
    problems.unless("memory" in gateway["resources"].get("limits", {}), where, "has no memory limit")
    paths = {mount["mountPath"]: mount for mount in gateway["volumeMounts"]}
    is_token_hidden = spec.get("automountServiceAccountToken") is False and not is_sidecar or TOKEN in paths
    problems.unless(is_token_hidden, where, "the gateway gets a token of the service account")
    problems.unless(all("subPath" not in mount for mount in paths.values()), where, "a subPath is never updated")
    problems.unless(all(mount.get("readOnly") for mount in paths.values()), where, "a mount is not read-only")
    check_probes(where, gateway, problems)
    mounted = paths.get("/etc/mongate", {}).get("name")
    source = volumes.get(mounted, {}).get("configMap", {}).get("name")
    problems.unless(source in configs, where, f"there is no ConfigMap {source}")
    config = configs.get(source, {})
    files = [path for _key, path in paths_of(config)]
    problems.unless(files, where, "the configuration has no certificates")
    for file in files:
        is_mounted = any(file.startswith(path + "/") for path in paths)
        problems.unless(is_mounted, where, f"{file} of the configuration is in no volume")
    shutdown = config.get("shutdown", {})
    drains = 2 if shutdown.get("wait_for_clients") else 1
    needed = seconds(shutdown.get("delay", "0s")) + drains * seconds(config.get("drain_timeout", "30s"))
    grace = spec.get("terminationGracePeriodSeconds", 30)
    problems.unless(grace > needed, where, f"terminationGracePeriodSeconds is {grace}, but the drain takes {needed}")
    if not is_sidecar:
        problems.unless(seconds(shutdown.get("delay", "0s")) >= 5, where, "stops before endpoints are updated")


def check_probes(where, gateway, problems):
    problems.unless("startupProbe" in gateway, where, "has no startupProbe")
    problems.unless("readinessProbe" in gateway, where, "has no readinessProbe")
    liveness = gateway.get("livenessProbe")
    is_livez = liveness is None or liveness.get("httpGet", {}).get("path") == "/livez"
    problems.unless(is_livez, where, "the livenessProbe would restart the gateway while MongoDB is down")
    for probe in ("startupProbe", "readinessProbe"):
        command = gateway.get(probe, {}).get("exec", {}).get("command")
        if command:
            problems.unless(command[:2] == ["mongate", "healthcheck"], where, f"{probe} runs {command}")
            # `mongate healthcheck` itself waits for five seconds.
            problems.unless(gateway[probe].get("timeoutSeconds", 1) > 5, where, f"{probe} ends before the health check")
        elif liveness is None:
            problems.add(where, "with HTTP probes, a livenessProbe is possible, and is missing")
    readiness = gateway.get("readinessProbe", {}).get("httpGet", {}).get("path", "/readyz")
    problems.unless(readiness == "/readyz", where, f"the readinessProbe asks {readiness}")


def check_services(where, by_kind, pods, configs, problems):
    gateways = [(document, pod) for document, pod in pods if "initContainers" not in pod["spec"]]
    for service in by_kind.get("Service", []):
        spec = service["spec"]
        labels = gateways[0][1]["metadata"]["labels"]
        problems.unless(spec["selector"].items() <= labels.items(), where, "a Service selects other pods")
        ports = gateways[0][1]["spec"]["containers"][0]["ports"]
        known = {port["containerPort"] for port in ports} | {port["name"] for port in ports}
        for port in spec["ports"]:
            problems.unless(port["targetPort"] in known, where, f"Service: no container port {port['targetPort']}")
    for document, _pod in gateways:
        if document["kind"] not in ("Deployment", "DaemonSet"):
            continue
        service = by_kind["Service"][0]
        is_local = service["spec"].get("internalTrafficPolicy") == "Local"
        problems.unless(is_local == (document["kind"] == "DaemonSet"), where, "internalTrafficPolicy does not fit")
        # Gateways do not know each other's cursors.
        has_policy = any("policy" in config for config in configs.values())
        is_one_gateway = service["spec"].get("sessionAffinity") == "ClientIP" or document["kind"] == "DaemonSet"
        problems.unless(is_one_gateway or not has_policy, where, "under a policy, a driver must use one gateway")
        served = {port["port"] for port in service["spec"]["ports"]}
        bound = {int(address.rsplit(":", 1)[1]) for config in configs.values() for address in addresses(config)}
        problems.unless(served == bound, where, f"the Service has the ports {served}, and the listeners {bound}")


def addresses(config):
    """The addresses of all listeners and members. Ports of `member_ports` would have to be added."""
    for listener in config["listener"].values():
        yield listener["address"]
        yield from listener.get("member_addresses", {}).values()


def paths_of(table):
    """Keys of files and sockets, at any depth, and their values."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from paths_of(value)
        elif isinstance(value, str) and (key.endswith("_file") or key == "spiffe_socket"):
            yield key, value.removeprefix("unix:")


def seconds(duration):
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)\s*([a-z]+)", duration))
