{{/*
The sidecar's configuration file. It is built as a tree and written by toYaml as a whole: a value is data whatever it
holds, and never becomes structure. Paths are those of _container.tpl.
*/}}
{{- define "openbao-sidecar.config" -}}
{{- /* What has no value of its own. The problems have refused what is written already: nothing is overwritten here. */ -}}
{{- toYaml (mergeOverwrite (include "openbao-sidecar.written" . | fromYaml) (deepCopy .Values.ops.extraConfig)) -}}
{{- end -}}

{{/* What the chart writes itself. */}}
{{- define "openbao-sidecar.written" -}}
{{- $ops := .Values.ops -}}

{{- $auth := dict "mode" $ops.upstream.auth.mode -}}
{{- $tls := dict -}}
{{- with $ops.upstream.auth -}}
{{- $own := include "openbao-sidecar.ownLogin" $ -}}
{{- if .mount }}{{ $_ := set $auth "mount" .mount }}{{ end -}}
{{- if eq .mode "exchange" -}}
{{- if .role }}{{ $_ := set $auth "role" .role }}{{ end -}}
{{- if eq .method "kubernetes" }}{{ $_ := set $auth "method" .method }}{{ end -}}
{{- end -}}
{{- if $own -}}
{{- $_ := set $auth "method" .method -}}
{{- if eq .method "approle" -}}
{{- if and .role (ne .mode "exchange") }}{{ $_ := set $auth "role_id" .role }}{{ end -}}
{{- $_ := set $auth "secret_id_file" "/run/sidecar/secrets/login/secret-id" -}}
{{- else if eq .method "token_file" -}}
{{- $_ := set $auth "token_file" "/run/sidecar/secrets/login/token" -}}
{{- else -}}
{{- if .role }}{{ $_ := set $auth "role" .role }}{{ end -}}
{{- if eq .method "cert" -}}
{{- $_ := set $tls "cert_file" "/run/sidecar/secrets/login/tls.crt" -}}
{{- $_ := set $tls "key_file" "/run/sidecar/secrets/login/tls.key" -}}
{{- else -}}
{{- $_ := set $auth "jwt_file" "/run/sidecar/token/token" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $ops.upstream.caConfigMap -}}
{{- $_ := set $tls "ca_file" "/etc/sidecar/trust/openbao.crt" -}}
{{- end -}}

{{- $issuers := list -}}
{{- range $index, $given := $ops.identity.issuers -}}
{{- $issuer := dict "issuer" $given.issuer -}}
{{- with (default $given.jwks_uri $given.jwksUri) }}{{ $_ := set $issuer "jwks_uri" . }}{{ end -}}
{{- with $given.kind }}{{ $_ := set $issuer "kind" . }}{{ end -}}
{{- with (default $given.trust_domain $given.trustDomain) }}{{ $_ := set $issuer "trust_domain" . }}{{ end -}}
{{- with $given.algorithms }}{{ $_ := set $issuer "algorithms" . }}{{ end -}}
{{- with (default $given.token_types $given.tokenTypes) }}{{ $_ := set $issuer "token_types" . }}{{ end -}}
{{- if $given.caConfigMap }}{{ $_ := set $issuer "ca_file" (printf "/etc/sidecar/trust/issuer-%d.crt" $index) }}{{ end -}}
{{- if $given.tokenAudience }}{{ $_ := set $issuer "token_file" (printf "/run/sidecar/secrets/issuers/%d" $index) }}{{ end -}}
{{- $issuers = append $issuers $issuer -}}
{{- end -}}

{{- $authorization := dict "enabled" $ops.authorization.enabled "pdp" $ops.authorization.pdp -}}
{{- if include "openbao-sidecar.cedar" . -}}
{{- $_ := set $authorization "cedar" (dict "policies" "/etc/sidecar/policies") -}}
{{- else if $ops.authorization.enabled -}}
{{- with $ops.authorization.authzen -}}
{{- $authzen := dict "url" .url "timeout_ms" .timeoutMs -}}
{{- if .caSecret }}{{ $_ := set $authzen "ca_file" "/etc/sidecar/trust/pdp.crt" }}{{ end -}}
{{- if .tokenSecret }}{{ $_ := set $authzen "token_file" "/run/sidecar/secrets/pdp/token" }}{{ end -}}
{{- $_ := set $authorization "authzen" $authzen -}}
{{- end -}}
{{- end -}}

