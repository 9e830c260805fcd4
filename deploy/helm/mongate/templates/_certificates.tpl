{{/*
Certificates: where the files are, and the volumes that hold them. `side` is upstream or listener. Each template takes a
list of the context and the side.
*/}}

{{- define "mongate.certificateDirectory" -}}
/var/run/mongate/{{ . }}
{{- end -}}

{{/* Keys of [upstream.NAME.tls] or [listener.NAME.tls]. */}}
{{- define "mongate.certificatePaths" -}}
{{- $context := index . 0 -}}
{{- $side := index . 1 -}}
{{- $values := get $context.Values.certificates $side -}}
{{- $directory := include "mongate.certificateDirectory" $side -}}
{{- $paths := dict -}}
{{- if eq $values.source "none" -}}
{{- else if eq $values.source "spiffeSocket" -}}
{{- $_ := set $paths "spiffe_socket" (printf "unix:%s/%s" $directory $values.spiffeSocket.socket) -}}
{{- else if eq $values.source "podCertificate" -}}
{{- $_ := set $paths "certificate_file" (printf "%s/credentials.pem" $directory) -}}
{{- else -}}
{{- $_ := set $paths "certificate_file" (printf "%s/tls.crt" $directory) -}}
{{- $_ := set $paths "private_key_file" (printf "%s/tls.key" $directory) -}}
{{- $_ := set $paths "ca_file" (printf "%s/ca.crt" $directory) -}}
{{- end -}}
{{- if $values.ca -}}
{{- $_ := set $paths "ca_file" (printf "%s-ca/ca.crt" $directory) -}}
{{- end -}}
{{- toYaml $paths -}}
{{- end -}}

{{/* The mode of files with keys: 0440, for the group, which fsGroup sets. A sidecar cannot set fsGroup, so it is 0444
there unless the pod of the application has it; nothing else mounts its volumes. */}}
{{- define "mongate.fileMode" -}}
{{- $isOwnPod := ne .Values.form "sidecar" -}}
{{- ternary 288 292 (or $isOwnPod .Values.certificates.podHasFsGroup) -}}
{{- end -}}

{{- define "mongate.certificateSecret" -}}
{{- $context := index . 0 -}}
{{- $side := index . 1 -}}
{{- $values := get $context.Values.certificates $side -}}
{{- if eq $values.source "certManager" -}}
{{ include "mongate.fullname" $context }}-{{ $side }}
{{- else -}}
{{ required (printf "certificates.%s.secret.name: is missing; set the Secret with the certificate, or another source" $side) $values.secret.name }}
{{- end -}}
{{- end -}}

{{/* Volumes of one side, as a YAML list. */}}
{{- define "mongate.certificateVolumes" -}}
{{- $context := index . 0 -}}
{{- $side := index . 1 -}}
{{- $values := get $context.Values.certificates $side -}}
{{- if has $values.source (list "secret" "certManager") }}
- name: mongate-{{ $side }}
  secret:
    secretName: {{ include "mongate.certificateSecret" . }}
    defaultMode: {{ include "mongate.fileMode" $context }}
{{- else if eq $values.source "csiDriverSpiffe" }}
- name: mongate-{{ $side }}
  csi:
    driver: spiffe.csi.cert-manager.io
    readOnly: true
    volumeAttributes:
      {{- merge (deepCopy $values.csiDriverSpiffe.attributes) (dict "spiffe.csi.cert-manager.io/fs-group" "10001") | toYaml | nindent 6 }}
{{- else if eq $values.source "spiffeSocket" }}
- name: mongate-{{ $side }}
  csi:
    driver: csi.spiffe.io
    readOnly: true
{{- else if eq $values.source "podCertificate" }}
{{- if semverCompare "<1.34.0-0" $context.Capabilities.KubeVersion.Version }}
{{- fail (printf "certificates.%s.source: podCertificate needs Kubernetes 1.34 or later" $side) }}
{{- end }}
{{- if not $values.ca }}
{{- fail (printf "certificates.%s.ca: is missing; pod certificates come without CA certificates" $side) }}
{{- end }}
- name: mongate-{{ $side }}
  projected:
    defaultMode: {{ include "mongate.fileMode" $context }}
    sources:
      - podCertificate:
          signerName: {{ required (printf "certificates.%s.podCertificate.signerName: is missing" $side) $values.podCertificate.signerName | quote }}
          keyType: {{ $values.podCertificate.keyType }}
          maxExpirationSeconds: {{ int $values.podCertificate.maxExpirationSeconds }}
          credentialBundlePath: credentials.pem
{{- end }}
{{- with $values.ca }}
- name: mongate-{{ $side }}-ca
  projected:
    defaultMode: {{ include "mongate.fileMode" $context }}
    sources:
      {{- with .configMap }}
      - configMap: { name: {{ .name | quote }}, items: [{ key: {{ default "ca.crt" .key | quote }}, path: ca.crt }] }
      {{- end }}
      {{- with .secret }}
      - secret: { name: {{ .name | quote }}, items: [{ key: {{ default "ca.crt" .key | quote }}, path: ca.crt }] }
      {{- end }}
      {{- with .clusterTrustBundle }}
      - clusterTrustBundle:
          {{- toYaml . | nindent 10 }}
          path: ca.crt
      {{- end }}
{{- end }}
{{- end -}}

{{/* Mounts of one side, as a YAML list. */}}
{{- define "mongate.certificateMounts" -}}
{{- $context := index . 0 -}}
{{- $side := index . 1 -}}
{{- $values := get $context.Values.certificates $side -}}
{{- if ne $values.source "none" }}
- name: mongate-{{ $side }}
  mountPath: {{ include "mongate.certificateDirectory" $side }}
  readOnly: true
{{- end }}
{{- if $values.ca }}
- name: mongate-{{ $side }}-ca
  mountPath: {{ include "mongate.certificateDirectory" $side }}-ca
  readOnly: true
{{- end }}
{{- end -}}
