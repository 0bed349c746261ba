// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

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
