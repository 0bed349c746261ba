{{/* The labels by which the Pods of a component are selected. */}}
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

{{/* The flags of logging whose values are not the defaults. */}}
{{- define "tandem.logging" -}}
{{- if ne .Values.logging.format "text" -}}
- --logging-format={{ .Values.logging.format }}
{{ end }}
{{- if .Values.logging.verbosity -}}
- --v={{ .Values.logging.verbosity }}
{{- end }}
{{- end }}

{{- define "tandem.secretsNamespace" -}}
{{ .Values.secretsNamespace | default .Release.Namespace }}
{{- end }}

{{/* Nine tenths of the memory limit of a container's resources, in bytes; nothing where there is no limit. The schema lets in what this reads. */}}
{{- define "tandem.memoryLimit" -}}
{{- $limit := dig "limits" "memory" "" . | toString }}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 }}
{{- $unit := get $units (regexReplaceAll "^[0-9]+" $limit "") }}
{{- if $limit }}{{ div (mul (regexFind "^[0-9]+" $limit | int64) $unit 9) 10 }}{{ end }}
{{- end }}

{{/* The objects of a file that kustomize installs too, in the namespace of the release, as a JSON list: (list $ "monitoring/rules/rules.yaml"). */}}
{{- define "tandem.objects" -}}
{{- $root := index . 0 }}{{ $objects := list }}
{{- range splitList "---\n" ($root.Files.Get (index . 1)) }}
{{- with fromYaml . }}
{{- range prepend (.subjects | default list) .metadata }}
{{- if .namespace }}{{ $_ := set . "namespace" $root.Release.Namespace }}{{ end }}
{{- end }}
{{- $objects = append $objects . }}
{{- end }}
{{- end }}
{{- toJson $objects }}
{{- end }}

{{/* The roles that `make generate` makes from the code, as a JSON list: (list $ "speaker"). Where nothing is written on Nodes,
     the role to do so is left out. */}}
{{- define "tandem.roles" -}}
{{- $root := index . 0 }}{{ $component := index . 1 }}{{ $roles := list }}
{{- range splitList "---\n" ($root.Files.Get (printf "rbac/%s/role.yaml" $component)) }}
{{- $role := fromYaml . }}
{{- if and $role (not (and (eq $root.Values.mode "services") (hasSuffix "-nodes" $role.metadata.name))) }}
{{- if eq $role.kind "Role" }}
{{- $namespace := ternary (include "tandem.secretsNamespace" $root) $root.Release.Namespace (hasSuffix "-secrets" $role.metadata.name) }}
{{- $_ := set $role.metadata "namespace" $namespace }}
{{- end }}
{{- $_ := set $role.metadata "labels" (fromYaml (include "tandem.labels" $component)) }}
{{- $roles = append $roles $role }}
{{- end }}
{{- end }}
{{- toJson $roles }}
{{- end }}
