// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	networkingv1client "k8s.io/client-go/kubernetes/typed/networking/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/writer"
)

const (
	shareKey  = "tandem-lb.io/allow-shared-ip"
	fixedKey  = "tandem-lb.io/load-balancer-ips"
	poolKey   = "tandem-lb.io/address-pool"
	dualPool  = "192.0.2.1-192.0.2.9 2001:db8::1-2001:db8::9"
	ipv4Pool  = "192.0.2.1-192.0.2.9"
	ipv6Pool  = "2001:db8::1-2001:db8::9"
	bothKinds = "192.0.2.1 2001:db8::1"
)

// bubble runs a test in a bubble of testing/synctest.
func bubble(name string, t *testing.T, test func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

// TestFamilies goes through every policy and order of families, with every content of the pools, and everything that
// the Service may have had before. What is right is said in three lines: a family is had if the Service has it or a
// pool does; PreferDualStack is content with one, all else wants what it asked for; and a Service that is refused
// keeps what it has.
func TestFamilies(t *testing.T) {
	asks := []struct {
		policy   corev1.IPFamilyPolicy
		families string
	}{
		{single, "IPv4"},
		{single, "IPv6"},
		{prefer, "IPv4"}, // in a cluster of one family
		{prefer, "IPv6"},
		{prefer, "IPv4 IPv6"},
		{prefer, "IPv6 IPv4"},
		{require, "IPv4 IPv6"},
		{require, "IPv6 IPv4"},
	}
	pools := []struct {
		name  string
		has   string
		pools []*v1alpha1.AddressPool
	}{
		{"no pool", "", nil},
		{"an IPv4 pool", "IPv4", []*v1alpha1.AddressPool{newPool("lan", "192.0.2.10-192.0.2.19")}},
		{"an IPv6 pool", "IPv6", []*v1alpha1.AddressPool{newPool("lan", "2001:db8::10-2001:db8::19")}},
		{"a pool of both", "IPv4 IPv6", []*v1alpha1.AddressPool{newPool("lan", "192.0.2.10-192.0.2.19 2001:db8::10-2001:db8::19")}},
		{"a pool of each", "IPv4 IPv6", []*v1alpha1.AddressPool{
			newPool("four", "192.0.2.10-192.0.2.19"), newPool("six", "2001:db8::10-2001:db8::19"),
		}},
		{"no auto-assigned pool", "", []*v1alpha1.AddressPool{newPool("lan", "192.0.2.10-192.0.2.19 2001:db8::10-2001:db8::19", noAutoAssign)}},
	}
	had := []struct{ name, addresses string }{
		{"nothing", ""},
		{"an IPv4 address", "192.0.2.1"},
		{"an IPv6 address", "2001:db8::1"},
		{"both, IPv4 first", "192.0.2.1 2001:db8::1"},
		{"both, IPv6 first", "2001:db8::1 192.0.2.1"},
	}
	family := func(a string) string {
		if strings.Contains(a, ":") {
			return "IPv6"
		}
		return "IPv4"
	}
	for _, ask := range asks {
		for _, p := range pools {
			for _, before := range had {
				name := fmt.Sprintf("%s of %s from %s after %s", ask.policy, ask.families, p.name, before.name)
				bubble(name, t, func(t *testing.T) {
					c := newCluster(t, p.pools...)
					c.create(newService("web", ask.policy, ask.families, publish(before.addresses)))
					held := map[string]string{}
					for a := range strings.FieldsSeq(before.addresses) {
						held[family(a)] = a
						c.createClaim(a, v1alpha1.ManagedBy, "default", "web")
					}
					l := c.lead()

					fresh := map[string]string{"IPv4": "192.0.2.10", "IPv6": "2001:db8::10"}
					var want []string
					missing := false
					for f := range strings.FieldsSeq(ask.families) {
						switch {
						case held[f] != "":
							want = append(want, held[f])
						case strings.Contains(p.has, f):
							want = append(want, fresh[f])
						default:
							missing = true
						}
					}
					if len(want) == 0 || missing && ask.policy != prefer {
						l.wantError("web", "no pool")
						return
					}
					got, err := l.ensure("web")
					if err != nil {
						t.Fatal(err)
					}
					// Before the status is written nothing that clients know of goes.
					claims := c.claims()
					for a := range strings.FieldsSeq(before.addresses) {
						if claims[a] != "web" {
							t.Errorf("%s was released while the status showed it", a)
						}
					}
					c.edit("web", func(svc *corev1.Service) { svc.Status.LoadBalancer = *got })
					if slices.Equal(slices.Sorted(slices.Values(want)), slices.Sorted(strings.FieldsSeq(before.addresses))) {
						want = strings.Fields(before.addresses) // the status is left as it is
					}
					c.wantShown("web", strings.Join(want, " "))
					for _, ingress := range got.Ingress {
						if ingress.IPMode == nil || *ingress.IPMode != corev1.LoadBalancerIPModeVIP {
							t.Errorf("ipMode of %s is %v, want VIP", ingress.IP, ingress.IPMode)
						}
					}
					c.wantClaims(strings.Join(want, "=web ") + "=web")
					// The same again is the same, and writes nothing.
					c.api.ClearActions()
					l.mustSync("web")
					c.wantShown("web", strings.Join(want, " "))
					for _, action := range c.api.Actions() {
						if action.GetResource().Resource == "ipaddresses" && action.GetVerb() != "list" {
							t.Errorf("asking again made the request %s %s", action.GetVerb(), action.GetResource().Resource)
						}
					}
				})
			}
		}
	}
}

func TestPreferDualStackGetsTheMissingFamily(t *testing.T) {
	// Each event lets a pool give an IPv6 address. The Services wake at once, and keep the IPv4 addresses they have.
	tests := []struct {
		name  string
		pools []*v1alpha1.AddressPool
		edits []func(*corev1.Service)
		event func(c *cluster, l *leader)
		want  string
	}{
		{
			name:  "a pool is created",
			pools: []*v1alpha1.AddressPool{newPool("lan", ipv4Pool)},
			event: func(c *cluster, _ *leader) { c.setPool(newPool("six", ipv6Pool)) },
			want:  "192.0.2.1 2001:db8::1",
		},
		{
			name:  "the pool gets a partition",
			pools: []*v1alpha1.AddressPool{newPool("lan", ipv4Pool)},
			event: func(c *cluster, _ *leader) { c.setPool(newPool("lan", dualPool)) },
			want:  "192.0.2.1 2001:db8::1",
		},
		{
			name:  "a full pool is widened",
			pools: []*v1alpha1.AddressPool{newPool("lan", ipv4Pool), newPool("six", "2001:db8::1")},
			event: func(c *cluster, _ *leader) { c.setPool(newPool("six", "2001:db8::1-2001:db8::2")) },
			want:  "192.0.2.1 2001:db8::2",
		},
		{
			name:  "an address is released",
			pools: []*v1alpha1.AddressPool{newPool("lan", ipv4Pool), newPool("six", "2001:db8::1")},
			event: func(_ *cluster, l *leader) { l.delete("six") },
			want:  "192.0.2.1 2001:db8::1",
		},
		{
			name:  "a Service that held an address vanishes",
			pools: []*v1alpha1.AddressPool{newPool("lan", ipv4Pool), newPool("six", "2001:db8::1")},
			event: func(c *cluster, _ *leader) { c.vanish("six") },
			want:  "192.0.2.1 2001:db8::1",
		},
		{
			name:  "a pool lets itself be assigned",
			pools: []*v1alpha1.AddressPool{newPool("lan", ipv4Pool), newPool("manual", ipv6Pool, noAutoAssign)},
			event: func(c *cluster, _ *leader) { c.setPool(newPool("manual", ipv6Pool)) },
			want:  "192.0.2.1 2001:db8::1",
		},
		{
			name:  "the namespace gets the label that a pool selects",
			pools: []*v1alpha1.AddressPool{newPool("lan", ipv4Pool), newPool("shop", ipv6Pool, forNamespaces("team", "shop"))},
			event: func(c *cluster, _ *leader) { c.label("default", labels.Set{"team": "shop"}) },
			want:  "192.0.2.1 2001:db8::1",
		},
		{
			name:  "the Service gets the label that a pool selects",
			pools: []*v1alpha1.AddressPool{newPool("lan", ipv4Pool), newPool("edge", ipv6Pool, forServices("tier", "edge"))},
			event: func(c *cluster, _ *leader) { c.edit("web", label("tier", "edge")) },
			want:  "192.0.2.1 2001:db8::1",
		},
		{
			name:  "the Service that has the address opens a port",
			pools: []*v1alpha1.AddressPool{newPool("lan", ipv4Pool), newPool("six", "2001:db8::1")},
			edits: []func(*corev1.Service){annotate(shareKey, "k")},
			event: func(c *cluster, l *leader) {
				c.edit("six", listen(corev1.ProtocolTCP, 81))
				l.mustSync("six")
			},
			want: "192.0.2.1 2001:db8::1",
		},
	}
	for _, tt := range tests {
		bubble(tt.name, t, func(t *testing.T) {
			c := newCluster(t, tt.pools...)
			l := c.lead()
			if slices.ContainsFunc(tt.pools, func(ap *v1alpha1.AddressPool) bool { return ap.Name == "six" }) {
				c.create(newService("six", single, "IPv6", tt.edits...))
				l.mustSync("six")
			}
			c.create(newService("web", prefer, "IPv4 IPv6", tt.edits...))
			l.mustSync("web")
			c.wantShown("web", "192.0.2.1")
			if !slices.ContainsFunc(l.events, func(e string) bool {
				return strings.HasPrefix(e, "Warning MissingAddress Waiting for an address: IPv6: ")
			}) {
				t.Errorf("no event names the missing family: %q", l.events)
			}
			l.wantWoken("")
			tt.event(c, l)
			c.settle()
			l.wantWoken("web")
			l.mustSync("web")
			c.wantShown("web", tt.want)
			// Content, it is woken no more.
			c.setPool(newPool("more", "198.51.100.0/24 2001:db8:1::/64"))
			c.settle()
			l.wantWoken("")
		})
	}
}

func TestWake(t *testing.T) {
	bubble("at once", t, func(t *testing.T) {
		c := newCluster(t)
		l := c.lead()
		c.create(newService("web", single, "IPv4"))
		l.wantError("web", "no pool")
		c.setPool(newPool("lan", ipv4Pool))
		synctest.Wait() // the clock stands still
		l.wantWoken("web")
	})
	bubble("all Services that a new pool can serve, the oldest first, and no other", t, func(t *testing.T) {
		c := newCluster(t)
		l := c.lead()
		c.create(newService("z", single, "IPv4"), newService("a", require, "IPv4 IPv6"), newService("m", prefer, "IPv6 IPv4"),
			newService("six", single, "IPv6"), newService("other", single, "IPv4", annotate(poolKey, "wan")),
			newService("fixed", single, "IPv4", annotate(fixedKey, "198.51.100.1")))
		for _, name := range []string{"z", "a", "m", "six", "other", "fixed"} {
			l.wantError(name)
			if l.sync(name) == nil {
				t.Errorf("Service %s was served without a pool", name)
			}
		}
		c.setPool(newPool("lan", ipv4Pool))
		c.settle()
		l.wantWoken("z m")
		c.setPool(newPool("wan", "198.51.100.0/31"))
		c.settle()
		l.wantWoken("z m other fixed") // z and m have not asked since
	})
	bubble("for each address that becomes free only one", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.2"))
		l := c.lead()
		for _, name := range []string{"a", "b"} {
			c.create(newService(name, single, "IPv4"))
			l.mustSync(name)
		}
		for _, name := range []string{"p", "q", "r", "s"} {
			c.create(newService(name, single, "IPv4"))
			l.wantError(name, "no free address")
		}
		l.delete("a")
		c.settle()
		l.wantWoken("p")
		l.mustSync("p")
		l.delete("b")
		c.settle()
		l.wantWoken("q")
		c.vanish("q") // before it has asked
		c.settle()
		l.wantWoken("r")
		c.api.failing(func(verb, resource, _ string) error {
			if verb == "create" && resource == "ipaddresses" {
				return apierrors.NewInternalError(errors.New("etcd is away"))
			}
			return nil
		})
		l.wantError("r", "etcd is away")
		c.api.failing(nil)
		c.settle()
		l.wantWoken("s") // r asks again of its own accord, as each Service does whose request failed
		l.mustSync("s")
		l.wantError("r", "no free address")
		c.settle()
		l.wantWoken("")
		c.wantClaims("192.0.2.1=p 192.0.2.2=s")
	})
	bubble("by no edit that does not help", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1"))
		l := c.lead()
		c.create(newService("a", single, "IPv4"), newService("b", single, "IPv4"))
		l.mustSync("a")
		l.wantError("b", "no free address in pool lan")
		c.setPool(newPool("lan", "192.0.2.1 2001:db8::/64"))
		c.setPool(newPool("manual", ipv4Pool, noAutoAssign))
		c.label("default", labels.Set{"team": "shop"})
		c.edit("b", label("tier", "edge"))
		c.edit("a", annotate("note", "x"))
		c.settle()
		l.wantWoken("")
	})
	bubble("not when the Service has gone, wants none any more, or belongs to another class", t, func(t *testing.T) {
		c := newCluster(t)
		l := c.lead()
		c.create(newService("gone", single, "IPv4"), newService("internal", single, "IPv4"), newService("theirs", single, "IPv4"))
		for _, name := range []string{"gone", "internal", "theirs"} {
			l.wantError(name, "no pool")
		}
		c.vanish("gone")
		c.edit("theirs", func(svc *corev1.Service) { class := "example.com/other"; svc.Spec.LoadBalancerClass = &class })
		c.setPool(newPool("lan", ipv4Pool))
		c.edit("internal", func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP })
		c.settle()
		l.takeWoken() // internal may have been woken before it was changed
		c.edit("internal", label("x", "y"))
		c.edit("theirs", label("x", "y"))
		c.setPool(newPool("lan", dualPool))
		c.settle()
		l.wantWoken("")
		for _, name := range []string{"internal", "theirs"} {
			if l.ledger.Waits(named(name)) {
				t.Errorf("%s still waits", name)
			}
		}
	})
	bubble("by a release of what a Service gave up", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1 2001:db8::1-2001:db8::9"))
		l := c.lead()
		c.create(newService("a", require, "IPv6 IPv4"), newService("b", single, "IPv4"))
		l.mustSync("a")
		l.wantError("b", "no free address")
		c.edit("a", setFamilies(single, "IPv6"))
		l.wantWoken("a")
		got, err := l.ensure("a")
		c.must(err)
		c.settle()
		l.wantWoken("") // a's status still shows it
		c.edit("a", func(svc *corev1.Service) { svc.Status.LoadBalancer = *got })
		l.wantWoken("b")
		l.mustSync("b")
		c.wantClaims("2001:db8::1=a 192.0.2.1=b")
	})
}