{{- $audit := dict
  "spool_dir" "/var/lib/sidecar/audit"
  "durability" $ops.audit.durability
  "on_failure" $ops.audit.onFailure
  "max_spool_mib" $ops.audit.maxSpoolMib
  "retention_mib" $ops.audit.retentionMib
-}}
{{- with $ops.audit.checkpoint -}}
{{- if .keySecret -}}
{{- $checkpoint := dict
  "key_file" "/run/sidecar/secrets/audit/key.pem"
  "every_records" .everyRecords
  "every_seconds" .everySeconds
-}}
{{- $_ := set $audit "checkpoint" $checkpoint -}}
{{- end -}}
{{- end -}}
{{- with $ops.kafka -}}
{{- if .bootstrapServers -}}
{{- $kafka := dict
  "bootstrap_servers" .bootstrapServers
  "topic_prefix" .topicPrefix
  "security_protocol" .securityProtocol
  "compression" .compression
  "max_records_per_second" .maxRecordsPerSecond
-}}
{{- if .sasl.mechanism -}}
{{- $_ := set $kafka "sasl_mechanism" .sasl.mechanism -}}
{{- $_ := set $kafka "password_file" "/run/sidecar/secrets/kafka/password" -}}
{{- end -}}
{{- if .caSecret }}{{ $_ := set $kafka "ca_file" "/etc/sidecar/trust/kafka.crt" }}{{ end -}}
{{- $_ := set $audit "kafka" $kafka -}}
{{- end -}}
{{- end -}}

{{- $listener := dict
  "address" .Values.sidecar.operationsAddress
  "log_level" $ops.logging.level
  "log_format" $ops.logging.format
  "otlp_endpoint" $ops.tracing.otlpEndpoint
-}}
{{- if $ops.revocations.tokenSecret }}{{ $_ := set $listener "token_file" "/run/sidecar/secrets/revocations/token" }}{{ end -}}

{{- $identity := dict
  "required" $ops.api.requireAuth
  "audience" $ops.api.audience
  "binding" $ops.identity.binding
  "issuers" $issuers
-}}
{{- if $ops.identity.pod.enabled -}}
{{- $_ := set $identity "pod" (dict "enabled" true "token_file" "/run/sidecar/token/pod") -}}
{{- end -}}

{{- $replay := dict
  "window_seconds" $ops.antiReplay.windowSeconds
  "dpop_nonce" $ops.antiReplay.dpopNonce
  "store" $ops.antiReplay.store
-}}
{{- if $ops.antiReplay.storePasswordSecret -}}
{{- $_ := set $replay "store_password_file" "/run/sidecar/secrets/store/password" -}}
{{- end -}}
{{- if $ops.antiReplay.storeCaSecret }}{{ $_ := set $replay "store_ca_file" "/etc/sidecar/trust/store.crt" }}{{ end -}}

{{- $config := dict
  "environment" $ops.environment
  "listen" (include "openbao-sidecar.listen" . | fromYaml)
  "upstream" (dict
    "provider" $ops.upstream.provider
    "address" $ops.upstream.address
    "namespace" $ops.upstream.namespace
    "tls" $tls
    "auth" $auth)
  "tenant" (dict
    "id" $ops.tenant.id
    "allowed_mounts" $ops.tenant.allowedMounts
    "salt_file" "/run/sidecar/secrets/salt")
  "identity" $identity
  "scopes" (dict "enforce" $ops.api.enforceScopes)
  "authorization" $authorization
  "grants" (dict
    "default_ttl_seconds" $ops.grants.defaultTtlSeconds
    "default_max_uses" $ops.grants.defaultMaxUses
    "max_ttl_seconds" $ops.grants.maxTtlSeconds
    "negative_ttl_seconds" $ops.grants.negativeTtlSeconds)
  "anti_replay" $replay
  "audit" $audit
  "revocations" (dict "topic" $ops.revocations.topic)
  "ops" $listener
-}}
{{- with $ops.mounts }}{{ $_ := set $config "mounts" . }}{{ end -}}
{{- toYaml $config -}}
{{- end -}}
