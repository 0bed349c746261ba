// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

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
	for _, tt := range []conversion{
		{name: "a group without a pool", input: group("default", "local: {}"), codes: []string{"warn no-pools"}},
		{
			name: "an interface beside that of the default route", input: group("default", local) + strings.Replace(agent, "NAME", "default", 1),
			want: []string{"kind: L2Advertisement"}, without: []string{"interfaces:"}, codes: []string{"info interfaces"},
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
			without: []string{"gracefulRestart"},
		},
		{
			name: "a restart with a time, since Tandem's default is 30 s", input: group("default", with("/32")) +
				gobgp("asn: 64513, gracefulRestart: {enabled: true, restartTime: 120}", good),
			want: []string{"gracefulRestart:\n    restartTime: 120s\n"},
		},
		{
			name: "a router id for all nodes, and a neighbour that is down", input: group("default", with("/32")) + strings.Replace(gobgp("asn: 64513, routerID: 192.0.2.7", good),
				"neighbors: [", "neighbors: [{config: {neighborAddress: 192.0.2.2, peerAsn: 64512, adminDown: true}}, ", 1),
			without: []string{"routerID"}, codes: []string{"info admin-down", "warn router-id"},
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
			want:  []string{"key: k\n    name: pw\n"}, without: []string{"kind: Secret"}, codes: []string{"warn secret"},
		},
		{
			name: "routers that dial, of which a group says more", input: strings.Replace(gobgp("asn: 64513", good), "neighbors: [{config: {"+good+"}}]",
				"dynamicNeighbors: [{prefix: 192.0.2.0/24, peerGroup: g}], peerGroups: [{config: {peerGroupName: g, peerAsn: 64512}}]", 1),
			codes: []string{"error listen"},
		},
		{
			name: "a group of the first version in no subnet of a Node", input: first + strings.Replace(node, "ADDRESS", "203.0.113.1", 1),
			want: []string{"kind: InterfaceAdvertisement"}, without: []string{"L2Advertisement"}, codes: []string{"info redistributed", "warn ambiguous"},
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
		t.Run(tt.name, tt.runWithInfo)
	}
}

// TestRemoteGroup converts a group of PureLB whose addresses are in no subnet of the nodes: they go on PureLB's interface, with the length
// of the subnet unless aggregation says another one.
func TestRemoteGroup(t *testing.T) {
	documents, _ := convert(t, `
apiVersion: purelb.io/v2
kind: ServiceGroup
metadata: {name: far, namespace: purelb}
spec:
  remote:
    v4pools: [{subnet: 203.0.113.0/26, pool: 203.0.113.0/26, aggregation: default}]
    v6pools: [{subnet: "2001:db8::/112", pool: "2001:db8::/112", aggregation: /128}]
---
apiVersion: purelb.io/v2
kind: LBNodeAgent
metadata: {name: default, namespace: purelb}
spec: {local: {localInterface: default, dummyInterface: lb0}}
`, movein.Options{})
	// aggregationLengthV6 is 128, the default.
	hasTexts(t, documents, []string{"kind: InterfaceAdvertisement", "interface: lb0", "aggregationLength: 26"}, []string{"aggregationLengthV6"})
}
