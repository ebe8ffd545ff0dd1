{{/* Registry and path of the images. */}}
{{- define "kubectl-serve.registry" -}}
{{- .Values.image.registry -}}
{{- end }}

{{/* An image of kubectl-serve: (list . NAME IMAGE). IMAGE replaces it, if it is not empty. */}}
{{- define "kubectl-serve.image" -}}
{{- $root := index . 0 -}}
{{- $tag := $root.Values.image.tag | default $root.Chart.AppVersion -}}
{{- index . 2 | default (printf "%s/%s:%s" $root.Values.image.registry (index . 1) $tag) -}}
{{- end }}

{{/* The server's settings, with the images of the loader. */}}
{{- define "kubectl-serve.settings" -}}
{{- $loader := include "kubectl-serve.image" (list . "model-loader" "") -}}
{{- $images := dict "image" $loader "signingImage" (printf "%s-signing" $loader) -}}
{{- toYaml (mergeOverwrite (dict "loader" $images) (deepCopy .Values.settings)) -}}
{{- end }}

{{/* The Secret with a certificate that the server does not make itself; empty if there is none. */}}
{{- define "kubectl-serve.certificate" -}}
{{- if .Values.certificates.certManager.enabled -}}
kubectl-serve-tls
{{- else -}}
{{- .Values.certificates.secret -}}
{{- end -}}
{{- end }}
