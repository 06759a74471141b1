{{/* The volumes of the sidecar's container; no other container mounts them. */}}
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
      {{- with $ops.tenant.saltSecret }}
      {{- include "openbao-sidecar.secret" (list .name (dict "salt" .key)) | nindent 6 }}
      {{- end }}
      {{- if include "openbao-sidecar.ownLogin" . }}
      {{- $keys := dict
        "approle" (dict "login/secret-id" "secret-id")
        "token_file" (dict "login/token" "token")
        "cert" (dict "login/tls.crt" "tls.crt" "login/tls.key" "tls.key")
      }}
      {{- with get $keys $ops.upstream.auth.method }}
      {{- include "openbao-sidecar.secret" (list $ops.upstream.auth.secret .) | nindent 6 }}
      {{- end }}
      {{- end }}
      {{- with include "openbao-sidecar.secrets" . }}
      {{- . | nindent 6 }}
      {{- end }}
{{- with include "openbao-sidecar.tokens" . }}
# Each has an audience of its own, and only the sidecar mounts them: OpenBao's role, bound to its audience, is out of
# the application's reach.
- name: sidecar-token
  projected:
    sources:
      {{- . | nindent 6 }}
{{- end }}
{{- with .Values.gateway }}
{{- if .enabled }}
- name: sidecar-listener
  projected:
    sources:
      {{- include "openbao-sidecar.secret" (list .tls.secret (dict "tls.crt" "tls.crt" "tls.key" "tls.key")) | nindent 6 }}
      {{- with .tls.clientCaConfigMap }}
      {{- include "openbao-sidecar.configMap" (list . (dict "ca.crt" "ca.crt")) | nindent 6 }}
      {{- end }}
{{- end }}
{{- end }}
- name: sidecar-spool
  emptyDir:
    # Above what the journal takes, since a pod that passes it is evicted.
    sizeLimit: {{ printf "%sMi" (include "openbao-sidecar.spoolMib" .) }}
{{- end -}}

{{- define "openbao-sidecar.spoolMib" -}}
{{- add (div (mul (int64 .Values.ops.audit.maxSpoolMib) 5) 4) 64 -}}
{{- end -}}

{{/* One source of a projected volume. Called with a list: the Secret's name; its keys by the paths they get. */}}
{{- define "openbao-sidecar.secret" -}}
{{- $items := list -}}
{{- range $path, $key := index . 1 }}{{ $items = append $items (dict "key" $key "path" $path) }}{{ end -}}
{{- toYaml (list (dict "secret" (dict "name" (index . 0) "items" $items))) -}}
{{- end -}}

{{/* The same of a ConfigMap. */}}
{{- define "openbao-sidecar.configMap" -}}
{{- $items := list -}}
{{- range $path, $key := index . 1 }}{{ $items = append $items (dict "key" $key "path" $path) }}{{ end -}}
{{- toYaml (list (dict "configMap" (dict "name" (index . 0) "items" $items))) -}}
{{- end -}}

{{/*
What goes to /run/sidecar/secrets beside the salt and OpenBao's login, as sources of a projected volume; empty where
there is nothing. The same for pods that the injector makes.
*/}}
{{- define "openbao-sidecar.secrets" -}}
{{- $ops := .Values.ops -}}
{{- $sources := list -}}
{{- with $ops.authorization -}}
{{- if and .enabled (eq .pdp "authzen") .authzen.tokenSecret -}}
{{- $sources = append $sources (include "openbao-sidecar.secret" (list .authzen.tokenSecret (dict "pdp/token" "token"))) -}}
{{- end -}}
{{- end -}}
{{- if and $ops.kafka.bootstrapServers $ops.kafka.sasl.secret -}}
{{- $sources = append $sources (include "openbao-sidecar.secret" (list $ops.kafka.sasl.secret (dict "kafka/password" "password"))) -}}
{{- end -}}
{{- with $ops.audit.checkpoint.keySecret -}}
{{- $sources = append $sources (include "openbao-sidecar.secret" (list . (dict "audit/key.pem" "key.pem"))) -}}
{{- end -}}
{{- with $ops.revocations.tokenSecret -}}
{{- $sources = append $sources (include "openbao-sidecar.secret" (list . (dict "revocations/token" "token"))) -}}
{{- end -}}
{{- with $ops.antiReplay.storePasswordSecret -}}
{{- $sources = append $sources (include "openbao-sidecar.secret" (list . (dict "store/password" "password"))) -}}
{{- end -}}
{{- range $index, $issuer := $ops.identity.issuers -}}
{{- with $issuer.tokenAudience -}}
{{- $sources = append $sources (include "openbao-sidecar.token" (list . (printf "issuers/%d" $index))) -}}
{{- end -}}
{{- end -}}
{{- range $ops.extraFiles -}}
{{- $source := default .secret .configMap -}}
{{- $paths := dict -}}
{{- range $source.items }}{{ $_ := set $paths (printf "extra/%s" .path) .key }}{{ end -}}
{{- $kind := ternary "configMap" "secret" (hasKey . "configMap") -}}
{{- $sources = append $sources (include (printf "openbao-sidecar.%s" $kind) (list $source.name $paths)) -}}
{{- end -}}
{{- join "\n" $sources -}}
{{- end -}}

