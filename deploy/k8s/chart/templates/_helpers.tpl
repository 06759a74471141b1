{{/* Names, labels, image. */}}
{{- define "openbao-sidecar.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "openbao-sidecar.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "openbao-sidecar.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
{{ include "openbao-sidecar.selectorLabels" . }}
{{- end -}}

{{- define "openbao-sidecar.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "openbao-sidecar.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "openbao-sidecar.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "openbao-sidecar.policiesConfigMap" -}}
{{- default (printf "%s-policies" (include "openbao-sidecar.fullname" .)) .Values.ops.authorization.cedar.policiesConfigMap -}}
{{- end -}}

{{/* "true" where Cedar decides, so that policies are mounted. */}}
{{- define "openbao-sidecar.cedar" -}}
{{- with .Values.ops.authorization -}}
{{- if and .enabled (eq .pdp "cedar") -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* "true" where the sidecar logs in itself: as broker, or to read OpenBao's mounts. */}}
{{- define "openbao-sidecar.ownLogin" -}}
{{- with .Values.ops -}}
{{- if or (eq .upstream.auth.mode "broker") (not .mounts) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* "true" where that login needs a projected service-account token. */}}
{{- define "openbao-sidecar.projectsToken" -}}
{{- $own := include "openbao-sidecar.ownLogin" . -}}
{{- with .Values.ops.upstream.auth -}}
{{- if and $own (has .method (list "kubernetes" "jwt")) -}}true{{- end -}}
{{- end -}}
{{- end -}}