func TestFamilyChanges(t *testing.T) {
	type step struct {
		policy   corev1.IPFamilyPolicy
		families string
		want     string
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"single to dual keeps and adds", []step{{single, "IPv4", "192.0.2.1"}, {require, "IPv4 IPv6", "192.0.2.1 2001:db8::1"}}},
		{"IPv6 to dual keeps and adds", []step{{single, "IPv6", "2001:db8::1"}, {prefer, "IPv6 IPv4", "2001:db8::1 192.0.2.1"}}},
		{"dual to single keeps the first", []step{{require, "IPv4 IPv6", bothKinds}, {single, "IPv4", "192.0.2.1"}}},
		{"dual to single, IPv6 first, keeps the first", []step{{require, "IPv6 IPv4", "2001:db8::1 192.0.2.1"}, {single, "IPv6", "2001:db8::1"}}},
		{"dual to the second family keeps that one", []step{{require, "IPv4 IPv6", bothKinds}, {single, "IPv6", "2001:db8::1"}}},
		{"there and back", []step{
			{single, "IPv4", "192.0.2.1"}, {prefer, "IPv4 IPv6", bothKinds}, {single, "IPv4", "192.0.2.1"}, {require, "IPv4 IPv6", bothKinds},
		}},
		{"from one family to the other", []step{{single, "IPv4", "192.0.2.1"}, {single, "IPv6", "2001:db8::1"}}},
		{"the order is turned round, which the API refuses, and the status stays", []step{{require, "IPv4 IPv6", bothKinds}, {require, "IPv6 IPv4", bothKinds}}},
		{"from preferring to requiring both", []step{{prefer, "IPv4 IPv6", bothKinds}, {require, "IPv4 IPv6", bothKinds}}},
	}
	for _, tt := range tests {
		bubble(tt.name, t, func(t *testing.T) {
			c := newCluster(t, newPool("lan", dualPool))
			l := c.lead()
			c.create(newService("web", single, "IPv4"))
			for _, s := range tt.steps {
				c.edit("web", setFamilies(s.policy, s.families))
				l.mustSync("web")
				c.wantShown("web", s.want)
				c.wantClaims(strings.Join(strings.Fields(s.want), "=web ") + "=web")
			}
		})
	}
	bubble("another ipFamilyPolicy alone counts at once", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "2001:db8::1"))
		l := c.lead()
		c.create(newService("web", require, "IPv6 IPv4"))
		l.wantError("web", "IPv4")
		l.takeWoken()
		c.edit("web", setFamilies(prefer, "IPv6 IPv4")) // the service controller sees no need for an update
		l.syncWoken()
		c.wantShown("web", "2001:db8::1")
		c.settle()
		l.takeWoken()
		c.edit("web", setFamilies(require, "IPv6 IPv4"))
		l.wantWoken("web")
		l.wantError("web", "IPv4")
		c.wantShown("web", "2001:db8::1")
	})
	bubble("a family that is wanted again before the status changed is kept", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"))
		l.mustSync("web")
		c.edit("web", setFamilies(single, "IPv4"))
		if _, err := l.ensure("web"); err != nil {
			t.Fatal(err)
		}
		c.edit("web", setFamilies(require, "IPv4 IPv6"))
		l.mustSync("web")
		c.wantShown("web", bothKinds)
		c.wantClaims("192.0.2.1=web 2001:db8::1=web")
	})
	bubble("a Service that becomes another provider's answers on ours until it has others", t, func(t *testing.T) {
		for _, restart := range []bool{false, true} {
			c := newCluster(t, newPool("lan", dualPool))
			l := c.lead()
			c.create(newService("web", require, "IPv4 IPv6"))
			l.mustSync("web")
			c.edit("web", func(svc *corev1.Service) { class := "example.com/other"; svc.Spec.LoadBalancerClass = &class })
			c.edit("web", label("x", "y"))
			if restart {
				l.stop()
				l = c.lead()
			}
			c.wantClaims("192.0.2.1=web 2001:db8::1=web")
			c.create(newService("new", require, "IPv4 IPv6"))
			l.mustSync("new")
			c.wantShown("new", "192.0.2.2 2001:db8::2")
			c.edit("web", publish("203.0.113.7"))
			c.wantClaims("192.0.2.2=new 2001:db8::2=new")
			if !restart {
				continue
			}
			l.stop()
			c.createClaim("192.0.2.9", v1alpha1.ManagedBy, "default", "web") // of a leader that had not heard
			c.lead()
			c.wantClaims("192.0.2.2=new 2001:db8::2=new")
		}
	})
	bubble("a Service that was handed over is woken for its finalizer when nothing of ours is left", t, func(t *testing.T) {
		marked := func(svc *corev1.Service) {
			svc.Spec.LoadBalancerClass, svc.Finalizers = new("example.com/other"), []string{v1alpha1.Finalizer}
			svc.Annotations = map[string]string{v1alpha1.AnnotationFinalizer: "true"}
		}
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("web", single, "IPv4", publish("192.0.2.1"), marked),
			newService("done", single, "IPv4", publish("203.0.113.9"), marked),
			newService("theirs", single, "IPv4", publish("203.0.113.8"), marked, func(svc *corev1.Service) { svc.Annotations = nil }))
		c.createClaim("192.0.2.1", v1alpha1.ManagedBy, "default", "web")
		l := c.lead()
		l.wantWoken("done")
		c.edit("web", publish("203.0.113.7"))
		c.wantClaims("")
		l.wantWoken("web")
	})
	bubble("a Service with an unmarked finalizer that became internal is woken for it if it has something of ours", t, func(t *testing.T) {
		internal := func(svc *corev1.Service) {
			svc.Spec.Type, svc.Finalizers = corev1.ServiceTypeClusterIP, []string{v1alpha1.Finalizer}
		}
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("claimed", single, "IPv4", publish("192.0.2.1"), internal),
			newService("shown", single, "IPv6", publish("2001:db8::9"), internal), // its claim went first
			newService("theirs", single, "IPv4", publish("203.0.113.8"), internal),
			newService("none", single, "IPv4", internal))
		c.createClaim("192.0.2.1", v1alpha1.ManagedBy, "default", "claimed")
		woken := strings.Fields(c.lead().takeWoken())
		slices.Sort(woken) // an informer lists in any order
		if got := strings.Join(woken, " "); got != "claimed shown" {
			t.Errorf("woken: %s", got)
		}
	})
	bubble("a Service that becomes internal loses all", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"))
		l.mustSync("web")
		c.edit("web", func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP })
		c.wantClaims("") // whether or not somebody took the finalizer away first
	})
}

