// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	networkingv1client "k8s.io/client-go/kubernetes/typed/networking/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/repair"
	"github.com/tandem-lb/tandem/loadbalancer/writer"
)

// The tests of this file have the API refuse, hang, or send no event.

// refuseCreate makes the API refuse the creation of the claims with these names, and counts the attempts.
func (c *cluster) refuseCreate(names ...string) (attempts *atomic.Int32) {
	attempts = &atomic.Int32{}
	c.api.failing(func(verb, resource, name string) error {
		if verb == "create" && resource == "ipaddresses" && slices.Contains(names, name) {
			attempts.Add(1)
			return apierrors.NewForbidden(networkingv1.Resource(resource), name, errors.New("exceeded quota"))
		}
		return nil
	})
	return attempts
}

func (l *leader) eventsWith(part string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if strings.Contains(e, part) {
			n++
		}
	}
	return n
}

func TestClaimThatCannotBeWritten(t *testing.T) {
	bubble("does not hold up the start, and is tried again with a back-off", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", ipv4Pool))
		c.create(newService("a", single, "IPv4", publish("192.0.2.1")), newService("b", single, "IPv4", publish("192.0.2.2")),
			newService("new", single, "IPv4"))
		attempts := c.refuseCreate("192.0.2.1")
		l := c.lead()
		l.mustSync("new", "b", "a")
		c.wantShown("a", "192.0.2.1")
		c.wantShown("new", "192.0.2.3")
		c.wantClaims("192.0.2.2=b 192.0.2.3=new") // and nobody was given 192.0.2.1
		time.Sleep(time.Hour)
		if got := attempts.Load(); got < 100 || got > 140 {
			t.Errorf("%d attempts in an hour, want one every 30 s", got)
		}
		if got := l.eventsWith("Warning ClaimFailed Trying again: claiming 192.0.2.1: "); got != 1 {
			t.Errorf("%d events say that the claim cannot be written, want 1: %q", got, l.events)
		}
		c.api.failing(nil)
		c.settle()
		c.wantClaims("192.0.2.1=a 192.0.2.2=b 192.0.2.3=new")
	})
	bubble("does not hold up a pool edit", t, func(t *testing.T) {
		c := newCluster(t)
		l := c.lead()
		c.create(newService("a", single, "IPv4", publish("192.0.2.1")), newService("new", single, "IPv4"))
		l.wantError("new", "no pool")
		c.refuseCreate("192.0.2.1")
		c.setPool(newPool("lan", ipv4Pool))
		synctest.Wait()
		l.wantWoken("new")
		l.mustSync("new")
		c.wantShown("new", "192.0.2.2")
	})
	bubble("leaves the Service to the back-off of the service controller, and its address to others", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1"))
		l := c.lead()
		c.create(newService("a", single, "IPv4"), newService("p", single, "IPv4"), newService("q", single, "IPv4"))
		l.mustSync("a")
		l.wantError("p", "no free")
		l.wantError("q", "no free")
		l.delete("a")
		c.settle()
		l.wantWoken("p")
		c.refuseCreate("192.0.2.1")
		l.wantError("p", "exceeded quota")
		l.wantWoken("q")
		l.wantError("q", "exceeded quota")
		for range 10 {
			c.setPool(newPool("lan", "192.0.2.1", priority(1)))
			c.label("default", map[string]string{"x": "y"})
			time.Sleep(time.Minute)
		}
		l.wantWoken("")
		c.api.failing(nil)
		l.mustSync("q") // the service controller tries again
	})
}

// hungClaims answers no request for claims until it is released.
type hungClaims struct {
	networkingv1client.IPAddressInterface
	released chan struct{}
}

func (h hungClaims) Get(ctx context.Context, name string, opts metav1.GetOptions) (*networkingv1.IPAddress, error) {
	<-h.released
	return h.IPAddressInterface.Get(ctx, name, opts)
}

func (h hungClaims) Create(ctx context.Context, claim *networkingv1.IPAddress, opts metav1.CreateOptions) (*networkingv1.IPAddress, error) {
	<-h.released
	return h.IPAddressInterface.Create(ctx, claim, opts)
}

