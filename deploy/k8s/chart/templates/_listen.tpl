{{/*
Where callers connect. Beside an application: on loopback, in plain HTTP, since nothing leaves the pod. As a gateway:
on the pod's address, by TLS only, under the names that callers use and their proofs are made for.
*/}}
{{- define "openbao-sidecar.listen" -}}
{{- $listen := dict "address" "127.0.0.1:8200" -}}
{{- with .Values.gateway -}}
{{- if .enabled -}}
{{- $tls := dict
  "cert_file" "/run/sidecar/listener/tls.crt"
  "key_file" "/run/sidecar/listener/tls.key"
  "client_cert" .tls.clientCert
-}}
{{- if .tls.clientCaConfigMap }}{{ $_ := set $tls "client_ca_file" "/run/sidecar/listener/ca.crt" }}{{ end -}}
{{- $listen = dict
  "address" (printf "%s:8200" (trimSuffix ":9102" $.Values.sidecar.operationsAddress))
  "public_urls" .publicUrls
  "tls" $tls
-}}
{{- end -}}
{{- end -}}
{{- toYaml $listen -}}
{{- end -}}
