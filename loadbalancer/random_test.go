// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// TestRandomOperations does what users do, thousands of times in an order that a seed decides, and asks after each few operations whether
// what the API shows can be true.
func TestRandomOperations(t *testing.T) {
	const operations, between = 1500, 10
	for seed := range uint64(2) {
		bubble(fmt.Sprintf("seed %d", seed), t, func(t *testing.T) {
			w := &world{cluster: newCluster(t), r: rand.New(rand.NewPCG(seed, 0)), failed: map[string]bool{}}
			w.pools = []string{"a", "b", "c"}
			w.editPool()
			w.leader = w.lead()
			for i := range operations {
				w.hasty = true
				w.operate()
				w.follow()
				if i%between == between-1 {
					w.hasty = false
					w.settle()
					w.follow()
					w.check()
				}
				if t.Failed() {
					t.Fatalf("after operation %d: %s", i, strings.Join(w.log[max(0, len(w.log)-30):], "\n"))
				}
			}
			w.hasty = false
			for _, name := range w.names() {
				w.leader.delete(name)
			}
			w.settle()
			w.wantClaims("")
			if u := w.leader.allocator.Usage(); len(u) != 0 {
				for name, p := range u {
					for family, f := range p.Families {
						if f.Allocated != 0 {
							t.Errorf("pool %s: %d %s addresses still allocated", name, f.Allocated, family)
						}
					}
				}
			}
		})
	}
}

// world is a cluster and what has been done to it.
type world struct {
	*cluster
	leader *leader
	r      *rand.Rand
	pools  []string
	next   int
	failed map[string]bool // Services whose last request failed
	log    []string
}

