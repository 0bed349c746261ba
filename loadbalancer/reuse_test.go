// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// goneClaims counts the deletions of the claim of an address.
func (c *cluster) goneClaims(address string) (n int) {
	c.api.tracker.mu.Lock()
	defer c.api.tracker.mu.Unlock()
	for _, e := range c.api.tracker.history {
		if claim, ok := e.Object.(*networkingv1.IPAddress); ok && claim.Name == address && e.Type == watch.Deleted {
			n++
		}
	}
	return n
}

func TestSharedClaimStays(t *testing.T) {
	keyed := func(name string, port int32) *corev1.Service {
		return newService(name, single, "IPv4", annotate(shareKey, "k"), listen("TCP", port))
	}
	bubble("while a hundred parents come and go", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1"))
		l := c.lead()
		c.create(keyed("parent0", 80), keyed("stays", 443))
		l.mustSync("parent0", "stays")
		for i := range 100 {
			next := fmt.Sprintf("parent%d", i+1)
			switch i % 3 {
			case 0:
				l.delete(fmt.Sprintf("parent%d", i))
			case 1:
				c.vanish(fmt.Sprintf("parent%d", i))
			case 2:
				l.stop()
				c.vanish(fmt.Sprintf("parent%d", i))
				l = c.lead()
				l.mustSync("stays")
			}
			c.create(keyed(next, 80))
			l.mustSync(next)
			c.wantShown("stays", "192.0.2.1")
			c.wantShown(next, "192.0.2.1")
		}
		if n := c.goneClaims("192.0.2.1"); n > 0 {
			t.Errorf("the claim was gone %d times", n)
		}
		l.delete("stays")
		c.wantClaims("192.0.2.1=left")
		l.delete("parent100")
		c.wantClaims("")
	})
	bubble("when its parent moves, also over a restart", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.2"))
		l := c.lead()
		c.create(keyed("a", 80), keyed("b", 81))
		l.mustSync("a", "b")
		c.edit("a", annotate(fixedKey, "192.0.2.2"))
		l.mustSync("a")
		c.wantShown("a", "192.0.2.2")
		l.stop()
		l = c.lead()
		l.mustSync("a", "b")
		c.wantShown("a", "192.0.2.2")
		c.wantShown("b", "192.0.2.1")
		c.wantClaims("192.0.2.1=left 192.0.2.2=a")
		if n := c.goneClaims("192.0.2.1"); n > 0 {
			t.Errorf("the claim was gone %d times", n)
		}
	})
	bubble("when a Service of the name of its parent is created again", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.2"))
		l := c.lead()
		c.create(keyed("a", 80), keyed("b", 81))
		l.mustSync("a", "b")
		l.delete("a")
		c.create(newService("a", single, "IPv4"))
		l.mustSync("a", "b")
		c.wantShown("a", "192.0.2.2")
		c.wantShown("b", "192.0.2.1")
		c.wantClaims("192.0.2.1=left 192.0.2.2=a")
	})
}

