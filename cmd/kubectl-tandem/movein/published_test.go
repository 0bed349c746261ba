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
	hasTexts(t, documents, f.want, f.not)
	if got := codes(messages); !slices.Equal(got, f.codes) {
		t.Errorf("messages %q, want codes %q", messages, f.codes)
	}
}

// hasTexts fails the test for a text that the documents lack, and for one that they have and are to be without.
func hasTexts(t *testing.T, documents string, want, without []string) {
	t.Helper()
	for _, text := range want {
		if !strings.Contains(documents, text) {
			t.Errorf("there is no %q in:\n%s", text, documents)
		}
	}
	for _, text := range without {
		if strings.Contains(documents, text) {
			t.Errorf("there is %q in:\n%s", text, documents)
		}
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
			name: "blocks and cidrs", input: pool("{blocks: [{cidr: 192.0.2.8/32}], cidrs: [{cidr: 192.0.2.9/32}]}") + policy(""),
			want: []string{"- 192.0.2.8/32\n"}, not: []string{"192.0.2.9"}, codes: []string{"warn was-ignored"},
		},
		{
			name: "blocks and cidrs of an old version", input: pool("{blocks: [{cidr: 192.0.2.8/32}], cidrs: [{cidr: 192.0.2.9/32}]}") + policy(""),
			o: movein.Options{Assume: []string{"cilium=1.15"}}, want: []string{"- 192.0.2.8/32\n    - 192.0.2.9/32\n"},
		},
		{name: "an operator in small letters", input: lan + policy("{key: a, operator: in, values: [b]}"), codes: []string{"error bad-value"}},
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
			name: "a hop beyond an interface", input: lan + strings.Replace(bgp(", localASN: 64513", "ebgpMultihop: 3, transport: {sourceInterface: lo}, ", services),
				"peerAddress: 192.0.2.1", "autoDiscovery: {mode: Unnumbered, unnumbered: {interface: eth0}}", 1),
			want: []string{"interface: eth0\n"}, not: []string{"ebgpMultiHop", "sourceInterface"}, codes: []string{"info multihop", "info source"},
		},
		{
			name: "a source of the other family, and a router id of IPv6", input: lan + bgp(", localASN: 64513", "", services) + "apiVersion: cilium.io/v2\n" +
				"kind: CiliumBGPNodeConfigOverride\nmetadata: {name: n1}\nspec: {bgpInstances: [{name: i, routerID: \"2001:db8::1\", peers: [{name: tor, " +
				"localAddress: \"2001:db8::1\"}]}]}\n", codes: []string{"error refused", "warn source", "warn split"},
		},
		{
			name: "an address beside the default gateway", input: lan + strings.Replace(bgp(", localASN: 64513", "", services), "peerAddress: 192.0.2.1",
				"peerAddress: 192.0.2.1, autoDiscovery: {mode: DefaultGateway, defaultGateway: {addressFamily: ipv6}}", 1),
			want: []string{"defaultGateway: IPv6\n"}, not: []string{"peerAddress"}, codes: []string{"warn was-ignored"},
		},
		{
			name: "times out of bounds", input: lan + bgp(", localASN: 64513", "timers: {connectRetryTimeSeconds: 70000}, gracefulRestart: {enabled: true, "+
				"restartTimeSeconds: 5000}, ", services), codes: []string{"error refused"},
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

// TestEmbedded converts objects that stand within something else, and says what cannot be read there.
func TestEmbedded(t *testing.T) {
	const object = "apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: lan}\nspec: {blocks: [{start: 192.0.2.8, stop: 192.0.2.9}]}\n"
	indent := func(n int) string { return strings.ReplaceAll("\n"+object, "\n", "\n"+strings.Repeat(" ", n)) + "\n" }
	found := []string{"- 192.0.2.8-192.0.2.9\n"}
	for _, tt := range []form{
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
				"    extraObjects:\n    -" + indent(6) + "---\n" + object, o: movein.Options{Live: true}, want: found, not: []string{"lan-2"},
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
			name: "a patch", input: "kind: Kustomization\npatches:\n- patch: |-" + indent(4), not: []string{"AddressPool"}, codes: []string{"warn unknown-kind"},
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
		t.Run(tt.name, tt.run)
	}
}

// TestOtherFiles converts a directory in which another program has a template: it is no error there.
func TestOtherFiles(t *testing.T) {
	pool := movein.Input{Name: "pool.yaml", Data: []byte("apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan}\nspec: " +
		"{addresses: [192.0.2.0/28]}\n")}
	other := movein.Input{Name: "config.yaml", Data: []byte("kind: Config\nname: {{ .Values.name }}\n")}
	result := movein.Convert([]movein.Input{pool, other}, movein.Options{})
	if want := []string{"warn no-advertisement", "warn template"}; len(result.Documents) != 1 || !slices.Equal(codes(result.Messages), want) {
		t.Errorf("%d documents and messages %q, want one and codes %q", len(result.Documents), result.Messages, want)
	}
	if result = movein.Convert([]movein.Input{other}, movein.Options{}); !result.Failed(false) {
		t.Error("a template alone is no error")
	}
}

// TestPureLBForms converts what users of PureLB have published beside the forms of its documentation.
func TestPureLBForms(t *testing.T) {
	group := func(name, spec string) string {
		return "apiVersion: purelb.io/v2\nkind: ServiceGroup\nmetadata: {name: " + name + ", namespace: purelb}\nspec: {" + spec + "}\n---\n"
	}
	gobgp := func(global, config string) string {
		return "apiVersion: bgp.purelb.io/v1\nkind: BGPConfiguration\nmetadata: {name: b}\nspec: {global: {" + global + "}, netlinkImport: {enabled: true}, " +
			"neighbors: [{config: {" + config + "}}]}\n---\n"
	}
	const (
		local  = "local: {v4pools: [{subnet: 192.0.2.0/24, pool: 192.0.2.8-192.0.2.9}]}"
		remote = "remote: {v4pools: [{subnet: 198.51.100.0/26, pool: 198.51.100.0/28, aggregation: LENGTH}]}"
		agent  = "apiVersion: purelb.io/v2\nkind: LBNodeAgent\nmetadata: {name: a, namespace: purelb}\nspec: {local: {localInterface: NAME, interfaces: [eth2]}}\n---\n"
		good   = "neighborAddress: 192.0.2.1, peerAsn: 64512"
		first  = "apiVersion: purelb.io/v1\nkind: ServiceGroup\nmetadata: {name: default, namespace: purelb}\nspec: {local: {subnet: 192.0.2.0/24, pool: 192.0.2.8/29}}\n---\n"
		node   = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: ADDRESS}]}\n"
	)
	with := func(length string) string { return strings.Replace(remote, "LENGTH", length, 1) }
	service := func(name string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: web, annotations: {purelb.io/service-group: " + name + "}}\nspec: {type: LoadBalancer, " +
			"externalTrafficPolicy: Local}\n"
	}
	for _, tt := range []form{
		{name: "a group without a pool", input: group("default", "local: {}"), codes: []string{"warn no-pools"}},
		{
			name: "an interface beside that of the default route", input: group("default", local) + strings.Replace(agent, "NAME", "default", 1),
			want: []string{"kind: L2Advertisement"}, not: []string{"interfaces:"}, codes: []string{"info interfaces"},
		},
		{
			name: "two interfaces", input: group("default", local) + strings.Replace(agent, "NAME", "^eth1$", 1),
			want: []string{"- eth1\n  - eth2\n"}, codes: []string{"info interfaces"},
		},
		{name: "agents without a group", input: strings.Replace(agent, "NAME", "default", 1), codes: []string{"info interfaces", "info unused"}},
		{
			name: "prefixes that are announced", input: group("default", with("default")) + group("hosts", with("/32")) + gobgp("asn: 64513", good),
			want:  []string{"addressPools:\n  - default\n  aggregationLength: 26\n", "name: b-2\nspec:\n  addressPools:\n  - hosts\n  peers:"},
			codes: []string{"info default-group"},
		},
		{name: "sessions without a remote group", input: group("default", local) + gobgp("asn: 64513", good), codes: []string{"warn nothing-announced"}},
		{
			name: "a session without numbers", input: group("default", with("/32")) + gobgp("", "neighborAddress: 192.0.2.1"),
			codes: []string{"error missing"},
		},
		{
			name: "a Service of a remote group", input: group("far", with("/32")) + service("far"),
			want: []string{"tandem-lb.io/address-pool: far"}, codes: []string{"info default-group", "info redistributed"},
		},
		{
			name: "a Service of a local group", input: group("near", local) + service("near"),
			want: []string{"tandem-lb.io/address-pool: near"}, codes: []string{"info default-group", "warn etp-rewritten"},
		},
		{
			name:  "values of the chart",
			input: "serviceGroup: {create: true, name: lan, spec: {" + local + "}}\nlbnodeagent: {localInterface: eth1, garpConfig: {enabled: true}}\n",
			want:  []string{"kind: AddressPool\nmetadata:\n  name: lan\n", "- eth1\n"}, codes: []string{"info default-group", "info garp", "info interfaces"},
		},
		{
			name: "values of the chart in a release", input: "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: purelb}\nspec: {values: " +
				"{serviceGroup: {create: true, spec: {" + local + "}}, lbnodeagent: {sendgarp: true}}}\n",
			want: []string{"kind: L2Advertisement\nmetadata:\n  name: default\n"}, codes: []string{"info garp", "warn etp-rewritten"},
		},
		{
			name: "values that make no group", input: "serviceGroup: {create: false, spec: {" + local + "}}\n", codes: []string{"warn was-ignored"},
		},
		{
			name: "nodes of the control plane, and a prefix of names", input: group("default", local) + strings.Replace(strings.Replace(agent, "NAME", "^eno", 1),
				"spec: {", "spec: {nodeSelector: {matchLabels: {node-role.kubernetes.io/control-plane: \"\"}}, ", 1),
			want: []string{"- eno*\n  - eth2\n"}, codes: []string{"info interfaces", "warn exclude-label"},
		},
		{
			name: "a session whose restart another one helps with", input: group("default", with("/32")) +
				strings.Replace(gobgp("asn: 64513, gracefulRestart: {enabled: true, restartTime: 120}", good), "{config: {", "{gracefulRestart: {enabled: true, helperOnly: true}, config: {", 1),
			not: []string{"gracefulRestart"},
		},
		{
			name: "a restart with a time, since Tandem's default is 30 s", input: group("default", with("/32")) +
				gobgp("asn: 64513, gracefulRestart: {enabled: true, restartTime: 120}", good),
			want: []string{"gracefulRestart:\n    restartTime: 120s\n"},
		},
		{
			name: "a router id for all nodes, and a neighbour that is down", input: group("default", with("/32")) + strings.Replace(gobgp("asn: 64513, routerID: 192.0.2.7", good),
				"neighbors: [", "neighbors: [{config: {neighborAddress: 192.0.2.2, peerAsn: 64512, adminDown: true}}, ", 1),
			not: []string{"routerID"}, codes: []string{"info admin-down", "warn router-id"},
		},
		{
			name: "a router id for one node, and a time between two updates", input: group("default", with("/32")) +
				strings.Replace(gobgp("asn: 64513, routerID: 192.0.2.7", good), "{config: {", "{timers: {config: {minimumAdvertisementInterval: 5}}, nodeSelector: "+
					"{matchLabels: {kubernetes.io/hostname: n1}}, config: {", 1),
			want: []string{"routerID: 192.0.2.7\n"}, codes: []string{"info ignored"},
		},
		{
			name: "a neighbour without an address", input: group("default", with("/32")) + gobgp("asn: 64513", "peerAsn: 64512"), codes: []string{"error missing"},
		},
		{
			name:  "a password beside a Secret, which comes first",
			input: group("default", with("/32")) + gobgp("asn: 64513", good+", authPassword: a, authPasswordSecretRef: {name: pw, key: k}"),
			want:  []string{"key: k\n    name: pw\n"}, not: []string{"kind: Secret"}, codes: []string{"warn secret"},
		},
		{
			name: "routers that dial, of which a group says more", input: strings.Replace(gobgp("asn: 64513", good), "neighbors: [{config: {"+good+"}}]",
				"dynamicNeighbors: [{prefix: 192.0.2.0/24, peerGroup: g}], peerGroups: [{config: {peerGroupName: g, peerAsn: 64512}}]", 1),
			codes: []string{"error listen"},
		},
		{
			name: "a group of the first version in no subnet of a Node", input: first + strings.Replace(node, "ADDRESS", "203.0.113.1", 1),
			want: []string{"kind: InterfaceAdvertisement"}, not: []string{"L2Advertisement"}, codes: []string{"info redistributed", "warn ambiguous"},
		},
		{
			name: "a group of the first version in the subnet of a Node", input: first + strings.Replace(node, "ADDRESS", "192.0.2.1", 1),
			want: []string{"kind: L2Advertisement"}, codes: []string{"warn etp-rewritten"},
		},
		{
			name: "a group of the first version whose subnet is of another family than the Nodes' addresses", input: first + strings.Replace(node, "ADDRESS", `"2001:db8::1"`, 1),
			want: []string{"kind: L2Advertisement"}, codes: []string{"warn etp-rewritten"},
		},
		{
			name: "a group of the first version that is local by --local", input: first + strings.Replace(node, "ADDRESS", "203.0.113.1", 1),
			o: movein.Options{Local: []string{"default"}}, want: []string{"kind: L2Advertisement"}, codes: []string{"warn etp-rewritten"},
		},
		{
			name: "an annotation that is misspelt", input: group("near", local) + strings.Replace(service("near"), "purelb.io/service-group",
				"purelb.io/service-grup: a, purelb.io/service-group", 1),
			codes: []string{"info default-group", "warn etp-rewritten", "warn unknown-field"},
		},
		{
			name: "an allocator for its own classes", input: "kind: Deployment\nmetadata: {name: allocator, namespace: purelb}\nspec: {template: {spec: {containers: " +
				"[{image: ghcr.io/purelb/purelb/allocator:v0.17.0, env: [{name: DEFAULT_ANNOUNCER, value: none}]}]}}}\n",
			codes: []string{"lost class"},
		},
	} {
		t.Run(tt.name, tt.run)
	}
}

