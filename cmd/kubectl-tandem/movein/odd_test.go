// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// TestNoPanic takes the inputs of the cases apart: without a line, without all that follows, with a value that is a list or a mapping. None
// of it makes the conversion panic.
func TestNoPanic(t *testing.T) {
	paths, err := filepath.Glob("testdata/cases/*/input.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for n, path := range paths {
		lines := strings.SplitAfter(string(read(t, path)), "\n")
		for i, line := range lines {
			if i%6 != n%6 { // All of them together take half a minute.
				continue
			}
			before, rest := strings.Join(lines[:i], ""), strings.Join(lines[i+1:], "")
			changed := []string{before + rest, before}
			if key, _, ok := strings.Cut(line, ":"); ok {
				changed = append(changed, before+key+": [{a: b}]\n"+rest, before+key+": {a: [b]}\n"+rest, before+key+":\n"+rest)
			}
			for _, text := range changed {
				for _, live := range []bool{false, true} {
					movein.Convert([]movein.Input{{Name: "input.yaml", Data: []byte(text)}}, movein.Options{Live: live, KeepInUse: live})
				}
			}
		}
	}
}

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
	)
	with := func(text string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(text) }
	families := with(pool, "NAME", "four", "RANGE", "192.0.2.0/28") + with(pool, "NAME", "six", "RANGE", `"2001:db8::/120"`)
	for _, tt := range []struct {
		name, input string
		o           movein.Options
		want, codes []string // texts in the documents; level and code of messages, of which info is left out
	}{
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
		{name: "values as parameters", input: "kind: Application\nspec: {source: {helm: {parameters: [{name: " +
			"\"configInline.address-pools[0].name\", value: a}]}}}\n", codes: []string{"lost no-equal"}},
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
		{name: "peers that carry nothing have no messages", input: "apiVersion: cilium.io/v2alpha1\nkind: CiliumBGPPeeringPolicy\n" +
			"metadata: {name: a}\nspec: {virtualRouters: [{localASN: 64500, neighbors: [{peerAddress: 192.0.2.1/32, peerASN: 0, " +
			"authSecretRef: pw}]}]}\n", codes: []string{"warn nothing-announced"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			documents, messages := convert(t, tt.input, tt.o)
			for _, want := range tt.want {
				if !strings.Contains(documents, want) {
					t.Errorf("there is no %q in:\n%s", want, documents)
				}
			}
			got := slices.DeleteFunc(codes(messages), func(code string) bool { return strings.HasPrefix(code, "info") })
			if !slices.Equal(got, tt.codes) {
				t.Errorf("messages %q, want codes %q", messages, tt.codes)
			}
		})
	}
}
