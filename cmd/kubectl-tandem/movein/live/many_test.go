// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"strings"
	"testing"
)

// many returns a cluster with so many Services of MetalLB on layer 2, half of which have moved, in phase Announcing.
func many(t testing.TB, n int) *sim {
	t.Helper()
	documents := []string{strings.NewReplacer("192.0.2.0/28", "10.64.0.0/16", "2001:db8::/124", "2001:db8::/64").Replace(cluster), layer2, newCRD, webhook}
	for i := range n {
		documents = append(documents, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: s%[1]d, uid: s%[1]d, annotations: {metallb.io/ip-allocated-from-pool: lan}}
spec: {type: LoadBalancer}
status: {loadBalancer: {ingress: [{ip: 10.64.%[2]d.%[3]d}, {ip: "2001:db8::%[4]x"}]}}
---
apiVersion: metallb.io/v1beta1
kind: ServiceL2Status
metadata: {namespace: metallb-system, name: l2-%[1]d}
status: {node: node1, serviceNamespace: shop, serviceName: s%[1]d}`, i, (i+1)>>8, (i+1)&0xff, i+1))
	}
	s := newSim(t, documents...)
	if _, stopped := s.run(func(s *Snapshot) (Action, error) { return Start(s, Goal{}, false) }, -1); stopped != "" {
		t.Fatal(stopped)
	}
	for i := range n / 2 {
		set(s.objects[serviceRef(fmt.Sprintf("shop/s%d", i))], moved, "metadata", "labels", label)
	}
	return s
}

// BenchmarkNext is one decision of a move of 1,000 Services, and of its undo and its end.
func BenchmarkNext(b *testing.B) {
	s := many(b, 1000)
	start := s.snapshot(nil)
	begin, err := Undo(start)
	if err != nil || begin.Write == nil {
		b.Fatal(begin, err)
	}
	undo := s.snapshot(nil)
	undo.Objects[begin.Write.Ref] = merged(undo.Objects[begin.Write.Ref], begin.Write.Body)
	for _, tt := range []struct {
		name     string
		snapshot *Snapshot
		next     func(*Snapshot) (Action, error)
	}{{"start", start, all}, {"undo", undo, Undo}} {
		b.Run(tt.name, func(b *testing.B) {
			tt.snapshot.Memory = &Memory{}
			for b.Loop() {
				if a, err := tt.next(tt.snapshot); err != nil || a.Write == nil {
					b.Fatal(a, err)
				}
			}
		})
	}
}
