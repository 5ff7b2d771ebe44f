{{/* Names. Cluster-scoped objects have the release's full name too, so that two releases do not share any. */}}

{{- define "weft.name" -}}
{{- include "weft.short" (default .Chart.Name .Values.nameOverride) -}}
{{- end -}}

{{- define "weft.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- include "weft.short" .Values.fullnameOverride -}}
{{- else if contains (include "weft.name" .) .Release.Name -}}
{{- include "weft.short" .Release.Name -}}
{{- else -}}
{{- include "weft.short" (printf "%s-%s" .Release.Name (include "weft.name" .)) -}}
{{- end -}}
{{- end -}}

{{/*
Short enough for the longest suffix, -uninstall-check, in a label of 63 characters. Releases may have dots in their
names, Services may not.
*/}}
{{- define "weft.short" -}}
{{- regexReplaceAll "-+$" (. | replace "." "-" | trunc 40) "" -}}
{{- end -}}

{{- define "weft.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "weft.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "weft.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}