func TestReuseAfter(t *testing.T) {
	const wait = 10 * time.Minute
	lan := newPool("lan", "192.0.2.1", reuseAfter(wait))
	other := func(svc *corev1.Service) { svc.Name = "other" }
	for _, restart := range []bool{false, true} {
		name := map[bool]string{false: "", true: ", over a restart"}[restart]
		// released returns a cluster in which web has given 192.0.2.1 up.
		released := func(t *testing.T) (*cluster, *leader) {
			c := newCluster(t, lan)
			l := c.lead()
			c.create(newService("web", single, "IPv4"), newService("web", single, "IPv4", other))
			l.mustSync("web")
			l.wantError("other", "no free address")
			if restart {
				l.stop()
				c.vanish("web")
				l = c.lead()
				l.stop()
				return c, c.lead()
			}
			l.delete("web")
			return c, l
		}
		bubble("a released address waits"+name, t, func(t *testing.T) {
			c, l := released(t)
			c.wantClaims("192.0.2.1=left")
			l.wantError("other", "wait for reuseAfter")
			l.takeWoken()
			time.Sleep(wait - 4*time.Minute)
			c.settle()
			l.wantWoken("")
			c.wantClaims("192.0.2.1=left")
			time.Sleep(4 * time.Minute)
			c.settle()
			c.wantClaims("")
			l.wantWoken("other")
			l.mustSync("other")
			c.wantClaims("192.0.2.1=other")
		})
		bubble("the Service that has left gets it back"+name, t, func(t *testing.T) {
			c, l := released(t)
			c.create(newService("web", single, "IPv4"))
			l.mustSync("web")
			c.wantShown("web", "192.0.2.1")
			c.wantClaims("192.0.2.1=web")
			time.Sleep(2 * wait)
			c.settle()
			c.wantClaims("192.0.2.1=web")
		})
		bubble("a pool that is to wait no more gives it at once"+name, t, func(t *testing.T) {
			c, l := released(t)
			l.wantError("other", "wait for reuseAfter")
			c.setPool(newPool("lan", "192.0.2.1"))
			c.settle()
			l.wantWoken("other")
			l.mustSync("other")
			c.wantClaims("192.0.2.1=other")
		})
	}
	bubble("a shared address waits for the last of its Services", t, func(t *testing.T) {
		keyed := func(name string, port int32) *corev1.Service {
			return newService(name, single, "IPv4", annotate(shareKey, "k"), listen("TCP", port))
		}
		c := newCluster(t, lan)
		l := c.lead()
		c.create(keyed("a", 80), keyed("b", 81))
		l.mustSync("a", "b")
		l.delete("a")
		time.Sleep(wait)
		l.stop()
		l = c.lead()
		l.mustSync("b")
		c.wantShown("b", "192.0.2.1")
		l.delete("b")
		c.wantClaims("192.0.2.1=left")
		c.create(newService("other", single, "IPv4"))
		l.wantError("other", "wait for reuseAfter")
		time.Sleep(wait)
		c.settle()
		c.wantClaims("")
	})
	bubble("a status that shows it gives it to no Service that did not have it", t, func(t *testing.T) {
		c := newCluster(t, lan)
		l := c.lead()
		c.create(newService("web", single, "IPv4"), newService("thief", single, "IPv4"))
		l.mustSync("web")
		l.delete("web")
		c.edit("thief", publish("192.0.2.1"))
		l.wantWoken("thief")
		if _, err := l.ensure("thief"); err == nil {
			t.Error("the Service was given an address that waits for another one")
		}
	})
	bubble("also when its pool is deleted and created again", t, func(t *testing.T) {
		c := newCluster(t, lan)
		l := c.lead()
		c.create(newService("web", single, "IPv4"), newService("other", single, "IPv4"))
		l.mustSync("web")
		l.delete("web")
		c.deletePool("lan")
		c.settle()
		c.setPool(lan)
		c.settle()
		l.wantError("other", "wait for reuseAfter")
		l.takeWoken()
		time.Sleep(wait)
		c.settle()
		l.wantWoken("other")
		c.wantClaims("")
	})
	bubble("also beside another pool, while its own is deleted and created again", t, func(t *testing.T) {
		c := newCluster(t, lan, newPool("all", "192.0.2.1"))
		l := c.lead()
		c.create(newService("web", single, "IPv4", annotate(poolKey, "lan")), newService("other", single, "IPv4", annotate(poolKey, "all")))
		l.mustSync("web")
		l.delete("web")
		c.frozen = true
		c.deletePool("lan")
		c.settle()
		l.wantError("other", "wait for reuseAfter")
		c.frozen = false
		l.takeWoken()
		c.settle()
		l.wantWoken("other")
		l.mustSync("other")
		c.wantClaims("192.0.2.1=other")
	})
	bubble("for less long when reuseAfter is edited", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1", reuseAfter(24*time.Hour)))
		l := c.lead()
		c.create(newService("web", single, "IPv4"), newService("other", single, "IPv4"))
		l.mustSync("web")
		l.delete("web")
		l.wantError("other", "wait for reuseAfter")
		c.setPool(newPool("lan", "192.0.2.1", reuseAfter(3*time.Minute)))
		c.settle()
		l.takeWoken()
		time.Sleep(3 * time.Minute)
		c.settle()
		l.wantWoken("other")
		c.wantClaims("")
	})
	for _, text := range []string{
		`{"default/web":"9999-01-01T00:00:00Z"}`, `{"default/web":"0001-01-01T00:00:00Z"}`, `{"web":"2000-01-01T00:00:00Z"}`,
		`{}`, `null`, `[]`, `yesterday`, ``,
	} {
		edit := func(t *testing.T, c *cluster) {
			claims := c.api.NetworkingV1().IPAddresses()
			object, err := claims.Get(t.Context(), "192.0.2.1", metav1.GetOptions{})
			c.must(err)
			object.Annotations = map[string]string{v1alpha1.AnnotationLeft: text}
			_, err = claims.Update(t.Context(), object, metav1.UpdateOptions{})
			c.must(err)
			c.settle()
		}
		bubble("at most as long as the pool says, whatever is written by hand: "+text, t, func(t *testing.T) {
			c := newCluster(t, lan)
			l := c.lead()
			c.create(newService("web", single, "IPv4"), newService("other", single, "IPv4"))
			l.mustSync("web")
			l.delete("web")
			l.stop()
			edit(t, c)
			l = c.lead()
			time.Sleep(wait)
			c.settle()
			l.mustSync("other")
			c.wantClaims("192.0.2.1=other")
		})
		bubble("never while a Service has it, whatever is written by hand: "+text, t, func(t *testing.T) {
			c := newCluster(t, lan)
			l := c.lead()
			c.create(newService("web", single, "IPv4"), newService("other", single, "IPv4"))
			l.mustSync("web")
			edit(t, c)
			time.Sleep(2 * wait)
			c.settle()
			l.wantError("other", "no free address")
			l.stop()
			l = c.lead()
			l.mustSync("web")
			l.wantError("other", "no free address")
			c.wantShown("web", "192.0.2.1")
		})
	}
	bubble("is written on the claim of what is released while nobody leads", t, func(t *testing.T) {
		c := newCluster(t, lan)
		l := c.lead()
		c.create(newService("web", single, "IPv4"))
		l.mustSync("web")
		l.stop()
		c.vanish("web")
		c.lead()
		object, err := c.api.NetworkingV1().IPAddresses().Get(t.Context(), "192.0.2.1", metav1.GetOptions{})
		c.must(err)
		if len(object.Annotations) == 0 {
			t.Error("the claim does not say that its parent has left")
		}
	})
}

// An address whose claim was deleted by hand, and then its Service, cools without a claim.
func TestCoolingWithoutAClaim(t *testing.T) {
	bubble("ends too, and wakes a Service that waits", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1", reuseAfter(5*time.Minute)))
		l := c.lead()
		c.create(newService("a", single, "IPv4"), newService("b", single, "IPv4"))
		l.mustSync("a")
		c.frozen = true
		c.api.failing(func(verb, resource, _ string) error { // so that the claim is not written again before
			if verb == "create" && resource == "ipaddresses" {
				return apierrors.NewInternalError(errors.New("no"))
			}
			return nil
		})
		c.deleteClaim("192.0.2.1")
		c.vanish("a")
		c.api.failing(nil)
		c.frozen = false
		c.settle()
		l.wantError("b", "no free address")
		l.takeWoken()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		l.wantWoken("b")
	})
}
