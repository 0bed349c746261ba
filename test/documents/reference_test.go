// SPDX-License-Identifier: Apache-2.0

package documents

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// TestReferenceOfAPI makes docs/reference/api.md from the CRDs, or compares it with them.
func TestReferenceOfAPI(t *testing.T) {
	files, err := filepath.Glob(root + "/manifests/crd/*_*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %d CRDs: %v", len(files), err)
	}
	var page strings.Builder
	page.WriteString("# API\n\n<!-- Made by `make generate` from the comments of ipam/v1alpha1 and speaker/v1alpha1. -->\n\n" +
		"All kinds belong to `tandem-lb.io/v1alpha1` and to the whole cluster: no object has a namespace. `[]` stands for each item of a\n" +
		"list. Conditions have the form of Kubernetes' `metav1.Condition`; [metrics, events and conditions](../reference.md#conditions) has their\n" +
		"types and reasons.\n" +
		"`kubectl explain addresspools.spec` shows the same on the command line.\n\n| kind | `kubectl get` | |\n|---|---|---|\n")
	var kinds []apiextensionsv1.CustomResourceDefinition
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(text, &crd); err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, crd)
		names := crd.Spec.Names
		fmt.Fprintf(&page, "| [%s](#%s) | %s | %s |\n", names.Kind, strings.ToLower(names.Kind),
			strings.Join(append([]string{names.Plural}, names.ShortNames...), ", "), Cell(schema(crd).Description))
	}
	for _, crd := range kinds {
		writeKind(&page, crd)
	}
	Compare(t, root+"/docs/reference/api.md", page.String())
}

func schema(crd apiextensionsv1.CustomResourceDefinition) apiextensionsv1.JSONSchemaProps {
	return *crd.Spec.Versions[0].Schema.OpenAPIV3Schema
}

// writeKind writes the section of a kind: its rules, and a table for each part of it that has fields.
func writeKind(page *strings.Builder, crd apiextensionsv1.CustomResourceDefinition) {
	s := schema(crd)
	fmt.Fprintf(page, "\n## %s\n\n%s\n", crd.Spec.Names.Kind, paragraph(s.Description))
	for _, rule := range append(s.XValidations, s.Properties["spec"].XValidations...) {
		fmt.Fprintf(page, "\n- Refused: %s.", paragraph(rule.Message))
	}
	if len(s.XValidations)+len(s.Properties["spec"].XValidations) > 0 {
		page.WriteString("\n")
	}
	for _, part := range slices.Sorted(maps.Keys(s.Properties)) {
		if slices.Contains([]string{"apiVersion", "kind", "metadata"}, part) {
			continue
		}
		fmt.Fprintf(page, "\n%s\n\n| field | type | default | meaning |\n|---|---|---|---|\n", paragraph(s.Properties[part].Description))
		writeFields(page, part, s.Properties[part])
	}
}

// paragraph is a description as text.
func paragraph(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "<", "&lt;") }

// writeFields writes a row for each field below path, those of objects and lists after the field itself.
func writeFields(page *strings.Builder, path string, parent apiextensionsv1.JSONSchemaProps) {
	for _, name := range slices.Sorted(maps.Keys(parent.Properties)) {
		field := parent.Properties[name]
		byDefault := ""
		switch {
		case slices.Contains(parent.Required, name) && !strings.HasPrefix(path, "status"):
			byDefault = "required"
		case field.Default != nil && string(field.Default.Raw) != "{}":
			byDefault = "`" + strings.Trim(string(field.Default.Raw), `"`) + "`"
		}
		fmt.Fprintf(page, "| `%s.%s` | %s | %s | %s |\n", path, name, typeOf(field), byDefault, Cell(field.Description+validation(field)))
		below, child := path+"."+name, field
		if field.Items != nil {
			below, child = below+"[]", *field.Items.Schema
		}
		if !known(child) {
			writeFields(page, below, child)
		}
	}
}

// known reports whether a type is one of Kubernetes', whose fields need no explanation here.
func known(s apiextensionsv1.JSONSchemaProps) bool { return knownName(s) != "" }

func knownName(s apiextensionsv1.JSONSchemaProps) string {
	has := func(name string) bool { _, ok := s.Properties[name]; return ok }
	switch {
	case has("matchLabels") && has("matchExpressions"):
		return "LabelSelector"
	case has("lastTransitionTime") && has("reason"):
		return "Condition"
	}
	return ""
}

func typeOf(s apiextensionsv1.JSONSchemaProps) string {
	switch {
	case s.Items != nil:
		return "list of " + typeOf(*s.Items.Schema)
	case knownName(s) != "":
		return knownName(s)
	case s.Format == "date-time":
		return "time"
	case s.Type == "string" && slices.ContainsFunc(s.XValidations, func(v apiextensionsv1.ValidationRule) bool {
		return strings.Contains(v.Rule, "duration(self)")
	}):
		return "duration"
	}
	return s.Type
}

// validation says what the schema allows, and in which words the API server refuses the rest. That of a list includes its items.
func validation(s apiextensionsv1.JSONSchemaProps) string {
	rules, refusals := rulesOf(s)
	if s.Items != nil {
		each, more := rulesOf(*s.Items.Schema)
		for _, rule := range each {
			rules = append(rules, "each "+rule)
		}
		refusals = append(refusals, more...)
	}
	text := ""
	if len(rules) > 0 {
		text += " *" + strings.Join(rules, "; ") + ".*"
	}
	if len(refusals) > 0 {
		text += " Refused: *" + strings.Join(refusals, "*, *") + "*."
	}
	return text
}

func rulesOf(s apiextensionsv1.JSONSchemaProps) (rules, refusals []string) {
	between := func(low, high string, what string) {
		switch {
		case low != "" && high != "":
			rules = append(rules, low+" to "+high+what)
		case low != "":
			rules = append(rules, "at least "+low+what)
		case high != "":
			rules = append(rules, "at most "+high+what)
		}
	}
	between(number(s.MinItems), number(s.MaxItems), " items")
	between(number(s.Minimum), number(s.Maximum), "")
	if len(s.Enum) > 0 {
		var values []string
		for _, v := range s.Enum {
			values = append(values, "`"+strings.Trim(string(v.Raw), `"`)+"`")
		}
		rules = append(rules, "one of "+strings.Join(values, ", "))
	}
	if s.Pattern != "" {
		rules = append(rules, "matches `"+s.Pattern+"`")
	}
	for _, rule := range s.XValidations {
		refusals = append(refusals, rule.Message)
	}
	return rules, refusals
}

func number[N int64 | float64](n *N) string {
	if n == nil {
		return ""
	}
	return fmt.Sprintf("%.0f", float64(*n))
}
