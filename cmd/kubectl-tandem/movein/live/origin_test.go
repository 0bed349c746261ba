// SPDX-License-Identifier: Apache-2.0

package live

import (
	"strings"
	"testing"
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
	"an address that no pool has": {"Cilium", func(o Objects) {
		set(o[serviceRef("shop/mail")], []any{map[string]any{"ip": external}}, "status", "loadBalancer", "ingress")
	}, "error [uncovered] Service shop/mail"},
}

// TestRefusedOf: what a product cannot do while it serves is refused before anything is written, with what to do.
func TestRefusedOf(t *testing.T) {
	for name, tt := range refused {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, clusters[tt.cluster]...)
			tt.change(s.objects)
			a, err := all(s.snapshot(nil))
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

// TestSoonBack: Services with IPv6 addresses are without an announcer from their hand-over on, so that their product starts right after the last one.
func TestSoonBack(t *testing.T) {
	for _, name := range []string{"kube-vip", "kube-vip with the control plane", "PureLB"} {
		s := newSim(t, clusters[name]...)
		set(s.objects[serviceRef("shop/web")], []any{map[string]any{"ip": "192.0.2.1"}, map[string]any{"ip": "2001:db8::3"}}, "status", "loadBalancer", "ingress")
		s.run(all, -1)
		s.writes = nil
		if _, stopped := s.run(Undo, -1); stopped != "" {
			t.Fatalf("%s: %q", name, stopped)
		}
		last := -1
		for i, w := range s.writes {
			if strings.Contains(w, ": hand Service ") {
				last = i
			}
		}
		if last < 0 || last+1 >= len(s.writes) || !strings.HasPrefix(s.writes[last+1], "patch DaemonSet ") {
			t.Errorf("%s: after the last Service there comes no DaemonSet:\n%s", name, strings.Join(s.writes, "\n"))
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
