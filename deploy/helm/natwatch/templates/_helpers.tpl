{{- define "natwatch.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "natwatch.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "natwatch.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "natwatch.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "natwatch.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "natwatch.selectorLabels" -}}
app.kubernetes.io/name: {{ include "natwatch.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "natwatch.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/component: metrics
app.kubernetes.io/part-of: {{ include "natwatch.name" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "natwatch.selectorLabels" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "natwatch.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "natwatch.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* A registry of the whole release goes before the chart's own, as in other charts. */}}
{{- define "natwatch.image" -}}
{{- if not .Values.image.repository }}
{{- fail "image.repository is empty, and there is no public image of natwatch: build one (docker build), push it to a registry of yours, and set image.registry and image.repository to its name there, for example --set image.registry=registry.example,image.repository=natwatch" }}
{{- end }}
{{- $name := .Values.image.repository }}
{{- with default .Values.image.registry (default dict .Values.global).imageRegistry }}{{ $name = printf "%s/%s" . $name }}{{ end }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $name .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $name (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- /* Those of the whole release, which may be names alone, and the chart's own. */}}
{{- define "natwatch.imagePullSecrets" -}}
{{- range concat (default list (default dict .Values.global).imagePullSecrets) .Values.imagePullSecrets }}
- name: {{ if kindIs "string" . }}{{ . }}{{ else }}{{ .name }}{{ end }}
{{- end }}
{{- end }}

{{- /* What both kinds of container share; the arguments are the capabilities beside those that are dropped. */}}
{{- define "natwatch.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
  {{- with . }}
  add:
    {{- toYaml . | nindent 4 }}
  {{- end }}
privileged: false
readOnlyRootFilesystem: true
{{- end }}

{{- define "natwatch.hostMounts" -}}
{{- if .Values.hostOsRelease.enabled }}
- name: os-release
  mountPath: /host/etc/os-release
  readOnly: true
{{- end }}
{{- if .Values.hostModules.enabled }}
- name: modules
  mountPath: /host/lib/modules
  readOnly: true
{{- end }}
{{- end }}

{{- /* Endpoint of a ServiceMonitor or PodMonitor. */}}
{{- define "natwatch.endpoint" -}}
- port: {{ .port }}
  path: {{ .path }}
  scheme: {{ .monitor.scheme }}
  {{- with .monitor.interval }}
  interval: {{ . }}
  {{- end }}
  {{- with .monitor.scrapeTimeout }}
  scrapeTimeout: {{ . }}
  {{- end }}
  {{- with .monitor.tlsConfig }}
  tlsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .monitor.basicAuth }}
  basicAuth:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .monitor.relabelings }}
  relabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .monitor.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
