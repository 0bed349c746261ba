// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// form is a form of configuration that users have published, and what comes of it.
type form struct {
	name, input string
	o           movein.Options
	want        []string // texts in the documents
	not         []string // texts that are in none
	codes       []string // level and code of all messages
}

func (f form) run(t *testing.T) {
	t.Helper()
	documents, messages := convert(t, f.input, f.o)
	for _, want := range f.want {
		if !strings.Contains(documents, want) {
			t.Errorf("there is no %q in:\n%s", want, documents)
		}
	}
	for _, not := range f.not {
		if strings.Contains(documents, not) {
			t.Errorf("there is %q in:\n%s", not, documents)
		}
	}
	if got := codes(messages); !slices.Equal(got, f.codes) {
		t.Errorf("messages %q, want codes %q", messages, f.codes)
	}
}

// TestCiliumForms converts what users of Cilium have published beside the forms of its documentation.
func TestCiliumForms(t *testing.T) {
	pool := func(spec string) string {
		return "apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: lan}\nspec: " + spec + "\n---\n"
	}
	policy := func(selector string) string {
		return "apiVersion: cilium.io/v2alpha1\nkind: CiliumL2AnnouncementPolicy\nmetadata: {name: lan}\nspec: {loadBalancerIPs: true, nodeSelector: " +
			"{matchLabels: {rack: a}}, serviceSelector: {matchExpressions: [" + selector + "]}}\n"
	}
	bgp := func(instance, config, advertisement string) string {
		return "apiVersion: cilium.io/v2\nkind: CiliumBGPClusterConfig\nmetadata: {name: c}\nspec: {bgpInstances: [{name: i" + instance + ", peers: [{name: tor, " +
			"peerASN: 64512, peerAddress: 192.0.2.1, peerConfigRef: {name: p}}]}]}\n---\napiVersion: cilium.io/v2\nkind: CiliumBGPPeerConfig\nmetadata: " +
			"{name: p}\nspec: {" + config + "families: [{afi: ipv4, safi: unicast, advertisements: {matchLabels: {a: b}}}]}\n---\napiVersion: cilium.io/v2\n" +
			"kind: CiliumBGPAdvertisement\nmetadata: {name: ad, labels: {a: b}}\nspec: {advertisements: [" + advertisement + "]}\n---\n"
	}
	const services = "{advertisementType: Service, service: {addresses: [LoadBalancerIP]}, selector: {}}"
	lan := pool("{blocks: [{start: 192.0.2.8, stop: 192.0.2.9}]}")
	for _, tt := range []form{
		{
			name: "a pool without a block", input: pool("{}") + policy(""),
			want: []string{"kind: L2Advertisement"}, not: []string{"kind: AddressPool"}, codes: []string{"warn no-pools"},
		},
		{
			name: "blocks without a mask", input: pool("{blocks: [{cidr: 192.0.2.8}, {cidr: 192.0.2.16-192.0.2.20}]}") + policy(""),
			want: []string{"- 192.0.2.8\n", "- 192.0.2.16-192.0.2.20\n"}, codes: []string{"warn was-refused"},
		},
		{
			name: "a key that nobody has", input: lan + policy("{key: fakeSelector, operator: NotIn, values: [all]}"),
			not: []string{"serviceSelectors"}, codes: []string{"info everything"},
		},
		{
			name: "a value that nobody has", input: lan + policy("{key: announce, operator: NotIn, values: [will-match-and-announce-all-services]}"),
			not: []string{"serviceSelectors"}, codes: []string{"info everything"},
		},
		{
			name: "a label that is absent everywhere", input: lan + policy("{key: dummy, operator: DoesNotExist}"),
			not: []string{"serviceSelectors"}, codes: []string{"info everything"},
		},
		{
			name: "a label that some have", input: lan + policy(`{key: announce, operator: NotIn, values: ["never"]}`),
			want: []string{"serviceSelectors"},
		},
		{
			name: "Services that have a name and a namespace", input: lan + policy("{key: io.kubernetes.service.name, operator: Exists}, "+
				"{key: io.kubernetes.service.namespace, operator: Exists}, {key: io.kubernetes.service.namespace, operator: NotIn, values: [dev]}"),
			want: []string{"namespaceSelectors", "- dev\n"}, not: []string{"serviceSelectors"}, codes: []string{"info everything"},
		},
		{
			name:  "an interface in either case",
			input: lan + strings.Replace(policy(""), "loadBalancerIPs", `interfaces: ["(?i)eth"], loadBalancerIPs`, 1), codes: []string{"error bad-value"},
		},
		{
			name: "routers without a number of their own", input: "apiVersion: cilium.io/v2alpha1\nkind: CiliumBGPPeeringPolicy\nmetadata: {name: a}\nspec: " +
				"{virtualRouters: [{serviceSelector: {}, neighbors: [{peerAddress: 192.0.2.1/32, peerASN: 64512}]}]}\n",
			codes: []string{"error missing", "warn no-pools"},
		},
		{name: "an instance without a number", input: lan + bgp("", "", services), codes: []string{"error missing"}},
		{
			name: "an interface that has the source", input: lan + bgp(", localASN: 64513", "transport: {sourceInterface: lo}, ", services),
			want: []string{"sourceInterface: lo\n"},
		},
		{
			name: "a source for one node", input: lan + bgp(", localASN: 64513", "transport: {sourceInterface: lo}, ", services) + "apiVersion: cilium.io/v2\n" +
				"kind: CiliumBGPNodeConfigOverride\nmetadata: {name: n1}\nspec: {bgpInstances: [{name: i, peers: [{name: tor, localAddress: 192.0.2.7}]}]}\n",
			want: []string{"sourceAddress: 192.0.2.7\n", "sourceInterface: lo\n"}, codes: []string{"warn split"},
		},
		{
			name: "addresses of no kind, and of an interface", input: lan + bgp(", localASN: 64513", "", services+
				", {advertisementType: Service, selector: {}}, {advertisementType: Interface, interface: {name: lo}}"),
			want: []string{"kind: BGPAdvertisement"}, not: []string{"name: ad-2"}, codes: []string{"lost pod-cidr", "warn nothing-announced"},
		},
		{
			name: "configurations to which nothing refers", input: "apiVersion: cilium.io/v2\nkind: CiliumBGPPeerConfig\nmetadata: {name: p}\nspec: {ebgpMultihop: 2}\n" +
				"---\napiVersion: cilium.io/v2\nkind: CiliumBGPNodeConfigOverride\nmetadata: {name: n1}\nspec: {bgpInstances: [{name: i, routerID: 192.0.2.7}]}\n",
			codes: []string{"info unused"},
		},
	} {
		t.Run(tt.name, tt.run)
	}
}
