// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// TestEmbedded converts objects that stand within something else, and says what cannot be read there.
func TestEmbedded(t *testing.T) {
	const object = "apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: lan}\nspec: {blocks: [{start: 192.0.2.8, stop: 192.0.2.9}]}\n"
	indent := func(n int) string { return strings.ReplaceAll("\n"+object, "\n", "\n"+strings.Repeat(" ", n)) + "\n" }
	found := []string{"- 192.0.2.8-192.0.2.9\n"}
	for _, tt := range []conversion{
		{
			name: "values of a chart", input: "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: cilium}\nspec:\n  values:\n" +
				"    extraObjects:\n    -" + indent(6), want: found, codes: []string{"info embedded", "warn no-advertisement"},
		},
		{
			name: "values as a text", input: "kind: Application\nmetadata: {name: cilium}\nspec: {source: {helm: {values: \"extra:\\n- " +
				strings.ReplaceAll(strings.TrimSpace(object), "\n", "\\n  ") + "\\n\"}}}\n", want: found, codes: []string{"info embedded", "warn no-advertisement"},
		},
		{
			name: "values of a chart in an export, which has the object itself", input: "kind: HelmRelease\nmetadata: {name: cilium}\nspec:\n  values:\n" +
				"    extraObjects:\n    -" + indent(6) + "---\n" + object, o: movein.Options{Live: true}, want: found, without: []string{"lan-2"},
			codes: []string{"warn no-advertisement"},
		},
		{
			name: "a machine configuration", input: "cluster:\n  inlineManifests:\n  - name: pool\n    contents: |\n      ---" + indent(6) + "      ---" +
				strings.Replace(indent(6), "name: lan", "name: other", 1), want: append(found, "name: other\n"),
			codes: []string{"info embedded", "warn no-advertisement", "warn was-ignored"},
		},
		{
			name: "a task of Ansible", input: "- name: pool\n  kubernetes.core.k8s:\n    definition:" + indent(6),
			want: found, codes: []string{"info embedded", "warn no-advertisement"},
		},
		{
			name: "values of a chart in a task", input: "- name: metallb\n  kubernetes.core.helm: {values: {configInline: {address-pools: [{name: lan, protocol: layer2, addresses: " +
				"[192.0.2.8-192.0.2.9]}]}}}\n", want: found,
		},
		{
			name: "a ConfigMap of MetalLB in a task", input: "- hosts: all\n  tasks:\n  - kubernetes.core.k8s: {definition: {apiVersion: v1, kind: ConfigMap, metadata: {name: config, " +
				"namespace: metallb-system}, data: {config: \"address-pools: [{name: lan, protocol: layer2, addresses: [192.0.2.8-192.0.2.9]}]\"}}}\n",
			want: found, codes: []string{"info embedded"},
		},
		{
			name: "objects in a list", input: "-" + indent(2), want: found, codes: []string{"warn no-advertisement"},
		},
		{name: "lists of other programs", input: "- {peers: [{address: 192.0.2.1}]}\n- [a, b]\n- c\n"},
		{
			name: "a patch", input: "kind: Kustomization\npatches:\n- patch: |-" + indent(4), without: []string{"AddressPool"}, codes: []string{"warn unknown-kind"},
		},
		{
			name: "what was applied last", input: strings.Replace(object, "{name: lan}", "\n  name: lan\n  annotations:\n    "+
				"kubectl.kubernetes.io/last-applied-configuration: |"+indent(6), 1), want: found, codes: []string{"warn no-advertisement"},
		},
		{
			name: "a key that is there twice in values", input: "kind: HelmRelease\nmetadata: {name: a}\nspec: {values: {a: 1, a: 2, service: {annotations: " +
				"{lbipam.cilium.io/ips: 192.0.2.1}}}}\n", codes: []string{"warn annotation-elsewhere", "warn no-pools"},
		},
		{
			name:  "a key that is there twice in another program's ConfigMap",
			input: object + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: env}\ndata: {A: b, A: c}\n", want: found, codes: []string{"warn no-advertisement"},
		},
		{
			name:  "a key that is there twice in kube-vip's ConfigMap",
			input: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kubevip}\ndata: {cidr-global: 192.0.2.0/28, cidr-global: 192.0.2.0/29}\n",
			codes: []string{"error duplicate-key", "info buggy", "warn no-advertisement"},
		},
		{
			name: "a template whose marks are comments", input: strings.Replace(object, "192.0.2.8", `"#{ first }#"`, 1), codes: []string{"error template"},
		},
		{
			name: "a line of such a template", input: "#% if bgp %#\n" + object + "#% endif %#\n", codes: []string{"error template"},
		},
		{name: "a comment that has such a mark", input: "# not #{ this }#\n" + object, want: found, codes: []string{"warn no-advertisement"}},
	} {
		t.Run(tt.name, tt.runWithInfo)
	}
}
