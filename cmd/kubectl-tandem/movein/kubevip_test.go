// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// TestKubeVIPOfUsers converts what users write for kube-vip and its cloud provider.
func TestKubeVIPOfUsers(t *testing.T) {
	const (
		pods = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: kube-vip-ds, namespace: kube-system}\nspec: {template: {spec: {nodeSelector: {role: ROLE}, " +
			"containers: [{image: \"ghcr.io/kube-vip/kube-vip:v0.8.0\", args: [manager], env: [{name: svc_enable, value: \"true\"}, ENV]}]}}}\n---\n"
		pools   = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kubevip, namespace: kube-system}\ndata: {DATA}\n---\n"
		service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, labels: {app: web}, annotations: {ANNOTATIONS}}\n" +
			"spec: {type: LoadBalancer, SPEC}\n"
		arp = `{name: vip_arp, value: "true"}, {name: vip_interface, value: eth0}`
	)
	with := func(text string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(text) }
	filled := with(pods, "ROLE", `"${ROLE}"`, "ENV", `{name: vip_arp, value: "true"}, {name: vip_interface, value: "${INTERFACE}"}`)
	plane := with(pods, "ROLE", "lb", "ENV", arp+`, {name: cp_enable, value: "true"}, {name: address, value: "${VIP}"}`)
	for _, tt := range []conversion{
		{name: "placeholders", input: filled, codes: []string{"error placeholder"}, says: "--set INTERFACE="},
		{
			name: "placeholders by --set", input: filled, o: movein.Options{Set: map[string]string{"INTERFACE": "eth0", "ROLE": "lb"}},
			want: []string{"- eth0\n", "role: lb\n"}, codes: []string{"warn no-pools"},
		},
		{
			name: "a template", input: with(pods, "ROLE", "lb", "ENV", `{name: vip_arp, value: "true"}, {name: vip_interface, value: "{{ interface }}"}`),
			codes: []string{"error template"},
		},
		{
			name: "the address of the API server, which is filled in elsewhere, and a pool", input: plane + with(pools, "DATA", "range-global: 192.0.2.1-192.0.2.9"),
			codes: []string{"error placeholder", "lost control-plane"},
		},
		{name: "the address of the API server, which is filled in elsewhere", input: plane, codes: []string{"lost control-plane", "warn no-pools"}},
		{
			name: "a password with a colon", input: with(pods, "ROLE", "lb", "ENV", `{name: bgp_enable, value: "true"}, {name: bgp_as, value: "64500"}, `+
				`{name: bgp_peeraddress, value: "2001:db8::1"}, {name: bgp_peeras, value: "64501"}, {name: bgp_peerpass, value: "a:b"}`),
			want: []string{"password: a:b\n", "peerAddress: 2001:db8::1\n"}, without: []string{"ebgpMultiHop"}, codes: []string{"warn no-pools"},
		},
		{
			name: "an interface that kube-vip finds", input: with(pods, "ROLE", "lb", "ENV", arp+", {name: vip_servicesinterface, value: auto}"),
			want: []string{"name: kube-vip\n"}, without: []string{"interfaces"}, codes: []string{"warn no-pools"},
		},
		{
			name:  "an interface of a Service that kube-vip finds",
			input: with(service, "ANNOTATIONS", "kube-vip.io/loadbalancerIPs: 192.0.2.1, kube-vip.io/serviceInterface: auto", "SPEC", ""),
			want:  []string{"load-balancer-ips: 192.0.2.1"}, without: []string{"L2Advertisement"}, codes: []string{"warn no-advertisement"},
		},
		{
			name: "an interface of a namespace that has no pool of its own",
			input: with(pods, "ROLE", "lb", "ENV", arp) +
				with(pools, "DATA", "range-global: 192.0.2.1-192.0.2.9, interface-dev: eth1, range-shop: 192.0.2.33-192.0.2.40"),
			want: []string{
				"  name: dev\nspec:\n  addressPools:\n  - global\n  interfaces:\n  - eth1\n  namespaceSelectors:\n  - matchExpressions:\n" +
					"    - key: kubernetes.io/metadata.name\n      operator: In\n      values:\n      - dev\n  nodeSelectors:\n  - matchLabels:\n      role: lb\n",
				"  name: global\nspec:\n  addressPools:\n  - global\n  interfaces:\n  - eth0\n  namespaceSelectors:\n  - matchExpressions:\n" +
					"    - key: kubernetes.io/metadata.name\n      operator: NotIn\n",
				"  name: kube-vip\nspec:\n  addressPools:\n  - shop\n",
			},
		},
		{
			name: "an interface of all that the cloud provider gives, and an address that a Service asks for",
			input: with(pods, "ROLE", "lb", "ENV", arp) + with(pools, "DATA", "range-global: 192.0.2.1-192.0.2.9, interface-global: eth1") +
				with(service, "ANNOTATIONS", "kube-vip.io/loadbalancerIPs: 198.51.100.1", "SPEC", ""),
			want: []string{
				"  name: global\nspec:\n  addressPools:\n  - global\n  interfaces:\n  - eth1\n",
				"  name: kube-vip\nspec:\n  addressPools:\n  - kube-vip-requested\n  interfaces:\n  - eth0\n",
			},
		},
		{
			name: "an interface of one namespace, and nothing that announces the others", input: with(pools, "DATA", "range-global: 192.0.2.1-192.0.2.9, interface-dev: eth1"),
			want: []string{"- eth1\n"}, codes: []string{"warn no-advertisement"},
		},
		{
			name:  "a range for a CIDR, and blanks after a comma",
			input: with(pools, "DATA", `cidr-global: "192.0.2.1-192.0.2.9, 192.0.2.16/28", range-dev: 192.0.2.64/28`), want: []string{"- 192.0.2.1-192.0.2.9\n  "},
			codes: []string{"warn dead-key", "warn no-advertisement", "warn was-refused"}, says: "blanks beside a comma",
		},
		{
			name: "values of the charts",
			input: "kind: HelmRelease\nmetadata: {name: kube-vip}\nspec: {values: {image: {tag: v0.6.0}, config: {address: 192.0.2.9}, nodeSelector: {role: lb}, " +
				"extraArgs: {serviceInterface: eth1}, envFrom: [{configMapRef: {name: gone}}], envValueFrom: {svc_namespace: {configMapKeyRef: {name: gone, key: a}}}, " +
				"env: {vip_interface: eth0, cp_enable: true}}}\n---\ncm: {data: {range-global: 192.0.2.1-192.0.2.20}}\n",
			want:  []string{"exclude:\n    - 192.0.2.9\n", "- eth1\n", "role: lb\n", "From DaemonSet kube-system/kube-vip (input.yaml, line 3)"},
			codes: []string{"lost control-plane", "warn dangling", "warn reserved"},
		},
		{
			name: "values in a text, for a chart that takes any container",
			input: "kind: Application\nmetadata: {name: a}\nspec:\n  source:\n    helm:\n      values: |\n        controllers: {a: {containers: {b: {env: " +
				"[{name: bgp_enable, value: true}, {name: svc_enable, value: true}, {name: bgp_as, value: 64500}, {name: bgp_peers, value: \"192.0.2.1:64500\"}, a]}}}}\n",
			want: []string{"peerAddress: 192.0.2.1"}, without: []string{"L2Advertisement"}, codes: []string{"warn no-pools"},
		},
		{name: "values of other charts", input: "env: {vip: a}\nconfig: {a: b}\ncm: {data: {a: b}}\n"},
		{name: "a Service that kube-vip ignores", input: with(service, "ANNOTATIONS", `kube-vip.io/ignore: "true"`, "SPEC", ""), codes: []string{"error ignored-service"}},
		{
			name: "a Service that kube-vip ignores, with a class", input: with(service, "ANNOTATIONS", `kube-vip.io/ignore: "true"`, "SPEC", "loadBalancerClass: example.com/a"),
			codes: []string{"lost class"},
		},
		{
			name: "annotations that are misspelt", input: with(service, "ANNOTATIONS", "kube-vip.io/loadBalancerIPs: 192.0.2.1, metallb.io/loadBalancerIP: 192.0.2.1", "SPEC", ""),
			codes: []string{"warn unknown-field"}, says: "metallb.io/loadBalancerIP:",
		},
	} {
		t.Run(tt.name, tt.run)
	}
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
