{{/* The name of what the chart makes: regatta-operator for a release named regatta. */}}
{{- define "regatta.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $prefix := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- printf "%s-operator" ($prefix | trunc 41 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* The name of what has no namespace. Each of several namespaces may have an operator of its own. */}}
{{- define "regatta.clusterName" -}}
{{- if .Values.watch.namespaces -}}
{{- printf "%s-%s" .Release.Namespace (include "regatta.fullname" .) -}}
{{- else -}}
{{- include "regatta.fullname" . -}}
{{- end -}}
{{- end -}}

{{- define "regatta.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "regatta.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: with serviceAccount.create false, name an existing ServiceAccount" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "regatta.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Labels that only the operator's pods have. A Deployment's selector can never change. */}}
{{- define "regatta.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Labels of everything. Not those of pods: a new chart must not restart what it does not change. */}}
{{- define "regatta.labels" -}}
{{- $labels := include "regatta.selector" . | fromYaml -}}
{{- $_ := set $labels "app.kubernetes.io/part-of" "regatta" -}}
{{- $_ := set $labels "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{- merge $labels .Values.commonLabels | toYaml -}}
{{- end -}}

{{/* Metadata's labels and annotations. Takes (list $ labels annotations): what one object has beside the common ones. */}}
{{- define "regatta.metadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- merge (include "regatta.labels" $root | fromYaml) (index . 1) | toYaml | nindent 2 }}
{{- with merge (dict) (index . 2) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What no single value's schema can see. */}}
{{- define "regatta.check" -}}
{{- if and (not .Values.rbac.clusterScoped) (not .Values.watch.namespaces) -}}
{{- fail "\n\nrbac.clusterScoped: without ClusterRoles the operator can't look after the whole cluster: name the namespaces in watch.namespaces\n" -}}
{{- end -}}
{{- $monitored := or .Values.metrics.podMonitor.enabled .Values.metrics.serviceMonitor.enabled -}}
{{- if and $monitored .Values.networkPolicy.enabled (not .Values.networkPolicy.metricsFrom) -}}
{{- fail "\n\nnetworkPolicy.metricsFrom: Prometheus could not reach the metrics: say where it runs, such as\n  metricsFrom: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]\nor set networkPolicy.enabled to false\n" -}}
{{- end -}}
{{- end -}}
