// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// The tests of this file have things happen at a moment, or in an order, that is rare: between two writes, while a
// watch is down, before what should have come first.

func TestPublishedBeforeThereIsAPool(t *testing.T) {
	bubble("a pool that comes later gives no other Service an address that is published", t, func(t *testing.T) {
		c := newCluster(t)
		c.create(newService("a", single, "IPv4", publish("192.0.2.5")), newService("b", single, "IPv4", publish("192.0.2.1")),
			newService("new", single, "IPv4"))
		l := c.lead()
		l.wantError("new", "no pool")
		l.wantError("a", "192.0.2.5 was not given by Tandem")
		l.wantError("b", "192.0.2.1 was not given by Tandem")
		c.setPool(newPool("lan", ipv4Pool))
		c.settle()
		l.wantWoken("a b new")
		l.mustSync("new", "a", "b")
		c.wantShown("a", "192.0.2.5")
		c.wantShown("b", "192.0.2.1")
		c.wantClaims("192.0.2.5=a 192.0.2.1=b 192.0.2.2=new")
	})
	bubble("nor does a pool that is widened", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.2"))
		l := c.lead()
		c.create(newService("first", single, "IPv4"))
		l.mustSync("first")
		c.create(newService("a", single, "IPv4", publish("192.0.2.5")), newService("new", single, "IPv4"))
		l.wantError("new", "no free")
		l.wantError("a", "192.0.2.5 was not given by Tandem")
		c.setPool(newPool("lan", "192.0.2.2 192.0.2.5-192.0.2.6"))
		c.settle()
		l.mustSync("new", "a")
		c.wantShown("a", "192.0.2.5")
		c.wantShown("new", "192.0.2.6")
	})
}

func TestSharingFollowsTheSelector(t *testing.T) {
	keyed := func(name string, port int32, edits ...func(*corev1.Service)) *corev1.Service {
		return newService(name, require, "IPv4 IPv6", append([]func(*corev1.Service){annotate(shareKey, "k"), listen("TCP", port)}, edits...)...)
	}
	bubble("a Service whose selector changes stays, and is told", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(keyed("a", 80, local("shop")), keyed("b", 81, local("shop")))
		l.mustSync("a", "b")
		c.wantShown("b", bothKinds)
		l.takeWoken()
		c.edit("b", local("bank")) // the service controller sees no need for an update
		l.syncWoken()
		c.settle()
		c.wantShown("a", bothKinds)
		c.wantShown("b", bothKinds)
		l.wantEvents(v1alpha1.EventKeptAddress, 1)
	})
	bubble("a Service whose selector becomes the same lets in a Service that waits", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1 2001:db8::1"))
		l := c.lead()
		c.create(keyed("a", 80, local("shop")), keyed("b", 81, local("bank")))
		l.mustSync("a")
		l.wantError("b", "no free")
		l.takeWoken()
		c.edit("a", local("bank"))
		l.syncWoken()
		c.settle()
		l.syncWoken()
		c.wantShown("b", bothKinds)
	})
}

func TestWipedStatus(t *testing.T) {
	bubble("is written again", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"))
		l.mustSync("web")
		for _, left := range []string{"192.0.2.1", ""} {
			l.takeWoken()
			c.edit("web", publish(left))
			l.wantWoken("web")
			l.mustSync("web")
			c.wantShown("web", bothKinds)
		}
		l.takeWoken()
		c.edit("web", label("x", "y"))
		l.wantWoken("")
	})
	bubble("takes no claim from a Service that has moved", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", single, "IPv4"))
		l.mustSync("web")
		c.edit("web", annotate(fixedKey, "192.0.2.7"))
		c.frozen = true
		got, err := l.ensure("web")
		c.must(err)
		c.edit("web", label("x", "y")) // before the service controller has written the status
		c.edit("web", func(svc *corev1.Service) { svc.Status.LoadBalancer = *got })
		c.frozen = false
		c.settle()
		c.wantClaims("192.0.2.7=web")
		c.edit("web", publish(""))
		c.wantClaims("192.0.2.7=web")
	})
}

