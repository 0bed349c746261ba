// SPDX-License-Identifier: Apache-2.0

package live

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// The objects of the clusters that the table changes, and an address of no pool.
var (
	vip      = Ref{"apps", "DaemonSet", "kube-system", "kube-vip-ds"}
	group    = Ref{pureLBGroup, "ServiceGroup", "purelb-system", "default"}
	operator = Ref{"apps", "Deployment", "kube-system", "cilium-operator"}
	policy   = Ref{ciliumGroup, "CiliumL2AnnouncementPolicy", "", "lan"}
)

const external = "198.51.100.7"

// refused are clusters that cannot be moved from, by the change that makes them so.
var refused = map[string]struct {
	cluster string
	change  func(Objects)
	want    string
}{
	"kube-vip by BGP": {
		"kube-vip", func(o Objects) { setVariable(kubeVIPContainer(podSpec(o[vip])), "bgp_enable", "true") }, "error [bgp] DaemonSet kube-system/kube-vip-ds",
	},
	"kube-vip by routes": {
		"kube-vip", func(o Objects) { setVariable(kubeVIPContainer(podSpec(o[vip])), "vip_arp", "false") }, "error [mode] DaemonSet kube-system/kube-vip-ds",
	},
	"kube-vip whose Pods do not restart": {
		"kube-vip with the control plane", func(o Objects) { set(o[vip], "OnDelete", "spec", "updateStrategy", "type") },
		"error [on-delete] DaemonSet kube-system/kube-vip-ds",
	},
	"kube-vip from a file": {"kube-vip", func(o Objects) {
		pod := map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{
			"namespace": "kube-system", "name": "kube-vip-node1", "annotations": map[string]any{"kubernetes.io/config.mirror": "x"},
		}, "spec": map[string]any{"nodeName": "node1", "containers": podSpec(o[vip])["containers"]}}
		delete(o, vip)
		o[RefOf(pod)] = pod
	}, "error [static-pod] Pod kube-system/kube-vip-node1: the kubelet of Node node1"},
	"an address from DHCP": {
		"kube-vip", func(o Objects) {
			set(o[serviceRef("shop/web")], "0.0.0.0", "metadata", "annotations", "kube-vip.io/loadbalancerIPs")
		},
		"error [dhcp] Service shop/web",
	},
	"a remote group": {"PureLB", func(o Objects) {
		set(o[group], at(o[group], "spec", "local"), "spec", "remote")
		set(o[group], nil, "spec", "local")
	}, "error [remote] ServiceGroup purelb-system/default"},
	"a group of the first version in no subnet of a node": {"PureLB", func(o Objects) {
		set(o[group], "purelb.io/v1", "apiVersion")
		set(o[nodeRef("node1")], []any{map[string]any{"type": "InternalIP", "address": "198.51.100.1"}}, "status", "addresses")
		set(o[nodeRef("node2")], []any{map[string]any{"type": "InternalIP", "address": "198.51.100.2"}}, "status", "addresses")
	}, "error [remote] ServiceGroup purelb-system/default"},
	"no agents": {"PureLB", func(o Objects) { delete(o, Ref{"apps", "DaemonSet", "purelb-system", "lbnodeagent"}) }, "error [no-purelb]"},
	"an old Cilium": {"Cilium", func(o Objects) {
		set(o[operator], []any{map[string]any{"image": "quay.io/cilium/operator-generic:v1.16.5"}}, "spec", "template", "spec", "containers")
	}, "error [version] Deployment kube-system/cilium-operator"},
	"Cilium that gives the addresses of nodes": {
		"Cilium", func(o Objects) { set(o.ciliumConfig(), "nodeipam", "data", ciliumIPAM) }, "error [node-ipam] ConfigMap kube-system/cilium-config",
	},
	"Cilium's externalIPs": {"Cilium", func(o Objects) {
		set(o[policy], true, "spec", "externalIPs")
		set(o[serviceRef("shop/mail")], []any{external}, "spec", "externalIPs")
	}, "error [external-ips] CiliumL2AnnouncementPolicy lan"},
	"no operator": {"Cilium", func(o Objects) { delete(o, operator) }, "error [no-cilium]"},
	"ServiceLB": {"kube-vip", func(o Objects) {
		d := clone(o[vip])
		set(d, "svclb-web-0123", "metadata", "name")
		set(d, []any{map[string]any{"image": "rancher/klipper-lb:v0.4.9"}}, "spec", "template", "spec", "containers")
		delete(o, vip)
		o[RefOf(d)] = d
	}, "error [servicelb] DaemonSet kube-system/svclb-web-0123"},
	"externalIPs alone": {"kube-vip", func(o Objects) {
		delete(o, vip)
		set(o[serviceRef("shop/mail")], []any{external}, "spec", "externalIPs")
	}, "error [external-ips] Service shop/mail"},
	"DHCP of IPv6": {
		"kube-vip", func(o Objects) {
			set(o[serviceRef("shop/web")], "192.0.2.1, ::", "metadata", "annotations", "kube-vip.io/loadbalancerIPs")
		},
		"error [dhcp] Service shop/web",
	},
	"a VLAN of kube-vip's": {"kube-vip", func(o Objects) {
		set(o[serviceRef("shop/web")], "eth0.200", "metadata", "annotations", "kube-vip.io/serviceVLAN")
	}, "error [vlan] Service shop/web"},
	"kube-vip by a ConfigMap of settings": {"kube-vip", func(o Objects) {
		set(kubeVIPContainer(podSpec(o[vip])), []any{map[string]any{"configMapRef": map[string]any{"name": "settings"}}}, "envFrom")
	}, "error [settings] DaemonSet kube-system/kube-vip-ds: nobody can tell from it what it does, since settings are in envFrom"},
	"kube-vip by a file of settings": {"kube-vip", func(o Objects) {
		set(kubeVIPContainer(podSpec(o[vip])), []any{"manager", "--config-file=/etc/kube-vip.yaml"}, "args")
	}, "error [settings] DaemonSet kube-system/kube-vip-ds"},
	"kube-vip by a variable from elsewhere": {"kube-vip", func(o Objects) {
		c := kubeVIPContainer(podSpec(o[vip]))
		set(c, append(list(c, "env"), map[string]any{"name": kubeVIPPlane, "valueFrom": map[string]any{"configMapKeyRef": map[string]any{"name": "a", "key": "b"}}}), "env")
	}, "error [settings] DaemonSet kube-system/kube-vip-ds"},
	"kube-vip that leaves addresses": {"kube-vip", func(o Objects) {
		setVariable(kubeVIPContainer(podSpec(o[vip])), kubeVIPPreserve, "true")
	}, "error [preserve] DaemonSet kube-system/kube-vip-ds"},
	"kube-vip that leaves addresses by its arguments": {"kube-vip by its arguments", func(o Objects) {
		set(kubeVIPContainer(podSpec(o[vip])), []any{"manager", "--services", "--arp", "--preserveVipOnLeadershipLoss=TRUE"}, "args")
	}, "error [preserve] DaemonSet kube-system/kube-vip-ds"},
	"kube-vip that writes no statuses": {"kube-vip", func(o Objects) {
		setVariable(kubeVIPContainer(podSpec(o[vip])), kubeVIPNoStatus, "true")
	}, "error [no-status] DaemonSet kube-system/kube-vip-ds"},
	"kube-vip of the control plane that restarts at once": {"kube-vip with the control plane", func(o Objects) {
		set(o[vip], "100%", "spec", "updateStrategy", "rollingUpdate", "maxUnavailable")
	}, "error [roll-out] DaemonSet kube-system/kube-vip-ds"},
	"kube-vip for its class": {"kube-vip", func(o Objects) {
		setVariable(kubeVIPContainer(podSpec(o[vip])), kubeVIPClassOnly, "true")
	}, "error [class] DaemonSet kube-system/kube-vip-ds"},
	"kube-vip's class": {"kube-vip", withClass("kube-vip.io/kube-vip-class"), "error [class] Service shop/mail"},
	"kube-vip's class by another name, and an address of no pool": {"kube-vip", func(o Objects) {
		setVariable(kubeVIPContainer(podSpec(o[vip])), kubeVIPClass, "edge")
		withClass("edge")(o)
		set(o[serviceRef("shop/mail")], []any{map[string]any{"ip": external}}, "status", "loadBalancer", "ingress")
	}, "error [class] Service shop/mail"},
	"PureLB's class":         {"PureLB", withClass("purelb.io/purelb"), "error [class] Service shop/mail"},
	"Cilium's class":         {"Cilium", withClass("io.cilium/l2-announcer"), "error [class] Service shop/mail"},
	"MetalLB's class":        {"service by service", withClass("metallb"), "error [class] Service shop/mail"},
	"MetalLB's class by BGP": {"node by node", withClass("metallb"), "error [class] Service shop/mail"},
	"two addresses of a family": {"PureLB", func(o Objects) {
		set(o[serviceRef("shop/web")], []any{map[string]any{"ip": "192.0.2.1"}, map[string]any{"ip": "192.0.2.3"}}, "status", "loadBalancer", "ingress")
	}, "error [one-per-family] Service shop/web: it has 192.0.2.1, 192.0.2.3"},
	"nodes of the control plane alone": {"kube-vip", func(o Objects) {
		for _, name := range []string{"node1", "node2"} {
			set(o[nodeRef(name)], "", "metadata", "labels", "node.kubernetes.io/exclude-from-external-load-balancers")
		}
	}, "error [no-node] Service shop/web"},
	"a router in PureLB's Pods": {"PureLB", func(o Objects) {
		d := o[Ref{"apps", "DaemonSet", "purelb-system", "lbnodeagent"}]
		set(podSpec(d), append(list(podSpec(d), "containers"), map[string]any{"image": "ghcr.io/purelb/k8gobgp:0.2.4"}), "containers")
	}, "error [router] DaemonSet purelb-system/lbnodeagent"},
	"a remote address": {"PureLB", func(o Objects) {
		set(o[serviceRef("shop/web")], "remote", "metadata", "annotations", "purelb.io/pool-type")
	}, "error [remote] Service shop/web"},
	"a remote group of another program": {"PureLB", func(o Objects) {
		set(o[group], map[string]any{"external": map[string]any{"provider": "netbox", "announce": "remote"}}, "spec")
	}, "error [remote] ServiceGroup purelb-system/default"},
	"rights that are missing": {"PureLB", func(Objects) {}, "error [rights] the person who moves: you may not patch daemonsets.apps in purelb-system"},
	"an address of a node": {"kube-vip", func(o Objects) {
		set(o[nodeRef("node1")], []any{map[string]any{"type": "InternalIP", "address": external}}, "status", "addresses")
		set(o[serviceRef("shop/mail")], []any{map[string]any{"ip": external}}, "status", "loadBalancer", "ingress")
	}, "error [node-address] Service shop/mail: it has "},
	"an address that no pool has": {"Cilium", func(o Objects) {
		set(o[serviceRef("shop/mail")], []any{map[string]any{"ip": external}}, "status", "loadBalancer", "ingress")
	}, "error [uncovered] Service shop/mail"},
}

