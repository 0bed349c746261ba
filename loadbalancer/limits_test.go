// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
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
	bubble("nor does a new leader, from a Service whose status another controller has overwritten", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9"))
		l := c.lead()
		c.create(newService("a", single, "IPv4"), newService("b", single, "IPv4"))
		l.mustSync("a", "b")
		c.setPool(newPool("lan", "192.0.2.1-192.0.2.9", oneEach))
		time.Sleep(time.Minute)
		l.stop()
		c.edit("b", publish("198.51.100.11"))
		l = c.lead()
		l.mustSync("a", "b")
		c.wantShown("b", "192.0.2.2")
		c.settle()
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

// Two leaders that each find a namespace below its limit give it an address at the same moment.
func TestLimitBesideAnotherLeader(t *testing.T) {
	for _, goOn := range []string{"both claims were created", "the first claim was checked"} {
		bubble("never exceeded where watches go on when "+goOn, t, func(t *testing.T) {
			c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9", oneEach))
			one, two := c.lead(), c.lead()
			c.create(newService("a", single, "IPv4", annotate(fixedKey, "192.0.2.1")), newService("b", single, "IPv4", annotate(fixedKey, "192.0.2.2")))
			c.frozen = true
			c.api.tracker.standStill(true)
			// ask has a leader answer for a Service, and returns when it waits for its claim. What it returns writes the status.
			ask := func(l *leader, name string) func() error {
				svc, done := c.service(name), make(chan error, 1)
				var got *corev1.LoadBalancerStatus
				go func() {
					var err error
					got, err = l.EnsureLoadBalancer(t.Context(), "", svc, nil)
					done <- err
				}()
				synctest.Wait()
				return func() error {
					err := <-done
					if err == nil {
						c.edit(name, func(svc *corev1.Service) { svc.Status.LoadBalancer = *got })
					}
					return err
				}
			}
			a := ask(one, "a")
			var errA error
			if goOn == "the first claim was checked" {
				two.muted.Store(true) // The allocator of the second leader learns nothing of it.
				c.api.tracker.standStill(false)
				errA = a()
				c.api.tracker.standStill(true)
			}
			b := ask(two, "b")
			two.muted.Store(false)
			c.api.tracker.standStill(false)
			if goOn == "both claims were created" {
				errA = a()
			}
			errB := b()
			if errA == nil && errB == nil {
				t.Error("both got an address, and the limit is one")
			}
			for _, err := range []error{errA, errB} {
				if err != nil && !strings.Contains(err.Error(), "namespace is at its limit") {
					t.Errorf("got error %v", err)
				}
			}
			c.frozen = false
			for range 2 { // The service controllers try again.
				c.settle()
				for _, l := range []*leader{one, two} {
					_ = l.sync("a")
					_ = l.sync("b")
				}
			}
			c.settle()
			if got := c.shown("a") + c.shown("b"); got != "192.0.2.1" && got != "192.0.2.2" {
				t.Errorf("a shows %q and b shows %q, want an address of one", c.shown("a"), c.shown("b"))
			}
			if n := len(c.claims()); n != 1 {
				t.Errorf("%d claims, want 1", n)
			}
		})
	}
	bubble("no pool without a limit waits for the watch", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9"))
		l := c.lead()
		c.create(newService("a", single, "IPv4"))
		c.api.tracker.standStill(true)
		start := time.Now()
		_, err := l.ensure("a")
		c.must(err)
		if waited := time.Since(start); waited > 0 {
			t.Errorf("the request waited for %v", waited)
		}
	})
	bubble("a claim that nobody has published yet counts after a restart, also of a Service that shares", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9", oneEach))
		c.label("shop", nil)
		l := c.lead()
		c.create(newService("a", single, "IPv4", in("shop"), annotate(shareKey, "k"), annotate(consentKey, "default")),
			newService("b", single, "IPv4", annotate(shareKey, "k"), annotate(consentKey, "shop"), listen("TCP", 81)), newService("c", single, "IPv4"))
		l.mustSync("shop/a")
		_, err := l.ensure("b")
		c.must(err)
		l.stop()
		l = c.lead()
		l.wantError("c", "namespace default has 1 of 1 IPv4 addresses of pool lan: 192.0.2.1 (Service b)")
		c.wantSharers("192.0.2.1", "b=81 shop/a=80")
	})
}
