// SPDX-License-Identifier: Apache-2.0

package live

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// The tests of this file are of what others do to a cluster while a move is under way.

// TestHeadDeleted deletes the ConfigMap with the phase after each write of a move. Start does not begin another move, and undo goes back.
func TestHeadDeleted(t *testing.T) {
	for _, name := range []string{"pool by pool", "service by service, then by the node", "kube-vip"} {
		t.Run(name, func(t *testing.T) {
			before := newSim(t, clusters[name]...).copy()
			for k := 1; ; k += 2 {
				s := newSim(t, clusters[name]...)
				writes, _ := s.run(all, k)
				delete(s.objects, headRef(system))
				lost := s.snapshot(nil).PhaseLost()
				if lost {
					if _, stopped := s.run(all, -1); !strings.Contains(stopped, "no-phase") {
						t.Fatalf("after %d writes start says %q", k, stopped)
					}
					if _, stopped := s.run(Undo, -1); stopped != "" {
						t.Fatalf("after %d writes undo says %q", k, stopped)
					}
					if diff := cmp.Diff(before, s.objects); diff != "" {
						t.Fatalf("after %d writes undone, the cluster is (-before +after):\n%s", k, diff)
					}
				}
				if writes < k {
					if !lost {
						t.Error("a whole move leaves no trace")
					}
					return
				}
			}
		})
	}
}

// TestHeadAndRecordDeleted: without the Record nothing can be undone, and nothing is deleted.
func TestHeadAndRecordDeleted(t *testing.T) {
	s := newSim(t, clusters["service by service"]...)
	s.run(all, -1)
	for ref := range s.copy() {
		if ref.Kind == "ConfigMap" {
			delete(s.objects, ref)
		}
	}
	if writes, stopped := s.run(Undo, -1); writes > 0 || !strings.Contains(stopped, "by hand") {
		t.Errorf("undo makes %d writes and says %q", writes, stopped)
	}
}

// TestWrittenBack: a program that keeps MetalLB's objects as they were is found out before anything else moves.
func TestWrittenBack(t *testing.T) {
	for _, tt := range []struct {
		name, cluster string
		ref           Ref
		change        func(o map[string]any)
		want          string
	}{
		{"selectors of an L2Advertisement", "service by service", Ref{theirGroup, "L2Advertisement", "metallb-system", "everything"}, func(o map[string]any) {
			set(o, nil, "spec", "serviceSelectors")
		}, "MetalLB's L2Advertisement metallb-system/everything has been written back"},
		{"the affinity of the speakers", "node by node", Ref{"apps", "DaemonSet", "metallb-system", "speaker"}, func(o map[string]any) {
			set(o, nil, "spec", "template", "spec", "affinity")
		}, "DaemonSet metallb-system/speaker has been written back"},
		{"their strategy", "service by service, then by the node", Ref{"apps", "DaemonSet", "metallb-system", "speaker"}, func(o map[string]any) {
			set(o, "RollingUpdate", "spec", "updateStrategy", "type")
		}, "DaemonSet metallb-system/speaker has been written back"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, clusters[tt.cluster]...)
			s.complete(start(Goal{}))
			tt.change(s.objects[tt.ref])
			s.wantStopped(t, tt.want)
		})
	}
	t.Run("an L2Advertisement of all pools", func(t *testing.T) {
		s := newSim(t, clusters["pool by pool"]...)
		ref := Ref{theirGroup, "L2Advertisement", "metallb-system", "everything"}
		ad := clone(s.objects[ref])
		s.run(start(Goal{Pools: []string{"spare"}}), -1)
		s.objects[ref] = ad
		if writes, stopped := s.run(all, -1); writes > 0 || !strings.Contains(stopped, "everything has been written back") {
			t.Errorf("start makes %d writes and says %q", writes, stopped)
		}
	})
}

// wantStopped checks that start and finish stop before they write anything, and that status says the same.
func (s *sim) wantStopped(t *testing.T, want string) {
	t.Helper()
	for name, next := range map[string]func(*Snapshot) (Action, error){"start": all, "finish": Finish} {
		if writes, stopped := s.run(next, -1); writes > 0 || !strings.Contains(stopped, want) {
			t.Errorf("%s makes %d writes and says %q, want %q", name, writes, stopped, want)
		}
	}
	if status, err := StatusOf(s.snapshot(nil)); err != nil || !strings.Contains(status.Next, want) {
		t.Errorf("status says %q (%v), want %q", status.Next, err, want)
	}
}

