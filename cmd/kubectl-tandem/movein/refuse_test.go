// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// Inputs of the tables below, in which words in capitals stand for what each row says.
const (
	metallbPool = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan, namespace: metallb-system, labels: {LABELS}}\n" +
		"spec: {addresses: [192.0.2.0/28], serviceAllocation: {ALLOCATION}}\n---\n"
	metallbAd        = "apiVersion: metallb.io/v1beta1\nkind: KIND\nmetadata: {name: lan, namespace: metallb-system}\nspec: {SPEC}\n---\n"
	metallbCommunity = "apiVersion: metallb.io/v1beta1\nkind: Community\nmetadata: {name: NAME, namespace: metallb-system}\n" +
		"spec: {communities: [VALUES]}\n---\n"
	// metallbPeer has its router's address, and metallbUnnumbered has none.
	metallbPeer = "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: tor, namespace: metallb-system}\n" +
		"spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, SPEC}\n---\n"
	metallbUnnumbered = "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: tor, namespace: metallb-system}\n" +
		"spec: {myASN: 64512, peerASN: 64513, SPEC}\n---\n"
	ciliumSession = "apiVersion: cilium.io/v2\nkind: CiliumBGPClusterConfig\nmetadata: {name: c}\nspec: {bgpInstances: [{name: i, localASN: 64512, peers: " +
		"[{name: tor, peerASN: 64513, peerAddress: 192.0.2.1, peerConfigRef: {name: p}}]}]}\n---\napiVersion: cilium.io/v2\nkind: CiliumBGPPeerConfig\n" +
		"metadata: {name: p}\nspec: {CONFIG, families: [{afi: ipv4, safi: unicast, advertisements: {matchLabels: {a: b}}}]}\n---\napiVersion: cilium.io/v2\n" +
		"kind: CiliumBGPAdvertisement\nmetadata: {name: ad, labels: {a: b}}\nspec: {advertisements: [{advertisementType: Service, service: " +
		"{addresses: [LoadBalancerIP], AGGREGATION}, selector: {}, attributes: {ATTRIBUTES}}]}\n---\n"
	ciliumPool    = "apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: lan}\nspec: {SPEC}\n---\n"
	kubeVIPRouted = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: kube-vip-ds, namespace: kube-system}\nspec: {template: {spec: {containers: [{image: " +
		"\"ghcr.io/kube-vip/kube-vip:v0.8.0\", args: [manager], env: [{name: svc_enable, value: \"true\"}, {name: bgp_enable, value: \"true\"}, " +
		"{name: bgp_as, value: \"64512\"}, ENV]}]}}}\n---\n"
	kubeVIPLAN = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kubevip, namespace: kube-system}\ndata: {cidr-global: 192.0.2.0/28, interface-global: NAME}\n---\n"
	calicoBGP  = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: lan}\nspec: {cidr: 192.0.2.0/28, allowedUses: [LoadBalancer], " +
		"nodeSelector: all()}\n---\napiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\nspec: {asNumber: 64512, " +
		"serviceLoadBalancerIPs: [{cidr: 192.0.2.0/24}], CONFIGURATION}\n---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: tor}\n" +
		"spec: {peerIP: 192.0.2.1, asNumber: 64513, PEER}\n---\n"
	pureLBRemote = "apiVersion: purelb.io/v1\nkind: LBNodeAgent\nmetadata: {name: default, namespace: purelb}\nspec: {local: {extlbint: DUMMY}}\n---\n" +
		"apiVersion: purelb.io/v1\nkind: ServiceGroup\nmetadata: {name: default, namespace: purelb}\nspec: {remote: {v4pools: [{subnet: 198.51.100.0/24, " +
		"pool: 198.51.100.0/28, aggregation: LENGTH}]}}\n---\n"
)

// fill puts values in place of the words in capitals of an input, and nothing in place of the others.
func fill(text string, pairs ...string) string {
	rest := strings.NewReplacer("LABELS", "", "ALLOCATION", "", "SPEC", "", "CONFIGURATION", "", "CONFIG", "transport: {}", "AGGREGATION", "", "ATTRIBUTES", "",
		"PEER", "", "DUMMY", "kube-lb0", "LENGTH", "default", ", ENV", "")
	return rest.Replace(strings.NewReplacer(pairs...).Replace(text))
}

// each joins a format with the numbers from 1.
func each(count int, format string) string {
	var list []string
	for i := range count {
		list = append(list, strings.ReplaceAll(format, "%", fmt.Sprint(i+1)))
	}
	return strings.Join(list, ", ")
}

// services are Services with an address in their status that no pool holds, each the given step after the one before.
func services(address string, count, step int) (text string) {
	for i := range count {
		a := strings.ReplaceAll(address, "%", fmt.Sprint((i+1)*step))
		text += fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: s-%s, namespace: shop}\nspec: {type: LoadBalancer}\nstatus: {loadBalancer: {ingress: "+
			"[{ip: %q}]}}\n---\n", strings.NewReplacer(".", "-", ":", "-").Replace(a), a)
	}
	return text
}

// TestRefused has a row for each kind of thing that the API server refuses, and that the configuration of another product can come to.
func TestRefused(t *testing.T) {
	const long, ownLabels = "enp129s0f0np0.100", "{matchLabels: {rack-%: a, row-%: b}}"
	session := func(env ...string) string { return fill(kubeVIPRouted, "ENV", strings.Join(env, ", ")) }
	peers := func(text string) string { return session(fmt.Sprintf("{name: bgp_peers, value: %q}", text)) }
	for _, tt := range []struct {
		name, input string
		o           movein.Options
		says        string // the object, the field and the limit, and what to do
	}{
		{
			"a label that is none", fill(metallbPool, "LABELS", "team: a b") + fill(metallbAd, "KIND", "L2Advertisement", "SPEC",
				"ipAddressPoolSelectors: [{matchLabels: {team: a}}]"), movein.Options{}, "AddressPool lan: metadata.labels: a valid label must",
		},
		{
			"a priority of more than 31 bits", fill(metallbPool, "ALLOCATION", "priority: 3000000000"),
			movein.Options{},
			"AddressPool lan: spec.priority: 3000000000 is more than 2147483647; lower it. Correct IPAddressPool metallb-system/lan (input.yaml, line 1)",
		},
		{
			"more ranges than a pool takes", fill(ciliumPool, "SPEC", "blocks: ["+each(65, "{cidr: 198.51.%.0/28}")+"]"),
			movein.Options{},
			"AddressPool lan: spec.ipv4.ranges: has 65 entries, and takes 64 at most; write several objects",
		},
		{
			"more of IPv6", fill(ciliumPool, "SPEC", "blocks: ["+each(65, "{cidr: \"2001:db8:%::/64\"}")+"]"),
			movein.Options{},
			"AddressPool lan: spec.ipv6.ranges: has 65 entries, and takes 64 at most",
		},
		{
			"a wait between BFD packets of 5 ms", peers("192.0.2.1:64513::false:::true;5;5;3"),
			movein.Options{},
			`BFDProfile kube-vip-1: spec.receiveInterval: "5ms": must be a duration from 10ms to 60s such as 300ms; spec.transmitInterval: "5ms"`,
		},
		{
			"300 BFD packets", peers("192.0.2.1:64513::false:::true;300;300;300"),
			movein.Options{},
			"BFDProfile kube-vip-1: spec.detectMultiplier: 300 is more than 255; lower it",
		},
		{
			"one BFD packet", peers("192.0.2.1:64513::false:::true;300;300;1"),
			movein.Options{},
			"BFDProfile kube-vip-1: spec.detectMultiplier: 1 is less than 2; raise it",
		},
		{
			"a preference of more than 32 bits", fill(metallbAd, "KIND", "BGPAdvertisement", "SPEC", "localPref: 4294967296"),
			movein.Options{},
			"BGPAdvertisement lan: spec.localPref: 4294967296 is more than 4294967295; lower it",
		},
		{
			"an aggregate longer than an address", fill(ciliumSession, "AGGREGATION", "aggregationLengthIPv4: 33, aggregationLengthIPv6: 129"),
			movein.Options{},
			"spec.aggregationLength: 33 is more than 32; lower it; spec.aggregationLengthV6: 129 is more than 128",
		},
		{
			"a name of a community that is none", fill(calicoBGP, "CONFIGURATION", "prefixAdvertisements: [{cidr: 192.0.2.0/24, communities: [\"of many\"]}]"),
			movein.Options{Announce: "bgp"},
			`BGPAdvertisement calico: spec.communities[0]: "of many": must be two numbers up to 65535`,
		},
		{
			"a long name of a community", fill(metallbAd, "KIND", "BGPAdvertisement", "SPEC", "communities: ["+strings.Repeat("c", 64)+"]"),
			movein.Options{},
			`BGPAdvertisement lan: spec.communities[0]: "cccc`,
		},
		{
			"a long name of a peer", fill(metallbAd, "KIND", "BGPAdvertisement", "SPEC", "peers: ["+strings.Repeat("p", 254)+"]"),
			movein.Options{},
			"… has 254 characters, and the field takes 253 at most; shorten it",
		},
		{
			"a long name of an interface", fill(metallbUnnumbered, "SPEC", "interface: "+long),
			movein.Options{},
			`BGPPeer tor: spec.interface: "enp129s0f0np0.100" has 17 characters, and the field takes 15 at most; shorten it. Correct BGPPeer metallb-system/tor`,
		},
		{
			"a name of an interface that is none", peers("unnumbered:eth 0:64513::false"),
			movein.Options{},
			`BGPPeer kube-vip-1: spec.interface: "eth 0": must be the name of a network interface`,
		},
		{
			"a long name of the source's interface", fill(ciliumSession, "CONFIG", "transport: {sourceInterface: "+long+"}"),
			movein.Options{},
			`BGPPeer tor: spec.sourceInterface: "enp129s0f0np0.100" has 17 characters`,
		},
		{"a long name of a VRF", fill(metallbPeer, "SPEC", "vrf: customer-of-the-lab"), movein.Options{}, `BGPPeer tor: spec.vrf: "customer-of-the-lab" has 19 characters`},
		{
			"a wait for a connection of a day", fill(metallbPeer, "SPEC", "connectTime: 24h"),
			movein.Options{},
			`BGPPeer tor: spec.connectTime: "24h": must be whole seconds from 1s to 65535s such as 5s`,
		},
		{
			"a hold time of two seconds", fill(metallbPeer, "SPEC", "holdTime: 2s"),
			movein.Options{},
			`BGPPeer tor: spec.holdTime: "2s": must be 0s, or whole seconds from 3s to 65535s such as 9s (RFC 4271 section 4.2)`,
		},
		{
			"a restart of two hours", fill(ciliumSession, "CONFIG", "gracefulRestart: {enabled: true, restartTimeSeconds: 7200}"),
			movein.Options{},
			`BGPPeer tor: spec.gracefulRestart.restartTime: "7200s": must be whole seconds from 1s to 4095s`,
		},
		{
			"an AS of more than 32 bits", strings.Replace(fill(metallbPeer), "64512", "4294967296", 1),
			movein.Options{},
			"BGPPeer tor: spec.myASN: 4294967296 is more than 4294967295; lower it",
		},
		{
			"an AS of more than 64 bits", peers("192.0.2.1:99999999999999999999::false"),
			movein.Options{},
			"BGPPeer kube-vip-1: spec.peerASN: 9223372036854775807 is more than 4294967295; lower it",
		},
		{
			"the AS that stands for longer numbers", strings.Replace(fill(metallbPeer), "64513", "23456", 1),
			movein.Options{},
			"BGPPeer tor: spec.peerASN: 23456 is AS_TRANS",
		},
		{
			"a port of more than 16 bits", fill(ciliumSession, "CONFIG", "transport: {peerPort: 70000}"),
			movein.Options{},
			"BGPPeer tor: spec.peerPort: 70000 is more than 65535; lower it",
		},
		{
			"a router id of IPv6", session(`{name: bgp_peers, value: "192.0.2.1:64513::false"}`, `{name: bgp_routerid, value: "2001:db8::1"}`),
			movein.Options{},
			`BGPPeer kube-vip-1: spec.routerID: "2001:db8::1": must be an IPv4 address`,
		},
		{
			"300 hops", fill(calicoBGP, "PEER", "ttlSecurity: 300"),
			movein.Options{Announce: "bgp"},
			"BGPPeer tor: spec.ttlSecurityHops: 300 is more than 254; lower it. Correct BGPPeer tor (input.yaml",
		},
		{
			"a link-local source", fill(metallbUnnumbered, "SPEC", "peerAddress: \"2001:db8::1\", sourceAddress: \"fe80::1\""),
			movein.Options{},
			"BGPPeer tor: spec.interface: is missing: a link-local sourceAddress needs the interface it is on",
		},
		{
			"a long name of a Secret", fill(metallbPeer, "SPEC", "passwordSecret: {name: "+strings.Repeat("s", 254)+"}"),
			movein.Options{},
			`BGPPeer tor: spec.passwordSecret.name: "ssss`,
		},
		{
			"one name for two Secrets", fill(metallbPeer, "SPEC", "password: a") + strings.Replace(fill(metallbPeer, "SPEC", "passwordSecret: {name: tor-password}"),
				"name: tor,", "name: spine,", 1) + "apiVersion: v1\nkind: Secret\nmetadata: {name: tor-password, namespace: metallb-system}\n" +
				"stringData: {password: b}\n", movein.Options{}, "Secret tor-password: another object that is made has the same name",
		},
		{
			"a name that no Secret has", fill(metallbPeer, "SPEC", "passwordSecret: {name: Tor_1}") + "apiVersion: v1\nkind: Secret\nmetadata: {name: Tor_1, " +
				"namespace: metallb-system}\nstringData: {password: b}\n", movein.Options{}, "Secret Tor_1: metadata.name: ",
		},
		{
			"more nodes of a peer than can be put together", fill(metallbPeer, "SPEC", "nodeSelectors: ["+each(65, ownLabels)+"]"),
			movein.Options{},
			"BGPPeer tor: spec.nodeSelectors: has 65 entries, and takes 64 at most; write several objects",
		},
		{
			"a long name of PureLB's interface", fill(pureLBRemote, "DUMMY", "kube-lb-of-the-rack"),
			movein.Options{},
			`InterfaceAdvertisement default: spec.interface: "kube-lb-of-the-rack" has 19 characters`,
		},
		{
			"a mask longer than an address", fill(pureLBRemote, "LENGTH", "/33"),
			movein.Options{},
			"InterfaceAdvertisement default: spec.aggregationLength: 33 is more than 32; lower it",
		},
		{
			"a name of the LAN's interface that is none", fill(kubeVIPLAN, "NAME", "eth 0"),
			movein.Options{},
			`L2Advertisement global: spec.interfaces[0]: "eth 0": must be the name of a network interface, in which * and ? may stand`,
		},
		{
			"a long name of the LAN's interface", fill(metallbAd, "KIND", "L2Advertisement", "SPEC", "interfaces: ["+strings.Repeat("i", 65)+"]"),
			movein.Options{},
			"has 65 characters, and the field takes 64 at most; shorten it",
		},
		{
			"weights out of bounds", fill(metallbAd, "KIND", "L2Advertisement", "SPEC", "preferredNodeSelectors: [{weight: 200, preference: {matchLabels: {a: b}}}, "+
				"{preference: {matchLabels: {a: c}}}]"),
			movein.Options{},
			"L2Advertisement lan: spec.preferredNodes[0].weight: 200 is more than 100; lower it; spec.preferredNodes[1].weight: 0 is less than 1; raise it",
		},
		{
			"more than a few objects could say", fill(metallbAd, "KIND", "L2Advertisement", "SPEC", "nodeSelectors: ["+each(600, ownLabels)+
				"], serviceSelectors: ["+each(600, ownLabels)+"]"),
			movein.Options{},
			"L2Advertisement lan: spec.nodeSelectors: has 600 entries, and takes 64 at most; write several objects, each with a part of them; spec.serviceSelectors",
		},
		{
			"a namespace that is none", strings.Replace(fill(pureLBRemote), "spec: {remote", "spec: {namespaces: [my shop], remote", 1),
			movein.Options{},
			`AddressPool default: spec.namespaceSelectors[0]: values[0][kubernetes.io/metadata.name]: Invalid value: "my shop": `,
		},
		{
			"another one", strings.Replace(fill(kubeVIPLAN, "NAME", "eth0"), "cidr-global", "cidr-My_Shop-", 1),
			movein.Options{},
			`AddressPool my-shop: spec.namespaceSelectors[0]: values[0][kubernetes.io/metadata.name]: Invalid value: "My_Shop-": `,
		},
		{
			"more preferences than an advertisement takes", fill(metallbAd, "KIND", "L2Advertisement", "SPEC", "preferredNodeSelectors: ["+
				each(17, "{weight: %, preference: {matchLabels: {a: b%}}}")+"]"),
			movein.Options{},
			"L2Advertisement lan: spec.preferredNodes: has 17 entries, and takes 16 at most",
		},
		{
			"more nodes beside preferences", fill(metallbAd, "KIND", "L2Advertisement", "SPEC", "preferredNodeSelectors: [{weight: 1, preference: {matchLabels: "+
				"{a: b}}}], nodeSelectors: ["+each(65, ownLabels)+"]"),
			movein.Options{},
			"L2Advertisement lan: spec.nodeSelectors: has 65 entries, and takes 64 at most",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			documents, messages := convert(t, tt.input, tt.o)
			if documents != "" {
				t.Errorf("it is written all the same:\n%s", documents)
			}
			errors := slices.DeleteFunc(slices.Clone(messages), func(m movein.Message) bool { return m.Level != movein.Error })
			if !slices.Equal(codes(errors), []string{"error refused"}) {
				t.Errorf("errors %q, want one or more of code refused", errors)
			}
			if !slices.ContainsFunc(errors, func(m movein.Message) bool { return strings.Contains(m.String(), tt.says) }) {
				t.Errorf("none of %q says %q", errors, tt.says)
			}
		})
	}
}

// TestFits converts lists that are too long for one object of Tandem, and values that Tandem takes in another form.
func TestFits(t *testing.T) {
	advertisement := func(kind, spec string) string { return fill(metallbPool) + fill(metallbAd, "KIND", kind, "SPEC", spec) }
	const ownLabels = "{matchLabels: {rack-%: a, row-%: b}}"
	for _, tt := range []conversion{
		{
			name: "nodes that differ in one label", input: advertisement("L2Advertisement", "nodeSelectors: ["+each(70, "{matchLabels: {row: a, rack: r%}}")+"]"),
			want: []string{"nodeSelectors:\n  - matchExpressions:\n    - key: rack\n      operator: In\n", "- r70\n", "key: row\n"}, without: []string{"lan-2"},
			says: "info [merged] L2Advertisement lan: selectors that differ in one label are put together, since nodeSelectors takes 64",
		},
		{
			name: "nodes of a peer that differ in one label", input: fill(metallbPool) + fill(metallbAd, "KIND", "BGPAdvertisement") +
				fill(metallbPeer, "SPEC", "nodeSelectors: ["+each(70, "{matchLabels: {row: a, rack: r%}}")+"]"), want: []string{"- r70\n"},
			says: "info [merged] BGPPeer tor: ",
		},
		{
			name: "nodes of a peer without anything in common", input: fill(metallbPool) + fill(metallbAd, "KIND", "BGPAdvertisement", "SPEC", "peers: [tor]") +
				fill(metallbPeer, "SPEC", "nodeSelectors: ["+each(64, ownLabels)+", {matchLabels: {rack: a}}, {matchLabels: {rack: b}}]"),
			want: []string{
				"  myASN: 64512\n  nodeSelectors:\n  - matchExpressions:\n    - key: rack\n      operator: In\n      values:\n      - a\n      - b\n  peerASN: 64513\n",
				"    - key: rack\n      operator: NotIn\n      values:\n      - a\n      - b\n", "  name: tor-2\n", "  peers:\n  - tor\n  - tor-2\n",
			}, codes: []string{"warn split"},
		},
		{
			name: "nodes without anything in common", input: advertisement("L2Advertisement", "ipAddressPools: [lan], nodeSelectors: ["+each(70, ownLabels)+"]"),
			want: []string{"  name: lan-2\nspec:\n  addressPools:\n  - lan\n  nodeSelectors:\n  - matchLabels:\n      rack-65: a\n"}, without: []string{"lan-3"},
			says: "info [split] L2Advertisement lan: it has longer lists than one object takes: the rest is in lan-2, and adds up with it",
		},
		{
			name: "two lists that are too long", input: advertisement("BGPAdvertisement", "nodeSelectors: ["+each(70, ownLabels)+"], ipAddressPoolSelectors: ["+
				each(130, ownLabels)+"], ipAddressPools: [lan]") + fill(metallbPeer), want: []string{"name: lan-2\n", "name: lan-6\n"}, without: []string{"name: lan-7\n"},
		},
		{
			name: "more Services, pools, peers and communities", input: advertisement("BGPAdvertisement", "ipAddressPools: [lan, "+each(300, "p%")+"], peers: [tor, "+
				each(300, "r%")+"], communities: ["+each(70, "64512:%")+"]") + fill(metallbPeer),
			want: []string{"name: lan-8\n"}, without: []string{"name: lan-9\n"}, codes: []string{"warn dangling"},
		},
		{
			name: "more interfaces", input: advertisement("L2Advertisement", "interfaces: ["+each(65, "eth%")+", eth1]"),
			want: []string{"  name: lan-2\nspec:\n  interfaces:\n  - eth65\n"}, without: []string{"eth65\n  - eth1\n"},
		},
		{
			name: "an expression for more interfaces", input: fill(ciliumPool, "SPEC", "blocks: [{cidr: 192.0.2.0/28}]") + "apiVersion: cilium.io/v2alpha1\n" +
				"kind: CiliumL2AnnouncementPolicy\nmetadata: {name: lan}\nspec: {loadBalancerIPs: true, interfaces: [\"^[a-i][a-i]$\"], nodeSelector: " +
				"{matchLabels: {rack: a}}}\n", want: []string{"- aa\n", "- ii\n", "name: lan-2\n"}, without: []string{"name: lan-3\n"},
		},
		{
			name: "more addresses that Services have than a pool takes", input: services("203.0.113.%", 70, 2) + services("2001:db8::%", 70, 2),
			o:    movein.Options{Live: true, KeepInUse: true, Announce: "l2"},
			want: []string{"  name: in-use\n", "    - 203.0.113.2\n", "  name: in-use-2\n", "    - 203.0.113.140\n", "addressPools:\n  - in-use\n  - in-use-2\n  - in-use-3\n"}, without: []string{"in-use-4"},
			says: "info [split] AddressPool in-use: it has more addresses than a pool takes: the rest is in in-use-2, in-use-3",
		},
		{
			name: "more selectors of a pool", input: fill(metallbPool, "ALLOCATION", "serviceSelectors: ["+each(70, ownLabels)+"]") +
				fill(metallbAd, "KIND", "L2Advertisement", "SPEC", "ipAddressPools: [lan]"),
			want: []string{"  name: lan-2\nspec:\n  ipv4:\n    ranges:\n    - 192.0.2.0/28\n", "addressPools:\n  - lan\n  - lan-2\n"}, codes: []string{"warn split"},
		},
		{
			name: "more communities than an object takes", input: advertisement("L2Advertisement", "") + fill(metallbCommunity, "NAME", "c", "VALUES",
				each(300, "{name: c%, value: \"64512:%\"}")),
			want: []string{"  name: c-2\nspec:\n  communities:\n  - name: c257\n"}, says: "info [split] Community c: ",
		},
		{
			name: "Communities whose names come to one", input: advertisement("L2Advertisement", "") + fill(metallbCommunity, "NAME", "C_1", "VALUES",
				"{name: a, value: \"64512:1\"}") + fill(metallbCommunity, "NAME", "c-1", "VALUES", "{name: b, value: \"64512:2\"}"),
			want: []string{"  name: c-1\n", "  name: c-1-2\n"},
		},
		{
			name: "more excluded addresses than a pool takes", input: fill(ciliumPool, "SPEC", "allowFirstLastIPs: \"No\", blocks: ["+
				each(33, "{cidr: 198.51.%.0/28}")+"]"), o: movein.Options{Announce: "l2"}, want: []string{"    ranges:\n    - 198.51.1.1-198.51.1.14\n"},
			without: []string{"exclude"}, says: "info [merged] AddressPool lan: its ranges leave out the 66 addresses",
		},
		{
			name: "an interface twice", input: advertisement("L2Advertisement", "interfaces: [eth0, eth0]"), want: []string{"interfaces:\n  - eth0\n"},
			without: []string{"- eth0\n  - eth0"},
		},
		{
			name: "a peer twice", input: advertisement("BGPAdvertisement", "peers: [tor, tor], communities: [\"64512:1\", \"64512:1\"]") + fill(metallbPeer),
			want: []string{"peers:\n  - tor\n"}, without: []string{"- tor\n  - tor", "- 64512:1\n  - 64512:1"},
		},
		{
			name: "BFD in a VRF", input: advertisement("BGPAdvertisement", "") + fill(metallbPeer, "SPEC", "vrf: red, bfdProfile: fast") +
				"apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {name: fast, namespace: metallb-system}\n",
			want: []string{"vrf: red\n"}, without: []string{"bfdProfile"}, codes: []string{"lost no-equal"}, says: "BGPPeer tor: BFD sessions run in the main table only",
		},
		{
			name: "an interface in a VRF", input: advertisement("BGPAdvertisement", "") + fill(metallbUnnumbered, "SPEC", "vrf: red, interface: eth1"),
			want: []string{"interface: eth1\n"}, without: []string{"vrf: red"}, says: "info [vrf] BGPPeer tor: interface eth1 is in its VRF already",
		},
		{
			name: "a long name of a peer with a password", input: advertisement("BGPAdvertisement", "") + strings.Replace(fill(metallbPeer, "SPEC", "password: a"),
				"name: tor,", "name: "+strings.Repeat("p", 250)+",", 1), want: []string{"  name: " + strings.Repeat("p", 250) + "-pa\n"},
		},
		{
			name: "a session in two products", input: advertisement("BGPAdvertisement", "") + fill(metallbPeer) + fill(calicoBGP), o: movein.Options{Announce: "bgp"},
			want: []string{"  name: tor\n", "  name: tor-2\n"}, codes: []string{"lost aggregate", "warn multihop", "warn renamed", "warn same-router"},
		},
	} {
		t.Run(tt.name, tt.run)
	}
}
