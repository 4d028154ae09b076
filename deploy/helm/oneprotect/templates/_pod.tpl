{{/* Pod settings of the security standard "restricted". Files of volumes belong to the group of the pod's user. */}}
{{- define "oneprotect.podSecurity" -}}
enableServiceLinks: false  # service variables are unknown settings, which stop the program
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "oneprotect.containerSecurity" -}}
image: {{ include "oneprotect.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  readOnlyRootFilesystem: true
{{- end -}}

{{/* Node placement of a role's pods. Argument: the role's values. */}}
{{- define "oneprotect.scheduling" -}}
{{- $set := dict }}
{{- range $name, $value := pick . "priorityClassName" "nodeSelector" "tolerations" }}{{ if $value }}{{ $_ := set $set $name $value }}{{ end }}{{ end }}
{{- with $set }}{{ toYaml . }}{{ end }}
{{- end -}}

{{/* Spreads pods over nodes and zones. Arguments: (root, component). */}}
{{- define "oneprotect.spread" -}}
{{- $root := . -}}
topologySpreadConstraints:
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- topologyKey: {{ . }}
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "oneprotect.selector" $root | nindent 6 }}
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end -}}

{{/* Settings of a role. The NATS user may subscribe to the inbox prefix only; `apply` uses the operator's. Arguments: (root, component). */}}
{{- define "oneprotect.env" -}}
{{- $values := (index . 0).Values -}}
{{- $role := index . 1 -}}
{{- $env := dict
  "ONEPROTECT_NATS_URL" $values.nats.url
  "ONEPROTECT_NATS_INBOX_PREFIX" (printf "_INBOX_%s" (ternary "operator" $role (eq $role "apply")))
  "ONEPROTECT_NATS_REPLICAS" ($values.nats.replicas | int64)
  "ONEPROTECT_WORK_PER_DESTINATION" ($values.nats.workPerDestination | int64)
  "ONEPROTECT_SECRET_NAMESPACE" $values.secrets.namespace
  "ONEPROTECT_EGRESS_PORTS" (join "," $values.egress.ports)
  "ONEPROTECT_EGRESS_ALLOW_HTTP" $values.egress.allowHttp -}}
{{- if not $values.nats.allowAnonymous -}}
{{- $_ := set $env (printf "ONEPROTECT_NATS_%s_FILE" (upper $values.nats.credentialsKind)) "/etc/oneprotect/nats/credentials" -}}
{{- end -}}
{{- if $values.nats.ca.name }}{{ $_ := set $env "ONEPROTECT_NATS_CA_FILE" "/etc/oneprotect/nats-ca/ca.crt" }}{{ end -}}
{{- with $values.secrets.additionalNamespaces }}
{{- $names := list }}{{ range . }}{{ $names = append $names .namespace }}{{ end -}}
{{- $_ := set $env "ONEPROTECT_SECRET_NAMESPACES_ALLOWED" (join "," $names) -}}
{{- end -}}
{{- with $values.egress.allowCidrs }}{{ $_ := set $env "ONEPROTECT_EGRESS_ALLOW_CIDRS" (join "," .) }}{{ end -}}
{{- if eq $role "consumer" -}}
{{- $_ := set $env "ONEPROTECT_SECRET_PROVIDER" $values.secrets.provider -}}
{{- $_ := set $env "ONEPROTECT_SECRET_CACHE_TTL_S" ($values.secrets.cacheTtlSeconds | int64) -}}
{{- $_ := set $env "ONEPROTECT_SECRET_MAX_STALE_S" ($values.secrets.maxStaleSeconds | int64) -}}
{{- $_ := set $env "ONEPROTECT_MAX_IN_FLIGHT" ($values.consumer.maxInFlight | int64) -}}
{{- $_ := set $env "ONEPROTECT_DRAIN_TIMEOUT_S" ($values.consumer.drainTimeoutSeconds | int64) -}}
{{- $_ := set $env "ONEPROTECT_OPS_HOST" "0.0.0.0" -}}
{{- $_ := set $env "ONEPROTECT_OPS_PORT" "9090" -}}
{{- $_ := set $env "ONEPROTECT_STATE_DIR" "/tmp/oneprotect" -}}
{{- with $values.egress.proxy }}{{ $_ := set $env "ONEPROTECT_EGRESS_PROXY" . }}{{ end -}}
{{- if $values.egress.ca.name }}{{ $_ := set $env "ONEPROTECT_EGRESS_CA_FILE" "/etc/oneprotect/egress-ca/ca.crt" }}{{ end -}}
{{- else if eq $role "api" -}}
{{- $_ := set $env "ONEPROTECT_API_HOST" "0.0.0.0" -}}
{{- $_ := set $env "ONEPROTECT_API_PORT" "8080" -}}
{{- if $values.api.issuerCa.name }}{{ $_ := set $env "ONEPROTECT_OIDC_CA_FILE" "/etc/oneprotect/issuer-ca/ca.crt" }}{{ end -}}
{{- end -}}
env:
{{- range $name, $value := mergeOverwrite (dict) $values.settings $values.telemetry $env }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end -}}

