{{/*
The sidecar in a pod: a native sidecar (an init container that stays), or a gateway's only container, and the volumes
that only it mounts.
*/}}
{{- define "openbao-sidecar.container" -}}
{{- $ops := .Values.ops -}}
{{- $own := include "openbao-sidecar.ownLogin" . -}}
name: openbao-sidecar
image: {{ include "openbao-sidecar.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
{{- if not .Values.gateway.enabled }}
restartPolicy: Always
{{- end }}
args: ["serve", "--config", "/etc/sidecar/config/config.yaml"]
{{- $env := list }}
{{- $role := and $ops.upstream.auth.role (ne $ops.upstream.auth.mode "exchange") }}
{{- if and $own (eq $ops.upstream.auth.method "approle") (not $role) }}
{{- $env = append $env (dict "name" "SIDECAR__UPSTREAM__AUTH__ROLE_ID" "valueFrom" (dict "secretKeyRef" (dict "name" $ops.upstream.auth.secret "key" "role-id"))) }}
{{- end }}
{{- with include "openbao-sidecar.kafkaUser" . }}{{ $env = concat $env (fromYamlArray .) }}{{ end }}
{{- with $env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  {{- if .Values.gateway.enabled }}
  - name: https
    containerPort: 8200
    protocol: TCP
  {{- end }}
  - name: operations
    containerPort: 9102
    protocol: TCP
# The application starts once the way to its secrets is open.
startupProbe:
  httpGet: {path: /readyz, port: 9102}
  periodSeconds: 1
  failureThreshold: {{ int64 .Values.sidecar.startupSeconds }}
{{- if or .Values.sidecar.podReadiness .Values.gateway.enabled }}
readinessProbe:
  httpGet: {path: /readyz, port: 9102}
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 3
{{- end }}
livenessProbe:
  httpGet: {path: /healthz, port: 9102}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- if .Values.gateway.enabled }}
# Endpoints learn late that a pod ends: it goes on serving for as long as clients may still be sent here.
lifecycle:
  {{- include "openbao-sidecar.linger" (list . .Values.gateway.lingerSeconds) | nindent 2 }}
{{- end }}
securityContext:
  {{- include "openbao-sidecar.restricted" . | nindent 2 }}
resources:
  {{- toYaml .Values.sidecar.resources | nindent 2 }}
volumeMounts:
  - {name: sidecar-config, mountPath: /etc/sidecar/config, readOnly: true}
  {{- if include "openbao-sidecar.cedar" . }}
  - {name: sidecar-policies, mountPath: /etc/sidecar/policies, readOnly: true}
  {{- end }}
  {{- if include "openbao-sidecar.trust" . }}
  - {name: sidecar-trust, mountPath: /etc/sidecar/trust, readOnly: true}
  {{- end }}
  - {name: sidecar-secrets, mountPath: /run/sidecar/secrets, readOnly: true}
  {{- if include "openbao-sidecar.tokens" . }}
  - {name: sidecar-token, mountPath: /run/sidecar/token, readOnly: true}
  {{- end }}
  {{- if .Values.gateway.enabled }}
  - {name: sidecar-listener, mountPath: /run/sidecar/listener, readOnly: true}
  {{- end }}
  - {name: sidecar-spool, mountPath: /var/lib/sidecar}
{{- end -}}

{{/* Kafka's user, which has no file in the configuration; empty where there is none. */}}
{{- define "openbao-sidecar.kafkaUser" -}}
{{- with .Values.ops.kafka -}}
{{- if and .bootstrapServers .sasl.secret -}}
- name: SIDECAR__AUDIT__KAFKA__USERNAME
  valueFrom:
    secretKeyRef: {name: {{ .sasl.secret | quote }}, key: username}
{{- end -}}
{{- end -}}
{{- end -}}
