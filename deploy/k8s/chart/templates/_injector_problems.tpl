{{/* What is wrong with the injector's values, one a line; the injector has the last word when it starts. */}}
{{- define "openbao-sidecar.injectorProblems" -}}
{{- $ops := .Values.ops -}}
{{- $found := list -}}
{{- range $key, $given := dict "example.enabled" .Values.example.enabled "gateway.enabled" .Values.gateway.enabled -}}
{{- if $given -}}
{{- $found = append $found (printf "%s: a release is either the injector, a gateway or beside an application → make two releases" $key) -}}
{{- end -}}
{{- end -}}
{{- if .Values.policies -}}
{{- $found = append $found "policies: are each namespace's own → make ConfigMaps there and name them in injector.namespaces" -}}
{{- end -}}
{{- if $ops.identity.pod.enabled -}}
{{- $found = append $found "ops.identity.pod.enabled: is set by the injector, and each pod's annotation → leave it out" -}}
{{- end -}}
{{- with $ops.upstream.auth -}}
{{- if not (has .method (list "kubernetes" "jwt")) -}}
{{- $found = append $found "ops.upstream.auth.method: the injector's sidecars log in by their pods' own tokens → set kubernetes or jwt" -}}
{{- end -}}
{{- if eq .mode "passthrough" -}}
{{- $found = append $found "ops.upstream.auth.mode: passthrough leaves OpenBao tokens with applications → set broker or exchange" -}}
{{- end -}}
{{- end -}}
{{- range $path := list "upstream.auth.lease_role" "upstream.mounts_max_age_seconds" "listen.tls.client_crl_file" -}}
{{- $node := $ops.extraConfig -}}
{{- range splitList "." $path }}{{ $node = default "" (dig . "" (ternary $node dict (kindIs "map" $node))) }}{{ end -}}
{{- if $node -}}
{{- $found = append $found (printf "ops.extraConfig.%s: is not for the injector's sidecars → remove it" $path) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.injector.nativeSidecars "always") (not (include "openbao-sidecar.native" .)) -}}
{{- $found = append $found (printf "injector.nativeSidecars: Kubernetes %s has none, and no pod would start → set auto or never" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if gt (int64 .Values.sidecar.drainSeconds) 600 -}}
{{- $found = append $found "sidecar.drainSeconds: is more than the injector adds to a pod's grace period → make it at most 600" -}}
{{- end -}}
{{- if not .Values.injector.namespaces -}}
{{- $found = append $found "injector.namespaces: is empty, no pod would get a sidecar → name at least one namespace" -}}
{{- end -}}
{{- range $namespace, $allowed := .Values.injector.namespaces -}}
{{- $key := printf "injector.namespaces.%s" $namespace -}}
{{- if eq $namespace $.Release.Namespace -}}
{{- $found = append $found (printf "%s: is the injector's own, which waits for nobody → remove it, or install elsewhere" $key) -}}
{{- end -}}
{{- if and (include "openbao-sidecar.cedar" $) (not $allowed.policiesConfigMap) -}}
{{- $found = append $found (printf "%s.policiesConfigMap: is missing, and Cedar decides → name a ConfigMap with *.cedar in that namespace" $key) -}}
{{- end -}}
{{- $seen := list -}}
{{- range $index, $tenant := default (list dict) $allowed.tenants -}}
{{- $here := printf "%s.tenants[%d]" $key $index -}}
{{- $id := default $ops.tenant.id $tenant.id -}}
{{- if not $id -}}
{{- $found = append $found (printf "%s.id: is missing → name the tenant here, or in ops.tenant.id" $here) -}}
{{- end -}}
{{- if has $id $seen -}}
{{- $found = append $found (printf "%s.id: stands twice → remove one" $here) -}}
{{- end -}}
{{- $seen = append $seen $id -}}
{{- $mounts := default $ops.tenant.allowedMounts $tenant.allowedMounts -}}
{{- if not $mounts -}}
{{- $found = append $found (printf "%s.allowedMounts: is missing → name the tenant's mounts here, or in ops.tenant.allowedMounts" $here) -}}
{{- end -}}
{{- range $mounts -}}
{{- if not (regexMatch "^[A-Za-z0-9_][A-Za-z0-9_.@-]*(/[A-Za-z0-9_][A-Za-z0-9_.@-]*)*$" .) -}}
{{- $found = append $found (printf "%s.allowedMounts: %q is not a mount → write it in one spelling, without a slash at its ends" $here .) -}}
{{- end -}}
{{- end -}}
{{- $roles := default (compact (list $ops.upstream.auth.role)) $tenant.roles -}}
{{- if not $roles -}}
{{- $found = append $found (printf "%s.roles: is missing → name OpenBao's roles here, or one in ops.upstream.auth.role" $here) -}}
{{- end -}}
{{- range $roles -}}
{{- if not (regexMatch "^[A-Za-z0-9_][A-Za-z0-9_.@/-]*$" .) -}}
{{- $found = append $found (printf "%s.roles: %q is not a plain name → use letters, digits, . _ - @ /" $here .) -}}
{{- end -}}
{{- end -}}
{{- if not (default $ops.tenant.saltSecret $tenant.saltSecret).name -}}
{{- $found = append $found (printf "%s.saltSecret.name: is missing → name a Secret of that namespace here, or in ops.tenant.saltSecret" $here) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- join "\n" $found -}}
{{- end -}}
