// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

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
	for _, tt := range []conversion{
		{
			name: "a pool without a block", input: pool("{}") + policy(""),
			want: []string{"kind: L2Advertisement"}, without: []string{"kind: AddressPool"}, codes: []string{"warn no-pools"},
		},
		{
			name: "blocks without a mask", input: pool("{blocks: [{cidr: 192.0.2.8}, {cidr: 192.0.2.16-192.0.2.20}]}") + policy(""),
			want: []string{"- 192.0.2.8\n", "- 192.0.2.16-192.0.2.20\n"}, codes: []string{"warn was-refused"},
		},
		{
			name: "blocks and cidrs", input: pool("{blocks: [{cidr: 192.0.2.8/32}], cidrs: [{cidr: 192.0.2.9/32}]}") + policy(""),
			want: []string{"- 192.0.2.8/32\n"}, without: []string{"192.0.2.9"}, codes: []string{"warn was-ignored"},
		},
		{
			name: "blocks and cidrs of an old version", input: pool("{blocks: [{cidr: 192.0.2.8/32}], cidrs: [{cidr: 192.0.2.9/32}]}") + policy(""),
			o: movein.Options{Assume: []string{"cilium=1.15"}}, want: []string{"- 192.0.2.8/32\n    - 192.0.2.9/32\n"},
		},
		{name: "an operator in small letters", input: lan + policy("{key: a, operator: in, values: [b]}"), codes: []string{"error bad-value"}},
		{
			name: "a key that nobody has", input: lan + policy("{key: fakeSelector, operator: NotIn, values: [all]}"),
			without: []string{"serviceSelectors"}, codes: []string{"info everything"},
		},
		{
			name: "a value that nobody has", input: lan + policy("{key: announce, operator: NotIn, values: [will-match-and-announce-all-services]}"),
			without: []string{"serviceSelectors"}, codes: []string{"info everything"},
		},
		{
			name: "a label that is absent everywhere", input: lan + policy("{key: dummy, operator: DoesNotExist}"),
			without: []string{"serviceSelectors"}, codes: []string{"info everything"},
		},
		{
			name: "a label that some have", input: lan + policy(`{key: announce, operator: NotIn, values: ["never"]}`),
			want: []string{"serviceSelectors"},
		},
		{
			name: "Services that have a name and a namespace", input: lan + policy("{key: io.kubernetes.service.name, operator: Exists}, "+
				"{key: io.kubernetes.service.namespace, operator: Exists}, {key: io.kubernetes.service.namespace, operator: NotIn, values: [dev]}"),
			want: []string{"namespaceSelectors", "- dev\n"}, without: []string{"serviceSelectors"}, codes: []string{"info everything"},
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
			name: "a hop beyond an interface", input: lan + strings.Replace(bgp(", localASN: 64513", "ebgpMultihop: 3, transport: {sourceInterface: lo}, ", services),
				"peerAddress: 192.0.2.1", "autoDiscovery: {mode: Unnumbered, unnumbered: {interface: eth0}}", 1),
			want: []string{"interface: eth0\n"}, without: []string{"ebgpMultiHop", "sourceInterface"}, codes: []string{"info multihop", "info source"},
		},
		{
			name: "a source of the other family, and a router id of IPv6", input: lan + bgp(", localASN: 64513", "", services) + "apiVersion: cilium.io/v2\n" +
				"kind: CiliumBGPNodeConfigOverride\nmetadata: {name: n1}\nspec: {bgpInstances: [{name: i, routerID: \"2001:db8::1\", peers: [{name: tor, " +
				"localAddress: \"2001:db8::1\"}]}]}\n", codes: []string{"error refused", "warn source", "warn split"},
		},
		{
			name: "an address beside the default gateway", input: lan + strings.Replace(bgp(", localASN: 64513", "", services), "peerAddress: 192.0.2.1",
				"peerAddress: 192.0.2.1, autoDiscovery: {mode: DefaultGateway, defaultGateway: {addressFamily: ipv6}}", 1),
			want: []string{"defaultGateway: IPv6\n"}, without: []string{"peerAddress"}, codes: []string{"warn was-ignored"},
		},
		{
			name: "times out of bounds", input: lan + bgp(", localASN: 64513", "timers: {connectRetryTimeSeconds: 70000}, gracefulRestart: {enabled: true, "+
				"restartTimeSeconds: 5000}, ", services), codes: []string{"error refused"},
		},
		{
			name: "addresses of no kind, and of an interface", input: lan + bgp(", localASN: 64513", "", services+
				", {advertisementType: Service, selector: {}}, {advertisementType: Interface, interface: {name: lo}}"),
			want: []string{"kind: BGPAdvertisement"}, without: []string{"name: ad-2"}, codes: []string{"lost pod-cidr", "warn nothing-announced"},
		},
		{
			name: "configurations to which nothing refers", input: "apiVersion: cilium.io/v2\nkind: CiliumBGPPeerConfig\nmetadata: {name: p}\nspec: {ebgpMultihop: 2}\n" +
				"---\napiVersion: cilium.io/v2\nkind: CiliumBGPNodeConfigOverride\nmetadata: {name: n1}\nspec: {bgpInstances: [{name: i, routerID: 192.0.2.7}]}\n",
			codes: []string{"info unused"},
		},
	} {
		t.Run(tt.name, tt.runWithInfo)
	}
}

