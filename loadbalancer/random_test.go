// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/claim"
	"github.com/tandem-lb/tandem/loadbalancer/repair"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

// TestRandomOperations does what users, crashes and other leaders do, in an order that a seed decides, and asks after
// each few operations whether what the API shows can be true. Its first seeds run always; CONTRIBUTING.md has the
// command for more.
func TestRandomOperations(t *testing.T) {
	const between = 10
	seeds, operations := number(t, "TANDEM_SEEDS", 4), number(t, "TANDEM_OPERATIONS", 500)
	for seed := range seeds {
		bubble(fmt.Sprintf("seed %d", seed), t, func(t *testing.T) {
			w := &world{cluster: newCluster(t), r: rand.New(rand.NewPCG(uint64(seed), 0)), failed: map[string]bool{}}
			w.pools = []string{"a", "b", "c"}
			w.editPool()
			w.leader = w.lead()
			for i := range operations {
				w.frozen = true
				w.operate()
				w.follow()
				if i%between == between-1 {
					w.depose()
					w.frozen = false
					time.Sleep(auditPeriod)
					w.settle()
					w.follow()
					w.settle()
					w.follow()
					w.check()
				}
				if t.Failed() {
					t.Fatalf("after operation %d: %s", i, strings.Join(w.log[max(0, len(w.log)-number(t, "TANDEM_LOG", 60)):], "\n"))
				}
			}
			w.end()
		})
	}
}