func (h hungClaims) Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error {
	<-h.released
	return h.IPAddressInterface.Delete(ctx, name, opts)
}

func TestAPIThatHangs(t *testing.T) {
	bubble("delays no event", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", ipv4Pool))
		l := c.lead()
		for i := range repairWorkers + 1 {
			name := fmt.Sprintf("gone%d", i)
			c.create(newService(name, single, "IPv4"))
			l.mustSync(name)
		}
		c.create(newService("web", single, "IPv4", annotate(poolKey, "wan")))
		l.wantError("web", "wan")
		c.settle()
		released := make(chan struct{})
		l.claims = writer.New(hungClaims{c.api.NetworkingV1().IPAddresses(), released}, l.ledger)
		c.frozen = true
		for i := range repairWorkers + 1 {
			c.vanish(fmt.Sprintf("gone%d", i)) // each of them keeps a worker
		}
		c.deleteClaim("192.0.2.1")
		l.takeWoken()
		c.setPool(newPool("wan", "198.51.100.1"))
		synctest.Wait()
		l.wantWoken("web")
		close(released)
		c.frozen = false
		c.settle()
		c.wantClaims("")
	})
}

// muted is an informer whose events get lost.
type muted struct {
	cache.SharedIndexInformer
	on *atomic.Bool
}

func (m muted) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	return m.SharedIndexInformer.AddEventHandler(cache.FilteringResourceEventHandler{
		FilterFunc: func(any) bool { return !m.on.Load() }, Handler: h,
	})
}

type mutedServices struct {
	coreinformers.ServiceInformer
	on *atomic.Bool
}

func (m mutedServices) Informer() cache.SharedIndexInformer {
	return muted{m.ServiceInformer.Informer(), m.on}
}

type mutedClaims struct {
	networkinginformers.IPAddressInformer
	on *atomic.Bool
}

func (m mutedClaims) Informer() cache.SharedIndexInformer {
	return muted{m.IPAddressInformer.Informer(), m.on}
}

func TestAudit(t *testing.T) {
	tests := []struct {
		name       string
		missed     func(c *cluster)
		wantClaims string
		wantWoken  string
	}{
		{"of a claim that was deleted", func(c *cluster) { c.deleteClaim("192.0.2.1") }, "192.0.2.1=a 192.0.2.2=b", ""},
		{"of a Service that went without its finalizer", func(c *cluster) { c.vanish("a") }, "192.0.2.2=b", ""},
		{"of a status that was wiped", func(c *cluster) { c.edit("a", publish("")) }, "192.0.2.1=a 192.0.2.2=b", "a"},
		{"of a status that shows another's address", func(c *cluster) { c.edit("a", publish("192.0.2.2")) }, "192.0.2.1=a 192.0.2.2=b", "a"},
		{"of a status that shows a free address", func(c *cluster) {
			c.edit("a", publish("192.0.2.7"))
		}, "192.0.2.1=a 192.0.2.2=b 192.0.2.7=a", "a"},
		{"of a claim that another leader created", func(c *cluster) {
			c.createClaim("192.0.2.7", v1alpha1.ManagedBy, "default", "gone")
		}, "192.0.2.1=a 192.0.2.2=b", ""},
		{"of a claim that is a ClusterIP by now", func(c *cluster) {
			c.replaceClaim("192.0.2.1", "ipallocator.k8s.io", "kube-system", "dns")
		}, "192.0.2.2=b", "a"},
		{"of a Service that is another provider's and has its addresses", func(c *cluster) {
			c.edit("a", func(svc *corev1.Service) { class := "example.com/other"; svc.Spec.LoadBalancerClass = &class }, publish("203.0.113.7"))
		}, "192.0.2.2=b", ""},
	}
	for _, tt := range tests {
		bubble("repairs what the missed event "+tt.name+" left", t, func(t *testing.T) {
			c := newCluster(t, newPool("lan", ipv4Pool))
			l := c.lead()
			c.create(newService("a", single, "IPv4"), newService("b", single, "IPv4"))
			l.mustSync("a", "b")
			l.takeWoken()
			c.frozen = true
			l.muted.Store(true)
			tt.missed(c)
			synctest.Wait()
			l.muted.Store(false)
			before := c.claims()
			time.Sleep(repair.Grace) // far less than to the next audit
			synctest.Wait()
			if after := c.claims(); fmt.Sprint(before) != fmt.Sprint(after) {
				t.Errorf("the event was not missed: the claims went from %v to %v", before, after)
			}
			l.wantWoken("")
			time.Sleep(auditPeriod)
			synctest.Wait()
			c.wantClaims(tt.wantClaims)
			l.wantWoken(tt.wantWoken)
		})
	}
}