func TestChoice(t *testing.T) {
	tests := []struct {
		name      string
		pools     []*v1alpha1.AddressPool
		svc       *corev1.Service
		want      string
		wantError []string
	}{
		{
			name:  "a pair comes from one pool although another comes first for one family",
			pools: []*v1alpha1.AddressPool{newPool("a", ipv4Pool), newPool("b", "198.51.100.1 2001:db8::1")},
			svc:   newService("web", require, "IPv4 IPv6"), want: "198.51.100.1 2001:db8::1",
		},
		{
			name:  "a pair comes from two pools where no pool has both",
			pools: []*v1alpha1.AddressPool{newPool("a", ipv6Pool), newPool("b", ipv4Pool)},
			svc:   newService("web", require, "IPv4 IPv6"), want: bothKinds,
		},
		{
			name: "one pool per family by annotation",
			pools: []*v1alpha1.AddressPool{
				newPool("lan", "198.51.100.0/24 2001:db8:1::/64"), newPool("production-ipv4", ipv4Pool, noAutoAssign),
				newPool("production-ipv6", ipv6Pool, noAutoAssign),
			},
			svc:  newService("web", require, "IPv6 IPv4", annotate("metallb.io/address-pool", "production-ipv4,production-ipv6")),
			want: "2001:db8::1 192.0.2.1",
		},
		{
			name:  "fixed addresses of both families, from a pool without autoAssign",
			pools: []*v1alpha1.AddressPool{newPool("manual", dualPool, noAutoAssign)},
			svc:   newService("web", require, "IPv4 IPv6", annotate(fixedKey, "2001:db8::7,192.0.2.7")), want: "192.0.2.7 2001:db8::7",
		},
		{
			name:  "a fixed address of one family and any of the other",
			pools: []*v1alpha1.AddressPool{newPool("lan", dualPool)},
			svc:   newService("web", require, "IPv4 IPv6", annotate(fixedKey, "2001:db8::7")), want: "192.0.2.1 2001:db8::7",
		},
		{
			name:  "spec.loadBalancerIP",
			pools: []*v1alpha1.AddressPool{newPool("lan", dualPool)},
			svc:   newService("web", single, "IPv4", func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = "192.0.2.5" }), want: "192.0.2.5",
		},
		{
			name:      "a fixed address outside the pools",
			pools:     []*v1alpha1.AddressPool{newPool("lan", dualPool)},
			svc:       newService("web", single, "IPv4", annotate(fixedKey, "198.51.100.1")),
			wantError: []string{"198.51.100.1", "in no pool", "pool lan"},
		},
		{
			name:      "a fixed address of a family that the Service does not have",
			pools:     []*v1alpha1.AddressPool{newPool("lan", dualPool)},
			svc:       newService("web", single, "IPv4", annotate(fixedKey, "2001:db8::1")),
			wantError: []string{"2001:db8::1", "not among the Service's ipFamilies"},
		},
		{
			name:  "two fixed addresses of one family",
			pools: []*v1alpha1.AddressPool{newPool("lan", dualPool)},
			svc:   newService("web", single, "IPv4", annotate(fixedKey, "192.0.2.1,192.0.2.2")), wantError: []string{"one address of each family"},
		},
		{
			name:  "a pool that does not exist",
			pools: []*v1alpha1.AddressPool{newPool("lan", dualPool)},
			svc:   newService("web", single, "IPv4", annotate(poolKey, "wan")), wantError: []string{`"wan", which does not exist`},
		},
		{
			name:  "a required pair where one family is missing",
			pools: []*v1alpha1.AddressPool{newPool("lan", ipv4Pool)},
			svc:   newService("web", require, "IPv4 IPv6"), wantError: []string{"IPv6: no pool", "spec.ipv6"},
		},
		{
			name: "an excluded address and buggy ones are stepped over",
			pools: []*v1alpha1.AddressPool{newPool("lan", "192.0.2.0/24", func(ap *v1alpha1.AddressPool) {
				ap.Spec.AvoidBuggyIPs = true
				ap.Spec.IPv4.Exclude = []v1alpha1.IPv4Range{"192.0.2.1-192.0.2.4"}
			})},
			svc: newService("web", single, "IPv4"), want: "192.0.2.5",
		},
	}
	for _, tt := range tests {
		bubble(tt.name, t, func(t *testing.T) {
			c := newCluster(t, tt.pools...)
			l := c.lead()
			c.create(tt.svc)
			if tt.wantError != nil {
				l.wantError("web", tt.wantError...)
				c.wantClaims("")
				return
			}
			l.mustSync("web")
			c.wantShown("web", tt.want)
		})
	}
	bubble("Stable gives a Service that comes back the address it had", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "198.51.100.0/24 2001:db8::/64", stable))
		l := c.lead()
		c.create(newService("other", require, "IPv4 IPv6"), newService("web", require, "IPv4 IPv6"))
		l.mustSync("other", "web")
		had := c.shown("web")
		l.delete("web")
		c.create(newService("new", require, "IPv4 IPv6"), newService("web", require, "IPv4 IPv6"))
		l.mustSync("new", "web")
		c.wantShown("web", had)
	})
	bubble("a changed annotation moves only what it concerns", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"), newService("taken", single, "IPv4", annotate(fixedKey, "192.0.2.9")))
		l.mustSync("web", "taken")
		c.edit("web", annotate(fixedKey, "192.0.2.7"))
		l.mustSync("web")
		c.wantShown("web", "192.0.2.7 2001:db8::1")
		c.wantClaims("192.0.2.7=web 2001:db8::1=web 192.0.2.9=taken")
		// What was refused changed nothing, in particular not the addresses that the Service has.
		c.edit("web", annotate(fixedKey, "192.0.2.9"))
		l.wantError("web", "192.0.2.9", "default/taken")
		c.edit("web", annotate(fixedKey, "oops"))
		l.wantError("web", `"oops" is not an IP address`)
		c.edit("web", annotate(fixedKey, ""), annotate(poolKey, "wan"))
		l.wantError("web", `"wan"`)
	})
	bubble("a named pool moves a Service that has its addresses from elsewhere", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool), newPool("wan", "198.51.100.1 2001:db8:1::1", noAutoAssign))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"))
		l.mustSync("web")
		c.edit("web", annotate(poolKey, "wan"))
		l.mustSync("web")
		c.wantShown("web", "198.51.100.1 2001:db8:1::1")
		c.wantClaims("198.51.100.1=web 2001:db8:1::1=web")
	})
}

