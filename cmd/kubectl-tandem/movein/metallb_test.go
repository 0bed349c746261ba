// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// TestMetalLBOfUsers converts what users write for MetalLB.
func TestMetalLBOfUsers(t *testing.T) {
	const (
		peer = "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: router, namespace: metallb-system}\nspec: {SPEC}\n---\n"
		pool = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: NAME, namespace: metallb-system}\nspec: {addresses: [RANGE]}\n---\n"
		pods = "kind: DaemonSet\nmetadata: {name: speaker, namespace: metallb-system}\nspec: {template: {spec: {nodeSelector: {kubernetes.io/os: linux, role: lb}, " +
			"containers: [{image: \"quay.io/metallb/speaker:v0.15.2\", args: [\"--lb-class=metallb\", --ignore-exclude-lb]}]}}}\n"
		operator = "apiVersion: metallb.io/v1beta1\nkind: MetalLB\nmetadata: {name: metallb, namespace: metallb-system}\n" +
			"spec: {nodeSelector: {role: lb}, loadBalancerClass: metallb, speakerConfig: {priorityClassName: high}}\n"
		ours = "myASN: 64500, peerASN: 64501, peerAddress: 192.0.2.1"
	)
	with := func(text string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(text) }
	for _, tt := range []conversion{
		{
			name: "names that objects cannot have",
			input: "bfd-profiles: [{name: Fast_1, receive-interval: 100}]\npeers: [{my-asn: 64500, peer-asn: 64501, peer-address: 192.0.2.1, bfd-profile: Fast_1}]\n" +
				"bgp-communities: {1st customer: 64500:1}\naddress-pools: [{name: a, protocol: bgp, addresses: [192.0.2.0/28], bgp-advertisements: [{communities: [1st customer]}]}]\n",
			want:  []string{"  name: fast-1\n", "bfdProfile: fast-1\n", "- name: community-1st-customer\n", "communities:\n  - community-1st-customer\n"},
			codes: []string{"warn renamed"},
		},
		{name: "a peer that is the node itself", input: with(peer, "SPEC", strings.Replace(ours, "192.0.2.1", "127.0.0.1", 1)), codes: []string{"error bad-address"}},
		{name: "a source that is no address", input: with(peer, "SPEC", ours+", sourceAddress: eth0"), codes: []string{"error bad-address", "warn source"}},
		{name: "AS_TRANS", input: with(peer, "SPEC", strings.Replace(ours, "64501", "23456", 1)), codes: []string{"error refused"}},
		{name: "a kind of neighbour that is none", input: with(peer, "SPEC", "myASN: 64500, peerAddress: 192.0.2.1, dynamicASN: any"), codes: []string{"error bad-value"}},
		{
			name: "two passwords and two numbers", input: with(peer, "SPEC", ours+", dynamicASN: external, password: a, passwordSecret: {name: pw}"),
			want: []string{"name: router-password\n", "peerASN: 64501\n"}, without: []string{"dynamicASN", "name: pw\n"}, codes: []string{"warn was-refused"},
		},
		{
			name:  "half of a community, and a preference of more than 32 bits",
			input: "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: a}\nspec: {communities: [\"64500\"], localPref: 4294967296}\n",
			codes: []string{"error bad-value", "warn no-peers", "warn no-pools"},
		},
		{
			name: "pools that overlap", input: with(pool, "NAME", "a", "RANGE", "192.0.2.0/28") + with(pool, "NAME", "b", "RANGE", "192.0.2.8-192.0.2.20") +
				"apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: a}\n",
			want: []string{"- 192.0.2.8-192.0.2.20\n"}, codes: []string{"warn was-refused"}, says: "AddressPool b: MetalLB refuses 192.0.2.8-192.0.2.20 beside 192.0.2.0/28",
		},
		{
			name: "values as parameters",
			input: "kind: Application\nmetadata: {name: a}\nspec: {source: {chart: metallb, targetRevision: 0.12.1, helm: {parameters: [" +
				"{name: \"configInline.address-pools[0].name\", value: lan}, {name: \"configInline.address-pools[0].protocol\", value: layer2}, " +
				"{name: \"configInline.address-pools[0].addresses\", value: \"{192.0.2.0/28,192.0.2.32/28}\"}, {name: \"configInline.address-pools[0].auto-assign\", " +
				"value: \"false\"}]}}}\n",
			want: []string{"autoAssign: false", "    - 192.0.2.0/28\n    - 192.0.2.32/28\n", "kind: L2Advertisement"},
		},
		{
			name: "values as parameters that are none",
			input: "kind: Application\nmetadata: {name: a}\nspec: {source: {helm: {parameters: [{name: \"configInline.peers[0]\", value: a}, " +
				"{name: \"configInline.peers[0].my-asn\", value: a}, {name: \"configInline.peers[999999999]\", value: a}, {name: configInline., value: a}]}}}\n",
			codes: []string{"error bad-value", "lost no-equal"},
		},
		{
			name: "single addresses that touch", input: with(pool, "NAME", "a", "RANGE", many("192.0.2.%d/32", 70, 1)), o: movein.Options{Announce: "bgp"},
			want: []string{"    ranges:\n    - 192.0.2.0-192.0.2.69\n"}, codes: []string{"warn no-peers"}, says: "put together",
		},
		{
			name: "single addresses that do not touch", input: with(pool, "NAME", "a", "RANGE", many("192.0.2.%d/32", 70, 2)), o: movein.Options{Announce: "bgp"},
			codes: []string{"error refused", "warn no-peers"},
		},
		{
			name: "a source of the other family", input: with(peer, "SPEC", ours+", sourceAddress: \"2001:db8::1\""), without: []string{"sourceAddress"},
			codes: []string{"warn source"},
		},
		{name: "arguments of the speakers", input: pods, codes: []string{"lost class", "warn exclude-label"}, says: "on nodes with role=lb alone"},
		{name: "what the operator makes pods from", input: operator, codes: []string{"lost class"}, says: "on nodes with role=lb alone"},
		{
			name:  "large communities, which native MetalLB refuses",
			input: with(peer, "SPEC", ours) + "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: a}\nspec: {communities: [\"large:64500:1:2\"]}\n",
			o:     movein.Options{Assume: []string{"metallb=0.13"}}, without: []string{"families"}, codes: []string{"warn no-pools"},
		},
		{
			name:  "a configuration with profiles, which native MetalLB refuses",
			input: "peers: [{my-asn: 64500, peer-asn: 64501, peer-address: 192.0.2.1}]\nbfd-profiles: [{name: a}]\n", without: []string{"families"},
		},
		{
			name:    "values that ask for FRR",
			input:   "speaker: {frr: {enabled: true}}\nconfigInline: {peers: [{my-asn: 64500, peer-asn: 64501, peer-address: 192.0.2.1}]}\n",
			without: []string{"families"},
		},
		{
			name:  "a mode in capitals",
			input: with(peer, "SPEC", ours), o: movein.Options{Assume: []string{"metallb<0.15 FRR"}}, without: []string{"families"},
		},
		{
			name:  "a mode, and why it is not the other one",
			input: with(peer, "SPEC", ours), o: movein.Options{Assume: []string{"metallb=0.13 frr (native has no vrf)"}}, without: []string{"families"},
		},
		{
			name:  "a mode with a number in its name",
			input: with(peer, "SPEC", ours), o: movein.Options{Assume: []string{"metallb frr-k8s 0.14"}}, without: []string{"families"},
		},
		{
			name:  "a version after another one",
			input: with(peer, "SPEC", ours), o: movein.Options{Assume: []string{"metallb>0.14 frr"}}, want: []string{"families:\n  - IPv4\n"},
		},
		{
			name:  "a hold time of 0 in a configuration",
			input: "peers: [{my-asn: 64500, peer-asn: 64500, peer-address: 192.0.2.1, hold-time: 0s}]\n", want: []string{"holdTime: 0s\n"},
		},
		{
			name:  "an export of 0.14.8, whose hold time says nothing",
			input: with(peer, "SPEC", ours+", holdTime: 0s"), o: movein.Options{Assume: []string{"metallb=0.14.8 frr"}}, without: []string{"holdTime"},
		},
		{
			name:  "0.14.9, where a hold time of 0 turns it off",
			input: with(peer, "SPEC", ours+", holdTime: 0s"), o: movein.Options{Assume: []string{"metallb>=0.14.9 frr"}}, want: []string{"holdTime: 0s\n"},
		},
		{
			name: "a chart whose default is FRR, of a version that carries both families",
			input: "kind: HelmRelease\nmetadata: {name: a}\nspec: {chart: {spec: {chart: metallb, version: 0.14.9}}, values: {loadBalancerClass: metallb, speaker: " +
				"{ignoreExcludeLB: true}}}\n---\n" + with(peer, "SPEC", ours),
			without: []string{"families"}, codes: []string{"lost class", "warn exclude-label"},
		},
		{
			name: "a chart without FRR", input: "kind: Application\nmetadata: {name: a}\nspec: {source: {chart: metallb, targetRevision: 0.15.2, helm: {values: \"speaker:\\n  frr:\\n" +
				"    enabled: false\\n\"}}}\n---\n" + with(peer, "SPEC", ours),
			want: []string{"families:\n  - IPv4\n"}, codes: []string{"warn multihop"},
		},
		{
			name:  "a chart before FRR was the default",
			input: "kind: HelmChart\nmetadata: {name: a}\nspec: {chart: metallb, version: v0.13.9}\n---\n" + with(peer, "SPEC", ours),
			want:  []string{"families:\n  - IPv4\n"}, codes: []string{"warn multihop"},
		},
		{
			name: "a chart, and what a person knows better",
			input: "kind: Kustomization\nhelmCharts: [{name: other, version: 1.0.0, valuesInline: {loadBalancerClass: a}}, {name: metallb, version: 0.14.9}]\n---\n" +
				with(peer, "SPEC", ours),
			o: movein.Options{Assume: []string{"metallb=0.15 native"}}, want: []string{"families:\n  - IPv4\n"}, codes: []string{"warn multihop"},
		},
		{
			name: "a chart that ignores configInline, of Argo CD",
			input: "kind: Application\nmetadata: {name: a}\nspec: {source: {chart: metallb, targetRevision: 0.13.9, helm: {values: \"configInline: {address-pools: " +
				"[{name: lan, protocol: layer2, addresses: [192.0.2.0/28]}]}\"}}}\n",
			want: []string{"name: lan\n"}, codes: []string{"warn was-ignored"}, says: "the chart 0.13.9 ignores configInline",
		},
		{
			name: "a chart of Bitnami's that reads configInline",
			input: "kind: HelmRelease\nmetadata: {name: a}\nspec: {chart: {spec: {chart: metallb, version: 3.0.12}}, values: {configInline: {address-pools: " +
				"[{name: lan, protocol: layer2, addresses: [192.0.2.0/28]}]}}}\n",
			want: []string{"name: lan\n"},
		},
		{
			name: "a configuration that was left beside objects",
			input: with(pool, "NAME", "lan", "RANGE", "192.0.2.0/28") + "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config, namespace: metallb-system}\n" +
				"data: {config: \"address-pools: [{name: old, protocol: layer2, addresses: [198.51.100.0/28]}]\"}\n",
			want: []string{"name: lan\n"}, without: []string{"name: old\n"}, codes: []string{"warn no-advertisement", "warn was-ignored"},
		},
		{
			name:  "an object that comes twice, and one that comes in another version",
			input: strings.Repeat(with(pool, "NAME", "lan", "RANGE", "192.0.2.0/28"), 2) + with(pool, "NAME", "lan", "RANGE", "192.0.2.16/28"),
			want:  []string{"name: lan\n", "- 192.0.2.16/28\n"}, without: []string{"lan-2", "192.0.2.0"}, codes: []string{"warn ambiguous", "warn no-advertisement"},
		},
		{
			name: "an object without a name", input: strings.Replace(with(pool, "RANGE", "192.0.2.0/28"), "name: NAME, ", "", 1),
			codes: []string{"error missing", "warn no-advertisement"},
		},
		{
			name: "a template in a configuration",
			input: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config, namespace: metallb-system}\ndata:\n  config: |\n    address-pools:\n    - name: a\n" +
				"      addresses:\n      - {{ range }}\n",
			codes: []string{"error template"},
		},
		{
			name:  "a configuration that is filled in",
			input: "peers: [{my-asn: \"${ASN}\", peer-asn: \"${ASN}\", peer-address: \"${ROUTER}\"}]\naddress-pools: [{name: \"${NAME}\", protocol: layer2, addresses: [192.0.2.0/28]}]\n",
			codes: []string{"error placeholder"},
		},
		{
			name:  "a password that is encrypted",
			input: with(peer, "SPEC", ours+", password: \"ENC[AES256_GCM,data:a]\"") + "sops: {mac: a}\n", codes: []string{"error placeholder"},
		},
		{
			name: "attributes of BGP on layer 2", input: "address-pools: [{name: a, protocol: layer2, addresses: [192.0.2.0/28], bgp-advertisements: [{localpref: 100}]}]\n",
			want: []string{"kind: L2Advertisement"}, without: []string{"localPref"}, codes: []string{"warn was-refused"},
		},
		{
			name: "a kind of another group, and one of none",
			input: strings.Replace(with(pool, "NAME", "a", "RANGE", "192.0.2.0/28"), "metallb.io", "metallb.universe.tf", 1) +
				"kind: L2Advertisement\nmetadata: {name: a}\n",
			codes: []string{"warn unknown-kind"}, says: "L2Advertisement of no apiVersion",
		},
		{
			name: "two Secrets of one name, of which one is in the input",
			input: with(peer, "SPEC", ours+", passwordSecret: {name: pw, namespace: other}") +
				strings.Replace(with(peer, "SPEC", strings.Replace(ours, "2.1", "2.2", 1)+", passwordSecret: {name: pw}"), "name: router", "name: second", 1) +
				"apiVersion: v1\nkind: Secret\nmetadata: {name: pw, namespace: metallb-system}\nstringData: {password: a}\n",
			want: []string{"kind: Secret\n"}, codes: []string{"warn secret"},
		},
	} {
		t.Run(tt.name, tt.run)
	}
}

