// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

func TestPoolStatusIsWrittenOnChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool), newPool("other", "198.51.100.0/24"))
		l := c.lead()
		if c.patches != 2 {
			t.Errorf("%d writes for two new pools", c.patches)
		}
		c.create(newService("web", require, "IPv4 IPv6"))
		l.mustSync("web")
		c.settle()
		if c.patches != 3 {
			t.Errorf("%d writes, want a third one for the pool that was used", c.patches)
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
		if c.patches != 3 {
			t.Errorf("%d writes, want none for what has not changed", c.patches)
		}
		// A burst of changes is one write.
		for i := range 5 {
			c.create(newService(fmt.Sprint("web-", i), single, "IPv4"))
		}
		c.settle()
		before := c.patches
		for i := range 5 {
			if _, err := l.ensure(fmt.Sprint("web-", i)); err != nil {
				t.Fatal(err)
			}
		}
		c.settle()
		if n := c.patches - before; n > 2 {
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