func TestPoolEdits(t *testing.T) {
	bubble("an edit strands and takes nothing", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"))
		l.mustSync("web")
		c.setPool(newPool("lan", "198.51.100.1-198.51.100.9 2001:db8::1"))
		c.settle()
		l.mustSync("web")
		c.wantShown("web", bothKinds)
		if u := l.ledger.Cache.Usage()["lan"]; len(u.Stranded) != 1 || u.Stranded[0] != addr("192.0.2.1") {
			t.Errorf("stranded: %v, want 192.0.2.1", u.Stranded)
		}
		c.edit("web", annotate("tandem-lb.io/reallocate", "true"))
		l.mustSync("web")
		c.wantShown("web", "198.51.100.1 2001:db8::1")
		c.wantClaims("198.51.100.1=web 2001:db8::1=web")
	})
	bubble("reallocation without a place to go changes nothing", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", ipv4Pool))
		l := c.lead()
		c.create(newService("web", single, "IPv4", annotate("tandem-lb.io/reallocate", "true")))
		l.mustSync("web")
		c.setPool(newPool("lan", ipv6Pool))
		c.settle()
		l.wantError("web", "IPv4")
		c.wantShown("web", "192.0.2.1")
	})
	bubble("a pool that is deleted leaves what it gave, through a restart too", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"))
		l.mustSync("web")
		c.deletePool("lan")
		c.settle()
		l.mustSync("web")
		c.wantShown("web", bothKinds)
		l.stop()
		l = c.lead()
		l.mustSync("web")
		c.wantShown("web", bothKinds)
		l.delete("web")
		c.wantClaims("")
	})
	bubble("a selector that stops matching takes nothing", t, func(t *testing.T) {
		c := newCluster(t, newPool("edge", dualPool, forServices("tier", "edge")))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6", label("tier", "edge")))
		l.mustSync("web")
		c.edit("web", label("tier", "core"))
		l.mustSync("web")
		c.wantShown("web", bothKinds)
	})
	bubble("two pools of the same addresses give none twice", t, func(t *testing.T) {
		c := newCluster(t, newPool("a", "192.0.2.1-192.0.2.2"), newPool("b", "192.0.2.2-192.0.2.3"))
		l := c.lead()
		for _, name := range []string{"one", "two", "three"} {
			c.create(newService(name, single, "IPv4"))
			l.mustSync(name)
		}
		c.wantClaims("192.0.2.1=one 192.0.2.2=two 192.0.2.3=three")
	})
}

