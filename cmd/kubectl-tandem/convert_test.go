// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestConvert runs the command on files: what it prints, and with which code it exits.
func TestConvert(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const pool = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan}\nspec: {addresses: [RANGE]}\n"
	good := write("good.yaml", strings.Replace(pool, "RANGE", "192.0.2.0/28", 1))
	bad := write("bad.yaml", strings.NewReplacer("name: lan", "name: bad", "RANGE", "192.0.2.9-192.0.2.1").Replace(pool))
	placeholder := write("placeholder.txt", strings.Replace(pool, "RANGE", `"${A}"`, 1))
	lost := write("lost.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bgpextras, namespace: metallb-system}\ndata: "+
		"{extras: router bgp 1}\n")
	plain := write("plain.txt", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: LoadBalancer}\n")
	groups := write("groups.txt", "apiVersion: purelb.io/v1\nkind: ServiceGroup\nmetadata: {name: lan, namespace: purelb}\n"+
		"spec: {local: {v4pools: [{subnet: 192.0.2.0/24, pool: 192.0.2.64/28, aggregation: default}]}}\n")
	for _, tt := range []struct {
		name  string
		args  []string
		code  int
		want  []string
		never string
	}{
		{name: "objects and messages", args: []string{"-f", good}, want: []string{"kind: AddressPool", "- 192.0.2.0/28", "warn " +
			"[no-advertisement] AddressPool lan"}},
		{name: "an advertisement as asked for", args: []string{"-f", good, "--announce", "l2"}, want: []string{"kind: " +
			"L2Advertisement"}, never: "no-advertisement"},
		{
			name: "a placeholder whose value has a comma", args: []string{"-f", placeholder, "--set", "A=1,2"}, code: 1,
			want: []string{`[bad-address] IPAddressPool lan: spec.addresses[0]: "1,2"`},
		},
		{name: "an error writes nothing", args: []string{"-f", good, "-f", bad}, code: 1, want: []string{"error " +
			"[backwards]"}, never: "kind: AddressPool"},
		{name: "what is lost", args: []string{"-f", lost, "-f", good}, want: []string{"lost [no-equal] ConfigMap " +
			"metallb-system/bgpextras", "kind: AddressPool"}},
		{name: "what is lost is an error with --strict", args: []string{"-f", lost, "-f", good, "--strict"}, code: 1, never: "kind: " +
			"AddressPool"},
		{name: "a directory, as " +
			"JSON", args: []string{"-f", dir, "-o", "json"}, code: 1, want: []string{`"level": "error"`, `"code": "backwards"`}},
		{name: "a Service that needs nothing", args: []string{"-f", plain}, want: []string{"Nothing in the input has to be converted"}},
		{name: "another product only", args: []string{"-f", good, "--from", "cilium"}, code: 1, want: []string{"Nothing in the input"}},
		{
			name: "another product only, as JSON", args: []string{"-f", good, "--from", "cilium", "-o", "json"}, code: 1,
			want: []string{`"documents": []`, "Nothing in the input"},
		},
		{
			name: "the version of a product that nobody knows", args: []string{"-f", good, "--assume", "metallbs=0.12"}, code: 2,
			want: []string{`--assume is "metallbs=0.12"; start with one of metallb, purelb,`}, never: "kind: AddressPool",
		},
		{name: "the version of a product", args: []string{"-f", good, "--assume", "metallb>=0.15 frr"}, want: []string{"kind: AddressPool"}},
		{
			name: "a pool for a product that has pools", args: []string{"-f", good, "--pool", "mine=192.0.2.32/28"}, code: 2,
			want: []string{`--pool is "mine=192.0.2.32/28"`, "such as ServiceLB of k3s"},
		},
		{
			name: "a pool without a range", args: []string{"-f", good, "--pool", "bad"}, code: 2, want: []string{`--pool is "bad"; give NAME=RANGE`},
			never: "kind: AddressPool",
		},
		{
			name: "a group of PureLB where there is none", args: []string{"-f", good, "--local", "nosuch"}, code: 2,
			want: []string{`--local is "nosuch", and the input has no ServiceGroup of PureLB`}, never: "kind: AddressPool",
		},
		{
			name: "a group that the input does not name", args: []string{"-f", groups, "--remote", "nosuch"}, code: 2,
			want: []string{`--remote is "nosuch"; give one of the ServiceGroups of the input: lan`}, never: "kind: AddressPool",
		},
		{name: "a group of the input", args: []string{"-f", groups, "--local", "lan"}, want: []string{"kind: AddressPool"}},
		{name: "a product that nobody knows", args: []string{"-f", good, "--from", "other"}, code: 2, want: []string{"--from"}},
		{name: "neither file nor cluster", code: 2, want: []string{"give either -f FILE or --from-cluster"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			output, code := runOn(t.Context(), fakeCluster(nil), append([]string{"convert"}, tt.args...)...)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			for _, want := range tt.want {
				if !strings.Contains(output, want) {
					t.Errorf("there is no %q in:\n%s", want, output)
				}
			}
			if tt.never != "" && strings.Contains(output, tt.never) {
				t.Errorf("there is %q in:\n%s", tt.never, output)
			}
		})
	}
}
