{{/* Names and labels. Each template of this chart takes the context of the chart, also as a subchart. */}}

{{- define "mongate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 50 characters, so that suffixes fit into the 63 of a label. */}}
{{- define "mongate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "mongate.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "mongate.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "mongate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mongate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mongate.labels" -}}
{{ include "mongate.selectorLabels" . }}
app.kubernetes.io/component: {{ .Values.form }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "mongate.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "mongate.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "mongate.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The name in cluster DNS, without the domain of the cluster: every pod's search path completes it. */}}
{{- define "mongate.serviceHost" -}}
{{ include "mongate.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end -}}