func TestRestart(t *testing.T) {
	bubble("each Service keeps its addresses, in whatever order they ask", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		for _, name := range []string{"a", "b", "c"} {
			c.create(newService(name, require, "IPv4 IPv6"))
			l.mustSync(name)
		}
		l.delete("a")
		l.stop()
		c.create(newService("new", require, "IPv4 IPv6"))
		l = c.lead()
		l.mustSync("new", "c", "b")
		c.wantShown("new", bothKinds)
		c.wantShown("b", "192.0.2.2 2001:db8::2")
		c.wantShown("c", "192.0.2.3 2001:db8::3")
	})
	bubble("after a crash between the claim and the status the Service gets what was claimed", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("first", require, "IPv4 IPv6"), newService("web", require, "IPv4 IPv6"))
		l.mustSync("first")
		if _, err := l.ensure("web"); err != nil {
			t.Fatal(err)
		}
		l.delete("first")
		l.stop()
		l = c.lead()
		l.mustSync("web")
		c.wantShown("web", "192.0.2.2 2001:db8::2")
		c.wantClaims("192.0.2.2=web 2001:db8::2=web")
	})
	bubble("after a crash between the two claims of a pair it is completed", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("web", require, "IPv4 IPv6"))
		c.createClaim("192.0.2.4", v1alpha1.ManagedBy, "default", "web")
		l := c.lead()
		l.mustSync("web")
		c.wantShown("web", "192.0.2.4 2001:db8::1")
	})
	bubble("after a crash before the release of a lost family it is released", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("web", single, "IPv6", publish("2001:db8::1")))
		c.createClaim("192.0.2.1", v1alpha1.ManagedBy, "default", "web")
		c.createClaim("2001:db8::1", v1alpha1.ManagedBy, "default", "web")
		l := c.lead()
		l.mustSync("web")
		c.wantShown("web", "2001:db8::1")
		c.wantClaims("2001:db8::1=web")
	})
	bubble("a published address without a claim is claimed before anybody gets one", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("early", require, "IPv4 IPv6"), newService("web", require, "IPv4 IPv6", publish(bothKinds)))
		l := c.lead()
		c.wantClaims("192.0.2.1=web 2001:db8::1=web")
		l.mustSync("early", "web")
		c.wantShown("early", "192.0.2.2 2001:db8::2")
		c.wantShown("web", bothKinds)
	})
	bubble("of two that publish one address without a key one keeps it", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("a", single, "IPv4", publish("192.0.2.1")), newService("b", single, "IPv4", publish("192.0.2.1")))
		l := c.lead()
		l.mustSync("a", "b")
		if got := []string{c.shown("a"), c.shown("b")}; !slices.Contains(got, "192.0.2.1") || !slices.Contains(got, "192.0.2.2") {
			t.Errorf("a and b show %q", got)
		}
	})
	bubble("the clean-up of a Service that became a ClusterIP Service is resumed, but not for another provider", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		internal := func(svc *corev1.Service) {
			svc.Spec.Type, svc.Finalizers = corev1.ServiceTypeClusterIP, []string{servicehelper.LoadBalancerCleanupFinalizer}
		}
		c.create(newService("claims-left", single, "IPv4", internal), newService("status-left", single, "IPv4", internal, publish("192.0.2.2")),
			newService("theirs", single, "IPv4", internal, publish("203.0.113.1")))
		c.createClaim("192.0.2.1", v1alpha1.ManagedBy, "default", "claims-left")
		l := c.lead()
		l.mu.Lock()
		slices.Sort(l.woken)
		l.mu.Unlock()
		l.wantWoken("claims-left status-left")
		c.wantClaims("192.0.2.1=claims-left") // until the service controller has it released
	})
	bubble("claims of Services that are gone or internal are collected", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("internal", single, "IPv4", func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP }))
		c.createClaim("192.0.2.1", v1alpha1.ManagedBy, "default", "gone")
		c.createClaim("192.0.2.2", v1alpha1.ManagedBy, "default", "internal")
		c.createClaim("2001:db8::1", "ipallocator.k8s.io", "default", "gone")
		c.lead()
		c.wantClaims("")
		if _, err := c.api.NetworkingV1().IPAddresses().Get(context.Background(), "2001:db8::1", metav1.GetOptions{}); err != nil {
			t.Errorf("an IPAddress of the ClusterIP allocator was touched: %v", err)
		}
	})
	bubble("a claim that appears for a Service that is gone is collected", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.lead()
		c.createClaim("192.0.2.1", v1alpha1.ManagedBy, "default", "gone")
		c.settle()
		c.wantClaims("")
	})
	bubble("an API that fails at the start is asked again", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("web", require, "IPv4 IPv6", publish(bothKinds)))
		failed := 0
		c.api.failing(func(verb, resource, _ string) error {
			if verb == "create" && resource == "ipaddresses" && failed < 3 {
				failed++
				return apierrors.NewInternalError(errors.New("etcd is away"))
			}
			return nil
		})
		l := c.lead()
		l.mustSync("web")
		c.wantShown("web", bothKinds)
		c.wantClaims("192.0.2.1=web 2001:db8::1=web")
	})
}

func TestBeforeRunIsReady(t *testing.T) {
	bubble("requests wait, and end with their context", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		c.create(newService("web", require, "IPv4 IPv6"))
		l, start := c.build()
		svc := c.service("web")
		ctx, cancel := context.WithCancelCause(t.Context())
		var wg sync.WaitGroup
		gone := errors.New("leadership lost")
		for _, call := range []func() error{
			func() error { _, err := l.EnsureLoadBalancer(ctx, "", svc, nil); return err },
			func() error { return l.EnsureLoadBalancerDeleted(ctx, "", svc) },
			func() error { _, _, err := l.GetLoadBalancer(ctx, "", svc); return err },
		} {
			wg.Go(func() {
				if err := call(); !errors.Is(err, gone) {
					t.Errorf("got error %v, want %v", err, gone)
				}
			})
		}
		synctest.Wait()
		c.wantClaims("")
		cancel(gone)
		wg.Wait()
		got := make(chan error, 1)
		go func() { _, err := l.EnsureLoadBalancer(t.Context(), "", svc, nil); got <- err }()
		synctest.Wait()
		c.wantClaims("")
		start()
		if err := <-got; err != nil {
			t.Error(err)
		}
		c.wantClaims("192.0.2.1=web 2001:db8::1=web")
	})
}

// slowClaims creates no claim before held is closed.
type slowClaims struct {
	networkingv1client.IPAddressInterface
	held chan struct{}
}

func (s slowClaims) Create(ctx context.Context, claim *networkingv1.IPAddress, opts metav1.CreateOptions) (*networkingv1.IPAddress, error) {
	<-s.held
	return s.IPAddressInterface.Create(ctx, claim, opts)
}

