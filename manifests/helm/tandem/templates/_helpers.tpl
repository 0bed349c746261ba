{{/* What all labels of a component are made of, and what selects its Pods. */}}
{{- define "tandem.selector" -}}
app.kubernetes.io/name: tandem
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "tandem.labels" -}}
{{ include "tandem.selector" . }}
app.kubernetes.io/part-of: tandem
{{- end }}

{{/* The image of a program: (list $ "speaker" "sha256:…"). */}}
{{- define "tandem.image" -}}
{{- $root := index . 0 }}{{ $program := index . 1 }}{{ $digest := index . 2 -}}
{{ $root.Values.image.registry }}/{{ $program }}{{ if $digest }}@{{ $digest }}{{ else }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Those flags of logs that are not their defaults. */}}
{{- define "tandem.logging" -}}
{{- if ne .Values.logging.format "text" -}}
- --logging-format={{ .Values.logging.format }}
{{ end }}
{{- if .Values.logging.verbosity -}}
- --v={{ .Values.logging.verbosity }}
{{- end }}
{{- end }}

{{/* The roles that `make generate` makes from the code, as a JSON list: (list $ "speaker"). Where nothing is written on Nodes,
     the role to do so is left out. */}}
{{- define "tandem.roles" -}}
{{- $root := index . 0 }}{{ $component := index . 1 }}{{ $roles := list }}
{{- range splitList "---\n" ($root.Files.Get (printf "rbac/%s/role.yaml" $component)) }}
{{- $role := fromYaml . }}
{{- if and $role (not (and (eq $root.Values.mode "services") (hasSuffix "-nodes" $role.metadata.name))) }}
{{- if eq $role.kind "Role" }}{{ $_ := set $role.metadata "namespace" $root.Release.Namespace }}{{ end }}
{{- $_ := set $role.metadata "labels" (fromYaml (include "tandem.labels" $component)) }}
{{- $roles = append $roles $role }}
{{- end }}
{{- end }}
{{- toJson $roles }}
{{- end }}
