// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

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
	for _, tt := range []conversion{
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
		t.Run(tt.name, tt.runWithInfo)
	}
}

// TestConsent converts two Services that share an address by MetalLB's key alone. In Tandem both namespaces have to consent, and the
// patches do.
func TestConsent(t *testing.T) {
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: NS, annotations: {metallb.io/allow-shared-ip: " +
		"front}}\nspec: {type: LoadBalancer}\n"
	documents, _ := convert(t, strings.Replace(service, "NS", "shop", 1)+"---\n"+strings.Replace(service, "NS", "blog", 1),
		movein.Options{})
	hasTexts(t, documents, []string{"tandem-lb.io/share-with-namespaces: shop", "tandem-lb.io/share-with-namespaces: blog"}, nil)
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
