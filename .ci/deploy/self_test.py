"""Shows that the assertions of manifests.py can fail: breaks rendered manifests in memory, one place at a time."""

import copy

import manifests
from problems import Problems

GATEWAY, FULL, NODE, SIDECAR = "gateway-secret", "gateway-certmanager", "node-csi-spiffe", "kustomize"
POD = ("Deployment", "spec", "template", "spec")
ONE = (*POD, "containers", 0)
INIT = (*POD, "initContainers", 0)
SCALER = ("HorizontalPodAutoscaler", "spec")
DELETED = object()

# Rendering; kind and keys of the place; its new value; a part of the problem.
BROKEN = [
    (GATEWAY, (*POD, "restartPolicy"), "Alwayz", "restartPolicy: Alwayz"),
    (GATEWAY, (*ONE, "restartPolicy"), "Always", "restartPolicy: Always"),
    (GATEWAY, (*ONE, "imagePullPolicy"), "Sometimes", "imagePullPolicy: Sometimes"),
    (GATEWAY, (*ONE, "ports", 0, "protocol"), "tcp", "protocol: tcp"),
    (GATEWAY, ("Deployment", "spec", "strategy", "type"), "Rolling", "type: Rolling"),
    (GATEWAY, (*POD, "topologySpreadConstraints", 0, "whenUnsatisfiable"), "x", "whenUnsatisfiable: x"),
    (GATEWAY, ("Service", "spec", "type"), "Clusterip", "type: Clusterip"),
    (GATEWAY, ("Service", "spec", "sessionAffinity"), "ClientIp", "sessionAffinity: ClientIp"),
    (GATEWAY, ("Service", "spec", "sessionAffinity"), DELETED, "must use one gateway"),
    (NODE, ("DaemonSet", "spec", "updateStrategy", "type"), "Rolling", "type: Rolling"),
    (NODE, ("DaemonSet", "spec", "template", "spec", "tolerations", 0, "operator"), "exists", "operator: exists"),
    (NODE, ("Service", "spec", "internalTrafficPolicy"), "local", "internalTrafficPolicy: local"),
    (NODE, ("Service", "spec", "internalTrafficPolicy"), DELETED, "internalTrafficPolicy does not fit"),
    (FULL, ("NetworkPolicy", "spec", "policyTypes"), ["ingress"], "policyTypes: ingress"),
    (FULL, (*SCALER, "metrics", 0, "type"), "Pod", "type: Pod"),
    (FULL, (*SCALER, "metrics", 0, "pods", "target", "type"), "Average", "type: Average"),
    (FULL, (*SCALER, "behavior", "scaleDown", "policies", 0, "type"), "Pod", "type: Pod"),
    (FULL, (*SCALER, "scaleTargetRef", "name"), "x", "scales nothing"),
    (FULL, ("Deployment", "spec", "replicas"), 1, "undo the autoscaler"),
    (FULL, ("Certificate", "spec", "usages"), ["client"], "usages: client"),
    (FULL, ("Certificate", "spec", "issuerRef"), DELETED, "has no {'issuerRef'}"),
    (SIDECAR, (*INIT, "restartPolicy"), DELETED, "no native sidecar"),
    (SIDECAR, (*INIT, "startupProbe"), DELETED, "no startupProbe"),
    (SIDECAR, (*INIT, "startupProbe", "timeoutSeconds"), 5, "ends before the health check"),
    (SIDECAR, (*INIT, "readinessProbe", "exec", "command"), ["sh"], "readinessProbe runs"),
    (SIDECAR, (*INIT, "volumeMounts", 2), DELETED, "gets a token"),
    (SIDECAR, (*INIT, "name"), "other", "exactly one container mongate"),
    (GATEWAY, (*POD, "automountServiceAccountToken"), DELETED, "gets a token"),
    (GATEWAY, ("ServiceAccount", "automountServiceAccountToken"), DELETED, "mounts its token"),
    (GATEWAY, (*ONE, "securityContext", "seccompProfile", "type"), "Unconfined", "seccompProfile is Unconfined"),
    (GATEWAY, (*ONE, "securityContext", "runAsNonRoot"), False, "runAsNonRoot"),
    (GATEWAY, (*ONE, "securityContext", "runAsUser"), 0, "runs as root"),
    (GATEWAY, (*ONE, "securityContext", "allowPrivilegeEscalation"), DELETED, "allowPrivilegeEscalation"),
    (GATEWAY, (*ONE, "securityContext", "privileged"), True, "is privileged"),
    (GATEWAY, (*ONE, "securityContext", "capabilities"), {}, "does not drop all"),
    (GATEWAY, (*ONE, "securityContext", "capabilities", "add"), ["NET_ADMIN"], "adds capabilities"),
    (GATEWAY, (*ONE, "securityContext", "readOnlyRootFilesystem"), DELETED, "not read-only"),
    (GATEWAY, (*POD, "hostNetwork"), True, "hostNetwork"),
    (GATEWAY, (*POD, "volumes", 0), {"name": "mongate-config", "hostPath": {"path": "/"}}, "of the kind"),
    (GATEWAY, (*ONE, "ports", 0, "hostPort"), 27017, "hostPort"),
    (GATEWAY, (*ONE, "ports", 0, "name"), "mongodb-port-27017", "longer than 15"),
    (GATEWAY, (*ONE, "livenessProbe", "httpGet", "host"), "x", "httpGet.host"),
    (GATEWAY, (*ONE, "livenessProbe", "httpGet", "port"), "x", "there is no port x"),
    (GATEWAY, (*ONE, "livenessProbe", "httpGet", "path"), "/readyz", "would restart the gateway"),
    (GATEWAY, (*ONE, "livenessProbe"), DELETED, "livenessProbe is possible"),
    (GATEWAY, (*ONE, "readinessProbe"), DELETED, "no readinessProbe"),
    (GATEWAY, (*ONE, "readinessProbe", "httpGet", "path"), "/livez", "asks /livez"),
    (GATEWAY, (*POD, "terminationGracePeriodSeconds"), DELETED, "terminationGracePeriodSeconds is 30"),
    (GATEWAY, (*ONE, "volumeMounts", 0, "subPath"), "config.toml", "never updated"),
    (GATEWAY, (*ONE, "volumeMounts", 0, "readOnly"), False, "mount is not read-only"),
    (GATEWAY, (*POD, "volumes", 1), DELETED, "has no volume"),
    (GATEWAY, (*ONE, "volumeMounts", 1), DELETED, "no container mounts"),
    (GATEWAY, (*ONE, "volumeMounts", 1, "mountPath"), "/elsewhere", "is in no volume"),
    (GATEWAY, (*POD, "volumes", 0, "configMap", "name"), "x", "there is no ConfigMap x"),
    (GATEWAY, (*ONE, "resources", "limits"), {}, "no memory limit"),
    (GATEWAY, ("Deployment", "spec", "selector", "matchLabels", "a"), "b", "the selector selects"),
    (GATEWAY, ("Service", "spec", "selector", "a"), "b", "a Service selects"),
    (GATEWAY, ("Service", "spec", "ports", 0, "targetPort"), 1, "no container port 1"),
    (GATEWAY, ("Service", "spec", "ports", 0), DELETED, "the Service has the ports"),
    (GATEWAY, ("PodDisruptionBudget", "spec", "selector", "matchLabels", "a"), "b", "selects other pods"),
]


def check(rendered, problems):
    by_name = {name: documents for name, _version, documents in rendered}
    for name, (kind, *keys), value, expected in BROKEN:
        documents = copy.deepcopy(by_name[name])
        place = next(document for document in documents if document["kind"] == kind)
        for key in keys[:-1]:
            place = place[key]
        if value is DELETED:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value
        found = Problems()
        manifests.check(name, documents, found)
        is_seen = any(expected in problem for problem in found.found)
        problems.unless(is_seen, "self_test.py", f"{kind} {keys} = {value}: no problem with {expected!r}")
    problems.done(f"manifests: {len(BROKEN)} mistakes are found")
