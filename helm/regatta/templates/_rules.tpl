{{/*
What the operator asks of the API server, no less and no more: tests/chart/test_rbac.py runs it and compares.

RBAC knows no labels, so that the operator could read all Secrets; it asks for those with its own label, for those that
a Registry names, and of all others for the metadata, to notice when one appears.
*/}}
{{- define "regatta.rules" -}}
- apiGroups: [regatta.dev]
  resources: [registries]
  verbs: [get, list, watch]
- apiGroups: [regatta.dev]
  resources: [registrybackups]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [regatta.dev]
  resources: [registries/status, registrybackups/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [serviceaccounts, secrets, configmaps, services]
  verbs: [get, list, watch, create, patch, delete]
# Retention leaves what they run.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# No delete: content outlives its Registry.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* The same of what has no namespace. */}}
{{- define "regatta.clusterRules" -}}
# To say that a volume waits for a class that does not exist. Without it the claim's own events do.
- apiGroups: [storage.k8s.io]
  resources: [storageclasses]
  verbs: [get]
{{- end -}}

{{- define "regatta.leaderRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [regatta-operator]
  verbs: [get, update]
{{- end -}}
