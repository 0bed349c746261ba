// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// TestOtherFiles converts a directory in which another program has a template: it is no error there.
func TestOtherFiles(t *testing.T) {
	pool := movein.Input{Name: "pool.yaml", Data: []byte("apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan}\nspec: " +
		"{addresses: [192.0.2.0/28]}\n")}
	other := movein.Input{Name: "config.yaml", Data: []byte("kind: Config\nname: {{ .Values.name }}\n")}
	result := movein.Convert([]movein.Input{pool, other}, movein.Options{})
	if want := []string{"warn no-advertisement", "warn template"}; len(result.Documents) != 1 || !slices.Equal(codes(result.Messages), want) {
		t.Errorf("%d documents and messages %q, want one and codes %q", len(result.Documents), result.Messages, want)
	}
	if result = movein.Convert([]movein.Input{other}, movein.Options{}); !result.Failed(false) {
		t.Error("a template alone is no error")
	}
}

// TestSyntax reads what the parsers of the products take, and refuses what they refuse.
func TestSyntax(t *testing.T) {
	const pool = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan}\nspec:\n"
	for _, tt := range []conversion{
		{name: "blanks and line feeds in a range", input: pool + "  addresses: [\" 192.0.2.1 -\\n192.0.2.9 \"]\n", want: []string{"- " +
			"192.0.2.1-192.0.2.9\n"}, codes: []string{"info blanks"}},
		{name: "a range that ends before it begins", input: pool + "  addresses: [192.0.2.9-192.0.2.1]\n", codes: []string{"error " +
			"backwards"}},
		{name: "a bare address, which MetalLB refuses", input: pool + "  addresses: [192.0.2.9]\n", want: []string{"- " +
			"192.0.2.9\n"}, codes: []string{"warn was-refused"}},
		{name: "host bits", input: pool + "  addresses: [192.0.2.9/28]\n", want: []string{"- 192.0.2.0/28\n"}, codes: []string{"info " +
			"host-bits"}},
		{name: "a boolean in capitals and a scalar for a list", input: pool + "  addresses: 192.0.2.0/28\n  autoAssign: " +
			"\"False\"\n", want: []string{"autoAssign: false", "- 192.0.2.0/28\n"}},
		{name: "a key that is there twice", input: pool + "  addresses: [192.0.2.0/28]\n  addresses: " +
			"[192.0.2.16/28]\n", codes: []string{"error duplicate-key"}},
		{name: "a field that nobody knows", input: pool + "  addresses: [192.0.2.0/28]\n  adresses: " +
			"[]\n", want: []string{"192.0.2.0/28"}, codes: []string{"warn unknown-field"}},
		{name: "a kind that nobody knows", input: "apiVersion: metallb.io/v1\nkind: IPPool\nmetadata: {name: " +
			"lan}\n", codes: []string{"warn unknown-kind"}},
		{name: "loopback addresses", input: pool + "  addresses: [127.0.0.0/8, 192.0.2.0/28]\n", want: []string{"- " +
			"192.0.2.0/28\n"}, codes: []string{"warn reserved"}},
		{name: "a value of --set", input: pool + "  addresses: " +
			"[\"${RANGE}\"]\n", o: movein.Options{Set: map[string]string{"RANGE": "192.0.2.0/28"}}, want: []string{"- 192.0.2.0/28\n"}},
		{name: "a List in JSON", input: `{"kind": "List", "items": [{"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
			"metadata": {"name": "lan"}, "spec": {"addresses": ["192.0.2.0/28"]}}]}`, want: []string{"name: lan"}},
		{name: "one value in JSON after the other", input: `{"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": {"name": "lan"},
			"spec": {"addresses": ["192.0.2.0/28"]}}
			{"apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": {"name": "lan"}}`, want: []string{"kind: AddressPool", "kind: L2Advertisement"}},
		{name: "a template of Helm in a text", input: pool + "  addresses: [\"{{ .Values.range }}\"]\n", codes: []string{"error template"}},
		{name: "no YAML", input: "resource \"metallb\" {\n\tname = [\n", codes: []string{"error no-yaml"}},
		{name: "nothing", input: "# a comment\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.check(t, func(code string) bool { return code != "warn no-advertisement" })
		})
	}
}

// TestNoPanic takes the inputs of the cases apart: without a line, without all that follows, with a value that is a list or a mapping. None
// of it makes the conversion panic.
func TestNoPanic(t *testing.T) {
	paths, err := filepath.Glob("testdata/cases/*/input.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for n, path := range paths {
		lines := strings.SplitAfter(string(read(t, path)), "\n")
		for i, line := range lines {
			if i%6 != n%6 { // All of them together take half a minute.
				continue
			}
			before, rest := strings.Join(lines[:i], ""), strings.Join(lines[i+1:], "")
			changed := []string{before + rest, before}
			if key, _, ok := strings.Cut(line, ":"); ok {
				changed = append(changed, before+key+": [{a: b}]\n"+rest, before+key+": {a: [b]}\n"+rest, before+key+":\n"+rest)
			}
			for _, text := range changed {
				for _, live := range []bool{false, true} {
					movein.Convert([]movein.Input{{Name: "input.yaml", Data: []byte(text)}}, movein.Options{Live: live, KeepInUse: live})
				}
			}
		}
	}
}