func (w *world) names() []string {
	w.t.Helper()
	list, err := w.leader.services.List(labels.Everything())
	w.must(err)
	var names []string
	for _, svc := range list {
		names = append(names, svc.Name)
	}
	slices.Sort(names)
	return names
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func (w *world) note(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }

// ask is what the service controller does when a Service changes.
func (w *world) ask(name string) {
	err := w.leader.sync(name)
	w.failed[name] = err != nil
	w.note("  %s %v: %q, %v", name, w.service(name).Spec.IPFamilies, w.shown(name), err)
}

func (w *world) follow() {
	for range 100 {
		woken := w.leader.takeWoken()
		if woken == "" {
			return
		}
		for name := range strings.FieldsSeq(woken) {
			if w.service(name) != nil {
				w.note("  woken: %s", name)
				w.ask(name)
			}
		}
	}
	w.t.Error("Services are woken without end")
}

func (w *world) randomFamilies() (corev1.IPFamilyPolicy, string) {
	if w.r.IntN(3) == 0 {
		return single, pick(w.r, "IPv4", "IPv6")
	}
	return pick(w.r, prefer, require), pick(w.r, "IPv4 IPv6", "IPv6 IPv4")
}

func (w *world) editPool() {
	name := pick(w.r, w.pools...)
	var ranges []string
	for range 1 + w.r.IntN(2) {
		first := w.r.IntN(20)
		ranges = append(ranges, fmt.Sprintf("192.0.2.%d-192.0.2.%d", first, first+w.r.IntN(6)))
	}
	for range w.r.IntN(3) {
		first := w.r.IntN(20)
		ranges = append(ranges, fmt.Sprintf("2001:db8::%x-2001:db8::%x", first, first+w.r.IntN(6)))
	}
	edits := []func(*v1alpha1.AddressPool){}
	switch w.r.IntN(6) {
	case 0:
		edits = append(edits, noAutoAssign)
	case 1:
		edits = append(edits, forServices("tier", "edge"))
	case 2:
		edits = append(edits, forNamespaces("team", "shop"))
	case 3:
		edits = append(edits, stable, priority(1))
	}
	w.note("pool %s: %s", name, ranges)
	w.setPool(newPool(name, strings.Join(ranges, " "), edits...))
	w.settle()
}

func (w *world) operate() {
	names := w.names()
	dice := w.r.IntN(100)
	if len(names) < 4 || dice < 15 && len(names) < 25 {
		w.next++
		name := fmt.Sprintf("s%03d", w.next)
		policy, families := w.randomFamilies()
		svc := newService(name, policy, families, listen("TCP", int32(80+w.r.IntN(3))))
		if w.r.IntN(3) == 0 {
			annotate(shareKey, pick(w.r, "k", "l"))(svc)
		}
		w.note("create %s %s %s", name, policy, families)
		w.create(svc)
		w.ask(name)
		return
	}
	name := pick(w.r, names...)
	change := func(what string, edit func(*corev1.Service)) {
		w.note("%s of %s", what, name)
		w.edit(name, edit)
		w.ask(name)
	}
	switch {
	case dice < 30:
		policy, families := w.randomFamilies()
		change(string(policy)+" "+families, setFamilies(policy, families))
	case dice < 36:
		change("key", annotate(shareKey, pick(w.r, "", "k", "l")))
	case dice < 42:
		change("port", listen("TCP", int32(80+w.r.IntN(3))))
	case dice < 46:
		change("policy", pick(w.r, local("shop"), func(svc *corev1.Service) { svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster }))
	case dice < 50:
		change("fixed address", annotate(fixedKey, pick(w.r, "", "192.0.2.3", "2001:db8::3", "192.0.2.4,2001:db8::4")))
	case dice < 54:
		change("named pool", annotate(poolKey, pick(w.r, "", "a", "a,b", "none")))
	case dice < 57:
		change("reallocate", annotate("tandem-lb.io/reallocate", pick(w.r, "", "true")))
	case dice < 60: // the service controller does not look at labels
		w.note("label of %s", name)
		w.edit(name, label("tier", pick(w.r, "edge", "core")))
	case dice < 62:
		w.note("label of the namespace")
		w.label("default", labels.Set{"team": pick(w.r, "shop", "bank")})
		w.settle()
	case dice < 72:
		w.note("delete %s", name)
		w.leader.delete(name)
		delete(w.failed, name)
	case dice < 75:
		w.note("vanish %s", name)
		w.vanish(name)
		delete(w.failed, name)
	case dice < 85:
		w.editPool()
	case dice < 87:
		w.note("delete the pools")
		for _, pool := range w.pools {
			if w.r.IntN(2) == 0 {
				if err := w.cluster.pools.Delete(w.t.Context(), newPool(pool, "")); err == nil {
					w.leader.pools.handlers[0].OnDelete(newPool(pool, ""))
				}
			}
		}
		w.settle()
	case dice < 95:
		if claims := slices.Sorted(maps.Keys(w.claims())); len(claims) > 0 {
			claim := pick(w.r, claims...)
			w.note("delete the claim of %s", claim)
			w.deleteClaim(claim)
			w.settle()
		}
	default:
		w.note("restart")
		w.leader.stop()
		w.leader = w.lead()
		names := w.names()
		w.r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for _, name := range names {
			w.ask(name)
		}
	}
}

// check compares the Services and the claims.
func (w *world) check() {
	w.t.Helper()
	claims := w.claims()
	users := map[string][]*corev1.Service{}
	for _, name := range w.names() {
		svc := w.service(name)
		var families []string
		for _, a := range published(svc) {
			users[a.String()] = append(users[a.String()], svc)
			families = append(families, string(map[bool]corev1.IPFamily{true: corev1.IPv4Protocol, false: corev1.IPv6Protocol}[a.Is4()]))
		}
		if w.failed[name] {
			continue
		}
		var want []string
		for _, family := range svc.Spec.IPFamilies {
			if *svc.Spec.IPFamilyPolicy != prefer || slices.Contains(families, string(family)) {
				want = append(want, string(family))
			}
		}
		if len(families) == 0 || !slices.Equal(families, want) {
			w.t.Errorf("Service %s of %s %v shows %q", name, *svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies, w.shown(name))
		}
	}
	for address, services := range users {
		owner, claimed := claims[address]
		if !claimed || !slices.ContainsFunc(services, func(svc *corev1.Service) bool { return svc.Name == owner }) {
			w.t.Errorf("%s is claimed by %q and shown by %d others, the first %s", address, owner, len(services), services[0].Name)
		}
		delete(claims, address)
		for i, svc := range services {
			for _, other := range services[i+1:] {
				// A Service that was refused what it asks for keeps what it has.
				if w.failed[svc.Name] || w.failed[other.Name] || w.missing(svc) || w.missing(other) {
					continue
				}
				one, two := sharingOf(svc), sharingOf(other)
				if one.Key == "" || one.Key != two.Key || one.Backends != two.Backends || one.Ports[0] == two.Ports[0] {
					w.t.Errorf("%s is shown by %s %v and %s %v", address, svc.Name, one, other.Name, two)
				}
			}
		}
	}
	if len(claims) > 0 {
		w.t.Errorf("claims that nobody shows: %v", claims)
	}
	// Whoever waits could not be served: otherwise somebody forgot to wake him.
	for _, name := range w.names() {
		if svc := w.service(name); w.failed[name] || w.missing(svc) {
			before := w.shown(name)
			w.ask(name)
			if after := w.shown(name); after != before {
				w.t.Errorf("Service %s was not woken: it showed %q and gets %q", name, before, after)
			}
		}
	}
	w.follow()
}

// missing reports whether the Service waits for something that it was not given.
func (w *world) missing(svc *corev1.Service) bool {
	w.leader.Server.mu.Lock()
	defer w.leader.Server.mu.Unlock()
	_, waits := w.leader.waiting[serviceOf(svc)]
	return waits
}