// TestLocks has something happen to a Service while the API server is slow to answer a request for it.
func TestLocks(t *testing.T) {
	// slow starts to serve a Service and returns when its first claim is being created. answer has the API server go
	// on.
	slow := func(c *cluster, l *leader, name string) (answer func()) {
		held := make(chan struct{})
		l.claims = writer.New(slowClaims{c.api.NetworkingV1().IPAddresses(), held}, l.ledger)
		svc := c.service(name)
		go func() { _, _ = l.EnsureLoadBalancer(context.Background(), "", svc, nil) }()
		synctest.Wait()
		return func() { close(held) }
	}
	bubble("an address that a request on its way wants again is not released", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"))
		l.mustSync("web")
		uid := func() types.UID {
			claim, err := c.api.NetworkingV1().IPAddresses().Get(t.Context(), "2001:db8::1", metav1.GetOptions{})
			c.must(err)
			return claim.UID
		}
		before := uid()
		c.edit("web", setFamilies(single, "IPv4"))
		if _, err := l.ensure("web"); err != nil {
			t.Fatal(err)
		}
		c.edit("web", setFamilies(require, "IPv4 IPv6"), annotate(fixedKey, "192.0.2.5,2001:db8::1"))
		answer := slow(c, l, "web")
		c.edit("web", publish("192.0.2.1")) // what came of the first edit
		answer()
		c.settle()
		if uid() != before {
			t.Error("the claim of an address that stayed was deleted and made again")
		}
	})
	bubble("a request that waits for a lock ends with its context", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"))
		answer := slow(c, l, "web")
		defer answer()
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("leadership lost")
		cancel(gone)
		if err := l.EnsureLoadBalancerDeleted(ctx, "", c.service("web")); !errors.Is(err, gone) {
			t.Errorf("got error %v, want %v", err, gone)
		}
	})
}

func TestClaimsOfOthers(t *testing.T) {
	bubble("an address that is a ClusterIP is stepped over", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		for _, a := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"} {
			c.createClaim(a, "ipallocator.k8s.io", "kube-system", "dns")
		}
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"), newService("fixed", single, "IPv4", annotate(fixedKey, "192.0.2.1")))
		l.mustSync("web")
		c.wantShown("web", "192.0.2.3 2001:db8::2")
		l.wantError("fixed", "192.0.2.1", "kube-system/dns", "ipallocator.k8s.io")
	})
	bubble("a Service that waits for the address of a ClusterIP gets it when that is gone", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
			c.createClaim(a, "ipallocator.k8s.io", "kube-system", "dns")
		}
		l := c.lead()
		c.create(newService("web", single, "IPv4", annotate(fixedKey, "192.0.2.1")))
		l.wantError("web", "192.0.2.1")
		c.settle()
		l.wantWoken("")
		c.deleteClaim("2001:db8::1")
		c.settle()
		l.wantWoken("")
		c.deleteClaim("192.0.2.1")
		c.settle()
		l.wantWoken("web")
		l.mustSync("web")
		c.wantClaims("192.0.2.1=web")
	})
	bubble("a claim that another leader made is learnt", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("theirs", single, "IPv4"), newService("web", single, "IPv4"))
		c.createClaim("192.0.2.1", v1alpha1.ManagedBy, "default", "theirs")
		c.settle()
		l.mustSync("web", "theirs")
		c.wantShown("web", "192.0.2.2")
		c.wantShown("theirs", "192.0.2.1")
	})
	bubble("a claim of a Service that is gone and that only the API knows of is collected", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1"))
		l := c.lead()
		c.create(newService("web", single, "IPv4"))
		// The claim and the request arrive together.
		c.createClaim("192.0.2.1", v1alpha1.ManagedBy, "default", "gone")
		_ = l.sync("web")
		c.settle()
		l.mustSync("web")
		c.wantClaims("192.0.2.1=web")
		l.delete("web")
		c.wantClaims("")
	})
}

// TestDeposedLeader has a status written by somebody who did not lead any more.
func TestDeposedLeader(t *testing.T) {
	bubble("an address that another Service has by now is taken out of the status", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("a", single, "IPv4"), newService("b", single, "IPv4"))
		l.mustSync("a", "b")
		c.edit("b", publish("192.0.2.1"))
		l.wantWoken("b")
		l.mustSync("b")
		c.wantShown("b", "192.0.2.2")
	})
	bubble("a free one is claimed, and goes when the status is right again", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("a", single, "IPv4"))
		l.mustSync("a")
		c.edit("a", publish("192.0.2.7"))
		c.wantClaims("192.0.2.1=a 192.0.2.7=a")
		l.mustSync("a")
		c.wantShown("a", "192.0.2.1")
		c.wantClaims("192.0.2.1=a")
	})
	for _, address := range []string{"192.0.2.1", "192.0.2.7"} {
		bubble("a second claim beside the address that the Service shows moves nothing: "+address, t, func(t *testing.T) {
			c := newCluster(t, newPool("lan", dualPool))
			l := c.lead()
			c.create(newService("a", single, "IPv4", annotate(fixedKey, "192.0.2.5")))
			l.mustSync("a")
			c.edit("a", annotate(fixedKey, ""))
			for _, atStart := range []bool{false, true} {
				if atStart {
					l.stop()
				}
				c.createClaim(address, v1alpha1.ManagedBy, "default", "a")
				if atStart {
					l = c.lead()
				}
				l.mustSync("a")
				c.wantShown("a", "192.0.2.5")
				c.settle()
				l.mustSync("a")
				c.wantShown("a", "192.0.2.5")
				c.wantClaims("192.0.2.5=a")
			}
		})
	}
	bubble("what another leader claimed and may publish is kept for a while", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("a", single, "IPv4"))
		if _, err := l.ensure("a"); err != nil {
			t.Fatal(err)
		}
		c.createClaim("192.0.2.7", v1alpha1.ManagedBy, "default", "a")
		synctest.Wait()
		if _, err := l.ensure("a"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c.wantClaims("192.0.2.1=a 192.0.2.7=a")
		c.settle()
		c.wantClaims("192.0.2.1=a")
	})
}

func TestClaimDeletedByHand(t *testing.T) {
	bubble("it is created again, and no other Service gets the address meanwhile", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"), newService("late", require, "IPv4 IPv6"))
		l.mustSync("web")
		c.deleteClaim("192.0.2.1")
		c.deleteClaim("2001:db8::1")
		l.mustSync("late")
		c.settle()
		c.wantClaims("192.0.2.1=web 2001:db8::1=web 192.0.2.2=late 2001:db8::2=late")
	})
	bubble("it is created again even before the address is published", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", single, "IPv4"))
		got, err := l.ensure("web")
		c.must(err)
		c.deleteClaim("192.0.2.1")
		c.settle()
		c.edit("web", func(svc *corev1.Service) { svc.Status.LoadBalancer = *got })
		c.wantClaims("192.0.2.1=web")
	})
	bubble("of a shared address it is created again for all", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("a", single, "IPv4", annotate(shareKey, "k")),
			newService("b", single, "IPv4", annotate(shareKey, "k"), listen("TCP", 81)))
		l.mustSync("a", "b")
		c.wantShown("b", "192.0.2.1")
		c.deleteClaim("192.0.2.1")
		c.settle()
		c.wantClaims("192.0.2.1=a")
		l.delete("a")
		c.wantClaims("192.0.2.1=left")
	})
	bubble("when another leader was faster the Service is woken and moves", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", single, "IPv4"), newService("thief", single, "IPv4"))
		l.mustSync("web")
		c.replaceClaim("192.0.2.1", v1alpha1.ManagedBy, "default", "thief")
		c.settle()
		l.wantWoken("web")
		l.mustSync("thief", "web")
		c.wantShown("thief", "192.0.2.1")
		c.wantShown("web", "192.0.2.2")
		c.wantClaims("192.0.2.1=thief 192.0.2.2=web")
	})
	bubble("it is not created again for a Service that gave the address up", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", single, "IPv4"))
		l.mustSync("web")
		l.delete("web")
		c.wantClaims("")
	})
}

