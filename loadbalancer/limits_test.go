// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// oneEach lets each namespace have one IPv4 address of a pool.
func oneEach(ap *v1alpha1.AddressPool) {
	ap.Spec.Limits = &v1alpha1.PoolLimits{PerNamespace: v1alpha1.FamilyLimits{IPv4: new(int32(1))}}
}

func TestLimitPerNamespace(t *testing.T) {
	const refused = "namespace is at its limit: namespace default has 1 of 1 IPv4 addresses of pool lan: 192.0.2.1 (Service a)"
	bubble("holds over a restart and beside another leader, and ends a wait", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9", oneEach))
		c.label("shop", nil)
		first := c.lead()
		c.create(newService("a", single, "IPv4"), newService("b", single, "IPv4"), newService("c", single, "IPv4", in("shop")))
		first.mustSync("a")
		first.wantError("b", refused)
		second := c.lead() // beside the first
		second.wantError("b", refused)
		second.mustSync("a", "shop/c")
		first.wantError("b", refused)
		first.stop()
		second.stop()
		third := c.lead()
		third.wantError("b", refused)
		c.wantClaims("192.0.2.1=a 192.0.2.2=shop/c")
		c.wantAtLimit("IPv4: 2 namespaces have 1 or more: default, shop")
		third.takeWoken()
		third.delete("a")
		c.settle()
		third.wantWoken("b")
		third.mustSync("b")
		c.wantShown("b", "192.0.2.1")
	})
	bubble("what is lowered takes nothing away", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9"))
		l := c.lead()
		c.create(newService("a", single, "IPv4"), newService("b", single, "IPv4"))
		l.mustSync("a", "b")
		c.wantAtLimit("")
		c.setPool(newPool("lan", "192.0.2.1-192.0.2.9", oneEach))
		c.settle()
		l.mustSync("a", "b")
		c.wantAtLimit("IPv4: 1 namespace has 1 or more: default")
		c.wantClaims("192.0.2.1=a 192.0.2.2=b")
	})
}

// wantAtLimit checks the message of the condition AtLimit of pool lan; "" is none.
func (c *cluster) wantAtLimit(want string) {
	c.t.Helper()
	c.settle()
	got := ""
	if condition := meta.FindStatusCondition(c.pool("lan").Status.Conditions, v1alpha1.ConditionAtLimit); condition != nil {
		got = condition.Message
	}
	if (got == "") != (want == "") || !strings.HasPrefix(got, want) {
		c.t.Errorf("condition AtLimit says %q, want %q", got, want)
	}
}
