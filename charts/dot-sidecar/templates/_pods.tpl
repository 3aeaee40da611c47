{{- /*
What the API server's conditions say of a pod, in CEL: for the webhooks' gate and for the policies. Every expression is safe on a pod
that lacks the field. Those of the gate do without optional fields (`.?`), which API servers before 1.30 may not know there.
*/}}

{{- define "dot-sidecar.pods.annotated" -}}
has(object.metadata.annotations) && object.metadata.annotations.exists(key, key.startsWith('dot-sidecar.io/'))
{{- end }}

{{/* What only injection makes, and copies keep: `kubectl debug --copy-to` drops annotations and labels, but neither container nor volume. */}}
{{- define "dot-sidecar.pods.copied" -}}
has(object.metadata.labels) && 'dot-sidecar.io/injected' in object.metadata.labels || has(object.spec.initContainers) && object.spec.initContainers.exists(c, c.name == 'dot-proxy' && has(c.volumeMounts) && c.volumeMounts.exists(m, m.name == 'dot-sidecar-config')) || has(object.spec.volumes) && object.spec.volumes.exists(v, v.name == 'dot-sidecar-config' && has(v.downwardAPI))
{{- end }}

{{- define "dot-sidecar.pods.notMirror" -}}
!has(object.metadata.annotations) || !('kubernetes.io/config.mirror' in object.metadata.annotations)
{{- end }}

{{- define "dot-sidecar.pods.hostNetwork" -}}
has(object.spec.hostNetwork) && object.spec.hostNetwork
{{- end }}

{{- define "dot-sidecar.pods.windows" -}}
has(object.spec.os) && object.spec.os.name == 'windows' || has(object.spec.nodeSelector) && ['kubernetes.io/os', 'beta.kubernetes.io/os'].exists(label, label in object.spec.nodeSelector && object.spec.nodeSelector[label] == 'windows')
{{- end }}

{{/* "true" where pods with a resolver of their own are not served, as far as the values know. */}}
{{- define "dot-sidecar.refusesOwnNameservers" -}}
{{- if or (not .Values.profile.managed) (eq .Values.profile.ownNameservers "refuse") }}true{{ end }}
{{- end }}

{{/* The namespaces whose pods never get the sidecar, as a JSON list. */}}
{{- define "dot-sidecar.excludedNamespaces" -}}
{{- concat (list "kube-system" .Release.Namespace) .Values.webhook.excludedNamespaces | uniq | toJson }}
{{- end }}