{{/*
The certificates of those whom the sidecar calls, as sources of the volume at /etc/sidecar/trust; empty where there are
none. OpenBao's own is apart: the injector mounts it itself.
*/}}
{{- define "openbao-sidecar.trust" -}}
{{- $sources := list -}}
{{- with .Values.ops.upstream.caConfigMap -}}
{{- $sources = append $sources (include "openbao-sidecar.configMap" (list . (dict "openbao.crt" "ca.crt"))) -}}
{{- end -}}
{{- with include "openbao-sidecar.othersTrust" . }}{{ $sources = append $sources . }}{{ end -}}
{{- join "\n" $sources -}}
{{- end -}}

{{- define "openbao-sidecar.othersTrust" -}}
{{- $ops := .Values.ops -}}
{{- $sources := list -}}
{{- range $index, $issuer := $ops.identity.issuers -}}
{{- with $issuer.caConfigMap -}}
{{- $sources = append $sources (include "openbao-sidecar.configMap" (list . (dict (printf "issuer-%d.crt" $index) "ca.crt"))) -}}
{{- end -}}
{{- end -}}
{{- with $ops.authorization -}}
{{- if and .enabled (eq .pdp "authzen") .authzen.caSecret -}}
{{- $sources = append $sources (include "openbao-sidecar.secret" (list .authzen.caSecret (dict "pdp.crt" "ca.crt"))) -}}
{{- end -}}
{{- end -}}
{{- if and $ops.kafka.bootstrapServers $ops.kafka.caSecret -}}
{{- $sources = append $sources (include "openbao-sidecar.secret" (list $ops.kafka.caSecret (dict "kafka.crt" "ca.crt"))) -}}
{{- end -}}
{{- with $ops.antiReplay.storeCaSecret -}}
{{- $sources = append $sources (include "openbao-sidecar.secret" (list . (dict "store.crt" "ca.crt"))) -}}
{{- end -}}
{{- join "\n" $sources -}}
{{- end -}}

{{/* A projected service-account token, as a source. Called with a list: its audience, its path. */}}
{{- define "openbao-sidecar.token" -}}
{{- toYaml (list (dict "serviceAccountToken" (dict "audience" (index . 0) "expirationSeconds" 3600 "path" (index . 1)))) -}}
{{- end -}}

{{/* The tokens at /run/sidecar/token: OpenBao's login, and the pod itself as a caller; empty where there is neither. */}}
{{- define "openbao-sidecar.tokens" -}}
{{- $ops := .Values.ops -}}
{{- $sources := list -}}
{{- if include "openbao-sidecar.projectsToken" . -}}
{{- $sources = append $sources (include "openbao-sidecar.token" (list $ops.upstream.auth.audience "token")) -}}
{{- end -}}
{{- if $ops.identity.pod.enabled -}}
{{- $sources = append $sources (include "openbao-sidecar.token" (list $ops.api.audience "pod")) -}}
{{- end -}}
{{- join "\n" $sources -}}
{{- end -}}