// number returns the number in an environment variable.
func number(t *testing.T, variable string, otherwise int) int {
	text, ok := os.LookupEnv(variable)
	if !ok {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// world is a cluster and what has been done to it.
type world struct {
	*cluster
	leader  *leader
	deposed *leader // works on beside the leader, as it has not noticed yet; nil where there is none
	r       *rand.Rand
	pools   []string
	next    int
	failed  map[string]bool // Services whose last request failed
	log     []string
}

func (w *world) names() []string {
	w.t.Helper()
	list, err := w.api.CoreV1().Services("default").List(w.t.Context(), metav1.ListOptions{})
	w.must(err)
	var names []string
	for _, svc := range list.Items {
		names = append(names, svc.Name)
	}
	slices.Sort(names)
	return names
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func (w *world) note(format string, args ...any) { w.log = append(w.log, fmt.Sprintf(format, args...)) }

// everyLeader returns the leader and the deposed one, in any order.
func (w *world) everyLeader() []*leader {
	switch {
	case w.deposed == nil:
		return []*leader{w.leader}
	case w.r.IntN(2) == 0:
		return []*leader{w.leader, w.deposed}
	}
	return []*leader{w.deposed, w.leader}
}

// ask is what the service controllers do when a Service changes: each asks, and then each writes what it was answered.
func (w *world) ask(name string) {
	answers := map[*leader]*corev1.LoadBalancerStatus{}
	shown, before := w.shown(name), w.claims()
	for _, l := range w.everyLeader() {
		held := l.ledger.Cache.Held(named(name))
		got, err := l.ensure(name)
		if err == nil {
			answers[l] = got
			w.checkGiven(name, shown, words(got), held)
		}
		if l == w.leader {
			w.failed[name] = err != nil
		}
		w.note("  %s %v: %s, %v", name, w.service(name).Spec.IPFamilies, words(got), err)
	}
	synctest.Wait()
	after := w.claims()
	for address := range strings.FieldsSeq(shown) {
		if _, claimed := after[address]; before[address] == name && !claimed && w.deposed == nil {
			w.t.Errorf("%s of %s was released before its status changed", address, name)
		}
	}
	for _, l := range w.everyLeader() {
		if got := answers[l]; got != nil {
			w.edit(name, func(svc *corev1.Service) { svc.Status.LoadBalancer = *got })
		}
	}
}

// checkGiven checks that what a Service is given, and did not show before, is claimed for it or for a Service with
// the same key. A claim that its parent has left names no Service: then the Service held the address before the
// request, or another one with the same key shows it. Two leaders that work at the same time may know different keys
// of a Service; a claim does not have the key, so that one of the two may be wrong for a moment about an address that
// is shared.
func (w *world) checkGiven(name, shown, given string, held []ipam.Assignment) {
	claims := w.claims()
	for address := range strings.FieldsSeq(given) {
		owner := claims[address]
		if strings.Contains(" "+shown+" ", " "+address+" ") {
			continue
		}
		if !slices.ContainsFunc(held, func(as ipam.Assignment) bool { return as.Address == addr(address) }) {
			w.checkPorts(name, address)
		}
		if owner == name || w.named(name, address) {
			continue
		}
		parent := w.service(owner)
		key := rules.SharingOf(w.service(name)).Key
		switch {
		case key != "" && (parent != nil || owner == "left") && w.deposed != nil:
		case owner == "left" && slices.ContainsFunc(held, func(as ipam.Assignment) bool { return as.Address == addr(address) }):
		case owner == "left" && key != "" && w.shownWithKey(address, key, name):
		case parent == nil || key == "" || rules.SharingOf(parent).Key != key && !w.refused(parent):
			w.t.Errorf("%s was given %s, which is claimed for %q", name, address, owner)
		}
	}
}

// named reports whether the claim of an address names a Service.
func (w *world) named(name, address string) bool {
	object, err := w.api.NetworkingV1().IPAddresses().Get(w.t.Context(), address, metav1.GetOptions{})
	return err == nil && claim.Read(object).Names(named(name))
}

// checkPorts checks that no port of an address that is being given is that of another Service that the claim names and that publishes the
// address.
func (w *world) checkPorts(name, address string) {
	object, err := w.api.NetworkingV1().IPAddresses().Get(w.t.Context(), address, metav1.GetOptions{})
	if err != nil {
		return // It was deleted by hand meanwhile.
	}
	mine := rules.SharingOf(w.service(name)).Ports[0]
	for _, other := range claim.Read(object).Named() {
		svc := w.service(other.Name)
		if other.Name != name && svc != nil && slices.Contains(request.Published(svc), addr(address)) && rules.SharingOf(svc).Ports[0] == mine {
			w.t.Errorf("%s of %s was given to %s, and %s publishes it", mine, address, name, other.Name)
		}
	}
}

// shownWithKey reports whether a Service with the key, and another than the one of the name, shows the address.
func (w *world) shownWithKey(address, key, name string) bool {
	return slices.ContainsFunc(w.names(), func(other string) bool {
		svc := w.service(other)
		return other != name && rules.SharingOf(svc).Key == key && slices.Contains(request.Published(svc), addr(address))
	})
}

// follow has the service controllers look at the Services that were woken. Two leaders that know different sharers of
// an address may each correct what the other wrote, until the deposed one notices.
func (w *world) follow() {
	for round := range 100 {
		if round == 20 {
			w.depose()
		}
		quiet := true
		for _, l := range w.everyLeader() {
			for name := range strings.FieldsSeq(l.takeWoken()) {
				if w.service(name) == nil {
					continue
				}
				quiet = false
				w.note("  woken: %s", name)
				got, err := l.ensure(name)
				if l == w.leader {
					w.failed[name] = err != nil
				}
				w.note("  %s: %s, %v", name, words(got), err)
				if err == nil {
					w.edit(name, func(svc *corev1.Service) { svc.Status.LoadBalancer = *got })
				}
			}
		}
		if quiet {
			return
		}
	}
	w.t.Error("Services are woken without end")
}

// depose ends the leader that was deposed.
func (w *world) depose() {
	if w.deposed != nil {
		w.note("the deposed leader ends")
		w.deposed.stop()
		w.deposed = nil
	}
}

// askAll is what the service controller does when it starts.
func (w *world) askAll() {
	names := w.names()
	w.r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		w.ask(name)
	}
}

// end deletes everything and checks that nothing is left.
func (w *world) end() {
	w.depose()
	w.frozen = false
	for _, name := range w.names() {
		w.leader.delete(name)
	}
	time.Sleep(time.Hour) // nothing cools for so long
	w.settle()
	w.wantClaims("")
	for _, address := range w.foreign() {
		w.deleteClaim(address)
	}
	w.settle()
	for name, p := range w.leader.ledger.Cache.Usage() {
		for family, f := range p.Families {
			if f.Allocated != 0 {
				w.t.Errorf("pool %s: %d %s addresses still allocated", name, f.Allocated, family)
			}
		}
	}
}

// foreign returns the addresses that ClusterIPs have.
func (w *world) foreign() []string {
	list, err := w.api.NetworkingV1().IPAddresses().List(w.t.Context(), metav1.ListOptions{})
	w.must(err)
	var foreign []string
	for _, object := range list.Items {
		if claim.Read(&object).State == repair.Foreign {
			foreign = append(foreign, object.Name)
		}
	}
	slices.Sort(foreign)
	return foreign
}

func (w *world) randomAddress() string {
	return addr(pick(w.r, fmt.Sprintf("192.0.2.%d", w.r.IntN(26)), fmt.Sprintf("2001:db8::%x", w.r.IntN(26)))).String()
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
	case 4:
		edits = append(edits, reuseAfter(30*time.Minute))
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
		change("policy", pick(w.r, local("shop"), func(svc *corev1.Service) {
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
		}))
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
	case dice < 70:
		w.note("delete %s", name)
		for _, l := range w.everyLeader() {
			l.release(name)
		}
		w.vanish(name)
		delete(w.failed, name)
	case dice < 73:
		w.note("vanish %s", name)
		w.vanish(name)
		delete(w.failed, name)
	case dice < 82:
		w.editPool()
	case dice < 84:
		w.note("delete the pools")
		for _, pool := range w.pools {
			if w.r.IntN(2) == 0 {
				w.deletePoolIfThere(pool)
			}
		}
		w.settle()
	case dice < 96:
		w.disturb(name)
	case dice < 98 && w.deposed == nil:
		w.note("another leader")
		w.deposed = w.leader
		w.leader = w.lead()
		w.askAll()
	default:
		w.restart(name)
	}
}

// disturb does what no user should do, and what leaders leave behind.
func (w *world) disturb(name string) {
	var claims []string
	for claim := range w.claims() {
		claims = append(claims, claim)
	}
	slices.Sort(claims)
	switch dice := w.r.IntN(8); {
	case dice == 0 && len(claims) > 0:
		claim := pick(w.r, claims...)
		w.note("delete the claim of %s", claim)
		w.deleteClaim(claim)
	case dice == 1 && len(claims) > 0:
		claim := pick(w.r, claims...)
		w.note("%s becomes a ClusterIP", claim)
		w.replaceClaim(claim, "ipallocator.k8s.io", "kube-system", "dns")
	case dice == 2:
		address := w.randomAddress()
		w.note("%s becomes a ClusterIP unless it is claimed: %v", address, w.tryCreateClaim(address, "ipallocator.k8s.io", "kube-system", "dns"))
	case dice == 3:
		if foreign := w.foreign(); len(foreign) > 0 {
			address := pick(w.r, foreign...)
			w.note("%s is a ClusterIP no more", address)
			w.deleteClaim(address)
		}
	case dice == 4:
		shown := pick(w.r, "", strings.Join(strings.Fields(w.shown(name))[:min(1, len(strings.Fields(w.shown(name))))], ""))
		w.note("the status of %s becomes %q", name, shown)
		w.edit(name, publish(shown))
	case dice == 5 && len(claims) > 0:
		claim := pick(w.r, claims...)
		w.note("another leader claims %s for %s instead", claim, name)
		w.replaceClaim(claim, v1alpha1.ManagedBy, "default", name)
	case dice == 6:
		address := w.randomAddress()
		w.note("another leader claims %s for %s: %v", address, name, w.tryCreateClaim(address, v1alpha1.ManagedBy, "default", name))
	default:
		address := w.randomAddress()
		w.note("another leader publishes %s for %s", address, name)
		w.edit(name, publish(address))
	}
	w.settle()
}

// restart has the leader crash in the middle of a request, or between two, and another take over.
func (w *world) restart(name string) {
	w.depose()
	if w.r.IntN(2) == 0 {
		left := w.r.IntN(3)
		w.note("crash after %d writes for %s", left, name)
		w.edit(name, annotate(fixedKey, ""), setFamilies(pick(w.r, prefer, require), "IPv4 IPv6"))
		w.api.failing(func(verb, resource, _ string) error {
			if left--; left < 0 && resource == "ipaddresses" && verb != "list" {
				return apierrors.NewInternalError(errors.New("crashed"))
			}
			return nil
		})
		_, _ = w.leader.ensure(name)
	}
	w.note("restart")
	w.leader.stop()
	w.api.failing(nil)
	for range w.r.IntN(3) {
		w.whileNoLeader()
	}
	w.leader = w.lead()
	w.askAll()
}

// whileNoLeader does something that no leader sees happen.
func (w *world) whileNoLeader() {
	name := pick(w.r, w.names()...)
	switch w.r.IntN(4) {
	case 0:
		w.note("vanish %s while there is no leader", name)
		w.vanish(name)
		delete(w.failed, name)
	case 1:
		w.editPool()
	case 2:
		w.disturb(name)
	default:
		policy, families := w.randomFamilies()
		w.note("%s %s of %s while there is no leader", policy, families, name)
		w.edit(name, setFamilies(policy, families))
	}
}

func (w *world) deletePoolIfThere(name string) {
	if err := w.cluster.pools.Delete(w.t.Context(), newPool(name, "")); err != nil {
		return
	}
	for _, l := range w.leaders {
		l.pools.handlers[0].OnDelete(newPool(name, ""))
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
		for _, a := range request.Published(svc) {
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
		slices.Sort(families) // the order of a status that shows what it should is left as it is
		slices.Sort(want)
		if len(families) == 0 || !slices.Equal(families, want) {
			w.t.Errorf("Service %s of %s %v shows %q", name, *svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies, w.shown(name))
		}
	}
	for address, services := range users {
		owner, claimed := claims[address]
		byOne := claimed && slices.ContainsFunc(services, func(svc *corev1.Service) bool {
			return svc.Name == owner || owner == "left" && !w.refused(svc)
		})
		if parent := w.service(owner); claimed && !byOne && parent != nil && w.refused(parent) {
			byOne = true // it shares the address still
		}
		// A Service that was refused what it asks for keeps its status, whatever that shows.
		if !byOne && slices.ContainsFunc(services, func(svc *corev1.Service) bool { return !w.refused(svc) }) {
			w.t.Errorf("%s is claimed by %q and shown by %d others, the first %s", address, owner, len(services), services[0].Name)
		}
		if byOne {
			delete(claims, address)
		}
		for i, svc := range services {
			for _, other := range services[i+1:] {
				if w.refused(svc) || w.refused(other) || w.kept(svc) || w.kept(other) {
					continue
				}
				one, two := rules.SharingOf(svc), rules.SharingOf(other)
				if one.Key == "" || one.Key != two.Key || one.Backends != two.Backends || one.Ports[0] == two.Ports[0] {
					w.t.Errorf("%s is shown by %s %v and %s %v", address, svc.Name, one, other.Name, two)
				}
			}
		}
	}
	for address, owner := range claims {
		// What was claimed for a Service by another leader, and does not complete what it asks for, is kept.
		// What other Services left to one that was refused, and shows nothing, is kept too, and so is what cools.
		record := w.leader.ledger.Cache.Lookup(addr(address))
		left := owner == "left" && (record.Cooling != nil || slices.ContainsFunc(record.Services, func(s ipam.Service) bool {
			return w.refused(w.service(s.Name))
		}))
		if svc := w.service(owner); !left && (svc == nil || !w.refused(svc)) {
			w.t.Errorf("%s is claimed for %s, which does not show it: %+v", address, owner, w.leader.ledger.Observe(addr(address)))
		}
	}
	// A Service that waits could not be served: otherwise it would have been woken. What a request claims before it
	// is refused is free again a while later, and wakes another.
	for _, name := range w.names() {
		if w.refused(w.service(name)) {
			w.settle()
			w.follow()
			before := w.shown(name)
			w.ask(name)
			if after := w.shown(name); after != before {
				w.t.Errorf("Service %s was not woken: it showed %q and gets %q", name, before, after)
			}
		}
	}
	w.follow()
}

// refused reports whether the Service was refused what it asks for, or a part of it.
func (w *world) refused(svc *corev1.Service) bool {
	return w.leader.ledger.Waits(request.ServiceOf(svc)) || w.failed[svc.Name]
}

// kept reports whether the Service was told that it keeps an address although another Service there does not admit it.
func (w *world) kept(svc *corev1.Service) bool {
	return slices.Contains(w.leader.ledger.Told(v1alpha1.EventKeptAddress), request.ServiceOf(svc))
}

func words(got *corev1.LoadBalancerStatus) string {
	var words []string
	if got != nil {
		for _, ingress := range got.Ingress {
			words = append(words, ingress.IP)
		}
	}
	return strings.Join(words, " ")
}