// TestWrittenBackAfter: a product that gives addresses or announces again after all has moved is found out before anything else is done.
func TestWrittenBackAfter(t *testing.T) {
	daemonSet := func(namespace, name string) Ref { return Ref{"apps", "DaemonSet", namespace, name} }
	for name, tt := range map[string]struct {
		cluster string
		change  func(Objects)
		want    string
	}{
		"kube-vip": {"kube-vip", func(o Objects) {
			set(o[vip], nil, "spec", "template", "spec", "nodeSelector")
		}, "DaemonSet kube-system/kube-vip-ds has been written back, so that kube-vip announces what has moved"},
		"kube-vip's Service part": {"kube-vip with the control plane", func(o Objects) {
			setVariable(kubeVIPContainer(podSpec(o[vip])), kubeVIPServices, "true")
		}, "DaemonSet kube-system/kube-vip-ds has been written back"},
		"another kube-vip": {"kube-vip", func(o Objects) {
			d := clone(o[vip])
			set(d, "another", "metadata", "name")
			set(d, nil, "spec", "template", "spec", "nodeSelector")
			o[daemonSet("kube-system", "another")] = d
		}, "DaemonSet kube-system/another has been written back"},
		"kube-vip from a file": {"kube-vip", func(o Objects) {
			pod := object(t, `
apiVersion: v1
kind: Pod
metadata: {namespace: kube-system, name: kube-vip-node1, annotations: {kubernetes.io/config.mirror: x}}
`)
			set(pod, podSpec(o[vip])["containers"], "spec", "containers")
			o[RefOf(pod)] = pod
		}, "Pod kube-system/kube-vip-node1 has been written back"},
		"MetalLB, installed meanwhile": {"kube-vip", func(o Objects) {
			controller := Ref{"apps", "Deployment", "metallb-system", "controller"}
			o[controller] = newSim(t, cluster).objects[controller]
		}, "Deployment metallb-system/controller: quay.io/metallb/controller:v0.16.1 gives addresses to Services too"},
		"a pool of Cilium's, made meanwhile": {"PureLB", func(o Objects) {
			for ref, object := range newSim(t, withCilium).objects {
				if ref.Group == ciliumGroup || strings.HasPrefix(ref.Name, "cilium-") && ref.Kind != "Pod" {
					o[ref] = object
				}
			}
		}, "CiliumLoadBalancerIPPool lan: Cilium serves Services without a class too"},
		"PureLB": {"PureLB", func(o Objects) {
			set(o[daemonSet("purelb-system", "lbnodeagent")], nil, "spec", "template", "spec", "nodeSelector")
		}, "DaemonSet purelb-system/lbnodeagent has been written back"},
		"PureLB's allocator by another name": {"PureLB", func(o Objects) {
			allocator := Ref{"apps", "Deployment", "purelb-system", "allocator"}
			d := clone(o[allocator])
			set(d, "allocate", "metadata", "name")
			set(d, int64(1), "spec", "replicas")
			o[RefOf(d)] = d
		}, "Deployment purelb-system/allocate runs again"},
		"Cilium's policy": {"Cilium", func(o Objects) { set(o[policy], nil, "spec", "serviceSelector") }, "CiliumL2AnnouncementPolicy lan has been written back"},
		"another policy": {"Cilium", func(o Objects) {
			another := clone(o[policy])
			set(another, "another", "metadata", "name")
			set(another, nil, "spec", "serviceSelector")
			o[RefOf(another)] = another
		}, "CiliumL2AnnouncementPolicy another has been written back"},
		"Cilium's addresses": {"Cilium", func(o Objects) { set(o.ciliumConfig(), "lbipam", "data", ciliumIPAM) }, `default-lb-service-ipam: "lbipam" again`},
		"another L2Advertisement of MetalLB": {"service by service", func(o Objects) {
			ad := clone(o[Ref{theirGroup, "L2Advertisement", "metallb-system", "everything"}])
			set(ad, "another", "metadata", "name")
			set(ad, nil, "spec", "serviceSelectors")
			o[RefOf(ad)] = ad
		}, "MetalLB's L2Advertisement metallb-system/another has been written back"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, clusters[tt.cluster]...)
			s.complete(all)
			tt.change(s.objects)
			s.wantStopped(t, tt.want)
		})
	}
}

