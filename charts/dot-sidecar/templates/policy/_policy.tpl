{{- /*
Injection by the API server itself (`admission.mode: policy`). What is decided about a pod, and what is written into it, comes from the
injector (`files/policy.yaml`, by `dot-injector policy`); here stand the gate, which is that of the webhooks, and what values change.
*/}}

{{/* "true" where the API server injects. */}}
{{- define "dot-sidecar.byPolicy" -}}
{{- if eq .Values.admission.mode "policy" }}
{{- if semverCompare "<1.36-0" .Capabilities.KubeVersion.Version }}
{{- fail (printf "admission.mode: policy needs Kubernetes 1.36 or later, and this is %s: leave it at webhook" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- if not .Values.guards.enabled }}
{{- fail "admission.mode: policy needs guards.enabled: without the policies that check, a pod that cannot be served would start without the sidecar" }}
{{- end }}
{{- if and .Values.profile.managed (ne .Values.profile.ownNameservers "refuse") }}
{{- fail "admission.mode: policy refuses pods that have a resolver of their own: leave profile.ownNameservers at refuse" }}
{{- end }}
{{- range $name, $value := dict "certificates.certManager.enabled" .Values.certificates.certManager.enabled "webhook.clientCA" .Values.webhook.clientCA }}
{{- if $value }}
{{- fail (printf "admission.mode: policy does without the webhook, which %s is about: leave it out" $name) }}
{{- end }}
{{- end }}
{{- if .Values.repair.enabled }}
{{- fail "admission.mode: policy: repair.enabled would evict pods that only a webhook could inject: leave it out" }}
{{- end -}}
true
{{- end }}
{{- end }}

{{/* Variables about the pod. */}}
{{- define "dot-sidecar.policy.pod" -}}
- name: image
  expression: {{ include "dot-sidecar.image" (dict "image" .Values.sidecar.image "chart" .Chart) | squote | quote }}
- name: pullPolicy
  expression: {{ .Values.sidecar.image.pullPolicy | squote | quote }}
- name: firstUser
  expression: {{ if include "dot-sidecar.openshift" . }}"0"{{ else }}{{ .Values.sidecar.runAsUser | default 0 | int64 | toString | quote }}{{ end }}
{{ (.Files.Get "files/policy.yaml" | fromYaml).pod | toYaml }}
{{- end }}

{{/* Variables about its profile. */}}
{{- define "dot-sidecar.policy.profile" -}}
{{ (.Files.Get "files/policy.yaml" | fromYaml).profile | toYaml }}
{{- end }}

{{/* Who asks for it: the pod, by annotation or as a copy, unless it declines. */}}
{{- define "dot-sidecar.pods.asks" -}}
(has(object.metadata.annotations) && ('dot-sidecar.io/inject' in object.metadata.annotations ? object.metadata.annotations['dot-sidecar.io/inject'] == 'true' : 'dot-sidecar.io/config' in object.metadata.annotations || 'dot-sidecar.io/status' in object.metadata.annotations)) || (!has(object.metadata.annotations) || !('dot-sidecar.io/inject' in object.metadata.annotations)) && ({{ include "dot-sidecar.pods.copied" . }})
{{- end }}

{{/* A pod that says nothing of it, and is no copy. */}}
{{- define "dot-sidecar.pods.silent" -}}
(!has(object.metadata.annotations) || !['dot-sidecar.io/inject', 'dot-sidecar.io/config', 'dot-sidecar.io/status'].exists(key, key in object.metadata.annotations)) && !({{ include "dot-sidecar.pods.copied" . }})
{{- end }}

{{/* Whether the parameter is the pod's profile. */}}
{{- define "dot-sidecar.profileIsThePods" -}}
params.metadata.name == (has(object.metadata.annotations) && 'dot-sidecar.io/profile' in object.metadata.annotations ? object.metadata.annotations['dot-sidecar.io/profile'] : 'default')
{{- end }}

{{/* What every policy on the creation of pods is constrained to: a dict of root, and asking, for namespaces that ask. */}}
{{- define "dot-sidecar.creations" -}}
resourceRules:
  - apiGroups: [""]
    apiVersions: [v1]
    operations: [CREATE]
    resources: [pods]
    scope: Namespaced
namespaceSelector:
  {{- if .asking }}
  matchLabels: {dot-sidecar.io/inject: "true"}
  {{- end }}
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: NotIn
      values: {{ include "dot-sidecar.excludedNamespaces" .root }}
{{- end }}
