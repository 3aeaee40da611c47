{{- /*
The policies that hold without the injector: what a pod that asks for the sidecar must look like in the end, and who may change what of
it later. They use nothing but CEL, so that no certificate, no Service and no process of ours is in their way.
*/}}

{{/* "true" where the API server knows ValidatingAdmissionPolicies (1.30), and the values want them. */}}
{{- define "dot-sidecar.guarded" -}}
{{- if and .Values.guards.enabled (semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version) }}true{{ end }}
{{- end }}

{{/* What a policy does with what it does not let pass: a dict of failurePolicy. */}}
{{- define "dot-sidecar.actions" -}}
{{- if eq .failurePolicy "Fail" }}[Deny]{{ else }}[Warn, Audit]{{ end }}
{{- end }}

{{/* Puts a policy in force: a dict of name, actions, root, and profiles, where its parameter is each of them. */}}
{{- define "dot-sidecar.binding" -}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels: {{- include "dot-sidecar.labels" .root | nindent 4 }}
spec:
  policyName: {{ .name }}
  validationActions: {{ .actions }}
  {{- if .profiles }}
  paramRef:
    selector: {}
    parameterNotFoundAction: Allow
  {{- end }}
{{- end }}

{{/* The user name of the injector's account. */}}
{{- define "dot-sidecar.account" -}}
system:serviceaccount:{{ .Release.Namespace }}:dot-injector
{{- end }}

{{/* Parts of a pod that the policies speak of. */}}
{{- define "dot-sidecar.variables" -}}
{{- if include "dot-sidecar.byPolicy" . }}
{{- include "dot-sidecar.policy.pod" . }}
{{- else -}}
- name: annotations
  expression: object.metadata.?annotations.orValue({})
- name: initContainers
  expression: object.spec.?initContainers.orValue([])
{{- end }}
- name: sidecars
  expression: variables.initContainers.filter(c, c.name == 'dot-proxy')
- name: others
  expression: (variables.initContainers + object.spec.containers).filter(c, c.name != 'dot-proxy')
{{- end }}

{{/* Where the API server injects, nobody else tells what cannot be had: a dict of root, and parts, the names of lists of validations. */}}
{{- define "dot-sidecar.refusals" -}}
{{- if include "dot-sidecar.byPolicy" .root }}
{{- $known := .root.Files.Get "files/policy.yaml" | fromYaml }}
{{- range .parts }}
{{ get $known . | toYaml }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether a container of the list mounts something over the resolv.conf that the kubelet writes. */}}
{{- define "dot-sidecar.mountsOverResolvConf" -}}
c.?volumeMounts.orValue([]).exists(m, m.mountPath.split('/').filter(name, !(name in ['', '.'])) in [['etc'], ['etc', 'resolv.conf']])
{{- end }}