// TestPhaseByHand: a person who takes the phase out of its ConfigMap, or writes another one, makes no second move possible, which would write over what undo
// needs, and no end of a move in which nothing has moved.
func TestPhaseByHand(t *testing.T) {
	for phase, name := range map[any]string{nil: "service by service", "": "PureLB", string(Finishing): "kube-vip", string(Undone): "Cilium", "done": "node by node"} {
		s := newSim(t, clusters[name]...)
		before := s.copy()
		s.run(start(Goal{}), -1)
		set(s.objects[headRef(system)], phase, "data", "phase")
		if writes, stopped := s.run(all, -1); writes > 0 || !strings.Contains(stopped, "no-phase") {
			t.Errorf("%s: start makes %d writes and says %q", name, writes, stopped)
		}
		if writes, stopped := s.run(Finish, -1); writes > 0 || !strings.Contains(stopped, "undo goes back") {
			t.Errorf("%s: finish makes %d writes and says %q", name, writes, stopped)
		}
		if status, err := StatusOf(s.snapshot(nil)); err != nil || !strings.Contains(status.Next, "undo goes back") {
			t.Errorf("%s: status says %q (%v)", name, status.Next, err)
		}
		if _, stopped := s.run(Undo, -1); stopped != "" {
			t.Errorf("%s: undo says %q", name, stopped)
		}
		if diff := cmp.Diff(before, s.objects); diff != "" {
			t.Errorf("%s: undone, the cluster is (-before +after):\n%s", name, diff)
		}
	}
}

// TestProgramGone: undo hands nothing back to a product that has been uninstalled, and goes on when it is there again.
func TestProgramGone(t *testing.T) {
	for name, ref := range map[string]Ref{
		"kube-vip": vip, "PureLB": {"apps", "DaemonSet", "purelb-system", "lbnodeagent"},
		"service by service": {"apps", "Deployment", "metallb-system", "controller"},
	} {
		s := newSim(t, clusters[name]...)
		before := s.copy()
		s.run(all, -1)
		gone := s.objects[ref]
		delete(s.objects, ref)
		writes, stopped := s.run(Undo, -1)
		if writes > 1 || !strings.Contains(stopped, ref.String()+" is gone") { // The one write is the phase.
			t.Errorf("%s: undo makes %d writes and says %q", name, writes, stopped)
		}
		s.objects[ref] = gone
		if _, stopped := s.run(Undo, -1); stopped != "" {
			t.Errorf("%s: undo says %q", name, stopped)
		}
		if diff := cmp.Diff(before, s.objects); diff != "" {
			t.Errorf("%s: undone, the cluster is (-before +after):\n%s", name, diff)
		}
	}
	s := newSim(t, clusters["Cilium"]...)
	before := s.copy()
	s.run(all, -1)
	delete(s.objects, policy)
	if _, stopped := s.run(Undo, -1); stopped != "" {
		t.Errorf("Cilium: undo says %q", stopped)
	}
	if diff := cmp.Diff(before, s.objects); diff != "" {
		t.Errorf("Cilium: undone, the cluster is (-before +after):\n%s", diff)
	}
}

// TestLateService: a Service that was made after all had moved, and does not answer, does not bring back what can only run as a whole.
func TestLateService(t *testing.T) {
	const late = `
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: late, uid: l}
spec: {type: LoadBalancer}
status: {loadBalancer: {ingress: [{ip: 192.0.2.3}]}}
`
	for name, ref := range map[string]Ref{"kube-vip": vip, "PureLB": {"apps", "DaemonSet", "purelb-system", "lbnodeagent"}} {
		s := newSim(t, clusters[name]...)
		s.run(all, -1)
		s.late = "shop/late"
		s.objects[serviceRef(s.late)] = object(t, late)
		unit := "all Services of " + originOf(s.origin(t)).names().title
		s.deaf[unit] = "nobody hears it"
		if _, stopped := s.run(all, -1); !strings.Contains(stopped, "stays with Tandem") {
			t.Errorf("%s: start says %q", name, stopped)
		}
		for _, svc := range s.objects.moving() {
			if got, want := text(svc, "metadata", "labels", label) == moved, nameOf(svc) != s.late; got != want {
				t.Errorf("%s: %s has moved: %t", name, nameOf(svc), got)
			}
		}
		if pods := s.objects.podsOf(s.objects[ref]); len(pods) > 0 {
			t.Errorf("%s announces again", name)
		}
		delete(s.deaf, unit)
		if _, stopped := s.run(all, -1); stopped != "" {
			t.Errorf("%s: once it answers, start says %q", name, stopped)
		}
	}
}

