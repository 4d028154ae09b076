{{- define "oneprotect.name" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end -}}

{{/* At most 40 characters, so that a label still has room for a suffix. */}}
{{- define "oneprotect.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := include "oneprotect.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "oneprotect.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Map as YAML with every value in quotes: `y`, `true`, `42` and dates stay strings. */}}
{{- define "oneprotect.quoted" -}}
{{- $lines := list -}}
{{- range $key, $value := . }}{{ $lines = append $lines (printf "%s: %s" ($key | quote) ($value | toString | quote)) }}{{ end -}}
{{- join "\n" $lines -}}
{{- end -}}

{{/* Selector of the pods of one component, or of all. Arguments: (root, component or ""). */}}
{{- define "oneprotect.selector" -}}
{{- $root := index . 0 -}}
{{- $labels := dict "app.kubernetes.io/name" (include "oneprotect.name" $root) "app.kubernetes.io/instance" $root.Release.Name -}}
{{- with index . 1 }}{{ $_ := set $labels "app.kubernetes.io/component" . }}{{ end -}}
{{- include "oneprotect.quoted" $labels -}}
{{- end -}}

{{/* Labels of an object. Arguments: (root, component or ""). The chart's labels win over those of the values, because they select. */}}
{{- define "oneprotect.labels" -}}
{{- $root := index . 0 -}}
{{- $labels := dict
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_")
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service
  "app.kubernetes.io/part-of" "oneprotect" -}}
{{- include "oneprotect.quoted" (mergeOverwrite (dict) $root.Values.commonLabels $labels (fromYaml (include "oneprotect.selector" .))) -}}
{{- end -}}

{{/* Labels of a role's pods. Arguments: (root, component, labels of the values). */}}
{{- define "oneprotect.podLabels" -}}
{{- include "oneprotect.quoted" (mergeOverwrite (dict) (index . 2) (fromYaml (include "oneprotect.labels" .))) -}}
{{- end -}}

{{/* Port of NATS, from the URL. */}}
{{- define "oneprotect.natsPort" -}}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" .Values.nats.url) | default "4222" -}}
{{- end -}}
