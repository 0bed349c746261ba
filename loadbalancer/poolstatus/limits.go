// SPDX-License-Identifier: Apache-2.0

package poolstatus

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// mostNamespaces is how many namespaces the condition AtLimit names. A status is read by all who watch pools, and a cluster may have thousands of
// namespaces.
const mostNamespaces = 10

// setAtLimit sets the condition AtLimit, as in "IPv4: 2 namespaces have 4 or more: blog, shop". A pool without limits has none.
// With limits that no namespace has reached it is False, so that `kubectl wait` can wait for either. A namespace may have more than its limit:
// one that was lowered takes nothing away.
func setAtLimit(ap *v1alpha1.AddressPool, u ipam.PoolUsage, set func(conditionType string, is bool, reason, message string)) {
	if ap.Spec.Limits == nil {
		meta.RemoveStatusCondition(&ap.Status.Conditions, v1alpha1.ConditionAtLimit)
		return
	}
	limits := map[family.Family]*int32{family.IPv4: ap.Spec.Limits.PerNamespace.IPv4, family.IPv6: ap.Spec.Limits.PerNamespace.IPv6}
	var texts []string
	for _, af := range family.All {
		namespaces, limit := u.AtLimit[af], limits[af]
		if len(namespaces) == 0 || limit == nil {
			continue
		}
		have := "namespaces have"
		if len(namespaces) == 1 {
			have = "namespace has"
		}
		names := strings.Join(namespaces[:min(len(namespaces), mostNamespaces)], ", ")
		if more := len(namespaces) - mostNamespaces; more > 0 {
			names += fmt.Sprintf(" and %d more", more)
		}
		texts = append(texts, fmt.Sprintf("%s: %d %s %d or more: %s", af, len(namespaces), have, *limit, names))
	}
	if len(texts) == 0 {
		set(v1alpha1.ConditionAtLimit, false, v1alpha1.ReasonBelowLimit, "")
		return
	}
	set(v1alpha1.ConditionAtLimit, true, v1alpha1.ReasonAtLimit, strings.Join(texts, "; ")+"; Services there get no more, see spec.limits")
}