// TestCalicoForms converts what users of Calico have published beside the forms of its documentation.
func TestCalicoForms(t *testing.T) {
	object := func(kind, name, spec string) string {
		return "apiVersion: projectcalico.org/v3\nkind: " + kind + "\nmetadata: {name: " + name + "}\nspec: {" + spec + "}\n---\n"
	}
	announces := object("BGPConfiguration", "default", "serviceLoadBalancerIPs: [{cidr: 192.0.2.0/24}]")
	lan := object("IPPool", "lan", "cidr: 192.0.2.0/26, allowedUses: [LoadBalancer]")
	bgp := movein.Options{Announce: "bgp"}
	for _, tt := range []form{
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
		t.Run(tt.name, tt.run)
	}
}

// TestServiceForms converts Services, and what charts say of Services, beside the forms of the cases.
func TestServiceForms(t *testing.T) {
	const (
		lan      = "apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: lan}\nspec: {blocks: [{start: 192.0.2.8, stop: 192.0.2.9}]}\n---\n"
		status   = "status: {loadBalancer: {ingress: [{ip: 192.0.2.8}]}}\n"
		families = "address-pools: [{name: four, protocol: layer2, addresses: [192.0.2.0/28]}, {name: six, protocol: layer2, addresses: [\"2001:db8::/120\"]}]\n---\n"
	)
	service := func(annotations, spec string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: web, annotations: {" + annotations + "}}\nspec: {" + spec + "}\n"
	}
	for _, tt := range []form{
		{
			name: "a chart that asks for an address", input: "kind: HelmRelease\nmetadata: {name: a}\nspec: {values: {service: {loadBalancerIP: 192.0.2.1}}}\n",
			codes: []string{"info understood", "warn no-pools"},
		},
		{
			name: "a chart with external addresses, in a text", input: "kind: HelmChart\nmetadata: {name: a}\nspec:\n  valuesContent: |\n    service:\n" +
				"      externalIPs:\n      - 192.0.2.1\n", codes: []string{"lost external-ips"},
		},
		{name: "a chart's settings of that name", input: "externalIPs: {enabled: true}\nservice: {loadBalancerIP: \"\", externalIPs: []}\n"},
		{
			name: "a Gateway of Cilium", input: "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec: {gatewayClassName: cilium, " +
				"addresses: [{type: IPAddress, value: 192.0.2.1}]}\n", codes: []string{"warn annotation-elsewhere", "warn no-pools"},
		},
		{
			name: "external addresses of a load balancer", input: service("", "type: LoadBalancer, externalIPs: [192.0.2.1]"),
			want: []string{"- 192.0.2.1\n", "externalIPs: null\n"}, codes: []string{"warn external-ips-status", "warn no-advertisement", "warn node-address"},
		},
		{name: "no load balancer", input: service("lbipam.cilium.io/ips: 192.0.2.1", "type: ClusterIP"), codes: []string{"info ignored"}},
		{
			name:  "addresses of nodes",
			input: service("io.cilium.nodeipam/match-node-labels: a=b", "type: LoadBalancer, loadBalancerClass: io.cilium/node"),
			codes: []string{"lost class", "lost no-equal"},
		},
		{
			name: "a key and a group that are filled in", input: service(`lbipam.cilium.io/sharing-key: "${KEY}", purelb.io/service-group: "${GROUP}"`,
				"type: LoadBalancer"), codes: []string{"error placeholder"},
		},
		{name: "a group that is filled in", input: service(`purelb.io/service-group: "${GROUP}"`, "type: LoadBalancer"), codes: []string{"error placeholder"}},
		{
			name: "a key and a group of --set", input: service(`lbipam.cilium.io/sharing-key: "${KEY}", purelb.io/service-group: "${GROUP}"`, "type: LoadBalancer"),
			o:    movein.Options{Set: map[string]string{"KEY": "front", "GROUP": "lan"}},
			want: []string{"allow-shared-ip: front\n", "address-pool: lan\n"},
		},
		{
			name:  "two products",
			input: service("metallb.io/loadBalancerIPs: 192.0.2.1, lbipam.cilium.io/ips: 192.0.2.2", "type: LoadBalancer"),
			want:  []string{"load-balancer-ips: 192.0.2.2\n"}, codes: []string{"info pool", "info understood", "warn ambiguous", "warn no-advertisement"},
		},
		{
			name:  "two products that agree",
			input: service("metallb.io/loadBalancerIPs: 192.0.2.2, lbipam.cilium.io/ips: 192.0.2.2", "type: LoadBalancer"),
			codes: []string{"info pool", "info understood", "warn no-advertisement"},
		},
		{
			name:  "a field that asks for another address than the Service has",
			input: lan + service("", "type: LoadBalancer, loadBalancerIP: 192.0.2.9") + status, o: movein.Options{Live: true},
			want: []string{"tandem-lb.io/load-balancer-ips: 192.0.2.8\n"}, codes: []string{"warn no-advertisement", "warn stale-annotation"},
		},
		{
			name:  "an annotation of a MetalLB that is gone, for an address that no pool holds",
			input: lan + service("metallb.universe.tf/loadBalancerIPs: 198.51.100.9", "type: LoadBalancer") + status, o: movein.Options{Live: true},
			want:  []string{"tandem-lb.io/load-balancer-ips: 192.0.2.8\n"},
			codes: []string{"info understood", "warn no-advertisement", "warn stale-annotation"},
		},
		{
			name: "an address in use that no pool holds", input: lan + service("", "type: LoadBalancer") + strings.Replace(status, "192.0.2.8", "198.51.100.1", 1),
			o: movein.Options{KeepInUse: true}, want: []string{"name: in-use\nspec:\n  autoAssign: false\n  ipv4:\n    ranges:\n    - 198.51.100.1\n"},
			codes: []string{"info pool", "warn no-advertisement"},
		},
		{name: "a Service without a name", input: "kind: Service\nspec: {type: LoadBalancer}\n", codes: []string{"error missing"}},
		{
			name: "MetalLB's own note", input: service("metallb.universe.tf/ip-allocated-from-pool: lan", "type: LoadBalancer"), codes: []string{"info understood"},
		},
		{
			name: "a pool that has another name now, in values of a chart", input: "service: {annotations: {metallb.io/address-pool: My_Pool}}\n---\n" +
				"address-pools: [{name: My_Pool, protocol: layer2, addresses: [192.0.2.0/28]}]\n",
			codes: []string{"warn annotation-elsewhere", "warn renamed"},
		},
		{
			name: "both families or one, of MetalLB that gave nothing then", input: families + service("", "type: LoadBalancer, ipFamilyPolicy: PreferDualStack"),
			o: movein.Options{Assume: []string{"metallb=0.14.8"}}, codes: []string{"warn gets-address"},
		},
		{
			name: "both families or one, of MetalLB that gave one then", input: families + service("", "type: LoadBalancer, ipFamilyPolicy: PreferDualStack"),
			o: movein.Options{Assume: []string{"metallb=0.14.9"}}, codes: []string{"warn second-family"},
		},
		{
			name: "both families or one, of MetalLB that need not be as old", input: families + service("", "type: LoadBalancer, ipFamilyPolicy: PreferDualStack"),
			o: movein.Options{Assume: []string{"metallb>=0.13"}}, codes: []string{"warn second-family"},
		},
		{
			name: "addresses of two pools", input: families + service(`metallb.io/loadBalancerIPs: "192.0.2.1,2001:db8::1"`, "type: LoadBalancer"),
			codes: []string{"info understood", "warn gets-address"},
		},
		{
			name: "both families, beside a pool that has both", input: strings.Replace(families, "[{name: four", "[{name: dual, protocol: layer2, addresses: [192.0.2.16/28, "+
				"\"2001:db8:1::/120\"]}, {name: four", 1) + service("", "type: LoadBalancer, ipFamilyPolicy: RequireDualStack"),
			want: []string{"name: dual\n"},
		},
		{
			name: "addresses that Calico announces", input: lan, o: movein.Options{Announce: "calico"}, codes: []string{"info announced-by-calico"},
		},
		{
			name: "MetalLB within Cilium", input: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bgp-config, namespace: kube-system}\ndata:\n  config.yaml: |\n" +
				"    peers: [{peer-address: 192.0.2.254, peer-asn: 64512, my-asn: 64512}]\n    address-pools: [{name: lan, protocol: bgp, " +
				"addresses: [192.0.2.0/28]}]\n", want: []string{"kind: BGPPeer", "name: lan\n"}, codes: []string{"info families"},
		},
	} {
		t.Run(tt.name, tt.run)
	}
}
