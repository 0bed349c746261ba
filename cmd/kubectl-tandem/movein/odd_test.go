// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// TestOddities converts what users write and the products' documentation does not.
func TestOddities(t *testing.T) {
	const (
		pool    = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: NAME}\nspec: {addresses: [RANGE]}\n---\n"
		inline  = "configInline: {address-pools: [{name: lan, protocol: layer2, addresses: [192.0.2.0/28]}]}"
		service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, annotations: {ANNOTATIONS}}\nspec: {SPEC}\n"
		group   = "apiVersion: purelb.io/v1\nkind: ServiceGroup\nmetadata: {name: default, namespace: NS}\nspec: {local: {pool: " +
			"192.0.2.0/28}}\n---\n"
		peer = "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: NAME, namespace: metallb-system}\nspec: {myASN: 64500, " +
			"peerASN: 64500, peerAddress: 192.0.2.1, SPEC}\n---\n"
		cilium = "apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: lan}\nspec: {blocks: [{cidr: 192.0.2.0/28}], " +
			"serviceSelector: {SELECTOR}}\n"
		kubeVIP = "apiVersion: v1\nkind: Pod\nmetadata: {name: kube-vip-n1, namespace: kube-system}\nspec: {containers: [{image: kube-vip, args: [manager], " +
			"env: [{name: vip_nodename, value: n1}, {name: svc_enable, value: \"true\"}, {name: cp_enable, value: \"true\"}, {name: bgp_enable, " +
			"value: \"true\"}, {name: bgp_as, value: \"64500\"}, {name: bgp_peers, value: \"192.0.2.1:64500\"}]}]}\n"
		policy = "apiVersion: cilium.io/v2alpha1\nkind: CiliumL2AnnouncementPolicy\nmetadata: {name: lan}\nspec: {loadBalancerIPs: true, " +
			"serviceSelector: {SELECTOR}}\n"
	)
	with := func(text string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(text) }
	families := with(pool, "NAME", "four", "RANGE", "192.0.2.0/28") + with(pool, "NAME", "six", "RANGE", `"2001:db8::/120"`)
	for _, tt := range []conversion{
		{
			name: "values in a list", input: "kind: Application\nspec: {sources: [{helm: {valuesObject: {" + inline + "}}}]}\n",
			want: []string{"192.0.2.0/28", "kind: L2Advertisement"},
		},
		{
			name: "values in a list in a text", input: "kind: Application\nspec:\n  sources:\n  - helm:\n      values: |\n        " + inline + "\n",
			want: []string{"192.0.2.0/28"},
		},
		{name: "an empty entry", input: with(pool, "NAME", "a", "RANGE", `"", 192.0.2.0/33`), codes: []string{"error bad-address"}},
		{name: "an alias in what it stands for", input: "a: &a {b: *a}\n", codes: []string{"error no-yaml"}},
		{name: "an alias in itself within a text", input: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: config, namespace: " +
			"metallb-system}\ndata:\n  config: |\n    a: &a {b: *a}\n", codes: []string{"error no-yaml"}},
		{
			name: "a placeholder in a name", input: with(pool, "NAME", `"${NAME}"`, "RANGE", "192.0.2.0/28"),
			codes: []string{"error placeholder", "warn no-advertisement", "warn renamed"},
		},
		{
			name: "a name by --set", input: with(pool, "NAME", `"${NAME}"`, "RANGE", "192.0.2.0/28"),
			o: movein.Options{Set: map[string]string{"NAME": "lan"}}, want: []string{"name: lan"}, codes: []string{"warn no-advertisement"},
		},
		{name: "a placeholder in an annotation", input: with(service, "ANNOTATIONS", `lbipam.cilium.io/ips: "${IP}"`, "SPEC",
			"type: LoadBalancer"), codes: []string{"error placeholder"}},
		{
			name: "a placeholder in a selector", input: with(peer, "NAME", "a", "SPEC", `nodeSelectors: [{matchLabels: {rack: "${RACK}"}}]`),
			codes: []string{"error placeholder"},
		},
		{
			name: "a patch in Git, without a type", input: with(service, "ANNOTATIONS", "lbipam.cilium.io/ips: 192.0.2.1", "SPEC", ""),
			want: []string{"tandem-lb.io/load-balancer-ips: 192.0.2.1"}, codes: []string{"warn no-advertisement"},
		},
		{name: "both families of two pools", input: families + with(service, "ANNOTATIONS", "", "SPEC",
			"type: LoadBalancer, ipFamilyPolicy: PreferDualStack"), codes: []string{"warn no-advertisement", "warn second-family"}},
		{name: "both families or nothing", input: families + with(service, "ANNOTATIONS", "", "SPEC",
			"type: LoadBalancer, ipFamilyPolicy: RequireDualStack"), codes: []string{"warn gets-address", "warn no-advertisement"}},
		{
			name: "an address of two families of one kind", input: with(service, "ANNOTATIONS", `metallb.io/loadBalancerIPs: "192.0.2.1, `+
				`192.0.2.2"`, "SPEC", "type: LoadBalancer"), want: []string{"tandem-lb.io/load-balancer-ips: 192.0.2.1\n"},
			codes: []string{"lost one-per-family", "warn no-advertisement"},
		},
		{name: "a finalizer of another controller", input: "apiVersion: v1\nkind: Service\nmetadata: {name: web, finalizers: " +
			"[svccontroller.k3s.cattle.io/daemonset]}\nspec: {type: LoadBalancer}\n", codes: []string{"warn finalizer"}},
		{name: "two sessions with one router", input: with(peer, "NAME", "a", "SPEC", "") + with(peer, "NAME", "b", "SPEC",
			"nodeSelectors: [{matchLabels: {rack: a}}]"), codes: []string{"warn same-router"}},
		{name: "a router of two racks", input: with(peer, "NAME", "a", "SPEC", "nodeSelectors: [{matchLabels: {rack: a}}]") +
			with(peer, "NAME", "b", "SPEC", "nodeSelectors: [{matchExpressions: [{key: rack, operator: NotIn, values: [a]}]}]")},
		{
			name: "a Secret of the input", input: with(peer, "NAME", "a", "SPEC", "passwordSecret: {name: pw}") +
				"apiVersion: v1\nkind: Secret\nmetadata: {name: pw, namespace: metallb-system}\ndata: {password: c2VjcmV0}\n",
			want: []string{"namespace: tandem-system\nstringData:\n  password: secret\n"},
		},
		{name: "a Secret that is encrypted", input: with(peer, "NAME", "a", "SPEC", "passwordSecret: {name: pw}") +
			"apiVersion: v1\nkind: Secret\nmetadata: {name: pw}\nstringData: {password: \"ENC[AES256]\"}\n", codes: []string{"warn secret"}},
		{name: "all namespaces but one", input: with(cilium, "SELECTOR", "matchExpressions: [{key: io.kubernetes.service.namespace, "+
			"operator: NotIn, values: [kube-system]}]"), want: []string{"namespaceSelectors:\n  - matchExpressions:\n    - key: " +
			"kubernetes.io/metadata.name\n      operator: NotIn\n"}, codes: []string{"warn no-advertisement"}},
		{
			name: "a policy for a namespace and a label", input: with(policy, "SELECTOR", "matchLabels: {io.kubernetes.service.namespace: shop, color: blue}"),
			want: []string{
				"  namespaceSelectors:\n  - matchExpressions:\n    - key: kubernetes.io/metadata.name\n      operator: In\n      values:\n      - shop\n",
				"  serviceSelectors:\n  - matchLabels:\n      color: blue\n",
			},
			codes: []string{"warn exclude-label", "warn no-pools"},
		},
		{
			name: "a policy for all namespaces but one, and a Service there", input: with(cilium, "SELECTOR", "") + "---\n" + with(policy, "SELECTOR",
				"matchExpressions: [{key: io.kubernetes.service.namespace, operator: NotIn, values: [shop]}]") + "---\n" +
				with(service, "ANNOTATIONS", "", "SPEC", "type: LoadBalancer"),
			want:  []string{"    - key: kubernetes.io/metadata.name\n      operator: NotIn\n      values:\n      - shop\n"},
			codes: []string{"warn exclude-label", "warn no-label"},
		},
		{
			name: "a Service without the label", input: with(cilium, "SELECTOR", "matchLabels: {pool: blue}") + "---\n" +
				with(service, "ANNOTATIONS", "", "SPEC", "type: LoadBalancer"), want: []string{"pool: blue"},
			codes: []string{"warn no-advertisement", "warn no-label"},
		},
		{name: "no global part", input: "apiVersion: bgp.purelb.io/v1\nkind: BGPConfiguration\nmetadata: {name: a}\nspec: {neighbors: []}\n"},
		{
			name: "groups of one name", input: strings.Replace(group, "NS", "default", 1) + strings.Replace(group, "NS", "purelb", 1) +
				"apiVersion: purelb.io/v1\nkind: LBNodeAgent\nmetadata: {name: a, namespace: purelb}\n",
			want: []string{"From ServiceGroup purelb/default"}, codes: []string{"warn ambiguous", "warn etp-rewritten"},
		},
		{
			name: "arguments of kube-vip", input: "kind: DaemonSet\nmetadata: {name: a}\nspec: {template: {spec: {affinity: {nodeAffinity: " +
				"{requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: " +
				"[n1]}]}]}}}, containers: [{image: kube-vip, args: [manager, --arp, --services, --interface, eth0]}]}}}\n",
			want: []string{"- eth0\n", "key: kubernetes.io/hostname\n      operator: In\n"}, codes: []string{"warn no-pools"},
		},
		{
			name: "the interface of one Service", input: with(service, "ANNOTATIONS", "kube-vip.io/loadbalancerIPs: 192.0.2.1, "+
				"kube-vip.io/serviceInterface: eth0}, labels: {app: web", "SPEC", "type: LoadBalancer"),
			want: []string{"app: web"}, codes: []string{"warn no-advertisement"},
		},
		{
			name: "a prefix wider than the pool", input: with(pool, "NAME", "a", "RANGE", "192.0.2.0/28") + "apiVersion: metallb.io/v1beta1\n" +
				"kind: BGPAdvertisement\nmetadata: {name: a}\nspec: {aggregationLength: 24}\n",
			want: []string{"aggregationLength: 24"}, codes: []string{"warn no-peers", "warn was-refused"},
		},
		{name: "a pool whose name another one has after the change", input: with(pool, "NAME", "A", "RANGE", "192.0.2.0/28") +
			with(pool, "NAME", "a", "RANGE", "192.0.2.16/28") + "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: " +
			"first}\nspec: {ipAddressPools: [A]}\n---\napiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: second}\n" +
			"spec: {ipAddressPools: [a]}\n", want: []string{"name: first\nspec:\n  addressPools:\n  - a\n", "name: second\nspec:\n  " +
			"addressPools:\n  - a-2\n"}, codes: []string{"warn renamed"}},
		{name: "charts of k3s beside the pools of another product", input: "apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata: " +
			"{name: metallb}\nspec: {valuesContent: \"" + inline + "\"}\n---\n" + with(service, "ANNOTATIONS", "", "SPEC",
			"type: LoadBalancer"), want: []string{"192.0.2.0/28"}},
		{
			name: "numbers and times out of bounds", input: with(peer, "NAME", "a", "SPEC", "peerPort: 70000, holdTime: 2s, routerID: abc") +
				"apiVersion: metallb.io/v1beta1\nkind: BFDProfile\nmetadata: {name: a}\nspec: {receiveInterval: 5, detectMultiplier: 1}\n",
			codes: []string{"error bad-value"},
		},
		{name: "a time in milliseconds", input: with(peer, "NAME", "a", "SPEC", "holdTime: 30500ms"), want: []string{"holdTime: 31s"}},
		{
			name: "an address that the Service does not have", input: with(cilium, "SELECTOR", "") + "---\n" + with(service, "ANNOTATIONS",
				"lbipam.cilium.io/ips: 192.0.2.1", "SPEC", "type: LoadBalancer") + "status: {loadBalancer: {ingress: [{ip: 192.0.2.2}]}}\n",
			o: movein.Options{Live: true}, want: []string{"load-balancer-ips: 192.0.2.2\n"},
			codes: []string{"warn no-advertisement", "warn stale-annotation"},
		},
		{
			name: "two addresses of which the Service has the second", input: with(cilium, "SELECTOR", "") + "---\n" + with(service,
				"ANNOTATIONS", `lbipam.cilium.io/ips: "192.0.2.1,192.0.2.2"`, "SPEC", "type: LoadBalancer") +
				"status: {loadBalancer: {ingress: [{ip: 192.0.2.2}]}}\n", o: movein.Options{Live: true},
			want: []string{"load-balancer-ips: 192.0.2.2\n"}, codes: []string{"lost one-per-family", "warn no-advertisement"},
		},
		{
			name: "a Service that waits and that no pool selects", input: with(cilium, "SELECTOR", "matchLabels: {pool: blue}") + "---\n" +
				with(service, "ANNOTATIONS", "", "SPEC", "type: LoadBalancer"), o: movein.Options{Live: true},
			codes: []string{"warn no-advertisement", "warn no-label"},
		},
		{name: "an empty block", input: "apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: a}\nspec: {blocks: " +
			"[{cidr: \"\"}]}\n", codes: []string{"error missing"}},
		{
			name: "a peer without an address", input: with(strings.Replace(peer, "192.0.2.1", `""`, 1), "NAME", "a", "SPEC", ""),
			codes: []string{"error missing"},
		},
		{
			name: "a patch in JSON", input: "kind: Kustomization\npatches:\n- patch: |-\n    - op: add\n      path: " +
				"/metadata/annotations/lbipam.cilium.io~1ips\n      value: 192.0.2.1\n",
			codes: []string{"warn annotation-elsewhere", "warn no-pools"},
		},
		{
			name: "what has no equal, in values", input: "controller: {service: {annotations: {kube-vip.io/serviceInterface: eth0}}}\n",
			codes: []string{"warn annotation-elsewhere"},
		},
		{
			name: "a list of Services whose items have no kind", input: `{"kind": "ServiceList", "apiVersion": "v1", "items": [{"metadata": {"name": "web", ` +
				`"annotations": {"lbipam.cilium.io/ips": "192.0.2.1"}}, "spec": {"type": "LoadBalancer"}}]}`,
			want: []string{"tandem-lb.io/load-balancer-ips: 192.0.2.1"}, codes: []string{"warn no-advertisement"},
		},
		{
			name: "JSON that is no YAML", input: "{\n\t\"apiVersion\": \"metallb.io\\/v1beta1\", \"kind\": \"IPAddressPool\", \"metadata\": {\"name\": \"lan\", " +
				"\"annotations\": {\"a\": \"\\ud83d\\ude00\"}}, \"spec\": {\"addresses\": [\"192.0.2.0\\/28\"]}}\n",
			want: []string{"192.0.2.0/28"}, codes: []string{"warn no-advertisement"},
		},
		{
			name: "lines that end as in Windows, and documents without anything", input: strings.ReplaceAll(with(pool, "NAME", "lan", "RANGE", "192.0.2.0/28")+
				"---\n\n# a comment\n---\n", "\n", "\r\n"), want: []string{"192.0.2.0/28"}, codes: []string{"warn no-advertisement"},
		},
		{
			name: "a merge of two mappings", input: "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: a}\nspec:\n  <<: [{myASN: 64500, " +
				"peerASN: 64500}, {peerAddress: 192.0.2.1, peerASN: 1, other: 1}]\n  nodeSelectors: [{matchLabels: {<<: {rack: a}}}]\n",
			want: []string{"peerASN: 64500\n", "peerAddress: 192.0.2.1", "rack: a"}, codes: []string{"warn unknown-field"},
		},
		{
			name: "pools whose long names begin alike", input: with(pool, "NAME", strings.Repeat("a", 70)+"1", "RANGE", "192.0.2.0/28") +
				with(pool, "NAME", strings.Repeat("a", 70)+"2", "RANGE", "192.0.2.16/28"),
			want: []string{"name: " + strings.Repeat("a", 61) + "-2\n"}, codes: []string{"warn no-advertisement", "warn renamed"},
		},
		{
			name: "pools that MetalLB never reads", input: with(pool, "NAME", "lan, namespace: metallb", "RANGE", "192.0.2.0/28") +
				with(pool, "NAME", "lan, namespace: default", "RANGE", "198.51.100.0/28") + "kind: DaemonSet\nmetadata: {name: speaker, " +
				"namespace: metallb}\nspec: {template: {spec: {containers: [{image: quay.io/metallb/speaker:v0.15.2}]}}}\n",
			want: []string{"192.0.2.0/28"}, codes: []string{"warn no-advertisement", "warn was-ignored"},
		},
		{
			name: "speakers of MetalLB that are not told which BGP", input: strings.Replace(with(peer, "NAME", "a", ", SPEC", ""), "peerASN: 64500", "peerASN: 64501", 1) +
				"kind: DaemonSet\nmetadata: {name: speaker, namespace: metallb-system}\nspec: {template: {spec: {containers: [{image: " +
				"quay.io/metallb/speaker:v0.16.1}]}}}\n",
			want: []string{"families:\n  - IPv4\n"}, codes: []string{"warn multihop"},
		},
		{
			name: "a peer for nodes that nobody has", input: "peers: [{my-asn: 64500, peer-asn: 64500, peer-address: 192.0.2.1, node-selectors: [{match-labels: " +
				"{nomatch.metal.equinix.com/service: a}}]}]\n", want: []string{"nomatch.metal.equinix.com/service: a"},
		},
		{
			name: "kube-vip on each node of the control plane", input: kubeVIP + "---\n" + strings.ReplaceAll(kubeVIP, "n1", "n2"),
			want: []string{"name: kube-vip-1\n"}, codes: []string{"lost control-plane", "warn exclude-label", "warn no-pools"},
		},
		{
			name: "a password of kube-vip in a Secret", input: with(kubeVIP, "manager]", "manager], envFrom: [{configMapRef: {name: env}}, {configMapRef: {name: gone}}]",
				"name: bgp_peers, value: \"192.0.2.1:64500\"", "name: bgp_peerpass, valueFrom: {secretKeyRef: {name: pw, key: pass}}") + "---\napiVersion: v1\n" +
				"kind: ConfigMap\nmetadata: {name: env, namespace: kube-system}\ndata: {bgp_peeraddress: 192.0.2.1, bgp_peeras: \"64500\"}\n",
			want:  []string{"key: pass\n    name: pw\n", "peerAddress: 192.0.2.1"},
			codes: []string{"lost control-plane", "warn dangling", "warn exclude-label", "warn no-pools", "warn secret"},
		},
		{
			name: "a namespace of kube-vip with DHCP", input: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kubevip}\ndata: {cidr-global: 192.0.2.0/30, " +
				"cidr-dev: 0.0.0.0/32}\n", want: []string{"operator: NotIn\n      values:\n      - dev\n"}, codes: []string{"lost no-equal", "warn no-advertisement"},
		},
		{
			name: "a group with its namespace", input: strings.Replace(group, "NS", "purelb", 1) + with(service, "ANNOTATIONS",
				"purelb.io/service-group: purelb/default", "SPEC", "type: LoadBalancer"), want: []string{"tandem-lb.io/address-pool: default"},
		},
		{
			name: "two Services with one external address", input: with(service, "ANNOTATIONS", "", "SPEC", "externalIPs: [192.0.2.1], ports: [{port: 53}]") +
				"---\n" + with(service, "web", "dns", "ANNOTATIONS", "", "SPEC", "externalIPs: [192.0.2.1], ports: [{port: 53, protocol: UDP}]"),
			want:  []string{"tandem-lb.io/allow-shared-ip: 192.0.2.1\n    tandem-lb.io/load-balancer-ips: 192.0.2.1\n  name: dns\n"},
			codes: []string{"warn external-ips-status", "warn no-advertisement", "warn node-address"},
		},
		{
			name: "two Services of kube-vip with one address and one port", input: with(service, "ANNOTATIONS", "kube-vip.io/loadbalancerIPs: 192.0.2.1", "SPEC",
				"type: LoadBalancer, ports: [{port: 53}]") + "---\n" + with(service, "web", "dns", "ANNOTATIONS", "kube-vip.io/loadbalancerIPs: 192.0.2.1",
				"SPEC", "type: LoadBalancer, ports: [{port: 53}]"), codes: []string{"lost sharing", "warn no-advertisement"},
		},
		{
			name: "a status with a name", input: with(pool, "NAME", "lan", "RANGE", "192.0.2.0/28") + with(service, "ANNOTATIONS", "", "SPEC",
				"type: LoadBalancer") + "status: {loadBalancer: {ingress: [{hostname: lb.example.com}]}}\n", o: movein.Options{Live: true},
			codes: []string{"warn gets-address", "warn no-advertisement"},
		},
		{
			name: "a parameter of a chart", input: "kind: Application\nspec: {source: {helm: {parameters: [{name: 'controller.service.annotations.lbipam\\.cilium\\.io/ips', " +
				"value: 192.0.2.1}]}}}\n", codes: []string{"warn annotation-elsewhere", "warn no-pools"},
		},
		{
			name: "what a neighbour has of its peer group", input: "apiVersion: bgp.purelb.io/v1\nkind: BGPConfiguration\nmetadata: {name: a}\nspec: {global: {asn: 64500}, " +
				"peerGroups: [{config: {peerGroupName: g, peerAsn: 64501}, ebgpMultihop: {enabled: true, multihopTtl: 3}, gracefulRestart: {enabled: true}}], " +
				"neighbors: [{config: {neighborAddress: 192.0.2.1, peerGroup: g}}]}\n", want: []string{"ebgpMultiHop: true", "gracefulRestart: {}"},
		},
		{
			name: "masks of two lengths", input: "apiVersion: purelb.io/v1\nkind: ServiceGroup\nmetadata: {name: default, namespace: purelb}\nspec: {remote: {v4pools: " +
				"[{subnet: 192.0.2.0/24, pool: 192.0.2.0/28, aggregation: /32}, {subnet: 198.51.100.0/24, pool: 198.51.100.0/28, aggregation: default}]}}\n",
			want: []string{"kind: InterfaceAdvertisement"}, codes: []string{"lost aggregate"},
		},
		{
			name: "an interface of a namespace whose addresses go by BGP", input: kubeVIP + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: kubevip}\ndata: " +
				"{cidr-dev: 192.0.2.0/30, interface-dev: eth1}\n", want: []string{"name: dev"}, codes: []string{"lost control-plane", "warn exclude-label"},
		},
		{name: "peers that carry nothing have no messages", input: "apiVersion: cilium.io/v2alpha1\nkind: CiliumBGPPeeringPolicy\n" +
			"metadata: {name: a}\nspec: {virtualRouters: [{localASN: 64500, neighbors: [{peerAddress: 192.0.2.1/32, peerASN: 0, " +
			"authSecretRef: pw}]}]}\n", codes: []string{"warn nothing-announced"}},
	} {
		t.Run(tt.name, tt.run)
	}
}
