{{/*
What the schema cannot say: what is missing, and what does not go together. All of it is said in one run, each problem
with its key and a remedy, as `sidecar check` does; `sidecar check` has the last word in the pod.
*/}}
{{- define "openbao-sidecar.validate" -}}
{{- $ops := .Values.ops -}}
{{- $prod := eq $ops.environment "prod" -}}
{{- $found := list -}}

{{- if .Values.injector.enabled -}}
{{- $found = concat $found (compact (splitList "\n" (include "openbao-sidecar.injectorProblems" .))) -}}
{{- else -}}
{{- if not $ops.tenant.id -}}
{{- $found = append $found "ops.tenant.id: is missing → name the tenant whose secrets these are" -}}
{{- end -}}
{{- if not $ops.tenant.allowedMounts -}}
{{- $found = append $found "ops.tenant.allowedMounts: is empty, nothing would be allowed → name the tenant's mounts" -}}
{{- end -}}
{{- range $mount := $ops.tenant.allowedMounts -}}
{{- range splitList "/" $mount -}}
{{- if has . (list "." "..") -}}
{{- $found = append $found (printf "ops.tenant.allowedMounts: %q is not a mount → write it without . and .. segments" $mount) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not $ops.tenant.saltSecret.name -}}
{{- $found = append $found "ops.tenant.saltSecret.name: is missing → name a Secret with a random text of at least 16 bytes" -}}
{{- end -}}
{{- if not $ops.tenant.saltSecret.key -}}
{{- $found = append $found "ops.tenant.saltSecret.key: is missing → name the key that holds the salt" -}}
{{- end -}}
{{- end -}}

