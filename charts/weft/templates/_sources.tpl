{{- /* What of settings.sources goes together, which a schema could refuse but not say: no pod would start with it, or
none would find its files. */ -}}
{{- define "weft.checkSources" -}}
{{- $mounts := default list .Values.extraVolumeMounts }}
{{- range $name, $source := default dict (default dict .Values.settings).sources }}
{{- $at := printf "settings.sources.%s" $name }}
{{- $signsIn := or $source.bearer_token_file $source.basic_auth }}
{{- if and $source.bearer_token_file $source.basic_auth }}
{{- fail (printf "%s: bearer_token_file and basic_auth: set one of them" $at) }}
{{- end }}
{{- range $header, $_ := default dict $source.headers }}
{{- if and $signsIn (eq (lower $header) "authorization") }}
{{- fail (printf "%s.headers: Authorization is set by bearer_token_file or basic_auth already" $at) }}
{{- end }}
{{- end }}
{{- if and $source.key_file (not $source.certificate_file) }}
{{- fail (printf "%s.key_file: needs certificate_file" $at) }}
{{- end }}
{{- if and (or $source.ca_file $source.certificate_file) (not (hasPrefix "https://" $source.url)) }}
{{- fail (printf "%s.url: has to begin with https:// where certificates are set" $at) }}
{{- end }}
{{- range list $source.bearer_token_file (default dict $source.basic_auth).password_file $source.ca_file $source.certificate_file $source.key_file }}
{{- $file := default "" . }}
{{- if hasPrefix "/etc/weft-secrets/" $file }}
{{- $secret := index (splitList "/" $file) 3 }}
{{- $found := has $secret (default list $.Values.mountedSecrets) }}
{{- range $mounts }}{{- if hasPrefix .mountPath $file }}{{- $found = true }}{{- end }}{{- end }}
{{- if not $found }}
{{- fail (printf "%s: %s is of the Secret %s, which mountedSecrets does not name" $at $file $secret) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
