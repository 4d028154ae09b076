{{- define "oneprotect.peers" -}}
{{- range $index, $peer := . }}
{{- if $index }}{{ "\n" }}{{ end -}}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ $peer.namespace | quote }}
  {{- with $peer.podLabels }}
  podSelector:
    matchLabels:
      {{- include "oneprotect.quoted" . | nindent 6 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "oneprotect.blocks" -}}
{{- range $index, $cidr := . }}
{{- if $index }}{{ "\n" }}{{ end -}}
- ipBlock: {cidr: {{ $cidr | quote }}}
{{- end }}
{{- end -}}

{{/* Where a service is: at its addresses if they are told, else in its namespace. */}}
{{- define "oneprotect.service" -}}
{{- if .cidrs }}{{ include "oneprotect.blocks" .cidrs }}{{ else }}{{ include "oneprotect.peers" (list .) }}{{ end -}}
{{- end -}}

{{/* What every role may ask: names, NATS, and the collector if there is one. */}}
{{- define "oneprotect.egressToServices" -}}
{{- $policy := .Values.networkPolicy -}}
# names
- to:
  {{- include "oneprotect.peers" (list $policy.dns) | nindent 2 }}
  {{- with $policy.dns.cidrs }}{{ include "oneprotect.blocks" . | nindent 2 }}{{ end }}
  ports:
  - {protocol: UDP, port: 53}
  - {protocol: TCP, port: 53}
# NATS
- to:
  {{- include "oneprotect.service" $policy.nats | nindent 2 }}
  ports:
  - {protocol: TCP, port: {{ include "oneprotect.natsPort" . }}}
{{- if $policy.collector.namespace }}
# telemetry
- to:
  {{- include "oneprotect.peers" (list $policy.collector) | nindent 2 }}
  ports:
  - {protocol: TCP, port: {{ $policy.collector.port | int64 }}}
{{- end }}
{{- end -}}