// withClass gives a Service a class.
func withClass(class string) func(Objects) {
	return func(o Objects) { set(o[serviceRef("shop/mail")], class, "spec", "loadBalancerClass") }
}

// TestRefusedOf: what a product cannot do while it serves is refused before anything is written, with what to do.
func TestRefusedOf(t *testing.T) {
	for name, tt := range refused {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, clusters[tt.cluster]...)
			tt.change(s.objects)
			snapshot := s.snapshot(nil)
			if strings.Contains(tt.want, "[rights]") {
				snapshot.Missing = rightsTo("apps", "daemonsets", "purelb-system", "patch")
			}
			a, err := all(snapshot)
			if err != nil || !strings.Contains(a.Stop, tt.want) {
				t.Errorf("the move begins with %+v, %v; want a stop with %q", a, err, tt.want)
			}
		})
	}
}

// TestFrom: of two products a person says which, and the other one is named as a second writer.
func TestFrom(t *testing.T) {
	s := newSim(t, append(clusters["kube-vip"], withPureLB)...)
	if _, err := MakePlan(s.snapshot(nil), false); err == nil || !strings.Contains(err.Error(), "kube-vip and purelb") {
		t.Errorf("a plan with two products: %v", err)
	}
	for from, want := range map[string]string{"kube-vip": "purelb-system/allocator", "purelb": "kube-system/kube-vip-cloud-provider"} {
		snapshot := s.snapshot(nil)
		snapshot.From = from
		plan, err := MakePlan(snapshot, false)
		if err != nil || !plan.Refused {
			t.Fatalf("from %s: %+v, %v", from, plan, err)
		}
		named := false
		for _, m := range plan.Messages {
			named = named || m.Code == "two-writers" && strings.Contains(m.Object, want)
		}
		if !named {
			t.Errorf("from %s: no message names %s: %v", from, want, plan.Messages)
		}
	}
	snapshot := s.snapshot(nil)
	snapshot.From = "openelb"
	if _, err := MakePlan(snapshot, false); err == nil || !strings.Contains(err.Error(), "--from openelb: give one of metallb, kube-vip, purelb, cilium") {
		t.Errorf("from another product: %v", err)
	}
}