// TestRequestsToTheAPI counts what a Service costs from its creation to its end, with everything that our own writes
// make the server look at.
func TestRequestsToTheAPI(t *testing.T) {
	requests := func(c *cluster) string {
		var said []string
		for _, action := range c.api.Actions() {
			if verb := action.GetVerb(); action.GetResource().Resource == "ipaddresses" && verb != "list" && verb != "watch" || verb == "get" {
				said = append(said, verb+" "+action.GetResource().Resource)
			}
		}
		slices.Sort(said)
		c.api.ClearActions()
		return strings.Join(said, ", ")
	}
	bubble("there are no more than its claims need", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"))
		svc := c.service("web")
		c.api.ClearActions()
		got, err := l.EnsureLoadBalancer(t.Context(), "", svc, nil)
		c.must(err)
		c.settle()
		if got, want := requests(c), "create ipaddresses, create ipaddresses"; got != want {
			t.Errorf("an allocation made the requests %s, want %s", got, want)
		}
		c.edit("web", func(svc *corev1.Service) { svc.Status.LoadBalancer = *got }, label("x", "y"))
		c.edit("web", annotate("note", "x"))
		c.api.ClearActions()
		time.Sleep(2 * auditPeriod)
		if got := requests(c); got != "" {
			t.Errorf("a Service that has its addresses made the requests %s", got)
		}
		c.edit("web", setFamilies(single, "IPv4"))
		l.mustSync("web")
		c.edit("web", deleting)
		svc = c.service("web")
		c.api.ClearActions()
		c.must(l.EnsureLoadBalancerDeleted(t.Context(), "", svc))
		c.settle()
		if got, want := requests(c), "delete ipaddresses"; got != want {
			t.Errorf("a release made the requests %s, want %s", got, want)
		}
	})
}

// A goroutine that plans and does not come back is what /healthz tells of.
func TestHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		s := &Server{plans: newQueue()}
		s.network = func(context.Context) (ipam.Network, error) {
			<-hang
			return ipam.Network{}, errors.New("never read")
		}
		go s.process(t.Context(), s.plans)
		s.plans.Add(item{kind: setNetwork})
		time.Sleep(stuckAfter)
		if err := s.Healthy(); err != nil {
			t.Errorf("unhealthy at work: %v", err)
		}
		time.Sleep(time.Second)
		if s.Healthy() == nil {
			t.Error("healthy while it is stuck")
		}
		s.plans.ShutDown()
		close(hang)
		synctest.Wait()
		if err := s.Healthy(); err != nil {
			t.Errorf("unhealthy after the work: %v", err)
		}
	})
}

// A leader that was deposed may publish an address as long as it does not know that, which is as long as its lease lasts.
func TestGraceFollowsTheLease(t *testing.T) {
	for lease, grace := range map[time.Duration]time.Duration{0: 20 * time.Second, time.Second: 20 * time.Second, time.Minute: 65 * time.Second} {
		bubble("of "+lease.String(), t, func(t *testing.T) {
			c := newCluster(t, newPool("lan", ipv4Pool))
			c.lease = lease
			l := c.lead()
			c.create(newService("web", single, "IPv4"))
			l.mustSync("web")
			c.frozen = true
			c.createClaim("192.0.2.2", v1alpha1.ManagedBy, "default", "web") // of another leader
			synctest.Wait()
			time.Sleep(grace - time.Second)
			synctest.Wait()
			c.wantClaims("192.0.2.1=web 192.0.2.2=web")
			time.Sleep(2 * time.Second)
			synctest.Wait()
			c.wantClaims("192.0.2.1=web")
		})
	}
}
