// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// TestCalicoForms converts what users of Calico have published beside the forms of its documentation.
func TestCalicoForms(t *testing.T) {
	object := func(kind, name, spec string) string {
		return "apiVersion: projectcalico.org/v3\nkind: " + kind + "\nmetadata: {name: " + name + "}\nspec: {" + spec + "}\n---\n"
	}
	announces := object("BGPConfiguration", "default", "serviceLoadBalancerIPs: [{cidr: 192.0.2.0/24}]")
	lan := object("IPPool", "lan", "cidr: 192.0.2.0/26, allowedUses: [LoadBalancer]")
	bgp := movein.Options{Announce: "bgp"}
	for _, tt := range []conversion{
		{name: "another product gives the addresses", input: announces, codes: []string{"info announced-by-calico", "warn no-pools"}},
		{
			name: "a Service has an address of its own", input: announces + "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: LoadBalancer, " +
				"loadBalancerIP: 192.0.2.9}\n", want: []string{"name: requested"},
			codes: []string{"info announced-by-calico", "info pool", "info understood"},
		},
		{
			name: "the number of one node, and one in two parts", input: object("BGPConfiguration", "default", "asNumber: 64513, serviceLoadBalancerIPs: "+
				"[{cidr: 192.0.2.0/24}], serviceLoadBalancerAggregation: Disabled") + object("BGPConfiguration", "node.n1", "asNumber: 64999") + lan +
				object("BGPPeer", "tor", "peerIP: 192.0.2.254, asNumber: 1.10, ttlSecurity: 1"), o: bgp,
			want: []string{"myASN: 64513\n", "peerASN: 65546\n"}, codes: []string{"info families", "info ignored", "warn same-router"},
		},
		{
			name: "a router without a number", input: announces + lan + object("BGPPeer", "tor", "peerIP: 192.0.2.254"), o: bgp,
			codes: []string{"error missing", "info families", "lost aggregate", "warn same-router"},
		},
		{
			name: "communities of one pool", input: object("BGPConfiguration", "default", "serviceLoadBalancerIPs: [{cidr: 192.0.2.0/24}], prefixAdvertisements: "+
				`[{cidr: 192.0.2.0/26, communities: ["64512:1"]}], serviceLoadBalancerAggregation: Disabled`) + lan +
				object("IPPool", "other", "cidr: 192.0.2.64/26, allowedUses: [LoadBalancer]"), o: bgp,
			want: []string{"  - lan\n  communities:\n  - \"64512:1\"\n", "name: calico-2\nspec:\n  addressPools:\n  - other\n"}, codes: []string{"warn no-peers"},
		},
		{
			name: "pools of the operator", input: "apiVersion: operator.tigera.io/v1\nkind: Installation\nmetadata: {name: default}\nspec: {calicoNetwork: {bgp: Enabled, " +
				"ipPools: [{cidr: 10.0.0.0/16, natOutgoing: Enabled}, {name: lan, cidr: 192.0.2.0/26, encapsulation: None, assignmentMode: Manual, " +
				"allowedUses: [LoadBalancer]}]}}\n", want: []string{"name: lan\nspec:\n  autoAssign: false\n"}, codes: []string{"warn no-advertisement"},
		},
		{
			name: "a pool of some nodes", input: announces + object("IPPool", "lan", "cidr: 192.0.2.0/26, allowedUses: [LoadBalancer], nodeSelector: has(rack)"),
			want: []string{"- 192.0.2.0/26\n"}, codes: []string{"info announced-by-calico", "warn was-refused"},
		},
		{
			name: "a pool that is not there", input: announces + lan + "apiVersion: v1\nkind: Service\nmetadata: {name: web, annotations: " +
				"{projectcalico.org/ipv4pools: '[\"gone\"]'}}\nspec: {type: LoadBalancer}\n",
			want: []string{"tandem-lb.io/address-pool: gone"}, codes: []string{"info announced-by-calico", "warn dangling"},
		},
	} {
		t.Run(tt.name, tt.runWithInfo)
	}
}

