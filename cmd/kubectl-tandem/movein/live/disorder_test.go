// SPDX-License-Identifier: Apache-2.0

package live

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
				beheaded := s.snapshot(nil).Beheaded()
				if beheaded {
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
					if !beheaded {
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
			if _, stopped := s.run(start(Goal{}), -1); stopped != "" {
				t.Fatal(stopped)
			}
			tt.change(s.objects[tt.ref])
			if writes, stopped := s.run(all, -1); writes > 0 || !strings.Contains(stopped, tt.want) {
				t.Errorf("start makes %d writes and says %q, want %q", writes, stopped, tt.want)
			}
			status, err := StatusOf(s.snapshot(nil))
			if err != nil || !strings.Contains(status.Next, tt.want) {
				t.Errorf("status says %q (%v)", status.Next, err)
			}
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
			if _, stopped := s.run(all, -1); stopped != "" {
				t.Fatal(stopped)
			}
			finished := &sim{t: t, objects: s.copy(), deaf: map[string]string{}}
			if _, stopped := finished.run(Finish, -1); stopped != "" {
				t.Error(stopped)
			}
			if _, stopped := s.run(Undo, -1); stopped != "" {
				t.Fatal(stopped)
			}
			if diff := cmp.Diff(before, s.objects); diff != "" {
				t.Errorf("undone, the cluster is (-before +after):\n%s", diff)
			}
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
