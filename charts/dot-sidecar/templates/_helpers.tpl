{{/* Labels that everything carries. */}}
{{- define "dot-sidecar.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "dot-sidecar.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: dot-sidecar
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels that select the injector's pods. They cannot be changed once a Deployment exists. */}}
{{- define "dot-sidecar.selectorLabels" -}}
app.kubernetes.io/name: dot-injector
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The reference of an image: a dict of image (the values) and chart. */}}
{{- define "dot-sidecar.image" -}}
{{- .image.repository }}:{{ .image.tag | default .chart.AppVersion }}
{{- with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* "true" where the platform chooses the users of containers. */}}
{{- define "dot-sidecar.openshift" -}}
{{- if or (eq .Values.platform "openshift") (and (eq .Values.platform "auto") (.Capabilities.APIVersions.Has "security.openshift.io/v1")) }}true{{ end }}
{{- end }}

{{/* The injector's configuration. What is empty is left out, so that the proxy's own default holds. */}}
{{- define "dot-sidecar.config" -}}
{{- $profile := omit (deepCopy .Values.profile) "managed" }}
{{- if $profile.cache.size }}{{ $_ := set $profile.cache "size" (toString $profile.cache.size) }}{{ else }}{{ $_ := unset $profile.cache "size" }}{{ end }}
{{- if not $profile.namespaces }}{{ $_ := unset $profile "namespaces" }}{{ end }}
{{- if not $profile.upstream.ca }}{{ $_ := unset $profile.upstream "ca" }}{{ end }}
{{- if not $profile.upstream.pins }}{{ $_ := unset $profile.upstream "pins" }}{{ end }}
{{- if not $profile.clients }}{{ $_ := unset $profile "clients" }}{{ end }}
{{- if not $profile.events.syslog.ca }}{{ $_ := unset $profile.events.syslog "ca" }}{{ end }}
{{- if not $profile.events.syslog.server }}{{ $_ := unset $profile.events "syslog" }}{{ end -}}
sidecar:
  image: {{ include "dot-sidecar.image" (dict "image" .Values.sidecar.image "chart" .Chart) }}
  imagePullPolicy: {{ .Values.sidecar.image.pullPolicy }}
  runAsUser: {{ if include "dot-sidecar.openshift" . }}null{{ else }}{{ toJson .Values.sidecar.runAsUser }}{{ end }}
cluster: {{- toYaml .Values.cluster | nindent 2 }}
rollout: {{- toYaml .Values.rollout | nindent 2 }}
excludedNamespaces: {{ include "dot-sidecar.excludedNamespaces" . }}
certificates:
  external: {{ .Values.certificates.certManager.enabled }}
  leafSeconds: {{ int64 .Values.certificates.leafSeconds }}
  authoritySeconds: {{ int64 .Values.certificates.authoritySeconds }}
  graceSeconds: {{ int64 .Values.certificates.graceSeconds }}
selfCheck:
  namespace: {{ include "dot-sidecar.selfCheckNamespace" . | quote }}
  seconds: {{ int64 .Values.selfCheck.seconds }}
repair: {{- toYaml .Values.repair | nindent 2 }}
profile: {{- if .Values.profile.managed }}{{ toYaml $profile | nindent 2 }}{{ else }} null{{ end }}
{{- end }}

{{/* How long cert-manager's certificate lasts, given its seconds: renewed when two thirds have passed, like the injector's own. */}}
{{- define "dot-sidecar.certificate-times" -}}
duration: {{ int64 . }}s
renewBefore: {{ div (int64 .) 3 }}s
privateKey:
  algorithm: ECDSA
  size: 256
  rotationPolicy: Always
{{- end }}

{{/* Where pods are created as dry runs; empty where there is no self-check: ValidatingAdmissionPolicies came with 1.30. */}}
{{- define "dot-sidecar.selfCheckNamespace" -}}
{{- if and .Values.selfCheck.enabled (ne .Values.admission.mode "policy") (semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version) }}
{{- printf "%s-self-check" .Release.Name }}
{{- end }}
{{- end }}
