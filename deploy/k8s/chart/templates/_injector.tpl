{{/*
The injector's configuration (docs/reference/injector.md). What stands under `ops` is pinned: above what a namespace's
ConfigMap says. Built as a tree and written as a whole: a value is data whatever it holds.
*/}}
{{- define "openbao-sidecar.injectorConfig" -}}
{{- $ops := .Values.ops -}}
{{- $name := include "openbao-sidecar.injectorName" . -}}
{{- $host := trimSuffix ":9102" .Values.sidecar.operationsAddress -}}
{{- $config := include "openbao-sidecar.config" . | fromYaml -}}

{{- $tls := dict -}}
{{- $made := dict -}}
{{- with .Values.injector -}}
{{- if eq .certificates.by "cert-manager" -}}
{{- $tls = dict "cert_file" "/run/certificate/tls.crt" "key_file" "/run/certificate/tls.key" -}}
{{- else -}}
{{- $made = dict
  "secret" (printf "%s-tls" $name)
  "service" $name
  "mutating_webhook" (include "openbao-sidecar.registrationName" $)
  "validating_webhook" (include "openbao-sidecar.registrationName" $)
  "days" .certificates.days
-}}
{{- end -}}
{{- if .clientCaConfigMap -}}
{{- $tls = merge $tls (dict "client_ca_file" "/run/clients/ca.crt" "client_cert" "required") -}}
{{- end -}}
{{- end -}}

{{- $upstream := pick $config.upstream "address" "provider" "namespace" "cluster_addresses" "timeout_seconds" -}}
{{- $_ := set $upstream "mode" $config.upstream.auth.mode -}}
{{- $_ := set $upstream "method" $ops.upstream.auth.method -}}
{{- $_ := set $upstream "mount" $ops.upstream.auth.mount -}}
{{- $_ := set $upstream "ca_config_map" $ops.upstream.caConfigMap -}}
{{- $_ := set $upstream "server_name" (dig "tls" "server_name" "" $config.upstream) -}}

{{- $pinned := omit $config "environment" "listen" "upstream" "tenant" "ops" -}}
{{- $_ := set $pinned "identity" (omit $config.identity "pod") -}}

{{- $env := list -}}
{{- range $key := list "log_format" "otlp_endpoint" "token_file" "trace_ratio" "debug" -}}
{{- /* Not an empty one: the API server drops it, and the pod would not be recognised any more. */ -}}
{{- if and (hasKey $config.ops $key) (ne (toString (get $config.ops $key)) "") -}}
{{- $env = append $env (dict "name" (printf "SIDECAR__OPS__%s" (upper $key)) "value" (toString (get $config.ops $key))) -}}
{{- end -}}
{{- end -}}
{{- with include "openbao-sidecar.kafkaUser" . }}{{ $env = concat $env (fromYamlArray .) }}{{ end -}}

{{- $resources := dict -}}
{{- range $name, $pair := dict "request" .Values.sidecar.resources.requests "limit" .Values.sidecar.resources.limits -}}
{{- range $kind := list "cpu" "memory" -}}
{{- $_ := set $resources (printf "%s_%s" $kind $name) (toString (dig $kind "" (default dict $pair))) -}}
{{- end -}}
{{- end -}}

{{- $sidecar := dict
  "image" (include "openbao-sidecar.image" .)
  "image_pull_policy" .Values.image.pullPolicy
  "image_pull_secrets" .Values.image.pullSecrets
  "environment" $ops.environment
  "upstream" $upstream
  "token" (dict "audience" $ops.upstream.auth.audience)
  "audience" $ops.api.audience
  "pinned" $pinned
  "env" $env
  "trust" (default list (include "openbao-sidecar.othersTrust" . | fromYamlArray))
  "secrets" (default list (include "openbao-sidecar.secrets" . | fromYamlArray))
  "operations_address" .Values.sidecar.operationsAddress
  "log_level" $ops.logging.level
  "startup_seconds" .Values.sidecar.startupSeconds
  "pod_readiness" .Values.sidecar.podReadiness
  "drain_seconds" .Values.sidecar.drainSeconds
  "spool_mib" (include "openbao-sidecar.spoolMib" . | int64)
  "resources" $resources
  "tolerated" (dict "env" .Values.injector.tolerated.env "mount_paths" .Values.injector.tolerated.mountPaths)
-}}

{{- $namespaces := dict -}}
{{- range $namespace, $given := .Values.injector.namespaces -}}
{{- $tenants := list -}}
{{- range (default (list dict) $given.tenants) -}}
{{- $salt := default $ops.tenant.saltSecret .saltSecret -}}
{{- $tenants = append $tenants (dict
  "id" (default $ops.tenant.id .id)
  "allowed_mounts" (default $ops.tenant.allowedMounts .allowedMounts)
  "roles" (default (compact (list $ops.upstream.auth.role)) .roles)
  "salt_secret" (dict "name" $salt.name "key" (default "salt" $salt.key)))
-}}
{{- end -}}
{{- $_ := set $namespaces $namespace (dict
  "tenants" $tenants
  "configs" $given.configs
  "policies_config_map" (default "" $given.policiesConfigMap)
  "required" (default false $given.required))
-}}
{{- end -}}

{{- toYaml (dict
  "listen" (dict "address" (printf "%s:8443" $host) "tls" $tls)
  "ops" (dict "address" .Values.sidecar.operationsAddress "log_level" $ops.logging.level "log_format" $ops.logging.format)
  "namespace" .Release.Namespace
  "native_sidecars" .Values.injector.nativeSidecars
  "self_made" $made
  "sidecar" $sidecar
  "namespaces" $namespaces)
-}}
{{- end -}}

{{- define "openbao-sidecar.injectorName" -}}
{{- printf "%s-injector" (include "openbao-sidecar.fullname" .) -}}
{{- end -}}

{{/* Registrations belong to the cluster: two releases of one name in two namespaces must not share theirs. */}}
{{- define "openbao-sidecar.registrationName" -}}
{{- printf "%s-%s" (include "openbao-sidecar.injectorName" .) (.Release.Namespace | sha256sum | trunc 8) -}}
{{- end -}}

{{/* "true" where the injector speaks to the API server: to keep its certificates, or to learn its version. */}}
{{- define "openbao-sidecar.injectorCalls" -}}
{{- with .Values.injector -}}
{{- if or (eq .certificates.by "injector") (eq .nativeSidecars "auto") -}}true{{- end -}}
{{- end -}}
{{- end -}}