// TestOpen: once kube-vip or PureLB has stopped, Tandem announces a Service also where another program takes the label off, or has just made it.
func TestOpen(t *testing.T) {
	for _, name := range []string{"kube-vip", "kube-vip with the control plane", "PureLB"} {
		s := newSim(t, clusters[name]...)
		before := s.copy()
		s.run(all, -1)
		for k := 0; ; k++ { // On the way back it announces no IPv6 address that its product is about to take.
			back := &sim{t: t, objects: s.copy(), deaf: map[string]string{}}
			_, stopped := back.run(Undo, k)
			if theirs, ours := back.both(back.objects[serviceRef("shop/mail")]); theirs && ours {
				t.Errorf("%s: after %d writes of undo both announce shop/mail", name, k)
			}
			if stopped != "killed" {
				break
			}
		}
		for _, svc := range s.objects.moving() {
			unlabel(svc)
			if theirs, ours := s.both(svc); theirs || !ours {
				t.Errorf("%s: %s is announced by its product: %t, by Tandem: %t", name, nameOf(svc), theirs, ours)
			}
		}
		s.complete(all)
		s.complete(Undo)
		if diff := cmp.Diff(before, s.objects); diff != "" {
			t.Errorf("%s: undone, the cluster is (-before +after):\n%s", name, diff)
		}
	}
}

// TestLateServiceUndone: the product takes a Service for its own that Tandem gave an address during the move. PureLB would not announce it otherwise, and
// give its address to another one, and kube-vip's cloud provider would give it another address.
func TestLateServiceUndone(t *testing.T) {
	const late = `
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: late, uid: l}
spec: {type: LoadBalancer}
status: {loadBalancer: {ingress: [{ip: 192.0.2.3}, {ip: "2001:db8::3"}]}}
`
	ref := serviceRef("shop/late")
	for name, want := range map[string]map[string]string{
		"kube-vip": {"kube-vip.io/loadbalancerIPs": "192.0.2.3,2001:db8::3"},
		"PureLB":   {"purelb.io/allocated-by": "PureLB", "purelb.io/allocated-from": "default", "purelb.io/pool-type": "local"},
	} {
		s := newSim(t, clusters[name]...)
		s.run(start(Goal{}), -1)
		s.objects[ref] = object(t, late)
		s.complete(all)
		s.complete(Undo)
		got := table(s.objects[ref], "metadata", "annotations")
		for key, value := range want {
			if got[key] != value {
				t.Errorf("%s: annotation %s is %q, want %q", name, key, got[key], value)
			}
		}
		if ips := joined(addressesOf(s.objects[ref])); ips != "192.0.2.3, 2001:db8::3" {
			t.Errorf("%s: undone, it has %s", name, ips)
		}
		for _, svc := range s.objects.moving() {
			if table(svc, "metadata", "annotations")["purelb.io/allocated-by"] != "" && nameOf(svc) != "shop/late" {
				t.Errorf("%s: %s has notes that it had not", name, nameOf(svc))
			}
		}
	}
}

// origin returns the key of the product that the move comes from.
func (s *sim) origin(t *testing.T) string {
	t.Helper()
	o, err := s.snapshot(nil).origin()
	if err != nil || o == nil {
		t.Fatalf("%v, %v", o, err)
	}
	return o.names().key
}

// TestLostNode: what is waited for on a Node that is not there names the Pod, and what to do.
func TestLostNode(t *testing.T) {
	s := newSim(t, clusters["kube-vip"]...)
	set(s.objects[nodeRef("node1")], nil, "status", "conditions")
	m := &machine{Snapshot: s.snapshot(nil)}
	provider := Ref{"apps", "Deployment", "kube-system", "kube-vip-cloud-provider"}
	const want = "kube-system/kube-vip-cloud-provider-node1 (Node node1 is not Ready: if that machine is off, " +
		"kubectl delete pod -n kube-system kube-vip-cloud-provider-node1 --force)"
	if a := m.awaitEnd(provider, "it"); !strings.HasSuffix(a.Wait, want) {
		t.Errorf("waits for %q, want %q", a.Wait, want)
	}
	plan, err := MakePlan(s.snapshot(nil), false)
	if err != nil || !slices.ContainsFunc(plan.Messages, func(m movein.Message) bool { return m.Code == "not-ready" && m.Object == "Node node1" }) {
		t.Errorf("the plan does not name the Node: %v, %v", plan.Messages, err)
	}
}