// TestCalicoRules converts an input for each rule of Calico that no case has.
func TestCalicoRules(t *testing.T) {
	object := func(kind, name, spec string) string {
		return "---\napiVersion: projectcalico.org/v3\nkind: " + kind + "\nmetadata: {name: " + name + "}\nspec: {" + spec + "}\n"
	}
	const lan = "cidr: 192.0.2.0/26, allowedUses: [LoadBalancer]"
	announces := object("BGPConfiguration", "default", "serviceLoadBalancerIPs: [{cidr: 192.0.2.0/24}], serviceLoadBalancerAggregation: Disabled")
	router := func(spec string) string {
		return object("BGPPeer", "tor", "peerIP: 192.0.2.254, asNumber: 64512, "+spec)
	}
	numbered := strings.Replace(ruleNode, "META", "annotations: {projectcalico.org/ASNumber: '64999'}", 1)
	bgp := movein.Options{Announce: "bgp"}
	for _, tt := range []conversion{
		{
			name: "a pool that BIRD does not announce", input: object("IPPool", "lan", lan+", disableBGPExport: true") + announces, codes: []string{"warn no-advertisement"},
		},
		{
			name: "parentheses and blanks", input: object("IPPool", "lan", lan+`, namespaceSelector: "((a == 'b') && (! has( c )))"`) + announces,
			want: []string{"    - key: a\n      operator: In\n      values:\n      - b\n    - key: c\n      operator: DoesNotExist\n"},
		},
		{
			name: "an alternative in parentheses", input: object("IPPool", "lan", lan+`, namespaceSelector: "(a == 'b') || (has(c))"`), codes: []string{"error bad-value", "warn no-advertisement"},
		},
		{
			name: "what is not so", input: object("IPPool", "lan", lan+`, namespaceSelector: "!a == 'b'"`), codes: []string{"error bad-value", "warn no-advertisement"},
			says: `IPPool lan: spec.namespaceSelector: no label selector says what "!a == 'b'" says`,
		},
		{
			name: "one of no values", input: object("IPPool", "lan", lan+`, namespaceSelector: "a in { }"`), codes: []string{"error bad-value", "warn no-advertisement"},
		},
		{
			name: "both groups, as a cluster with Calico's API server has them", input: object("IPPool", "lan", lan) + strings.ReplaceAll(object("IPPool", "lan", lan)+announces+
				router("ttlSecurity: 1"), "projectcalico.org/v3", "crd.projectcalico.org/v1") + announces + router("ttlSecurity: 1"), o: bgp,
			want: []string{"  - lan\n  peers:\n  - tor\n"}, without: []string{"lan-2", "tor-2"}, codes: []string{"warn same-router"}, says: "info [duplicate] IPPool lan",
		},
		{
			name: "a selector of a session that stays with Calico", input: router(`nodeSelector: "a == 'b' || has(c)"`), codes: []string{"warn same-router"},
		},
		{
			name: "such a selector of a session of Tandem's", input: object("IPPool", "lan", lan) + router(`nodeSelector: "a == 'b' || has(c)"`), o: bgp,
			codes: []string{"error bad-value", "warn same-router"},
		},
		{
			name: "a node with a number of its own", input: object("IPPool", "lan", lan) + announces + router("") + numbered, o: bgp,
			want:  []string{"  name: tor-n1\nspec:\n  families:\n  - IPv4\n  myASN: 64999\n", "operator: NotIn\n      values:\n      - n1\n", "peers:\n  - tor\n  - tor-n1\n"},
			codes: []string{"warn multihop", "warn same-router", "warn split"},
		},
		{
			name: "the one node of a peer, with a number of its own", input: object("IPPool", "lan", lan) + announces + router("ttlSecurity: 1, node: n1") + numbered, o: bgp,
			want: []string{"myASN: 64999\n"}, without: []string{"tor-n1"}, codes: []string{"warn same-router"},
		},
		{
			name: "a node that the peer is not for", input: object("IPPool", "lan", lan) + announces + router("nodeSelector: has(rack)") + numbered, o: bgp,
			without: []string{"64999"}, codes: []string{"warn same-router"},
		},
	} {
		t.Run(tt.name, tt.run)
	}
}