// TestWhole: a product that can only be stopped whole is not stopped for a Service that is named, and where it holds the API server's address it goes on
// with that.
func TestWhole(t *testing.T) {
	for _, name := range []string{"kube-vip", "kube-vip with the control plane", "PureLB"} {
		s := newSim(t, clusters[name]...)
		if _, stopped := s.run(start(Goal{Services: []string{"shop/web"}}), -1); !strings.Contains(stopped, "move-in start --all") {
			t.Errorf("%s: a Service that is named: %q", name, stopped)
		}
		if _, stopped := s.run(all, -1); stopped != "" {
			t.Errorf("%s: all: %q", name, stopped)
		}
		plane := name == "kube-vip with the control plane"
		if pods := len(s.objects.podsOf(s.objects[Ref{"apps", "DaemonSet", "kube-system", "kube-vip-ds"}])); (pods > 0) != plane {
			t.Errorf("%s: %d Pods of kube-vip are left", name, pods)
		}
	}
}

// TestSoonBack: Services with IPv6 addresses are without an announcer until their product runs again, so that it starts as soon as Tandem is silent: after
// one write where all Services have such addresses, else after the last one of these is handed back.
func TestSoonBack(t *testing.T) {
	const v4, v6 = "192.0.2.1", "2001:db8::3"
	for _, name := range []string{"kube-vip", "kube-vip with the control plane", "PureLB"} {
		for before, ingress := range map[string][]any{
			"have Tandem announce nothing": {map[string]any{"ip": v4}, map[string]any{"ip": v6}},
			"hand Service shop/mail back":  {map[string]any{"ip": v4}},
		} {
			s := newSim(t, clusters[name]...)
			set(s.objects[serviceRef("shop/web")], ingress, "status", "loadBalancer", "ingress")
			s.run(all, -1)
			s.writes = nil
			if _, stopped := s.run(Undo, -1); stopped != "" {
				t.Fatalf("%s: %q", name, stopped)
			}
			i := slices.IndexFunc(s.writes, func(w string) bool { return strings.Contains(w, before) })
			if i < 0 || i+1 >= len(s.writes) || !strings.HasPrefix(s.writes[i+1], "patch DaemonSet ") {
				t.Errorf("%s: the DaemonSet does not come after %q:\n%s", name, before, strings.Join(s.writes, "\n"))
			}
		}
	}
}