// TestMetalLBRefused warns of what MetalLB refuses and Tandem takes.
func TestMetalLBRefused(t *testing.T) {
	const (
		pool    = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan}\nspec: {addresses: [192.0.2.10-192.0.2.20]}\n---\n"
		peer    = "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: NAME}\nspec: {myASN: 64500, peerASN: 64500, peerAddress: 192.0.2.1, SPEC}\n---\n"
		adverts = "apiVersion: metallb.io/v1beta1\nkind: BGPAdvertisement\nmetadata: {name: NAME}\nspec: {SPEC}\n---\n"
		names   = "apiVersion: metallb.io/v1beta1\nkind: Community\nmetadata: {name: NAME}\nspec: {communities: [{name: mine, value: \"64500:1\"}]}\n---\n"
	)
	with := func(text, name, spec string) string {
		return strings.NewReplacer("NAME", name, "SPEC", spec).Replace(text)
	}
	router := with(peer, "p", "vrf: \"\"")
	node := func(name string) string {
		return with(peer, name, "nodeSelectors: [{matchLabels: {kubernetes.io/hostname: "+name+"}}]")
	}
	frr := func(version string) movein.Options {
		return movein.Options{Assume: []string{"metallb" + version + " frr"}}
	}
	for _, tt := range []conversion{
		{
			name: "IPv6 by native BGP", input: strings.Replace(pool, "192.0.2.20", "192.0.2.20, \"2001:db8::/120\"", 1) + router + with(adverts, "a", ""),
			o: movein.Options{Assume: []string{"metallb=0.14 native"}}, codes: []string{"warn was-refused"}, says: "AddressPool lan: native MetalLB refuses IPv6",
		},
		{
			name: "IPv6 by BGP in a configuration, which means FRR", input: "peers: [{my-asn: 64500, peer-asn: 64501, peer-address: 192.0.2.1}]\naddress-pools: [{name: lan, " +
				"protocol: bgp, addresses: [\"2001:db8::/120\"]}]\n",
			want: []string{"2001:db8::/120"}, without: []string{"families"},
		},
		{
			name: "entries that overlap", input: strings.Replace(pool, "192.0.2.20", "192.0.2.20, 192.0.2.16/30", 1) + router + with(adverts, "a", ""),
			want: []string{"- 192.0.2.16/30\n"}, codes: []string{"warn was-refused"}, says: "refuses 192.0.2.16/30 beside 192.0.2.10-192.0.2.20",
		},
		{name: "prefixes of a range", input: pool + router + with(adverts, "a", "aggregationLength: 30")},
		{
			name: "a prefix that is wider than a range", input: pool + router + with(adverts, "a", "aggregationLength: 29"),
			want: []string{"aggregationLength: 29"}, codes: []string{"warn was-refused"}, says: "BGPAdvertisement a: MetalLB refuses an aggregation to /29",
		},
		{
			name: "an aggregation for some Services", input: pool + router + with(adverts, "a", "aggregationLengthV6: 64, serviceSelectors: [{matchLabels: {a: b}}]"),
			codes: []string{"warn was-refused"},
		},
		{
			name: "two preferences for one prefix", input: pool + router + with(adverts, "a", "localPref: 100") + with(adverts, "b", "ipAddressPools: [lan]"),
			codes: []string{"warn was-refused"}, says: "BGPAdvertisement b: MetalLB refuses its localPref 0 beside 100 of BGPAdvertisement a",
		},
		{
			name: "three preferences for one prefix, each beside the first", input: pool + router + with(adverts, "a", "localPref: 100") + with(adverts, "b", "localPref: 50") +
				with(adverts, "c", "localPref: 10") + with(adverts, "d", "localPref: 10"), codes: []string{"warn was-refused"},
			says: "BGPAdvertisements c, d: MetalLB refuses its localPref 10 beside 100 of BGPAdvertisement a",
		},
		{
			name:  "two preferences for two prefixes",
			input: pool + router + with(adverts, "a", "localPref: 100") + with(adverts, "b", "localPref: 50, aggregationLength: 30"),
		},
		{
			name:  "two preferences for two routers",
			input: pool + router + with(adverts, "a", "localPref: 100, peers: [p]") + with(adverts, "b", "localPref: 50, peers: [q]"),
			codes: []string{"warn dangling"},
		},
		{
			name:  "two preferences from two nodes",
			input: pool + router + with(adverts, "a", "localPref: 100, nodeSelectors: [{matchLabels: {n: a}}]") + with(adverts, "b", "nodeSelectors: [{matchLabels: {n: b}}]"),
		},
		{
			name: "a name of a community twice", input: with(names, "a", "") + with(names, "b", ""),
			want: []string{"  name: a\n", "  name: b\n"}, codes: []string{"warn was-refused"},
		},
		{name: "one router of two nodes, native", input: node("a") + node("b"), o: movein.Options{Assume: []string{"metallb=0.14 native"}}},
		{name: "one router of two nodes", input: node("a") + node("b"), o: frr("=0.15"), codes: []string{"warn was-refused"}},
		{name: "one router of two nodes since 0.16", input: node("a") + node("b"), o: frr("=0.16.1")},
		{
			name: "one router twice on a node", input: node("a") + strings.Replace(node("a"), "name: a", "name: c", 1), o: frr("=0.16.1"),
			codes: []string{"warn same-router", "warn was-refused"},
		},
	} {
		t.Run(tt.name, tt.run)
	}
}