func TestAPIErrors(t *testing.T) {
	refuse := func(verb, name string, err error) func(string, string, string) error {
		return func(v, resource, n string) error {
			if v == verb && resource == "ipaddresses" && n == name {
				return err
			}
			return nil
		}
	}
	away := apierrors.NewInternalError(errors.New("etcd is away"))
	bubble("a second claim that fails undoes the first", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"))
		c.api.failing(refuse("create", "2001:db8::1", away))
		l.wantError("web", "etcd is away")
		c.wantClaims("")
		c.api.failing(nil)
		l.mustSync("web")
		c.wantShown("web", bothKinds)
	})
	bubble("it undoes only what this request added", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", single, "IPv4"))
		l.mustSync("web")
		c.edit("web", setFamilies(require, "IPv4 IPv6"))
		c.api.failing(refuse("create", "2001:db8::1", away))
		l.wantError("web", "etcd is away")
		c.wantClaims("192.0.2.1=web")
	})
	bubble("an undo that fails too leaks nothing", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"))
		c.api.failing(func(verb, resource, name string) error {
			if resource == "ipaddresses" && (verb == "delete" || verb == "get" || name == "2001:db8::1") {
				return away
			}
			return nil
		})
		if err := l.sync("web"); err == nil {
			t.Fatal("no error")
		}
		c.api.failing(nil)
		c.settle()
		l.mustSync("web")
		c.wantShown("web", bothKinds)
		c.wantClaims("192.0.2.1=web 2001:db8::1=web")
		l.delete("web")
		c.wantClaims("")
	})
	bubble("a claim whose creation was reported failed and happened is found", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", single, "IPv4"), newService("other", single, "IPv4"))
		c.api.failing(func(verb, resource, name string) error {
			if verb != "create" || resource != "ipaddresses" {
				return nil
			}
			c.api.failing(nil)
			c.createClaim(name, v1alpha1.ManagedBy, "default", "web")
			return apierrors.NewTimeoutError("the answer was lost", 1)
		})
		if err := l.sync("web"); err == nil {
			t.Fatal("no error")
		}
		l.mustSync("other")
		c.settle()
		l.mustSync("web")
		l.delete("web")
		l.delete("other")
		c.wantClaims("")
	})
	bubble("a deletion that fails is repeated", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"))
		l.mustSync("web")
		c.api.failing(refuse("delete", "2001:db8::1", away))
		ctx := context.Background()
		if err := l.EnsureLoadBalancerDeleted(ctx, "", c.service("web")); err == nil {
			t.Fatal("no error")
		}
		// GetLoadBalancer is asked first, and an answer of false would skip the second attempt.
		if _, exists, err := l.GetLoadBalancer(ctx, "", c.service("web")); err != nil || !exists {
			t.Fatalf("GetLoadBalancer: exists %v, error %v", exists, err)
		}
		c.api.failing(nil)
		l.delete("web")
		c.wantClaims("")
	})
	bubble("a release that an event asked for is repeated", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"))
		l.mustSync("web")
		failed := 0
		c.api.failing(func(verb, resource, _ string) error {
			if verb == "delete" && resource == "ipaddresses" && failed < 5 {
				failed++
				return away
			}
			return nil
		})
		c.vanish("web")
		c.wantClaims("")
	})
}