// TestOneMoment: both announce for one write, however many Services there are: Tandem begins when all are marked, and then the product stops at once. It is
// the same after a move that was given back.
func TestOneMoment(t *testing.T) {
	for _, name := range []string{"kube-vip", "kube-vip with the control plane", "PureLB"} {
		for _, again := range []bool{false, true} {
			s := newSim(t, clusters[name]...)
			if again {
				unit := "all Services of kube-vip"
				if name == "PureLB" {
					unit = "all Services of PureLB"
				}
				s.deaf[unit] = "no answer"
				if _, stopped := s.run(all, -1); !strings.Contains(stopped, "no answer") {
					t.Fatalf("%s: %q", name, stopped)
				}
				delete(s.deaf, unit)
				s.writes = nil
			}
			if _, stopped := s.run(all, -1); stopped != "" {
				t.Fatalf("%s: %q", name, stopped)
			}
			i := slices.IndexFunc(s.writes, func(w string) bool { return strings.Contains(w, "have Tandem announce all Services that are marked") })
			last := slices.IndexFunc(s.writes, func(w string) bool { return strings.HasSuffix(w, "hand Service shop/web over") })
			if i < 0 || i != last+1 || !strings.HasPrefix(s.writes[i+1], "patch DaemonSet ") {
				t.Errorf("%s, again: %t: Tandem does not begin between the last mark and the end of the product:\n%s", name, again, strings.Join(s.writes, "\n"))
			}
		}
	}
}

