{{/*
The whole configuration, as YAML: the value `config` with what follows from the other values. A key that `config` sets
is never replaced.
*/}}
{{- define "mongate.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if not $config.upstream -}}
{{- fail "config.upstream: is missing; set at least one upstream, as in config.upstream.orders.address=mongo.db:27017" -}}
{{- end -}}
{{- if eq .Values.form "sidecar" -}}
{{- /* One thread for each core of the node would be too many for one application. */ -}}
{{- $config = mergeOverwrite (dict "workers" 2) $config -}}
{{- else -}}
{{- /* Endpoints of a Service are removed with a delay, so the port stays open for a while after SIGTERM. */ -}}
{{- $config = mergeOverwrite (dict "shutdown" (dict "delay" "10s")) $config -}}
{{- end -}}
{{- $admin := ternary "127.0.0.1:9717" "0.0.0.0:9717" (eq (include "mongate.probes" .) "exec") -}}
{{- $config = mergeOverwrite (dict "admin" (dict "address" $admin) "log" (dict "format" "json")) $config -}}
{{- $upstreams := dict -}}
{{- range $name, $upstream := $config.upstream -}}
{{- $defaults := dict "tls" (include "mongate.certificatePaths" (list $ "upstream") | fromYaml) -}}
{{- if or (dig "tls" "certificate_file" "" $upstream) (dig "tls" "spiffe_socket" "" $upstream) -}}
{{- $defaults = dict -}}
{{- end -}}
{{- $_ := set $upstreams $name (mergeOverwrite $defaults $upstream) -}}
{{- end -}}
{{- $_ := set $config "upstream" $upstreams -}}
{{- if not $config.listener -}}
{{- if ne (len $upstreams) 1 -}}
{{- fail "config.listener: is missing; with several upstreams, set one listener for each of them" -}}
{{- end -}}
{{- $_ := set $config "listener" (dict (keys $upstreams | first) dict) -}}
{{- end -}}
{{- range $name, $listener := $config.listener -}}
{{- $_ := set $config.listener $name (include "mongate.listener" (list $ $upstreams $listener) | fromYaml) -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* One listener with its defaults. Takes the context, the upstreams, and the listener. */}}
{{- define "mongate.listener" -}}
{{- $context := index . 0 -}}
{{- $upstreams := index . 1 -}}
{{- $listener := index . 2 -}}
{{- $isSidecar := eq $context.Values.form "sidecar" -}}
{{- $defaults := dict "address" (ternary "127.0.0.1:27017" "0.0.0.0:27017" $isSidecar) -}}
{{- if eq (len $upstreams) 1 -}}
{{- $_ := set $defaults "upstream" (keys $upstreams | first) -}}
{{- end -}}
{{- $listener = mergeOverwrite $defaults $listener -}}
{{- if and (ne (default "plaintext" $listener.mode) "plaintext") (not (dig "tls" "certificate_file" "" $listener)) -}}
{{- $tls := include "mongate.certificatePaths" (list $context "listener") | fromYaml -}}
{{- $listener = mergeOverwrite (dict "tls" $tls) $listener -}}
{{- end -}}
{{- $isLocal := or (hasPrefix "127." $listener.address) (hasPrefix "[::1]" $listener.address) (hasPrefix "unix:" $listener.address) -}}
{{- if not (or $isLocal (eq (default "plaintext" $listener.mode) "strict") $listener.allow_remote_plaintext) -}}
{{- fail "config.listener: would accept unencrypted traffic from other pods; set mode: strict with certificates.listener, or allow_remote_plaintext: true if the network is protected by other means" -}}
{{- end -}}
{{- $upstream := default dict (get $upstreams (default "" $listener.upstream)) -}}
{{- $showsMembers := eq (default "members" $listener.topology) "members" -}}
{{- if and (not $isSidecar) $showsMembers (not (or $listener.intercept (hasPrefix "unix:" $listener.address))) (or $upstream.members $upstream.srv) -}}
{{- /* All gateways behind the Service must have the same port for the same member. */ -}}
{{- if $upstream.srv -}}
{{- if not $listener.member_addresses -}}
{{- fail "config.listener: an upstream with srv needs member_addresses or topology: load_balanced behind a Service" -}}
{{- end -}}
{{- else if not (or $listener.member_addresses $listener.member_ports) -}}
{{- $host := regexReplaceAll ":[0-9]+$" $listener.address "" -}}
{{- $port := regexFind "[0-9]+$" $listener.address | int -}}
{{- $addresses := dict -}}
{{- range $place, $member := $upstream.members -}}
{{- $_ := set $addresses $member (printf "%s:%d" $host (add $port $place)) -}}
{{- end -}}
{{- $_ := set $listener "member_addresses" $addresses -}}
{{- end -}}
{{- if not $listener.advertise -}}
{{- $_ := set $listener "advertise" (include "mongate.serviceHost" $context) -}}
{{- end -}}
{{- end -}}
{{- toYaml $listener -}}
{{- end -}}

{{/* TOML of a table. Takes the path of the table as a list, and the table. Keys with the value null are left out. */}}
{{- define "mongate.toml" -}}
{{- $path := index . 0 -}}
{{- $table := index . 1 -}}
{{- range $key, $value := $table -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{- /* YAML reads off as false. These keys have the text "off", and no booleans. */}}
{{- $hasOff := has $key (list "half_close_timeout" "idle_timeout" "max_lifetime" "mode" "ocsp" "proxy_protocol"
    "send_proxy" "tcp_keepalive") }}
{{- if and $hasOff (kindIs "bool" $value) (not $value) }}{{ $value = "off" }}{{ end }}
{{ include "mongate.tomlKey" $key }} = {{ include "mongate.tomlValue" $value }}
{{- end -}}
{{- end -}}
{{- range $key, $value := $table -}}
{{- if kindIs "map" $value -}}
{{- $inner := append $path (include "mongate.tomlKey" $key) }}

[{{ join "." $inner }}]
{{- include "mongate.toml" (list $inner $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mongate.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end -}}

{{/* JSON's strings are strings of TOML. Numbers of values are floating-point numbers, and mongate has whole ones. */}}
{{- define "mongate.tomlValue" -}}
{{- if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . -}}
{{- $items = append $items (include "mongate.tomlValue" .) -}}
{{- end -}}
[{{ join ", " $items }}]
{{- else if kindIs "map" . -}}
{{- $items := list -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $items = append $items (printf "%s = %s" (include "mongate.tomlKey" $key) (include "mongate.tomlValue" $value)) -}}
{{- end -}}
{{- end -}}
{ {{- join ", " $items -}} }
{{- else if kindIs "float64" . -}}
{{- /* The only values with a fraction are those of min_version, which are texts. */ -}}
{{- if eq (floor .) . }}{{ int64 . }}{{ else }}{{ toString . | toJson }}{{ end -}}
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end -}}

{{/* config.toml. */}}
{{- define "mongate.configFile" -}}
# Made by the chart {{ .Chart.Name }}. docs/configuration.md explains the keys.
{{ include "mongate.toml" (list list (include "mongate.config" . | fromYaml)) | trim }}
{{ end -}}

{{/*
Changes when pods must restart: with the whole configuration except the policy, which mongate reloads by itself, as it
does with certificates.
*/}}
{{- define "mongate.checksum" -}}
{{- omit (include "mongate.config" . | fromYaml) "policy" | toJson | sha256sum -}}
{{- end -}}

{{/* The ports of all listeners except those on unix domain sockets, in order, as a YAML list under `ports`. */}}
{{- define "mongate.ports" -}}
{{- $ports := dict -}}
{{- $config := include "mongate.config" . | fromYaml -}}
{{- range $name, $listener := $config.listener -}}
{{- $upstream := default dict (get $config.upstream (default "" $listener.upstream)) -}}
{{- $showsMembers := and (or $upstream.members $upstream.srv) (eq (default "members" $listener.topology) "members") -}}
{{- if not (hasPrefix "unix:" $listener.address) -}}
{{- $first := regexFind "[0-9]+$" $listener.address | int -}}
{{- $last := $first -}}
{{- if and $showsMembers (not $listener.member_addresses) (not $listener.intercept) -}}
{{- $last = default (add $first 6) (regexFind "[0-9]+$" (default "" $listener.member_ports)) | int -}}
{{- end -}}
{{- range untilStep $first (int (add $last 1)) 1 -}}
{{- $_ := set $ports (printf "%05d" .) . -}}
{{- end -}}
{{- end -}}
{{- range $listener.member_addresses -}}
{{- if not (hasPrefix "unix:" .) -}}
{{- $port := regexFind "[0-9]+$" . | int -}}
{{- $_ := set $ports (printf "%05d" $port) $port -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- dict "ports" (values $ports | sortAlpha) | toYaml -}}
{{- end -}}

{{/* exec or http. */}}
{{- define "mongate.probes" -}}
{{- default (ternary "exec" "http" (eq .Values.form "sidecar")) .Values.probes -}}
{{- end -}}

{{/* Not empty if only the pod itself can reach the administration port. */}}
{{- define "mongate.adminIsLocal" -}}
{{- regexFind "^(127[.]|\\[::1\\])" (include "mongate.config" . | fromYaml).admin.address -}}
{{- end -}}

{{- define "mongate.adminPort" -}}
{{- $address := (include "mongate.config" . | fromYaml).admin.address -}}
{{- regexFind "[0-9]+$" $address -}}
{{- end -}}

{{/* The address at which a process in the pod reaches the administration port. */}}
{{- define "mongate.adminFromInside" -}}
{{- $address := (include "mongate.config" . | fromYaml).admin.address -}}
{{- $address | replace "0.0.0.0:" "127.0.0.1:" | replace "[::]:" "[::1]:" -}}
{{- end -}}

{{/* Whole seconds of a duration of mongate, as in "1min 30s", rounded up. */}}
{{- define "mongate.seconds" -}}
{{- $milliseconds := 0 -}}
{{- range regexFindAll "[0-9]+ *[a-z]+" . -1 -}}
{{- $number := regexFind "[0-9]+" . | int64 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $factor := 0 -}}
{{- if has $unit (list "ms" "msec" "millis") -}}{{- $factor = 1 -}}
{{- else if has $unit (list "s" "sec" "secs" "second" "seconds") -}}{{- $factor = 1000 -}}
{{- else if has $unit (list "m" "min" "mins" "minute" "minutes") -}}{{- $factor = 60000 -}}
{{- else if has $unit (list "h" "hr" "hrs" "hour" "hours") -}}{{- $factor = 3600000 -}}
{{- else if not (has $unit (list "ns" "nsec" "nanos" "us" "usec" "micros")) -}}
{{- fail (printf "terminationGracePeriodSeconds: set it, because the chart does not know the unit %s" $unit) -}}
{{- end -}}
{{- $milliseconds = add $milliseconds (mul $number $factor) -}}
{{- end -}}
{{- div (add $milliseconds 999) 1000 -}}
{{- end -}}

{{/* Seconds from SIGTERM to the end of the drain, and a few more. */}}
{{- define "mongate.gracePeriod" -}}
{{- if .Values.terminationGracePeriodSeconds -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- else -}}
{{- $config := include "mongate.config" . | fromYaml -}}
{{- $drain := include "mongate.seconds" (default "30s" $config.drain_timeout) | int -}}
{{- $delay := include "mongate.seconds" (dig "shutdown" "delay" "0s" $config) | int -}}
{{- $drains := ternary 2 1 (dig "shutdown" "wait_for_clients" false $config) -}}
{{- add $delay (mul $drains $drain) 10 -}}
{{- end -}}
{{- end -}}