{{- if and .Values.example.enabled (not (include "openbao-sidecar.native" .)) -}}
{{- $found = append $found (printf "example.enabled: Kubernetes %s has no native sidecars → use the injector, or a cluster of 1.29 or later" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and $prod (not $ops.api.requireAuth) -}}
{{- $found = append $found "ops.api.requireAuth: false is refused where ops.environment is prod → remove it, or set dev or test" -}}
{{- end -}}
{{- if and $ops.api.requireAuth (not $ops.identity.issuers) -}}
{{- $found = append $found "ops.identity.issuers: is empty, nobody could call → name at least one issuer" -}}
{{- end -}}
{{- $seen := list -}}
{{- range $index, $issuer := $ops.identity.issuers -}}
{{- $key := printf "ops.identity.issuers[%d]" $index -}}
{{- if and $issuer.jwksUri $issuer.jwks_uri -}}
{{- $found = append $found (printf "%s: jwksUri and jwks_uri are the same key → remove one" $key) -}}
{{- end -}}
{{- if and $issuer.tokenTypes $issuer.token_types -}}
{{- $found = append $found (printf "%s: tokenTypes and token_types are the same key → remove one" $key) -}}
{{- end -}}
{{- if and $issuer.trustDomain $issuer.trust_domain -}}
{{- $found = append $found (printf "%s: trustDomain and trust_domain are the same key → remove one" $key) -}}
{{- end -}}
{{- $uri := default "" (default $issuer.jwks_uri $issuer.jwksUri) -}}
{{- if not $uri -}}
{{- if not (or (hasPrefix "https://" $issuer.issuer) (and (not $prod) (hasPrefix "http://" $issuer.issuer))) -}}
{{- $found = append $found (printf "%s.jwksUri: is missing, and the issuer is no https URL that tells it → give the URL of the issuer's keys" $key) -}}
{{- end -}}
{{- else if and $prod (include "openbao-sidecar.isPlain" $uri) -}}
{{- $found = append $found (printf "%s.jwksUri: plain http where ops.environment is prod → use https" $key) -}}
{{- end -}}
{{- if has $issuer.issuer $seen -}}
{{- $found = append $found (printf "%s.issuer: stands twice → remove one" $key) -}}
{{- end -}}
{{- $seen = append $seen $issuer.issuer -}}
{{- end -}}

{{- with $ops.authorization -}}
{{- if and (not .enabled) (ne $ops.environment "dev") -}}
{{- $found = append $found "ops.authorization.enabled: false is refused unless ops.environment is dev → remove it, or set dev" -}}
{{- end -}}
{{- if and .enabled (eq .pdp "authzen") -}}
{{- if not .authzen.url -}}
{{- $found = append $found "ops.authorization.authzen.url: is missing → give the PDP's URL" -}}
{{- else if and $prod (include "openbao-sidecar.isPlain" .authzen.url) -}}
{{- $found = append $found "ops.authorization.authzen.url: plain http where ops.environment is prod → use https" -}}
{{- end -}}
{{- end -}}
{{- if and .cedar.policiesConfigMap $.Values.policies -}}
{{- $found = append $found "policies: is not used beside ops.authorization.cedar.policiesConfigMap → remove one" -}}
{{- end -}}
{{- end -}}

{{- with $ops.upstream -}}
{{- if not .address -}}
{{- $found = append $found "ops.upstream.address: is missing → give OpenBao's URL" -}}
{{- else if and $prod (include "openbao-sidecar.isPlain" .address) -}}
{{- $found = append $found "ops.upstream.address: plain http where ops.environment is prod → use https" -}}
{{- end -}}
{{- if include "openbao-sidecar.ownLogin" $ -}}
{{- if and (has .auth.method (list "kubernetes" "jwt")) (not .auth.role) (not $.Values.injector.enabled) -}}
{{- $found = append $found (printf "ops.upstream.auth.role: is missing for method %s → name OpenBao's role" .auth.method) -}}
{{- end -}}
{{- if and (has .auth.method (list "kubernetes" "jwt")) (not .auth.audience) -}}
{{- $found = append $found "ops.upstream.auth.audience: is empty → name the audience that OpenBao's role is bound to" -}}
{{- end -}}
{{- if and (has .auth.method (list "kubernetes" "jwt")) (eq .auth.audience $ops.api.audience) -}}
{{- $found = append $found "ops.upstream.auth.audience: is the audience of callers' tokens, so that OpenBao would take what the application holds → give the login one of its own" -}}
{{- end -}}
{{- if and (has .auth.method (list "approle" "token_file" "cert")) (not .auth.secret) (not $.Values.injector.enabled) -}}
{{- $found = append $found (printf "ops.upstream.auth.secret: is missing for method %s → name the Secret of the login" .auth.method) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- with $ops.kafka -}}
{{- $sasl := hasPrefix "SASL" .securityProtocol -}}
{{- if .bootstrapServers -}}
{{- if and $prod (has .securityProtocol (list "PLAINTEXT" "SASL_PLAINTEXT")) -}}
{{- $found = append $found "ops.kafka.securityProtocol: plain text where ops.environment is prod → use SSL or SASL_SSL" -}}
{{- end -}}
{{- if and $sasl (not (and .sasl.mechanism .sasl.secret)) -}}
{{- $found = append $found (printf "ops.kafka.sasl: %s needs a mechanism and a secret → give both" .securityProtocol) -}}
{{- end -}}
{{- if and (not $sasl) (or .sasl.mechanism .sasl.secret) -}}
{{- $found = append $found (printf "ops.kafka.sasl: is not used with %s → use SASL_SSL, or remove it" .securityProtocol) -}}
{{- end -}}
{{- else if or .sasl.mechanism .sasl.secret .caSecret -}}
{{- $found = append $found "ops.kafka.bootstrapServers: is missing beside other keys of ops.kafka → give it, or remove them" -}}
{{- end -}}
{{- end -}}

{{- with $ops.revocations.topic -}}
{{- if not $ops.kafka.bootstrapServers -}}
{{- $found = append $found "ops.revocations.topic: is read by the connection of ops.kafka → give it, or remove the topic" -}}
{{- end -}}
{{- if has . (list (printf "%s.secrets" $ops.kafka.topicPrefix) (printf "%s.secrets.audit" $ops.kafka.topicPrefix) (printf "%s.secrets.notifications" $ops.kafka.topicPrefix)) -}}
{{- $found = append $found "ops.revocations.topic: is one that the sidecar writes → use a topic of its own" -}}
{{- end -}}
{{- if regexMatch "^\\.{1,2}$" . -}}
{{- $found = append $found "ops.revocations.topic: is not a topic's name → use letters, digits, . _ -" -}}
{{- end -}}
{{- end -}}

{{- $overlap := compact (splitList "\n" (include "openbao-sidecar.overlap" (list (include "openbao-sidecar.written" . | fromYaml) $ops.extraConfig ""))) -}}
{{- range $overlap -}}
{{- $found = append $found (printf "ops.extraConfig.%s: the chart writes this itself → use its own value" .) -}}
{{- end -}}
{{- $extra := ternary dict $ops.extraConfig (not (empty $overlap)) -}}
{{- $age := dig "anti_replay" "proof_max_age_seconds" 60 $extra -}}
{{- $skew := dig "identity" "clock_skew_seconds" 5 $extra -}}
{{- $life := add (int64 $age) (int64 $skew) -}}
{{- if lt (int64 $ops.antiReplay.windowSeconds) $life -}}
{{- $found = append $found (printf "ops.antiReplay.windowSeconds: is shorter than a proof may live, so a proof could be used twice → make it at least %d" $life) -}}
{{- end -}}
{{- $secure := or (hasPrefix "valkeys://" $ops.antiReplay.store) (hasPrefix "rediss://" $ops.antiReplay.store) -}}
{{- if and $ops.antiReplay.storeCaSecret (not $secure) -}}
{{- $found = append $found "ops.antiReplay.storeCaSecret: the store is not spoken to by TLS → write valkeys://, or remove it" -}}
{{- end -}}
{{- if and $ops.antiReplay.storePasswordSecret (eq $ops.antiReplay.store "memory") -}}
{{- $found = append $found "ops.antiReplay.storePasswordSecret: memory has no password → name a store, or remove it" -}}
{{- end -}}

{{- if gt (int64 $ops.audit.retentionMib) (int64 $ops.audit.maxSpoolMib) -}}
{{- $found = append $found "ops.audit.retentionMib: is more than maxSpoolMib, so nothing would be dropped → make it less" -}}
{{- end -}}
{{- if and $ops.audit.retentionMib $ops.kafka.bootstrapServers -}}
{{- $found = append $found "ops.audit.retentionMib: is for a spool without Kafka, which drops what it sent → remove one" -}}
{{- end -}}

{{- if and $ops.identity.pod.enabled (eq $ops.upstream.auth.mode "passthrough") -}}
{{- $found = append $found "ops.identity.pod.enabled: passthrough needs each caller's own OpenBao token → set it to false" -}}
{{- end -}}

{{- $paths := list -}}
{{- range $source := $ops.extraFiles -}}
{{- range (default $source.secret $source.configMap).items -}}
{{- $path := .path -}}
{{- range $other := $paths -}}
{{- if or (eq $other $path) (hasPrefix (printf "%s/" $other) $path) (hasPrefix (printf "%s/" $path) $other) -}}
{{- $found = append $found (printf "ops.extraFiles: %s and %s are one place → name each file once" $other $path) -}}
{{- end -}}
{{- end -}}
{{- $paths = append $paths $path -}}
{{- end -}}
{{- end -}}

{{- with .Values.gateway -}}
{{- if .enabled -}}
{{- if $.Values.example.enabled -}}
{{- $found = append $found "example.enabled: a release is either a gateway or beside an application → make two releases" -}}
{{- end -}}
{{- if not .tls.secret -}}
{{- $found = append $found "gateway.tls.secret: is missing, and a gateway speaks TLS only → name a Secret with tls.crt and tls.key" -}}
{{- end -}}
{{- if and (ne .tls.clientCert "none") (not .tls.clientCaConfigMap) -}}
{{- $found = append $found "gateway.tls.clientCaConfigMap: is missing beside clientCert → name a ConfigMap with ca.crt" -}}
{{- end -}}
{{- if and (eq .tls.clientCert "none") .tls.clientCaConfigMap -}}
{{- $found = append $found "gateway.tls.clientCert: none asks for no certificate → set optional or required, or remove clientCaConfigMap" -}}
{{- end -}}
{{- if not .publicUrls -}}
{{- $found = append $found "gateway.publicUrls: is empty, no client's Host would be taken → give the URLs that clients call" -}}
{{- end -}}
{{- if eq $ops.antiReplay.store "memory" -}}
{{- $found = append $found "ops.antiReplay.store: memory is one process's, and a gateway is several → give a store they share" -}}
{{- else if and $prod (not $secure) -}}
{{- $found = append $found "ops.antiReplay.store: plain text where ops.environment is prod → write valkeys://" -}}
{{- end -}}
{{- if and $prod (not $ops.kafka.bootstrapServers) -}}
{{- $found = append $found "ops.kafka.bootstrapServers: is missing; a gateway's pods come and go, and their spools with them → give it" -}}
{{- end -}}
{{- if not $ops.api.requireAuth -}}
{{- $found = append $found "ops.api.requireAuth: false would let the whole cluster in → set it to true" -}}
{{- end -}}
{{- if $ops.identity.pod.enabled -}}
{{- $found = append $found "ops.identity.pod.enabled: a gateway has no pod of its callers' → set it to false" -}}
{{- end -}}
{{- range $label, $_ := .podLabels -}}
{{- if or (hasPrefix "app.kubernetes.io/" $label) (hasPrefix "helm.sh/" $label) -}}
{{- $found = append $found (printf "gateway.podLabels: %s is the chart's own → remove it" $label) -}}
{{- end -}}
{{- end -}}
{{- if hasKey .podAnnotations "checksum/config" -}}
{{- $found = append $found "gateway.podAnnotations: checksum/config is the chart's own → remove it" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if and $ops.metrics.serviceMonitor (not $ops.metrics.enabled) -}}
{{- $found = append $found "ops.metrics.serviceMonitor: needs ops.metrics.enabled → set both, or neither" -}}
{{- end -}}

{{- if regexMatch "^(127\\.|\\[::1\\])" .Values.sidecar.operationsAddress -}}
{{- $found = append $found "sidecar.operationsAddress: the kubelet's probes do not come to loopback → write 0.0.0.0:9102" -}}
{{- end -}}

{{- range $key, $resources := dict "sidecar" .Values.sidecar.resources "injector" .Values.injector.resources "example" .Values.example.resources -}}
{{- $requests := default dict $resources.requests -}}
{{- range $name, $limit := default dict $resources.limits -}}
{{- if and (hasKey $requests $name) (gt (include "openbao-sidecar.amount" (get $requests $name) | float64) (include "openbao-sidecar.amount" $limit | float64)) -}}
{{- $found = append $found (printf "%s.resources: more %s is requested than the limit allows → raise the limit, or request less" $key $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- if $found -}}
{{- fail (printf "%d problem(s) in the values\n  %s\n" (len $found) (join "\n  " $found)) -}}
{{- end -}}
{{- end -}}

{{/* "true" for http to anything but loopback. */}}
{{- define "openbao-sidecar.isPlain" -}}
{{- if and (hasPrefix "http://" (lower .)) (not (regexMatch "^http://(127\\.[0-9]+\\.[0-9]+\\.[0-9]+|localhost|\\[::1\\])(:[0-9]+)?(/|$)" (lower .))) -}}true{{- end -}}
{{- end -}}

{{/*
The keys, one a line, that two trees both give a value. Called with a list: the chart's tree, the other, a prefix.
*/}}
{{- define "openbao-sidecar.overlap" -}}
{{- $written := index . 0 -}}
{{- $prefix := index . 2 -}}
{{- range $key, $value := index . 1 -}}
{{- if hasKey $written $key -}}
{{- $own := get $written $key -}}
{{- if and (kindIs "map" $own) (kindIs "map" $value) -}}
{{- include "openbao-sidecar.overlap" (list $own $value (printf "%s%s." $prefix $key)) -}}
{{- else -}}
{{- printf "%s%s\n" $prefix $key -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A Kubernetes quantity as a number. */}}
{{- define "openbao-sidecar.amount" -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[A-Za-z]*$" $text -}}
{{- $of := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- mulf (trimSuffix $unit $text | float64) (get $of $unit) -}}
{{- end -}}