// TestBGPStays: Cilium's sessions are left alone, and the plan says so.
func TestBGPStays(t *testing.T) {
	s := newSim(t, append(clusters["Cilium"], "apiVersion: cilium.io/v2\nkind: CiliumBGPClusterConfig\nmetadata: {name: tor}\nspec: {bgpInstances: []}")...)
	plan, err := MakePlan(s.snapshot(nil), false)
	if err != nil || plan.Refused || len(plan.Nodes) > 0 {
		t.Fatalf("%+v, %v", plan, err)
	}
	for _, m := range plan.Messages {
		if m.Code == "bgp-stays" {
			return
		}
	}
	t.Errorf("no message names the sessions: %v", plan.Messages)
}

// TestHolderIn: of the nodes that a note of PureLB's names, one holds the address.
func TestHolderIn(t *testing.T) {
	all := map[string]bool{"node1": true, "node2": true, "node3": true}
	for name, tt := range map[string]struct {
		note   string
		agents map[string]bool
		want   string
	}{
		"no note":                     {"", all, ""},
		"something else":              {"yes", all, ""},
		"the first version":           {"node2,eth0", all, "node2"},
		"the first version, no agent": {"node2,eth0", nil, "node2"},
		"one node":                    {"node1,eth0,192.0.2.1", all, "node1"},
		// Of node1, node2 and node3 the agents elect node2 before node1 for 192.0.2.1, and node1 before node2 for 192.0.2.2.
		"the last one that came":  {"node1,eth0,192.0.2.1 node2,eth0,192.0.2.1", all, "node2"},
		"one that came and went":  {"node1,eth0,192.0.2.2 node2,eth0,192.0.2.2", all, "node1"},
		"one that came back":      {"node2,eth0,192.0.2.1 node1,eth0,192.0.2.1", all, "node2"},
		"a node without an agent": {"node1,eth0,192.0.2.1 node2,eth0,192.0.2.1", map[string]bool{"node1": true, "node2": false}, "node1"},
		"no agent at all":         {"node1,eth0,192.0.2.1 node2,eth0,192.0.2.1", nil, "node1"},
		"another address":         {"node1,eth0,192.0.2.2 node3,eth0,192.0.2.1", all, "node1"},
		"IPv6":                    {"node2,eth0,2001:db8::1 node3,eth0,2001:db8::1", all, "node3"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := holderIn(tt.note, tt.agents); got != tt.want {
				t.Errorf("the holder is %q, want %q", got, tt.want)
			}
		})
	}
}

// TestCiliumBesideMetalLB: LB IPAM is a second writer where a pool of its gives addresses to all Services.
func TestCiliumBesideMetalLB(t *testing.T) {
	for selector, refused := range map[string]bool{"": true, ", serviceSelector: {matchLabels: {app: db}}": false} {
		pool := strings.ReplaceAll(withCilium[len(nodes):], "stop: 192.0.2.14}, {cidr: \"2001:db8::/124\"}]", "stop: 192.0.2.14}]"+selector)
		s := newSim(t, append(slices.Clone(clusters["service by service"]), pool)...)
		snapshot := s.snapshot(nil)
		snapshot.From = "metallb"
		plan, err := MakePlan(snapshot, false)
		if err != nil {
			t.Fatal(err)
		}
		named := slices.ContainsFunc(plan.Messages, func(m movein.Message) bool {
			return m.Code == "two-writers" && m.Object == "CiliumLoadBalancerIPPool lan"
		})
		if named != refused || plan.Refused != refused {
			t.Errorf("with the selector %q: %v", selector, plan.Messages)
		}
	}
}

