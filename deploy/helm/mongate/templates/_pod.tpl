{{/* The container and the volumes, which are the same in all forms. */}}

{{- define "mongate.container" -}}
name: mongate
image: {{ include "mongate.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- if eq .Values.form "sidecar" }}
# A native sidecar: starts before the application, and ends after it.
restartPolicy: Always
{{- end }}
args: ["run", "--config", "/etc/mongate/config.toml"]
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  {{- if ne .Values.form "sidecar" }}
  {{- range (include "mongate.ports" . | fromYaml).ports }}
  - { name: mongodb-{{ . }}, containerPort: {{ . }}, protocol: TCP }
  {{- end }}
  {{- end }}
  - { name: mongate-admin, containerPort: {{ include "mongate.adminPort" . }}, protocol: TCP }
{{- include "mongate.containerProbes" . }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
  seccompProfile: { type: RuntimeDefault }
volumeMounts:
  # A directory, not a subPath: only a directory is updated, so that mongate reloads the policy.
  - { name: mongate-config, mountPath: /etc/mongate, readOnly: true }
  {{- with include "mongate.certificateMounts" (list . "upstream") | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with include "mongate.certificateMounts" (list . "listener") | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if eq .Values.form "sidecar" }}
  # In place of the application's token, which Kubernetes mounts into containers without a mount at this path.
  - { name: mongate-no-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true }
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/*
A probe with exec asks for readiness, so it is no liveness probe: MongoDB can be down, and a restart does not help. A
startup probe with exec holds the application back until MongoDB can be reached, for at most five minutes.
*/}}
{{- define "mongate.containerProbes" -}}
{{- if eq (include "mongate.probes" .) "http" }}
{{- if include "mongate.adminIsLocal" . }}
{{- fail "probes: http needs an admin.address that the kubelet can reach; set config.admin.address, or probes: exec" }}
{{- end }}
startupProbe:
  httpGet: { path: /livez, port: mongate-admin }
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /livez, port: mongate-admin }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
{{- if include "mongate.hasReadiness" . }}
readinessProbe:
  httpGet: { path: /readyz, port: mongate-admin }
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}
{{- else }}
startupProbe:
  exec: { command: [mongate, healthcheck, --address, "{{ include "mongate.adminFromInside" . }}"] }
  periodSeconds: 2
  timeoutSeconds: 6
  failureThreshold: 150
{{- if include "mongate.hasReadiness" . }}
readinessProbe:
  exec: { command: [mongate, healthcheck, --address, "{{ include "mongate.adminFromInside" . }}"] }
  periodSeconds: 10
  timeoutSeconds: 6
  failureThreshold: 2
{{- end }}
{{- end }}
{{- end -}}

{{/* Not empty if the container has a readiness probe. A Service needs that of a gateway in any case. */}}
{{- define "mongate.hasReadiness" -}}
{{- if or .Values.readinessProbe (ne .Values.form "sidecar") }}yes{{ end -}}
{{- end -}}

{{- define "mongate.volumes" -}}
- name: mongate-config
  configMap:
    name: {{ include "mongate.fullname" . }}
{{- include "mongate.certificateVolumes" (list . "upstream") }}
{{- include "mongate.certificateVolumes" (list . "listener") }}
{{- if eq .Values.form "sidecar" }}
- name: mongate-no-token
  emptyDir: { medium: Memory, sizeLimit: 1Mi }
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The template of the pods of a Deployment or a DaemonSet. */}}
{{- define "mongate.podTemplate" -}}
metadata:
  labels:
    {{- include "mongate.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    mongate/config: {{ include "mongate.checksum" . }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "mongate.serviceAccountName" . }}
  automountServiceAccountToken: false
  # Variables of Services could be mistaken for keys of the configuration.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "mongate.gracePeriod" . }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile: { type: RuntimeDefault }
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  containers:
    - {{ include "mongate.container" . | nindent 6 | trim }}
  volumes:
    {{- include "mongate.volumes" . | nindent 4 }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.form "gateway" }}
  topologySpreadConstraints:
    {{- if .Values.topologySpreadConstraints }}
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
    {{- else }}
    {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ $key }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "mongate.selectorLabels" $ | nindent 10 }}
    {{- end }}
    {{- end }}
  {{- end }}
{{- end -}}
