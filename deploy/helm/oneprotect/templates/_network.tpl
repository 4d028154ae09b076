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

{{/* Peers of a service: its addresses if set, else the pods of its namespace. */}}
{{- define "oneprotect.service" -}}
{{- if .cidrs }}{{ include "oneprotect.blocks" .cidrs }}{{ else }}{{ include "oneprotect.peers" (list .) }}{{ end -}}
{{- end -}}

{{/* Egress of every role: DNS, NATS, and the collector if set. */}}
{{- define "oneprotect.egressToServices" -}}
{{- $policy := .Values.networkPolicy -}}
# DNS
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
# OpenTelemetry collector
- to:
  {{- include "oneprotect.peers" (list $policy.collector) | nindent 2 }}
  ports:
  - {protocol: TCP, port: {{ $policy.collector.port | int64 }}}
{{- end }}
{{- end -}}