func TestNewSharerBesideServicesThatDoNotAgree(t *testing.T) {
	keyed := func(name string, port int32) *corev1.Service {
		return newService(name, single, "IPv4", annotate(shareKey, "k"), listen("TCP", port))
	}
	bubble("waits until they agree", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1"))
		l := c.lead()
		c.create(keyed("b", 81), keyed("a", 80))
		l.mustSync("b", "a")
		c.wantClaims("192.0.2.1=b")
		c.edit("b", annotate(shareKey, "other"))
		l.mustSync("b")
		c.create(keyed("c", 82))
		l.wantError("c", "no free address")
		l.mustSync("a")
		c.wantShown("a", "192.0.2.1")
		c.wantShown("b", "192.0.2.1")
		c.edit("b", annotate(shareKey, "k"))
		l.mustSync("b")
		c.settle()
		l.syncWoken()
		c.wantShown("c", "192.0.2.1")
		c.wantClaims("192.0.2.1=b")
	})
}

func TestServiceThatComesBeforeItsNamespace(t *testing.T) {
	bubble("waits to see which pools are for it", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1"), newPool("shop", "198.51.100.1", forNamespaces("team", "shop")))
		l := c.lead()
		svc := newService("web", single, "IPv4")
		svc.Namespace = "shop"
		c.create(svc)
		if got, err := l.EnsureLoadBalancer(t.Context(), "", svc, nil); err == nil {
			t.Errorf("got %s before the namespace is known", got.Ingress[0].IP)
		}
		c.label("shop", labels.Set{"team": "shop"}) // the watch of namespaces is a moment behind that of Services
		c.settle()
		l.wantWoken("shop/web")
		got, err := l.EnsureLoadBalancer(t.Context(), "", svc, nil)
		c.must(err)
		if got.Ingress[0].IP != "198.51.100.1" {
			t.Errorf("got %s, want 198.51.100.1 from the pool of its namespace", got.Ingress[0].IP)
		}
	})
}

func TestWokenAndServedElsewhere(t *testing.T) {
	bubble("lets the next Service have the address it was woken for", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1 2001:db8::1-2001:db8::9"), newPool("wan", "198.51.100.1", noAutoAssign))
		l := c.lead()
		c.create(newService("a", single, "IPv4"))
		l.mustSync("a")
		c.create(newService("p", single, "IPv4"), newService("q", prefer, "IPv6 IPv4"))
		l.wantError("p", "no free")
		l.mustSync("q") // without IPv4: the service controller has no reason to try again
		l.delete("a")
		l.wantWoken("p")
		c.edit("p", annotate(poolKey, "wan")) // before the service controller has got to it
		l.mustSync("p")
		c.wantShown("p", "198.51.100.1")
		c.settle()
		l.wantWoken("q")
	})
}

func TestClaimThatBecomesAClusterIP(t *testing.T) {
	bubble("before it is created again moves the Service", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", single, "IPv4"))
		l.mustSync("web")
		l.takeWoken()
		c.replaceClaim("192.0.2.1", "ipallocator.k8s.io", "kube-system", "dns")
		c.settle()
		l.wantWoken("web")
		l.mustSync("web")
		c.wantShown("web", "192.0.2.2")
		c.wantClaims("192.0.2.2=web")
	})
}

func TestPoolReplacedWhileTheWatchIsDown(t *testing.T) {
	bubble("is noticed", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1"))
		l := c.lead()
		c.create(newService("a", single, "IPv4"), newService("b", single, "IPv4"))
		l.mustSync("a")
		l.wantError("b", "no free")
		old := c.pool("lan")
		c.must(c.pools.Delete(t.Context(), old.DeepCopy()))
		fresh := newPool("lan", ipv4Pool)
		fresh.Generation, fresh.UID = 1, "another"
		c.must(c.pools.Create(t.Context(), fresh))
		l.pools.handlers[0].OnUpdate(old, c.pool("lan")) // what an informer makes of it when it lists again
		c.settle()
		l.wantWoken("b")
	})
}