// TestDaemonSetOfThePlane: a kube-vip for the control plane beside one for Services is left alone, in the move and on the way back.
func TestDaemonSetOfThePlane(t *testing.T) {
	plane := strings.NewReplacer("kube-vip-ds", "kube-vip-plane", "{app: kube-vip}", "{app: plane}", "    spec:\n      containers",
		"    spec:\n      nodeSelector: {plane: \"yes\"}\n      containers").Replace(withKubeVIP(`{name: vip_arp, value: "true"}, {name: cp_enable, value: "true"}`))
	plane = plane[strings.Index(plane, "apiVersion: apps/v1\nkind: DaemonSet"):]
	s := newSim(t, append(slices.Clone(clusters["kube-vip"]), plane)...)
	set(s.objects[nodeRef("node1")], "yes", "metadata", "labels", "plane")
	s.settle()
	before := s.copy()
	s.complete(all)
	ref := Ref{"apps", "DaemonSet", "kube-system", "kube-vip-plane"}
	if before[ref] == nil || len(s.objects.podsOf(s.objects[ref])) != 1 {
		t.Fatalf("no Pod of %s", ref)
	}
	if diff := cmp.Diff(before[ref], s.objects[ref]); diff != "" {
		t.Errorf("the DaemonSet of the control plane is (-before +after):\n%s", diff)
	}
	finished := &sim{t: t, objects: s.copy(), deaf: map[string]string{}}
	if _, stopped := finished.run(Finish, -1); stopped != "" {
		t.Error(stopped)
	}
	if diff := cmp.Diff(before[ref], finished.objects[ref]); diff != "" {
		t.Errorf("finished, the DaemonSet of the control plane is (-before +after):\n%s", diff)
	}
	s.complete(Undo)
	s.wantAsBefore(before)
}

// TestProviderAsStatefulSet: kube-vip's cloud provider was a StatefulSet once, and is stopped like a Deployment.
func TestProviderAsStatefulSet(t *testing.T) {
	old := strings.Replace(withKubeVIP(arpAlone), "kind: Deployment\nmetadata: {namespace: kube-system", "kind: StatefulSet\nmetadata: {namespace: kube-system", 1)
	s := newSim(t, old, addresses)
	before := s.copy()
	s.complete(all)
	ref := Ref{"apps", "StatefulSet", "kube-system", "kube-vip-cloud-provider"}
	if n := number(s.objects[ref], "spec", "replicas"); s.objects[ref] == nil || n != 0 {
		t.Errorf("%s has %d replicas", ref, n)
	}
	s.complete(Undo)
	s.wantAsBefore(before)
}

// TestCiliumElsewhere: Cilium may be in another namespace than kube-system, and the second replica of its operator finds no place on a single Node.
func TestCiliumElsewhere(t *testing.T) {
	s := newSim(t, strings.ReplaceAll(strings.Replace(withCilium, "name: cilium-operator}\nspec:\n  replicas: 1", "name: cilium-operator}\nspec:\n  replicas: 2", 1),
		"namespace: kube-system", "namespace: cilium"), addresses)
	s.single = true
	s.settle()
	before := s.copy()
	if namespaces := s.objects.Namespaces(system); !slices.Contains(namespaces, "cilium") {
		t.Errorf("Pods are read of %q", namespaces)
	}
	if namespace := s.objects.NamespaceOfLeases(); namespace != "cilium" {
		t.Errorf("Leases are read of %q", namespace)
	}
	s.complete(all)
	s.complete(Undo)
	s.wantAsBefore(before)
}

