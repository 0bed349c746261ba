// SPDX-License-Identifier: Apache-2.0

package poolstatus

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

func TestAtLimit(t *testing.T) {
	var twelve []string
	for i := range 12 {
		twelve = append(twelve, fmt.Sprintf("ns%02d", i))
	}
	limits := &v1alpha1.PoolLimits{PerNamespace: v1alpha1.FamilyLimits{IPv4: new(int32(2)), IPv6: new(int32(4))}}
	for _, tt := range []struct {
		name    string
		limits  *v1alpha1.PoolLimits
		atLimit map[family.Family][]string
		want    *metav1.Condition
	}{
		{name: "no limits"},
		{name: "nobody", limits: limits, want: &metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonBelowLimit}},
		{
			name: "both families", limits: limits, atLimit: map[family.Family][]string{family.IPv4: {"blog", "shop"}, family.IPv6: {"shop"}},
			want: &metav1.Condition{
				Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAtLimit,
				Message: "IPv4: 2 namespaces have 2 or more: blog, shop; IPv6: 1 namespace has 4 or more: shop; Services there get no more, see spec.limits",
			},
		},
		{
			name: "more than are named", limits: limits, atLimit: map[family.Family][]string{family.IPv6: twelve},
			want: &metav1.Condition{
				Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAtLimit,
				Message: "IPv6: 12 namespaces have 4 or more: ns00, ns01, ns02, ns03, ns04, ns05, ns06, ns07, ns08, ns09 and 2 more; " +
					"Services there get no more, see spec.limits",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ap := &v1alpha1.AddressPool{Spec: v1alpha1.AddressPoolSpec{Limits: tt.limits}}
			ap.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionAtLimit, Status: metav1.ConditionUnknown}} // of another version
			Set(ap, ipam.PoolUsage{AtLimit: tt.atLimit})
			got := meta.FindStatusCondition(ap.Status.Conditions, v1alpha1.ConditionAtLimit)
			if got != nil {
				got = &metav1.Condition{Status: got.Status, Reason: got.Reason, Message: got.Message}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("condition (-want +got):\n%s", diff)
			}
		})
	}
}
