// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

const (
	ruleService    = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, META}\nspec: {SPEC}\nstatus: {loadBalancer: {ingress: [STATUS]}}\n"
	ruleCiliumPool = "---\napiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: lan}\nspec: {blocks: [{cidr: 192.0.2.0/26}]}\n"
	ruleNode       = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1, META}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.31}]}\n"
)

// serviceOf is a Service with some metadata, a spec and the entries of a status.
func serviceOf(meta, spec, status string) string {
	return strings.NewReplacer("META", meta, "SPEC", spec, "STATUS", status).Replace(ruleService)
}

// TestKubeVIPRules converts an input for each rule of kube-vip that no case has.
func TestKubeVIPRules(t *testing.T) {
	const (
		head  = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: kube-vip, namespace: kube-system}\nspec: {template: {spec: {containers: [{image: kube-vip, "
		pools = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: kubevip, namespace: kube-system}\ndata: {range-global: 192.0.2.1-192.0.2.9}\n"
		arp   = "vip_arp=true svc_enable=true"
		bgp   = "bgp_enable=true svc_enable=true bgp_as=64500 "
		// requested is the pool of an address that a Service asks for.
		requested = "  name: kube-vip-requested\nspec:\n  autoAssign: false\n  ipv4:\n    ranges:\n    - 198.51.100.7\n"
	)
	pods := func(env string) string {
		var list []string
		for pair := range strings.FieldsSeq(env) {
			name, value, _ := strings.Cut(pair, "=")
			list = append(list, `{name: `+name+`, value: "`+value+`"}`)
		}
		return head + "env: [" + strings.Join(list, ", ") + "]}]}}}\n"
	}
	waits := serviceOf("", "type: LoadBalancer", "{ip: 192.0.2.31}")
	for _, tt := range []conversion{
		{
			name: "the API server's address, which these pods do not serve", input: pods(arp+" address=192.0.2.5") + pools, want: []string{"exclude:\n    - 192.0.2.5\n"},
			codes: []string{"warn reserved"},
		},
		{
			name: "next hops that are written", input: pods(bgp+"bgp_peers=192.0.2.254:64501 mpbgp_nexthop=fixed mpbgp_ipv4=192.0.2.8") + pools,
			want: []string{"peerAddress: 192.0.2.254\n"}, without: []string{"families"}, says: "info [next-hop]",
		},
		{
			name:  "families at the end of a peer",
			input: pods(bgp+"bgp_peers=[2001:db8::1]:64501::false/mpbgp_nexthop=auto_sourceif,192.0.2.254:64501:a/b:true:180/mpbgp_nexthop=fixed;mpbgp_ipv6=2001:db8::2") + pools,
			want:  []string{"ebgpMultiHop: true\n", "peerPort: 180\n", "password: a/b\n"}, without: []string{"families"},
		},
		{
			name: "a router on an interface, of any number", input: pods(bgp+"bgp_peers=unnumbered:eth3") + pools, want: []string{"dynamicASN: External\n", "interface: eth3\n"},
			codes: []string{"warn ambiguous"},
		},
		{
			name: "BFD in units that are not clear", input: pods(bgp+"bgp_peers=192.0.2.254:64501::false:179::true;300;400;5") + pools,
			want: []string{"detectMultiplier: 5\n  transmitInterval: 400ms\n"}, codes: []string{"warn ambiguous"},
		},
		{
			name: "keys without a namespace", input: strings.Replace(pools, "range-global: 192.0.2.1-192.0.2.9", `cidr-: 192.0.2.0/28, range: 192.0.2.1-192.0.2.2, interface: eth0`, 1),
			without: []string{"AddressPool"}, codes: []string{"warn unknown-field"},
		},
		{
			name: "an affinity without terms", input: strings.Replace(pods(arp), "{containers", "{nodeSelector: {role: lb}, affinity: {nodeAffinity: "+
				"{requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}}, containers", 1) + pools, want: []string{"role: lb\n"},
		},
		{
			name: "two workloads, and an interface of all that the cloud provider gives",
			input: strings.Replace(pods(arp+" vip_interface=eth0"), "{containers", "{nodeSelector: {role: a}, containers", 1) + "---\n" +
				strings.Replace(pods(arp+" vip_interface=eth1"), "{containers", "{nodeSelector: {role: b}, containers", 1) +
				strings.Replace(pools, "{range", "{interface-global: eth7, range", 1),
			want:    []string{"  name: global\nspec:\n  addressPools:\n  - global\n  interfaces:\n  - eth7\n  nodeSelectors:\n  - matchLabels:\n      role: a\n  - matchLabels:\n      role: b\n"},
			without: []string{"eth0", "eth1"},
		},
		{
			name: "pods that run on each node", input: strings.Replace(pods(arp), "{containers", "{tolerations: [{key: a}, {operator: Exists, effect: NoExecute}, "+
				"{operator: Exists, effect: NoSchedule}], containers", 1) + pools, codes: []string{"warn exclude-label"},
		},
		{
			name: "arguments in command", input: head + "command: [/kube-vip, manager, --arp, --services, --interface, eth0, --lbClassOnly, --table]}]}}}\n" + pools,
			want: []string{"- eth0\n"}, codes: []string{"lost class", "lost no-equal"},
		},
		{
			name: "arguments and numbers of BGP", input: head + "args: [manager, --bgp, --services, --peerAddress, 192.0.2.254, --multihop, --bgpHoldTimer=60]}]}}}\n" + pools,
			want: []string{"  ebgpMultiHop: true\n", "  holdTime: 60s\n  myASN: 65000\n  peerASN: 65000\n"},
		},
		{
			name: "a namespace alone that is served", input: pods(arp+" svc_namespace=shop") + serviceOf("annotations: {kube-vip.io/loadbalancerIPs: 198.51.100.7}", "type: LoadBalancer", ""),
			want: []string{requested + "  namespaceSelectors:\n"},
		},
		{
			name:  "pools that a Kustomization makes",
			input: "kind: Kustomization\nconfigMapGenerator:\n- {name: kubevip, literals: [\"range-global=192.0.2.1-192.0.2.9\"]}\n- {name: other, literals: [cidr-a=b]}\n",
			want:  []string{"name: global\n"}, codes: []string{"warn no-advertisement"},
		},
		{
			name: "a wish to a DHCP server", input: serviceOf("annotations: {kube-vip.io/loadbalancerIPs: 0.0.0.0, kube-vip.io/requestedIP: 198.51.100.7, kube-vip.io/hwaddr: a}", "type: LoadBalancer", ""),
			want: []string{requested, "load-balancer-ips: 198.51.100.7\n"}, codes: []string{"lost no-equal", "warn no-advertisement"}, says: "kube-vip.io/hwaddr",
		},
		{
			name: "an address that the provider has written", input: serviceOf("labels: {implementation: kube-vip}", "type: LoadBalancer, loadBalancerIP: 198.51.100.7", ""),
			want: []string{requested}, codes: []string{"warn no-advertisement"},
		},
		{name: "an address of a node, without the provider", input: pods(arp) + waits, codes: []string{"warn no-pools", "warn node-address"}},
		{name: "such an address in an export", input: pods(arp) + waits, o: movein.Options{Live: true}, codes: []string{"warn no-pools", "warn node-address"}},
		{
			name: "an address of a node, which is in the export", input: pods(arp) + waits + ruleNode, o: movein.Options{Live: true, KeepInUse: true}, without: []string{"192.0.2.31"},
			codes: []string{"warn no-pools", "warn node-address"}, says: "of node n1",
		},
		{
			name: "an address of no node", input: pods(arp) + waits + strings.Replace(ruleNode, "2.31", "2.30", 1), o: movein.Options{Live: true},
			codes: []string{"error uncovered", "warn no-pools"},
		},
	} {
		t.Run(tt.name, tt.run)
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

// TestServiceLBRules converts an input for each rule of ServiceLB that no case has.
func TestServiceLBRules(t *testing.T) {
	const chart = "apiVersion: helm.cattle.io/v1\nkind: HelmChartConfig\nmetadata: {name: NAME, namespace: kube-system}\nspec:\n  valuesContent: |-\n    service:\n" +
		"      annotations: {svccontroller.k3s.cattle.io/tolerations: '[]'}\n"
	k3sNode := func(name, arguments string) string {
		return "---\napiVersion: v1\nkind: Node\nmetadata: {name: " + name + ", annotations: {k3s.io/node-args: '" + arguments + "'}}\n"
	}
	plain := serviceOf("", "type: LoadBalancer", "")
	pools := movein.Options{Pools: []string{"internal=192.0.2.16/28", "servicelb=192.0.2.32/28"}}
	const (
		internal  = "  serviceSelectors:\n  - matchLabels:\n      svccontroller.k3s.cattle.io/lbpool: internal\n"
		onEnabled = "  - servicelb\n  nodeSelectors:\n  - matchLabels:\n      svccontroller.k3s.cattle.io/enablelb: \"true\"\n"
	)
	for _, tt := range []conversion{
		{name: "it is off", input: "tls-san: [a]\ndisable: [traefik, servicelb]\n" + plain, says: "it disables ServiceLB"},
		{name: "it is off in a file of config.yaml.d", input: "disable+: servicelb\n" + plain, says: "it disables ServiceLB"},
		{name: "it is off by an argument", input: "vars: {extra_server_args: \"--disable=traefik --disable servicelb\"}\n" + plain, says: "it disables ServiceLB"},
		{name: "it is off by two elements", input: "args: [server, --disable, servicelb]\n" + plain, says: "it disables ServiceLB"},
		{name: "it is off in user data", input: "user-data: |\n  disable:\n  - servicelb\n" + plain, says: "it disables ServiceLB"},
		{
			name:  "it is off on one server, and not on another one",
			input: k3sNode("n1", `["server","--disable","servicelb"]`) + k3sNode("n2", `["server"]`) + plain, codes: []string{"error pool-needed"}, says: "Node n2: it does not",
		},
		{name: "it is off on all servers", input: k3sNode("n1", `["server","--disable","traefik","--disable","servicelb"]`) + k3sNode("n2", `["agent"]`) + plain, says: "Node n1: it disables"},
		{
			name:  "the address of the one node",
			input: ruleNode + serviceOf("finalizers: [service.kubernetes.io/load-balancer-cleanup]", "type: LoadBalancer", "{ip: 192.0.2.31}"), codes: []string{"error pool-needed"},
		},
		{name: "a DaemonSet of it", input: "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: svclb, labels: {svccontroller.k3s.cattle.io/svcname: web}}\n" + plain, codes: []string{"error pool-needed"}},
		{
			name: "it runs beside another product", input: k3sNode("n1", `["server"]`) + plain + ruleCiliumPool, o: movein.Options{Live: true},
			codes: []string{"error two-writers", "warn gets-address", "warn no-advertisement"}, says: "error [two-writers] Node n1",
		},
		{
			name: "it is off beside another product", input: k3sNode("n1", `["server","--disable","servicelb"]`) + plain + ruleCiliumPool, o: movein.Options{Live: true},
			want: []string{"name: lan\n"}, codes: []string{"warn gets-address", "warn no-advertisement"},
		},
		{name: "another part is off", input: "disable: [traefik]\n" + plain, codes: []string{"error pool-needed"}, says: "it does not disable ServiceLB"},
		{name: "its namespace", input: "servicelb-namespace: lb\n" + plain, codes: []string{"error pool-needed"}},
		{name: "RKE2 with it", input: "enable-servicelb: true\n" + plain, codes: []string{"error pool-needed"}},
		{name: "a chart of RKE2", input: strings.Replace(chart, "NAME", "rke2-ingress-nginx", 1) + plain, codes: []string{"warn tolerations"}},
		{name: "it is off, and Services still have its addresses", input: "disable: servicelb\n" + serviceOf("finalizers: [service.kubernetes.io/load-balancer-cleanup]",
			"type: LoadBalancer", "{ip: 192.0.2.31}, {ip: 192.0.2.32}"), codes: []string{"error pool-needed"}},
		{
			name: "labels that k3s gives nodes", input: "disable: traefik\nnode-label: [svccontroller.k3s.cattle.io/enablelb=true, svccontroller.k3s.cattle.io/lbpool=internal]\n", o: pools,
			want: []string{internal, onEnabled},
		},
		{
			name: "labels of a Node", input: strings.Replace(ruleNode, "META", "labels: {svccontroller.k3s.cattle.io/enablelb: 'true', svccontroller.k3s.cattle.io/lbpool: internal}", 1), o: pools,
			want: []string{internal, onEnabled},
		},
		{
			name: "a Service of which nothing says what serves it", input: serviceOf("", "type: LoadBalancer", "{ip: 192.0.2.31}"), o: pools, want: []string{"name: servicelb\n"},
			codes: []string{"warn addresses-change"},
		},
		{
			name: "a Service of kube-vip without its cloud provider", input: "kind: Pod\nmetadata: {name: kube-vip}\nspec: {containers: [{image: kube-vip, args: [--arp, --services]}]}\n" + plain,
			o: movein.Options{Pools: []string{"lan=192.0.2.32/28"}}, want: []string{"name: lan\n", "kind: L2Advertisement\nmetadata:\n  name: kube-vip\n"},
			without: []string{"addressPools"}, codes: []string{"warn exclude-label"},
		},
		{
			name: "a Service that a chart makes", input: strings.Replace(chart, "NAME", "traefik", 1), o: pools, want: []string{"name: internal\n", "name: servicelb\n"},
			codes: []string{"warn tolerations"},
		},
	} {
		t.Run(tt.name, tt.run)
	}
}

// TestExternalIPRules converts Services with external addresses beside those of the cases.
func TestExternalIPRules(t *testing.T) {
	l2 := movein.Options{Announce: "l2"}
	for _, tt := range []conversion{
		{
			name: "a load balancer that waits", input: serviceOf("", "type: LoadBalancer, externalIPs: [198.51.100.7]", ""), o: l2, want: []string{"- 198.51.100.7\n", "externalIPs: null\n"},
			codes: []string{"warn external-ips-status", "warn node-address"},
		},
		{
			name: "a load balancer that has an address", input: serviceOf("", "type: LoadBalancer, externalIPs: [198.51.100.7]", "{ip: 192.0.2.1}"), without: []string{"198.51.100.7"},
			codes: []string{"warn status-in-file"},
		},
		{name: "a load balancer with a class", input: serviceOf("", "type: LoadBalancer, loadBalancerClass: a/b, externalIPs: [198.51.100.7]", ""), codes: []string{"lost class"}},
		{
			name: "a load balancer that a pool gives an address", input: ruleCiliumPool + serviceOf("", "type: LoadBalancer, externalIPs: [198.51.100.7]", ""), o: l2,
			without: []string{"198.51.100.7"},
		},
		{
			name: "a load balancer that asks for another address", input: serviceOf("", "type: LoadBalancer, loadBalancerIP: 192.0.2.1, externalIPs: [198.51.100.7]", ""), o: l2,
			want: []string{"- 192.0.2.1\n"}, without: []string{"198.51.100.7"},
		},
		{name: "a load balancer of the product that is asked for", input: serviceOf("", "type: LoadBalancer, externalIPs: [198.51.100.7]", ""), o: movein.Options{From: "cilium"}},
		{name: "no load balancer, with a status", input: serviceOf("", "externalIPs: [198.51.100.7]", "{ip: 192.0.2.1}"), without: []string{"198.51.100.7"}},
		{
			name: "an address of a node, and another one", input: serviceOf("", "externalIPs: [192.0.2.31, 198.51.100.7]", "") + ruleNode, o: l2,
			want: []string{"load-balancer-ips: 198.51.100.7\n"}, without: []string{"- 192.0.2.31\n"}, codes: []string{"warn external-ips-status", "warn node-address"}, says: "of node n1",
		},
		{
			name: "beside a Service that Tandem serves", input: serviceOf("", "externalIPs: [198.51.100.7]", "") +
				strings.Replace(serviceOf("", "type: LoadBalancer", "{ip: \"2001:db8:51::1000\"}"), "name: web", "name: served", 1) +
				"---\napiVersion: networking.k8s.io/v1\nkind: IPAddress\nmetadata: {name: \"2001:db8:51::1000\", labels: {ipaddress.kubernetes.io/managed-by: tandem-lb.io}}\n",
			o: movein.Options{From: "services", Announce: "l2", Live: true, KeepInUse: true}, want: []string{"- 198.51.100.7\n"}, without: []string{"2001:db8:51::1000"},
			codes: []string{"warn external-ips-status", "warn node-address"},
		},
		{
			name:  "a Service whose address another program has claimed",
			input: serviceOf("", "type: LoadBalancer", "{ip: 192.0.2.1}") + "---\napiVersion: networking.k8s.io/v1\nkind: IPAddress\nmetadata: {name: 192.0.2.1}\n",
			o:     movein.Options{From: "services", Live: true}, codes: []string{"error uncovered"},
		},
	} {
		t.Run(tt.name, tt.run)
	}
}