// TestCiliumRules converts an input for each rule of Cilium that no case has.
func TestCiliumRules(t *testing.T) {
	pool := func(name, spec string) string {
		return "---\napiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: " + name + "}\nspec: {" + spec + "}\n"
	}
	v1 := func(router, neighbor string) string {
		return "---\napiVersion: cilium.io/v2alpha1\nkind: CiliumBGPPeeringPolicy\nmetadata: {name: v1}\nspec: {virtualRouters: [{localASN: 64500, serviceSelector: {}, " + router +
			"neighbors: [{peerAddress: 192.0.2.254/32, peerASN: 64501, " + neighbor + "}]}]}\n"
	}
	cluster := func(name, instance, config string) string {
		return "---\napiVersion: cilium.io/v2\nkind: CiliumBGPClusterConfig\nmetadata: {name: " + name + "}\nspec: {nodeSelector: {matchLabels: {rack: " + name + "}}, bgpInstances: " +
			"[{name: " + instance + ", localASN: 64500, peers: [{name: tor, peerASN: 64501, peerAddress: 192.0.2.254, peerConfigRef: {name: " + config + "}}]}]}\n"
	}
	const (
		config = "---\napiVersion: cilium.io/v2\nkind: CiliumBGPPeerConfig\nmetadata: {name: p}\nspec: {gracefulRestart: {enabled: true, restartTimeSeconds: 120}, " +
			"families: [{afi: ipv4, safi: unicast, advertisements: {matchLabels: {a: b}}}]}\n"
		routes = "---\napiVersion: cilium.io/v2\nkind: CiliumBGPAdvertisement\nmetadata: {name: ad, labels: {a: b}}\nspec: {advertisements: [{advertisementType: Service, " +
			"service: {addresses: [LoadBalancerIP]}, selector: {}}]}\n"
	)
	lan := pool("lan", "blocks: [{cidr: 192.0.2.0/26}]")
	for _, tt := range []conversion{
		{
			name: "pools that overlap", input: lan + pool("other", "blocks: [{start: 192.0.2.60, stop: 192.0.2.70}]"), want: []string{"- 192.0.2.60-192.0.2.70\n"},
			codes: []string{"warn no-advertisement", "warn was-ignored"}, says: "AddressPool other: Cilium gives no address",
		},
		{
			name:  "a pool of Services of one name, in all namespaces",
			input: pool("lan", "blocks: [{cidr: 192.0.2.0/26}], serviceSelector: {matchLabels: {io.kubernetes.service.name: web}}") + serviceOf("", "type: LoadBalancer", ""),
			want:  []string{"autoAssign: false\n", "tandem-lb.io/address-pool: lan\n  name: web\n  namespace: shop\n"}, codes: []string{"warn no-advertisement", "warn service-name"},
		},
		{
			name: "a pool in two versions", input: lan + strings.Replace(lan, "io/v2", "io/v2alpha1", 1), without: []string{"lan-2"}, codes: []string{"warn no-advertisement"},
			says: "info [duplicate]",
		},
		{
			name: "a namespace that is asked for twice", input: pool("lan", "blocks: [{cidr: 192.0.2.0/26}], serviceSelector: {matchLabels: {io.kubernetes.service.namespace: shop}, "+
				"matchExpressions: [{key: io.kubernetes.service.namespace, operator: In, values: [blog, shop]}]}"), want: []string{"      values:\n      - shop\n"}, without: []string{"blog"},
			codes: []string{"warn no-advertisement"},
		},
		{
			name: "two namespaces at once", input: pool("lan", "blocks: [{cidr: 192.0.2.0/26}], serviceSelector: {matchLabels: {io.kubernetes.service.namespace: shop}, "+
				"matchExpressions: [{key: io.kubernetes.service.namespace, operator: In, values: [blog]}]}"), codes: []string{"error bad-value", "warn no-advertisement"},
		},
		{
			name: "an address that a Service asks for and does not have", input: lan + serviceOf("annotations: {lbipam.cilium.io/ips: 198.51.100.7}", "type: LoadBalancer", ""),
			o: movein.Options{KeepInUse: true}, without: []string{"in-use"}, codes: []string{"warn no-advertisement", "warn no-pool"},
		},
		{
			name:  "two addresses of a family, and an annotation of the time before",
			input: lan + serviceOf("annotations: {metallb.io/loadBalancerIPs: 192.0.2.9}", "type: LoadBalancer", "{ip: 192.0.2.1}, {ip: 192.0.2.2}"),
			o:     movein.Options{Live: true}, want: []string{"load-balancer-ips: 192.0.2.1\n"}, codes: []string{"lost one-per-family", "warn no-advertisement", "warn stale-annotation"},
		},
		{
			name: "no addresses of load balancers", input: lan + v1("serviceAdvertisements: [ExternalIP], ", ""), without: []string{"BGPPeer"},
			codes: []string{"lost external-ips", "warn no-advertisement", "warn nothing-announced"},
		},
		{
			name: "communities that routers know by other names", input: lan + v1("", "advertisedPathAttributes: [{selectorType: CiliumLoadBalancerIPPool, communities: "+
				"{wellKnown: [planned-shut, route-filter-v4, no-export]}}]"), want: []string{"  communities:\n  - \"65535:0\"\n  - \"65535:3\"\n  - no-export\n"},
		},
		{
			name: "two policies for one node, and the least preference", input: lan + v1("", "") + strings.Replace(v1("", "advertisedPathAttributes: [{selectorType: "+
				"CiliumLoadBalancerIPPool, localPreference: 0}]"), "name: v1", "name: other", 1), want: []string{"localPref: 0\n"},
			codes: []string{"warn same-router", "warn was-ignored"},
		},
		{
			name: "sessions of the control plane", input: lan + strings.Replace(v1("", ""), "spec: {", "spec: {nodeSelector: {matchLabels: {node-role.kubernetes.io/control-plane: ''}}, ", 1),
			want: []string{"name: v1\n"}, codes: []string{"warn exclude-label"},
		},
		{name: "any router", input: lan + strings.Replace(v1("", ""), "64501", "0", 1), want: []string{"dynamicASN: External\n"}, codes: []string{"warn ambiguous"}},
		{
			name: "peers of one name in two racks", input: lan + cluster("a", "i0", "p") + cluster("b", "i1", "p") + config + routes,
			want: []string{"  name: i0-tor\n", "  name: i1-tor\n", "  peers:\n  - i0-tor\n  - i1-tor\n", "restartTime: 120s\n"},
		},
		{
			name: "peers of one name in instances of one name, of which one announces", input: lan + cluster("a", "i", "p") + cluster("b", "i", "gone") + config + routes,
			want: []string{"  peers:\n  - i-tor\n"}, without: []string{"i-tor-2"}, codes: []string{"warn dangling", "warn nothing-announced"},
		},
	} {
		t.Run(tt.name, tt.run)
	}
}
