{{/*
For the chart of an application that has this chart as a dependency with `form: sidecar`:

  spec:
    terminationGracePeriodSeconds: {{ add 30 (include "mongate.gracePeriod" .Subcharts.mongate) }}
    initContainers:
      {{- include "mongate.sidecar.container" .Subcharts.mongate | nindent 6 }}
    volumes:
      {{- include "mongate.sidecar.volumes" .Subcharts.mongate | nindent 6 }}

Put the container first: init containers after it can use MongoDB. `mongate.checksum` belongs into an annotation of the
pod, so that a changed configuration restarts it.
*/}}
{{- define "mongate.sidecar.container" -}}
- {{ include "mongate.container" . | nindent 2 | trim }}
{{- end -}}

{{- define "mongate.sidecar.volumes" -}}
{{ include "mongate.volumes" . }}
{{- end -}}
