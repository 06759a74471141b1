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
{{- if and $ops.kafka.bootstrapServers $ops.kafka.sasl.secret }}
{{- $env = append $env (dict "name" "SIDECAR__AUDIT__KAFKA__USERNAME" "valueFrom" (dict "secretKeyRef" (dict "name" $ops.kafka.sasl.secret "key" "username"))) }}
{{- end }}
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
# Endpoints learn late that a pod ends: it goes on serving for as long as clients may still be sent here. The kubelet
# sleeps; the image has nothing that could.
lifecycle:
  preStop:
    sleep:
      seconds: {{ int64 .Values.gateway.lingerSeconds }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
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
  {{- if .Values.ops.extraFiles }}
  - {name: sidecar-extra, mountPath: /run/sidecar/extra, readOnly: true}
  {{- end }}
  {{- if .Values.gateway.enabled }}
  - {name: sidecar-listener, mountPath: /run/sidecar/listener, readOnly: true}
  {{- end }}
  - {name: sidecar-spool, mountPath: /var/lib/sidecar}
{{- end -}}

{{- define "openbao-sidecar.volumes" -}}
{{- $ops := .Values.ops -}}
- name: sidecar-config
  configMap:
    name: {{ printf "%s-config" (include "openbao-sidecar.fullname" .) | quote }}
{{- if include "openbao-sidecar.cedar" . }}
- name: sidecar-policies
  configMap:
    name: {{ include "openbao-sidecar.policiesConfigMap" . | quote }}
{{- end }}
{{- with include "openbao-sidecar.trust" . }}
- name: sidecar-trust
  projected:
    sources:
      {{- . | nindent 6 }}
{{- end }}
- name: sidecar-secrets
  projected:
    sources:
      - secret:
          name: {{ $ops.tenant.saltSecret.name | quote }}
          items:
            - {key: {{ $ops.tenant.saltSecret.key | quote }}, path: salt}
      {{- if include "openbao-sidecar.ownLogin" . }}
      {{- $keys := get (dict "approle" (list "secret-id") "token_file" (list "token") "cert" (list "tls.crt" "tls.key")) $ops.upstream.auth.method }}
      {{- if $keys }}
      - secret:
          name: {{ $ops.upstream.auth.secret | quote }}
          items:
            {{- range $keys }}
            - {key: {{ . }}, path: login/{{ . }}}
            {{- end }}
      {{- end }}
      {{- end }}
      {{- with $ops.authorization }}
      {{- if and .enabled (eq .pdp "authzen") .authzen.tokenSecret }}
      - secret:
          name: {{ .authzen.tokenSecret | quote }}
          items:
            - {key: token, path: pdp/token}
      {{- end }}
      {{- end }}
      {{- if and $ops.kafka.bootstrapServers $ops.kafka.sasl.secret }}
      - secret:
          name: {{ $ops.kafka.sasl.secret | quote }}
          items:
            - {key: password, path: kafka/password}
      {{- end }}
      {{- with $ops.audit.checkpoint.keySecret }}
      - secret:
          name: {{ . | quote }}
          items:
            - {key: key.pem, path: audit/key.pem}
      {{- end }}
      {{- with $ops.revocations.tokenSecret }}
      - secret:
          name: {{ . | quote }}
          items:
            - {key: token, path: revocations/token}
      {{- end }}
      {{- with $ops.antiReplay.storePasswordSecret }}
      - secret:
          name: {{ . | quote }}
          items:
            - {key: password, path: store/password}
      {{- end }}
{{- with include "openbao-sidecar.tokens" . }}
# Each has an audience of its own, and only the sidecar mounts them: OpenBao's role, bound to its audience, is out of
# the application's reach.
- name: sidecar-token
  projected:
    sources:
      {{- . | nindent 6 }}
{{- end }}
{{- with $ops.extraFiles }}
- name: sidecar-extra
  projected:
    sources:
      {{- toYaml . | nindent 6 }}
{{- end }}
{{- if .Values.gateway.enabled }}
- name: sidecar-listener
  projected:
    sources:
      - secret:
          name: {{ .Values.gateway.tls.secret | quote }}
          items:
            - {key: tls.crt, path: tls.crt}
            - {key: tls.key, path: tls.key}
      {{- with .Values.gateway.tls.clientCaConfigMap }}
      - configMap:
          name: {{ . | quote }}
          items:
            - {key: ca.crt, path: ca.crt}
      {{- end }}
{{- end }}
- name: sidecar-spool
  emptyDir:
    # Above what the journal takes, since a pod that passes it is evicted.
    sizeLimit: {{ printf "%dMi" (add (div (mul (int64 $ops.audit.maxSpoolMib) 5) 4) 64) }}
{{- end -}}

{{/* The certificates of those whom the sidecar calls, as sources of one projected volume; empty where there are none. */}}
{{- define "openbao-sidecar.trust" -}}
{{- $ops := .Values.ops -}}
{{- $sources := list -}}
{{- with $ops.upstream.caConfigMap -}}
{{- $sources = append $sources (dict "configMap" (dict "name" . "items" (list (dict "key" "ca.crt" "path" "openbao.crt")))) -}}
{{- end -}}
{{- range $index, $issuer := $ops.identity.issuers -}}
{{- with $issuer.caConfigMap -}}
{{- $sources = append $sources (dict "configMap" (dict "name" . "items" (list (dict "key" "ca.crt" "path" (printf "issuer-%d.crt" $index))))) -}}
{{- end -}}
{{- end -}}
{{- with $ops.authorization -}}
{{- if and .enabled (eq .pdp "authzen") .authzen.caSecret -}}
{{- $sources = append $sources (dict "secret" (dict "name" .authzen.caSecret "items" (list (dict "key" "ca.crt" "path" "pdp.crt")))) -}}
{{- end -}}
{{- end -}}
{{- if and $ops.kafka.bootstrapServers $ops.kafka.caSecret -}}
{{- $sources = append $sources (dict "secret" (dict "name" $ops.kafka.caSecret "items" (list (dict "key" "ca.crt" "path" "kafka.crt")))) -}}
{{- end -}}
{{- with $ops.antiReplay.storeCaSecret -}}
{{- $sources = append $sources (dict "secret" (dict "name" . "items" (list (dict "key" "ca.crt" "path" "store.crt")))) -}}
{{- end -}}
{{- if $sources -}}
{{- toYaml $sources -}}
{{- end -}}
{{- end -}}

{{/*
The projected service-account tokens, as sources of one projected volume; empty where there are none: for OpenBao's
login, for the pod itself as a caller, and for fetching the keys of an issuer that asks for a token, as a cluster does.
*/}}
{{- define "openbao-sidecar.tokens" -}}
{{- $ops := .Values.ops -}}
{{- $sources := list -}}
{{- if include "openbao-sidecar.projectsToken" . -}}
{{- $sources = append $sources (dict "serviceAccountToken" (dict "audience" $ops.upstream.auth.audience "expirationSeconds" 3600 "path" "token")) -}}
{{- end -}}
{{- if $ops.identity.pod.enabled -}}
{{- $sources = append $sources (dict "serviceAccountToken" (dict "audience" $ops.api.audience "expirationSeconds" 3600 "path" "pod")) -}}
{{- end -}}
{{- range $index, $issuer := $ops.identity.issuers -}}
{{- with $issuer.tokenAudience -}}
{{- $sources = append $sources (dict "serviceAccountToken" (dict "audience" . "expirationSeconds" 3600 "path" (printf "issuer-%d" $index))) -}}
{{- end -}}
{{- end -}}
{{- if $sources -}}
{{- toYaml $sources -}}
{{- end -}}
{{- end -}}