func TestReallocateThatWasThereBeforeThePoolEdit(t *testing.T) {
	bubble("moves the Service at once, not at the next restart", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", ipv4Pool))
		l := c.lead()
		c.create(newService("web", single, "IPv4", annotate("tandem-lb.io/reallocate", "true")), newService("stays", single, "IPv4"))
		l.mustSync("web", "stays")
		c.setPool(newPool("lan", "192.0.2.5-192.0.2.6"))
		c.settle()
		l.wantWoken("web")
		l.mustSync("web")
		c.wantShown("web", "192.0.2.5")
		l.stop()
		l = c.lead()
		l.mustSync("web", "stays")
		c.wantShown("web", "192.0.2.5")
		c.wantShown("stays", "192.0.2.2")
	})
}

func TestPoolThatIsRenamed(t *testing.T) {
	poolOf := func(c *cluster, address string) string {
		claim, err := c.api.NetworkingV1().IPAddresses().Get(t.Context(), address, metav1.GetOptions{})
		c.must(err)
		return claim.Labels[v1alpha1.LabelAddressPool]
	}
	for _, restart := range []bool{false, true} {
		bubble("takes its addresses along", t, func(t *testing.T) {
			c := newCluster(t, newPool("lan", ipv4Pool))
			l := c.lead()
			c.create(newService("web", single, "IPv4"))
			l.mustSync("web")
			if restart {
				l.stop()
			}
			c.setPool(newPool("office", ipv4Pool))
			c.deletePool("lan")
			c.settle()
			if restart {
				l = c.lead()
			}
			l.mustSync("web")
			// Speakers match this with spec.addressPools of an advertisement.
			if got := poolOf(c, "192.0.2.1"); got != "office" {
				t.Errorf("192.0.2.1 is recorded in pool %s, want office", got)
			}
			// docs/addresses.md: "addresses that no pool holds any more are given up".
			c.edit("web", annotate("tandem-lb.io/reallocate", "true"))
			l.mustSync("web")
			c.wantShown("web", "192.0.2.1")
		})
	}
}

func TestClaimBelowTheAddressThatIsShown(t *testing.T) {
	bubble("moves no Service, also after a restart", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.0/28"))
		c.create(newService("web", single, "IPv4", publish("192.0.2.5")))
		l := c.lead()
		l.mustSync("web")
		c.createClaim("192.0.2.1", v1alpha1.ManagedBy, "default", "web") // by another leader
		c.settle()
		l.mustSync("web")
		c.wantShown("web", "192.0.2.5")
		l.stop()
		l = c.lead()
		l.mustSync("web")
		c.wantShown("web", "192.0.2.5")
		time.Sleep(auditPeriod)
		c.settle()
		c.wantClaims("192.0.2.5=web")
	})
}

func TestPoolThatIsReplaced(t *testing.T) {
	poolOf := func(c *cluster, address string) string {
		object, err := c.api.NetworkingV1().IPAddresses().Get(t.Context(), address, metav1.GetOptions{})
		c.must(err)
		return object.Labels[v1alpha1.LabelAddressPool]
	}
	for _, restart := range []bool{false, true} {
		bubble("keeps its addresses beside an overlapping one", t, func(t *testing.T) {
			c := newCluster(t, newPool("lan", ipv4Pool), newPool("all", "192.0.0.0/16", noAutoAssign))
			l := c.lead()
			c.create(newService("web", single, "IPv4"))
			l.mustSync("web")
			c.frozen = true
			c.deletePool("lan")
			if restart {
				l.stop()
				c.lead()
			}
			time.Sleep(poolGrace - time.Second)
			c.setPool(newPool("lan", ipv4Pool))
			c.frozen = false
			c.settle()
			if got := poolOf(c, "192.0.2.1"); got != "lan" {
				t.Errorf("192.0.2.1 is recorded in pool %s, want lan", got)
			}
			// Another pool that goes begins the time anew.
			c.setPool(newPool("other", "198.51.100.1"))
			c.deletePool("other")
			c.frozen = true
			time.Sleep(poolGrace - time.Second)
			c.deletePool("lan")
			time.Sleep(2 * time.Second)
			c.settle()
			if got := poolOf(c, "192.0.2.1"); got != "lan" {
				t.Errorf("192.0.2.1 is recorded in pool %s after 2 s, want lan", got)
			}
			c.frozen = false
			c.settle()
			if got := poolOf(c, "192.0.2.1"); got != "all" {
				t.Errorf("192.0.2.1 is recorded in pool %s, want all", got)
			}
		})
	}
}
