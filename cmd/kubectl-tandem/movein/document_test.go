// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"slices"
	"strings"
	"testing"
)

// TestCommands: a patch has the commands that make it, which take whatever stands in the input for words.
func TestCommands(t *testing.T) {
	document := func(name, note string, spec map[string]any) Document {
		o := map[string]any{"kind": "Service", "metadata": map[string]any{"namespace": "shop", "name": name, "annotations": map[string]string{"a": note}}}
		if spec != nil {
			o["spec"] = spec
		}
		return Document{Object: o, From: "Service shop/web"}
	}
	for _, tt := range []struct {
		name     string
		document Document
		want     []string
	}{
		{"annotations", document("web", "1", nil), []string{`kubectl patch service -n shop web --type merge -p '{"metadata":{"annotations":{"a":"1"}}}'`}},
		{"quotes and lines", document("$(a)", "it's\n2", nil), []string{
			`kubectl patch service -n shop '$(a)' --type merge -p '{"metadata":{"annotations":{"a":"it'\''s\n2"}}}'`,
		}},
		{"externalIPs", document("web", "1", map[string]any{"type": "LoadBalancer", "externalIPs": nil}), []string{
			`kubectl patch service -n shop web --type merge -p '{"metadata":{"annotations":{"a":"1"}},"spec":{"type":"LoadBalancer"}}'`,
			`kubectl wait -n shop service/web --for=jsonpath='{.status.loadBalancer.ingress}' --timeout=2m && ` +
				`kubectl patch service -n shop web --type merge -p '{"spec":{"externalIPs":null}}'`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text, err := tt.document.YAML()
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for line := range strings.Lines(string(text)) {
				if command, ok := strings.CutPrefix(line, "# kubectl "); ok {
					got = append(got, "kubectl "+strings.TrimSuffix(command, "\n"))
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("commands %q, want %q", got, tt.want)
			}
		})
	}
}
