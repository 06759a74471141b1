{{/*
What every pod of the chart has: no token of the cluster (the sidecar has its own, where it needs one), and no
variables made of Services' names, which would be read as configuration.
*/}}
{{- define "openbao-sidecar.pod" -}}
serviceAccountName: {{ include "openbao-sidecar.serviceAccountName" . | quote }}
automountServiceAccountToken: false
{{ include "openbao-sidecar.podSecurity" . }}
{{- end -}}

{{/* What even the injector's pods have, which may speak to the API server. */}}
{{- define "openbao-sidecar.podSecurity" -}}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* A changed configuration or policy rolls the pods. */}}
{{- define "openbao-sidecar.checksum" -}}
{{- printf "%s%s" (include "openbao-sidecar.config" .) (toYaml .Values.policies) | sha256sum -}}
{{- end -}}

{{/*
Replicas of a component go to different zones where they can, and to different nodes; pods of an older configuration
do not count, so that a roll-out is not held up. Called with a list: the context, the component.
*/}}
{{- define "openbao-sidecar.spread" -}}
{{- $context := index . 0 -}}
topologySpreadConstraints:
  {{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: {{ ternary "ScheduleAnyway" "DoNotSchedule" (eq $key "topology.kubernetes.io/zone") }}
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "openbao-sidecar.selectorLabels" $context | nindent 8 }}
        app.kubernetes.io/component: {{ index $ 1 }}
  {{- end }}
{{- end -}}

{{/*
A container that goes on for some seconds before it is told to stop. From 1.30 on the kubelet sleeps itself; before, all
that the image has for it is Python. Called with a list: the context, the seconds.
*/}}
{{- define "openbao-sidecar.linger" -}}
{{- $context := index . 0 -}}
{{- $seconds := int64 (index . 1) -}}
preStop:
  {{- if semverCompare ">=1.30-0" $context.Capabilities.KubeVersion.Version }}
  sleep:
    seconds: {{ $seconds }}
  {{- else }}
  exec:
    command: [/usr/bin/python3, -I, -S, -c, {{ printf "import time; time.sleep(%d)" $seconds | quote }}]
  {{- end }}
{{- end -}}

{{/* "true" where init containers may stay: native sidecars. */}}
{{- define "openbao-sidecar.native" -}}
{{- if semverCompare ">=1.29-0" .Capabilities.KubeVersion.Version -}}true{{- end -}}
{{- end -}}

{{/* A container of ours: Pod Security's `restricted`, and nothing that can be written but its volumes. */}}
{{- define "openbao-sidecar.restricted" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}