func TestDeletion(t *testing.T) {
	bubble("may be repeated, and is right for a Service that never had an address", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"), newService("never", require, "IPv4 IPv6"))
		l.mustSync("web")
		c.edit("web", deleting)
		c.edit("never", deleting)
		ctx := context.Background()
		for range 3 {
			c.must(l.EnsureLoadBalancerDeleted(ctx, "", c.service("web")))
			c.must(l.EnsureLoadBalancerDeleted(ctx, "", c.service("never")))
		}
		c.wantClaims("")
		if _, exists, err := l.GetLoadBalancer(ctx, "", c.service("never")); err != nil || exists {
			t.Errorf("GetLoadBalancer of a Service that never had an address: exists %v, error %v", exists, err)
		}
		// As long as the status shows something, it exists: an answer of false would leave the status as it is.
		if _, exists, err := l.GetLoadBalancer(ctx, "", c.service("web")); err != nil || !exists {
			t.Errorf("GetLoadBalancer of a Service that shows addresses: exists %v, error %v", exists, err)
		}
	})
	bubble("leaves a foreign claim alone", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", single, "IPv4"))
		l.mustSync("web")
		c.replaceClaim("192.0.2.1", "ipallocator.k8s.io", "kube-system", "dns")
		l.delete("web")
		if _, err := c.api.NetworkingV1().IPAddresses().Get(context.Background(), "192.0.2.1", metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func TestSharing(t *testing.T) {
	keyed := func(name string, port int32, edits ...func(*corev1.Service)) *corev1.Service {
		return newService(name, require, "IPv4 IPv6", append([]func(*corev1.Service){annotate(shareKey, "k"), listen("TCP", port)}, edits...)...)
	}
	bubble("one claim in each family, which stays when its parent goes", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(keyed("a", 80), keyed("b", 81), keyed("c", 82))
		l.mustSync("a", "b", "c")
		c.wantShown("c", bothKinds)
		c.wantClaims("192.0.2.1=a 2001:db8::1=a")
		l.delete("b")
		c.wantClaims("192.0.2.1=a 2001:db8::1=a")
		l.delete("a")
		c.wantClaims("192.0.2.1=left 2001:db8::1=left")
		l.stop()
		l = c.lead()
		l.mustSync("c")
		c.wantShown("c", bothKinds)
		l.delete("c")
		c.wantClaims("")
	})
	bubble("survives a restart", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(keyed("a", 80), keyed("b", 81))
		l.mustSync("a", "b")
		l.stop()
		l = c.lead()
		l.mustSync("b", "a")
		c.wantShown("a", bothKinds)
		c.wantShown("b", bothKinds)
		l.delete("a")
		c.wantShown("b", bothKinds)
		c.wantClaims("192.0.2.1=left 2001:db8::1=left")
	})
	bubble("survives the edit of the pool and a restart, and the end of the parent", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(keyed("a", 80), keyed("b", 81))
		l.mustSync("a", "b")
		c.setPool(newPool("lan", "198.51.100.1"))
		l.stop()
		l = c.lead()
		l.delete("a")
		l.mustSync("b")
		c.wantShown("b", bothKinds)
		c.wantClaims("192.0.2.1=left 2001:db8::1=left")
	})
	bubble("goes on when the parent vanishes", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(keyed("a", 80), keyed("b", 81))
		l.mustSync("a", "b")
		c.vanish("a")
		c.wantClaims("192.0.2.1=left 2001:db8::1=left")
	})
	bubble("goes on when the parent vanishes while there is no leader", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(keyed("a", 80), keyed("b", 81))
		l.mustSync("a", "b")
		l.stop()
		c.vanish("a")
		l = c.lead()
		c.wantClaims("192.0.2.1=left 2001:db8::1=left")
		l.mustSync("b")
		c.wantShown("b", bothKinds)
	})
	bubble("survives a crash between the release of the parent and the next claim", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(keyed("a", 80), keyed("b", 81))
		l.mustSync("a", "b")
		l.stop()
		c.deleteClaim("192.0.2.1")
		c.vanish("a")
		c.create(newService("new", single, "IPv4"))
		l = c.lead()
		l.mustSync("new", "b")
		c.wantShown("b", bothKinds)
		c.wantShown("new", "192.0.2.2")
	})
	tests := []struct {
		name string
		with *corev1.Service // beside keyed("a", 80), with policy Local and selector app=shop where local
		a    []func(*corev1.Service)
		want string
	}{
		{name: "not without a key", with: newService("b", require, "IPv4 IPv6", listen("TCP", 81)), want: "192.0.2.2 2001:db8::2"},
		{name: "not with another key", with: keyed("b", 81, annotate(shareKey, "other")), want: "192.0.2.2 2001:db8::2"},
		{name: "not on the same port", with: keyed("b", 80), want: "192.0.2.2 2001:db8::2"},
		{name: "on the same number in another protocol", with: keyed("b", 80, listen("UDP", 80)), want: bothKinds},
		{name: "not between Local and Cluster", with: keyed("b", 81, local("shop")), want: "192.0.2.2 2001:db8::2"},
		{
			name: "between Local and Local of the same endpoints", with: keyed("b", 81, local("shop")),
			a: []func(*corev1.Service){local("shop")}, want: bothKinds,
		},
		{
			name: "not between Local and Local of other endpoints", with: keyed("b", 81, local("bank")),
			a: []func(*corev1.Service){local("shop")}, want: "192.0.2.2 2001:db8::2",
		},
		{name: "in the one family that it has", with: keyed("b", 81, setFamilies(single, "IPv6")), want: "2001:db8::1"},
	}
	for _, tt := range tests {
		bubble(tt.name, t, func(t *testing.T) {
			c := newCluster(t, newPool("lan", dualPool))
			l := c.lead()
			c.create(keyed("a", 80, tt.a...), tt.with)
			l.mustSync("a", "b")
			c.wantShown("a", bothKinds)
			c.wantShown("b", tt.want)
		})
	}
	for _, change := range []struct {
		name string
		edit func(*corev1.Service)
	}{
		{"a port", listen("TCP", 80)},
		{"the key", annotate(shareKey, "other")},
		{"the policy", local("shop")},
	} {
		for _, parent := range []bool{false, true} {
			bubble(fmt.Sprintf("goes on for the Service that changes %s, parent of the claim: %v, also after a restart", change.name, parent), t, func(t *testing.T) {
				c := newCluster(t, newPool("lan", dualPool))
				l := c.lead()
				c.create(keyed("a", 80), keyed("b", 81))
				if l.mustSync("a", "b"); parent {
					c.edit("a", listen("TCP", 81))
					c.edit("b", listen("TCP", 80))
					l.mustSync("b", "a")
					l.events = nil
				}
				name := map[bool]string{false: "b", true: "a"}[parent]
				c.edit(name, change.edit)
				l.mustSync(name, name)
				l.wantEvents(v1alpha1.EventKeptAddress, 1)
				l.mustSync("a", "b")
				c.wantShown("a", bothKinds)
				c.wantShown("b", bothKinds)
				l.stop()
				l = c.lead()
				c.create(keyed("c", 82))
				l.mustSync("b", "a", "c", "a", "b")
				c.wantShown("a", bothKinds)
				c.wantShown("b", bothKinds)
				l.wantEvents(v1alpha1.EventKeptAddress, 2) // each is told what the other has
				c.edit(name, annotate("tandem-lb.io/reallocate", "true"))
				l.mustSync(name)
				c.settle()
				l.syncWoken()
				if c.shown("a") == c.shown("b") {
					t.Errorf("a and b show %s, although one of them asks to be moved", c.shown("a"))
				}
				l.wantEvents(v1alpha1.EventSharingAgrees, 2)
			})
		}
	}
	bubble("a new key of the parent moves nobody, and a later edit of another Service ends it", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(keyed("a", 80), keyed("b", 81))
		l.mustSync("a", "b")
		c.edit("a", annotate(shareKey, "other"))
		l.mustSync("a")
		l.wantEvents(v1alpha1.EventKeptAddress, 1)
		l.takeWoken()
		c.edit("b", annotate(shareKey, "other"))
		l.mustSync("b")
		l.wantWoken("a")
		l.mustSync("a")
		l.wantEvents(v1alpha1.EventSharingAgrees, 1)
		c.settle()
		l.wantWoken("")
		c.wantShown("a", bothKinds)
		c.wantShown("b", bothKinds)
		c.wantClaims("192.0.2.1=a 2001:db8::1=a")
	})
	bubble("the other Service on the address goes, and the edit takes effect", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(keyed("a", 80), keyed("b", 81))
		l.mustSync("a", "b")
		c.edit("b", listen("TCP", 80))
		l.mustSync("b")
		l.delete("a")
		c.settle()
		l.wantWoken("b")
		l.mustSync("b")
		l.wantEvents(v1alpha1.EventSharingAgrees, 1)
		c.wantShown("b", bothKinds)
		c.wantClaims("192.0.2.1=left 2001:db8::1=left")
	})
	bubble("across pools of one family each by fixed address", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(keyed("a", 80, annotate(fixedKey, "192.0.2.5,2001:db8::5")), keyed("b", 81, annotate(fixedKey, "192.0.2.5,2001:db8::5")))
		l.mustSync("a", "b")
		c.wantShown("b", "192.0.2.5 2001:db8::5")
	})
}

// TestTwoLeaders has two servers that both believe to lead allocate for the same 2,000 Services at once, each from
// its own end.
func TestTwoLeaders(t *testing.T) {
	bubble("2,000 Services", t, func(t *testing.T) {
		const services, workers = 2000, 8
		c := newCluster(t, newPool("lan", "10.0.0.0/20 2001:db8::/64"))
		leaders := []*leader{c.lead(), c.lead()}
		var names []string
		for i := range services {
			svc := newService(fmt.Sprintf("web-%d", i), require, "IPv4 IPv6")
			_, err := c.api.CoreV1().Services("default").Create(context.Background(), svc, metav1.CreateOptions{})
			c.must(err)
			names = append(names, svc.Name)
		}
		c.settle()
		var mu sync.Mutex
		given := map[string]map[string]bool{} // service -> answers
		var wg sync.WaitGroup
		for i, l := range leaders {
			todo := make(chan string, services)
			for k := range names {
				if i == 1 {
					k = services - 1 - k
				}
				todo <- names[k]
			}
			close(todo)
			for range workers {
				wg.Go(func() {
					for name := range todo {
						svc := l.ledger.Service(named(name))
						got, err := l.EnsureLoadBalancer(context.Background(), "", svc, nil)
						for range 100 {
							if err == nil {
								break
							}
							got, err = l.EnsureLoadBalancer(context.Background(), "", svc, nil) // as the service controller does
						}
						if err != nil {
							t.Errorf("Service %s: %v", name, err)
							continue
						}
						mu.Lock()
						for _, ingress := range got.Ingress {
							if given[ingress.IP] == nil {
								given[ingress.IP] = map[string]bool{}
							}
							given[ingress.IP][name] = true
						}
						mu.Unlock()
					}
				})
			}
		}
		wg.Wait()
		for address, to := range given {
			if len(to) > 1 {
				t.Errorf("%s was given to %v", address, slices.Sorted(maps.Keys(to)))
			}
		}
		// One of them is the leader after all. Whatever the other claimed beside goes.
		leaders[1].stop()
		c.settle()
		for _, name := range names {
			got, err := leaders[0].ensure(name)
			c.must(err)
			svc := c.service(name)
			svc.Status.LoadBalancer = *got
			_, err = c.api.CoreV1().Services("default").UpdateStatus(context.Background(), svc, metav1.UpdateOptions{})
			c.must(err)
		}
		c.settle()
		claims := c.claims()
		for _, name := range names {
			shown := strings.Fields(c.shown(name))
			if len(shown) != 2 {
				t.Errorf("Service %s shows %v", name, shown)
			}
			for _, a := range shown {
				if claims[a] != name {
					t.Errorf("Service %s shows %s, which %q has claimed", name, a, claims[a])
				}
				delete(claims, a)
			}
		}
		if len(claims) > 0 {
			t.Errorf("%d claims are of no use: %v", len(claims), claims)
		}
	})
}