// TestServiceInDeletion: one that a finalizer of another controller keeps is not waited for, whatever its status shows.
func TestServiceInDeletion(t *testing.T) {
	const dying = `
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: dying, uid: z, deletionTimestamp: "2026-01-01T00:00:00Z", finalizers: [svccontroller.k3s.cattle.io/daemonset]}
spec: {type: LoadBalancer}
status: {loadBalancer: {ingress: [{ip: 198.51.100.9}]}}
`
	for name, documents := range clusters {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, append(slices.Clone(documents), dying)...)
			before := s.copy()
			s.complete(all)
			finished := &sim{t: t, objects: s.copy(), deaf: map[string]string{}}
			if _, stopped := finished.run(Finish, -1); stopped != "" {
				t.Error(stopped)
			}
			s.complete(Undo)
			s.wantAsBefore(before)
		})
	}
}

// TestExcludedNodes: a Node that Tandem announces from all the same is one whose sessions move.
func TestExcludedNodes(t *testing.T) {
	const speaker = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {namespace: tandem-system, name: tandem-speaker}
spec: {template: {spec: {containers: [{image: speaker, args: [ARGUMENT]}]}}}
`
	for _, tt := range []struct {
		value, argument string
		units           int
	}{{"", "--v=2", 1}, {"true", "--v=2", 1}, {"false", "--v=2", 2}, {"", "--ignore-exclude-label", 2}, {"", "--ignore-exclude-label=true", 2}} {
		s := newSim(t, append(slices.Clone(clusters["node by node"]), strings.ReplaceAll(speaker, "ARGUMENT", tt.argument))...)
		set(s.objects[nodeRef("node1")], map[string]any{"node.kubernetes.io/exclude-from-external-load-balancers": tt.value}, "metadata", "labels")
		plan, err := MakePlan(s.snapshot(nil), false)
		if err != nil || len(plan.Nodes) != tt.units {
			t.Errorf("label %q, argument %s: Nodes %q (%v), want %d", tt.value, tt.argument, plan.Nodes, err, tt.units)
		}
	}
}

// TestAnotherMove: a second move writes its record over that of one that has finished, which nobody can edit by hand.
func TestAnotherMove(t *testing.T) {
	s := newSim(t, clusters["kube-vip"]...)
	s.run(all, -1)
	s.run(Finish, -1)
	for ref, o := range newSim(t, clusters["PureLB"]...).objects {
		if ref.Kind != "Service" && ref.Kind != "Node" && ref.Namespace != system {
			s.objects[ref] = o
		}
	}
	set(s.objects[Ref{"apps", "Deployment", system, "tandem-cloud-controller-manager"}], int64(0), "spec", "replicas")
	for _, kind := range []string{"AddressPool", "L2Advertisement"} { // The person has other names for what is there.
		for _, o := range s.objects.of(ourGroup, kind) {
			delete(s.objects, RefOf(o))
			set(o, "old", "metadata", "name")
			s.objects[RefOf(o)] = o
		}
	}
	next := func(s *Snapshot) (Action, error) {
		s.From = "purelb"
		return Start(s, Goal{}, false)
	}
	for k := 1; k < 4; k++ {
		if _, stopped := s.run(next, 1); stopped != "killed" {
			t.Fatalf("after %d writes the second move says %q", k, stopped)
		}
	}
	r, err := s.snapshot(nil).record()
	if err != nil || r.From != "purelb" {
		t.Errorf("the record is %+v, %v", r, err)
	}
}

// TestRecordOfManyBytes: a Record is cut between two characters.
func TestRecordOfManyBytes(t *testing.T) {
	r := &Record{From: "metallb", Patches: map[string]map[string]string{"shop/web": {"a": strings.Repeat("ü", mostOfPart)}}}
	for _, shift := range []string{"", "x"} {
		r.Patches["shop/web"]["A"] = shift
		maps, err := r.encode(system)
		if err != nil || len(maps) != 4 {
			t.Fatalf("%d ConfigMaps, %v", len(maps), err)
		}
		for _, o := range maps {
			if part := text(o, "data", "part"); strings.ToValidUTF8(part, "") != part {
				t.Errorf("%s has half of a character", text(o, "metadata", "name"))
			}
		}
	}
}