// TestSharedSeed: Services that share an address are Cilium's on two nodes, and Tandem's on one.
func TestSharedSeed(t *testing.T) {
	const shared = `
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: mail-udp, uid: e, annotations: {lbipam.cilium.io/sharing-key: mail}}
spec: {type: LoadBalancer, ports: [{port: 53, protocol: UDP}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.2}]}}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {namespace: kube-system, name: cilium-l2announce-shop-mail}
spec: {holderIdentity: node1}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {namespace: kube-system, name: cilium-l2announce-shop-mail-udp}
spec: {holderIdentity: node2}
`
	s := newSim(t, append(slices.Clone(clusters["Cilium"]), shared)...)
	mail := s.objects[serviceRef("shop/mail")]
	set(mail, []any{map[string]any{"port": int64(25), "protocol": "TCP"}}, "spec", "ports")
	set(mail, "mail", "metadata", "annotations", "lbipam.cilium.io/sharing-key")
	s.complete(all)
	for _, name := range []string{"shop.mail", "shop.mail-udp"} {
		if node := text(s.objects[Ref{ourGroup, "L2Announcement", "", name}], "status", "node"); node != "node1" {
			t.Errorf("%s is on %q", name, node)
		}
	}
}

// TestAfter: what a person is told to uninstall is neither the pod network nor what holds the API server's address.
func TestAfter(t *testing.T) {
	for name, want := range map[string]string{
		"Cilium":                          "keep Cilium, the pod network, and write defaultLBServiceIPAM: none into its values; then delete its CiliumLoadBalancerIPPools",
		"kube-vip":                        "delete DaemonSet kube-system/kube-vip-ds and Deployment kube-system/kube-vip-cloud-provider",
		"kube-vip with the control plane": "keep DaemonSet kube-system/kube-vip-ds, which holds the address of the API server",
		"kube-vip by its arguments":       "keep DaemonSet kube-system/kube-vip-ds, which holds the address of the API server",
		"PureLB":                          "uninstall PureLB as you installed it",
		"service by service":              "uninstall MetalLB as you installed it",
	} {
		s := newSim(t, clusters[name]...)
		s.run(all, -1)
		s.run(Finish, -1)
		status, err := StatusOf(s.snapshot(nil))
		if err != nil || !strings.HasPrefix(status.Next, want) || strings.Contains(status.Next, "delete DaemonSet") && strings.Contains(want, "keep") {
			t.Errorf("%s: %q, %v; want %q", name, status.Next, err, want)
		}
	}
}

// TestNotices: a plan promises the same MAC where Tandem will announce from the node that answers now, and nowhere else.
func TestNotices(t *testing.T) {
	for _, tt := range []struct {
		cluster string
		change  func(Objects)
		want    string
	}{
		{"kube-vip", func(Objects) {}, "layer 2: node2 goes on answering, with the same MAC; both answer until kube-vip has stopped"},
		{"kube-vip", func(o Objects) {
			set(o[nodeRef("node2")], "", "metadata", "labels", "node.kubernetes.io/exclude-from-external-load-balancers")
		}, "layer 2: Tandem does not announce from node2 (it is labelled as excluded); another node answers, with another MAC, and connections end"},
		{"service by service", func(o Objects) { set(o[nodeRef("node2")], nil, "metadata", "labels") }, "does not announce from node2 (the nodeSelectors leave it out)"},
		{"PureLB", func(o Objects) { set(o[serviceRef("shop/web")], "Local", "spec", "externalTrafficPolicy") }, "with the same MAC, if it has an endpoint"},
		{"Cilium", func(o Objects) { delete(o, nodeRef("node2")) }, "does not announce from node2 (it is gone)"},
		{"kube-vip with the control plane", func(Objects) {}, "until all Pods of kube-vip have restarted, other nodes may answer too, with other MACs"},
	} {
		s := newSim(t, clusters[tt.cluster]...)
		tt.change(s.objects)
		plan, err := MakePlan(s.snapshot(nil), false)
		if err != nil || plan.Refused {
			t.Fatalf("%s: %v, %v", tt.cluster, plan, err)
		}
		i := slices.IndexFunc(plan.Services, func(p PlanService) bool { return p.Service == "shop/web" })
		if got := plan.Services[i].Notices; !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.cluster, got, tt.want)
		}
	}
}
