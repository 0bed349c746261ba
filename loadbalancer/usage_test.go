// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// The status of a pool is right again after somebody has edited it, or the cache has shown an old one. It says of which spec it is.
func TestPoolStatusIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9"))
		l := c.lead()
		was := c.pool("lan")
		edited := was.DeepCopy()
		edited.Status.IPv4.Allocated = 5
		c.must(c.pools.Status().Update(t.Context(), edited))
		l.pools.handlers[0].OnUpdate(was, c.pool("lan"))
		c.settle()
		if diff := cmp.Diff(was.Status, c.pool("lan").Status); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
		// The allocator has not been told of this spec yet.
		young := c.pool("lan")
		young.Generation++
		young.Spec = newPool("lan", "192.0.2.0/24").Spec
		c.must(c.pools.Update(t.Context(), young))
		l.usageChanged()
		c.settle()
		for _, condition := range c.pool("lan").Status.Conditions {
			if condition.ObservedGeneration == young.Generation {
				t.Errorf("condition %s says that it is of generation %d", condition.Type, young.Generation)
			}
		}
	})
}

func TestPoolStatusIsWrittenOnChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool), newPool("other", "198.51.100.0/24"))
		l := c.lead()
		if c.patches.Load() != 2 {
			t.Errorf("%d writes for two new pools", c.patches.Load())
		}
		c.create(newService("web", require, "IPv4 IPv6"))
		l.mustSync("web")
		c.settle()
		if c.patches.Load() != 3 {
			t.Errorf("%d writes, want a third one for the pool that was used", c.patches.Load())
		}
		want := v1alpha1.AddressPoolStatus{
			IPv4: &v1alpha1.PartitionStatus{Capacity: 9, Allocated: 1, Available: 8},
			IPv6: &v1alpha1.PartitionStatus{Capacity: 9, Allocated: 1, Available: 8},
		}
		if diff := cmp.Diff(want, c.pool("lan").Status, cmpopts.IgnoreFields(v1alpha1.AddressPoolStatus{}, "Conditions", "Summary")); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
		l.mustSync("web")
		l.usageChanged()
		c.settle()
		if c.patches.Load() != 3 {
			t.Errorf("%d writes, want none for what has not changed", c.patches.Load())
		}
		// A burst of changes is one write.
		for i := range 5 {
			c.create(newService(fmt.Sprint("web-", i), single, "IPv4"))
		}
		c.settle()
		before := c.patches.Load()
		for i := range 5 {
			if _, err := l.ensure(fmt.Sprint("web-", i)); err != nil {
				t.Fatal(err)
			}
		}
		c.settle()
		if n := c.patches.Load() - before; n > 2 {
			t.Errorf("%d writes for five Services at once", n)
		}
		c.setPool(newPool("lan", "192.0.2.2-192.0.2.9"))
		c.settle()
		stranded := meta.FindStatusCondition(c.pool("lan").Status.Conditions, v1alpha1.ConditionStranded)
		if stranded == nil || stranded.Status != metav1.ConditionTrue || !strings.Contains(stranded.Message, "192.0.2.1, 2001:db8::1") {
			t.Errorf("condition Stranded: %v", stranded)
		}
		c.edit("web", func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP })
		c.settle()
		if !meta.IsStatusConditionFalse(c.pool("lan").Status.Conditions, v1alpha1.ConditionStranded) {
			t.Errorf("conditions after the release: %v", c.pool("lan").Status.Conditions)
		}
	})
}

// While the API does not answer the write of a pool's status, all gauges of the pool are there and right.
func TestGaugesWhilePoolStatusIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, newPool("gauges", dualPool))
		l := c.lead()
		c.blocked = make(chan struct{})
		c.create(newService("web", require, "IPv4 IPv6"))
		l.mustSync("web")
		c.settle()
		gathered, err := legacyregistry.DefaultGatherer.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string][]float64{}
		for _, metric := range gathered {
			for _, m := range metric.GetMetric() {
				if m.GetGauge() != nil && slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool {
					return l.GetName() == "pool" && l.GetValue() == "gauges"
				}) {
					got[metric.GetName()] = append(got[metric.GetName()], m.GetGauge().GetValue())
				}
			}
		}
		want := map[string][]float64{
			"tandem_pool_capacity_addresses": {9, 9}, "tandem_pool_allocated_addresses": {1, 1}, "tandem_pool_available_addresses": {8, 8},
			"tandem_pool_reserved_addresses": {0, 0}, "tandem_pool_reserved_in_use_addresses": {0, 0},
			"tandem_pool_valid": {1},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("gauges (-want +got):\n%s", diff)
		}
		if v4 := c.pool("gauges").Status.IPv4; v4.Allocated != 0 {
			t.Errorf("the status has %d allocated addresses though no write has ended", v4.Allocated)
		}
		close(c.blocked)
		c.settle()
		if v4 := c.pool("gauges").Status.IPv4; v4.Allocated != 1 {
			t.Errorf("the status has %d allocated addresses at last, want 1", v4.Allocated)
		}
	})
}