{{- define "oneprotect.mounts" -}}
{{- $values := (index . 0).Values -}}
volumeMounts:
- {name: tmp, mountPath: /tmp}
{{- if not $values.nats.allowAnonymous }}
- {name: nats-credentials, mountPath: /etc/oneprotect/nats, readOnly: true}
{{- end }}
{{- if $values.nats.ca.name }}
- {name: nats-ca, mountPath: /etc/oneprotect/nats-ca, readOnly: true}
{{- end }}
{{- if eq (index . 1) "consumer" }}
{{- if $values.egress.ca.name }}
- {name: egress-ca, mountPath: /etc/oneprotect/egress-ca, readOnly: true}
{{- end }}
- {name: api-server-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- else if and (eq (index . 1) "api") $values.api.issuerCa.name }}
- {name: issuer-ca, mountPath: /etc/oneprotect/issuer-ca, readOnly: true}
{{- end }}
{{- end -}}

{{/* Volumes. Arguments: (root, component). 256 is 0400; with `fsGroup` the kubelet also lets the group read. */}}
{{- define "oneprotect.volumes" -}}
{{- $values := (index . 0).Values -}}
{{- $role := index . 1 -}}
volumes:
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- if not $values.nats.allowAnonymous }}
{{- $credentials := index $values.nats.credentials $role }}
- name: nats-credentials
  secret:
    secretName: {{ $credentials.secretName | quote }}
    defaultMode: 256
    items:
    - {key: {{ $credentials.key | quote }}, path: credentials}
{{- end }}
{{- if $values.nats.ca.name }}
{{ include "oneprotect.certificates" (dict "volume" "nats-ca" "from" $values.nats.ca) }}
{{- end }}
{{- if eq $role "consumer" }}
{{- if $values.egress.ca.name }}
{{ include "oneprotect.certificates" (dict "volume" "egress-ca" "from" $values.egress.ca) }}
{{- end }}
- name: api-server-token
  projected:
    defaultMode: 288  # 0440
    sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3600}
    - configMap:
        name: kube-root-ca.crt
        items:
        - {key: ca.crt, path: ca.crt}
    - downwardAPI:
        items:
        - path: namespace
          fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}
{{- else if and (eq $role "api") $values.api.issuerCa.name }}
{{ include "oneprotect.certificates" (dict "volume" "issuer-ca" "from" $values.api.issuerCa) }}
{{- end }}
{{- end -}}

{{- define "oneprotect.certificates" -}}
- name: {{ .volume }}
{{- if eq .from.kind "Secret" }}
  secret:
    secretName: {{ .from.name | quote }}
    defaultMode: 256
{{- else }}
  configMap:
    name: {{ .from.name | quote }}
    defaultMode: 292  # 0444
{{- end }}
    items:
    - {key: {{ .from.key | quote }}, path: ca.crt}
{{- end -}}

{{/* Probes. Liveness checks the process; readiness also checks dependencies, so an outage restarts no pod. Argument: the port's name. */}}
{{- define "oneprotect.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 2
  failureThreshold: 45
livenessProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ . }}}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 3
{{- end -}}
