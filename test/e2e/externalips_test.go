// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// TestExternalIPs: static routes of the router lead the external addresses of a Service to one node. A pool that consents adopts them, the nodes announce them
// by BGP, and the static routes go, while clients behind the router ask 100 times a second in each family.
func TestExternalIPs(t *testing.T) {
	s := newStage(t, dual)
	ips := []string{"192.0.2.77", "2001:db8:c::77"}
	s.consents(t, ips)
	s.bgp(t)
	s.web(t, s.Nodes()...)
	web := s.service("web", v4, v6)
	web.Spec.Type, web.Spec.ExternalIPs = corev1.ServiceTypeClusterIP, ips
	s.add(t, web)
	before := web.Spec.DeepCopy()
	t.Cleanup(func() { _ = s.staticRoutes(context.Background(), "no ip", ips, "node1") }) // Where the test ends early they are there still.
	if err := s.staticRoutes(t.Context(), "ip", ips, "node1"); err != nil {
		t.Fatal(err)
	}
	s.answers(t, lab.Ext, ips, 80)
	s.pluginSays(t, 0, append([]string{"nobody known", "can be adopted"}, ips...), "externalips", "-n", s.ns)

	changes := s.routeChanges(t, ips)
	stop := s.askingOften(t, lab.Ext, ips)
	start := time.Now()
	s.pluginSays(t, 0, []string{"ADOPTED:", ips[0], ips[1]}, "externalips", "adopt", "web", "-n", s.ns)
	s.announcedFrom(t, ips, s.Nodes()...)
	if err := s.staticRoutes(t.Context(), "no ip", ips, "node1"); err != nil {
		t.Fatal(err)
	}
	s.until(t, patience, "the routes by BGP in the router's kernel", func(ctx context.Context) (bool, string) {
		hops, err := s.hops(ctx)
		return err == nil && len(hops[ips[0]]) == len(s.Nodes()) && len(hops[ips[1]]) == len(s.Nodes()), fmt.Sprint(hops, err)
	})
	s.answers(t, lab.Ext, ips, 80)
	took := time.Since(start)
	for i, answers := range stop() {
		var requests tally
		requests.add(answers)
		spread := requests.underWay(changes())
		soaked.note(t, "from a static route to BGP, "+ips[i], "in %v, longest time without an answer %v, %v; %d of them over connections that the router sent elsewhere",
			took.Round(10*time.Millisecond), longestGap(answers, start).Round(time.Millisecond), requests, spread)
		if requests.failed > spread {
			t.Errorf("%s: %v; %d of them while the router spread connections anew", ips[i], requests, spread)
		}
	}
	s.adopted(t, before, ips)
	s.refusesAThief(t, ips[0])
}

// consents makes a pool of a pair of addresses that adopts them for the stage's Services, and gives them to nobody else.
func (s *stage) consents(t *testing.T, ips []string) {
	t.Helper()
	s.create(t, fmt.Sprintf(`
apiVersion: tandem-lb.io/v1alpha1
kind: AddressPool
metadata: {name: $NS}
spec:
  autoAssign: false
  adoptExternalIPs: true
  namespaceSelectors: [{matchLabels: {kubernetes.io/metadata.name: $NS}}]
  ipv4: {ranges: ["%s"]}
  ipv6: {ranges: ["%s"]}
`, ips[0], ips[1]))
}

// adopted compares a Service with what it was when it had external addresses: it is a load balancer now, and all else is as it was.
func (s *stage) adopted(t *testing.T, before *corev1.ServiceSpec, ips []string) {
	t.Helper()
	var svc corev1.Service
	if err := s.Client.Get(t.Context(), client.ObjectKey{Namespace: s.ns, Name: "web"}, &svc); err != nil {
		t.Fatal(err)
	}
	if got := cluster.IPs(&svc); !slices.Equal(got, ips) {
		t.Errorf("the Service has %v, want %v", got, ips)
	}
	if len(svc.Spec.ExternalIPs) > 0 || svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		t.Errorf("the Service is of type %s, with externalIPs %v", svc.Spec.Type, svc.Spec.ExternalIPs)
	}
	for _, diff := range []string{cmp.Diff(before.ClusterIPs, svc.Spec.ClusterIPs), cmp.Diff(before.Selector, svc.Spec.Selector)} {
		if diff != "" {
			t.Errorf("(-before +after):\n%s", diff)
		}
	}
}

// refusesAThief has another Service of the namespace write the address of web into its externalIPs, on another port. It is not adopted.
func (s *stage) refusesAThief(t *testing.T, ip string) {
	t.Helper()
	thief := s.service("thief", v4)
	thief.Spec.Type, thief.Spec.ExternalIPs, thief.Spec.Ports[0].Port = corev1.ServiceTypeClusterIP, []string{ip}, 81
	s.add(t, thief)
	reason := fmt.Sprintf("%s/web has it (IPAddress %s)", s.ns, ip)
	s.pluginSays(t, 0, []string{"thief", reason}, "externalips", "-n", s.ns)
	s.pluginSays(t, 1, []string{"LEFT:", reason}, "externalips", "adopt", "thief", "-n", s.ns)
	if err := s.Client.Get(t.Context(), client.ObjectKeyFromObject(thief), thief); err != nil {
		t.Fatal(err)
	}
	if thief.Spec.Type != corev1.ServiceTypeClusterIP || !slices.Equal(thief.Spec.ExternalIPs, []string{ip}) {
		t.Errorf("the refused Service is of type %s, with externalIPs %v", thief.Spec.Type, thief.Spec.ExternalIPs)
	}
}

// askingOften has a host ask port 80 of every address 100 times a second, until stop is called, which returns the answers of each.
func (s *stage) askingOften(t *testing.T, host string, ips []string) (stop func() [][]cluster.Answer) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	answers := make([][]cluster.Answer, len(ips))
	var asking sync.WaitGroup
	for i, ip := range ips {
		asking.Go(func() {
			answers[i] = s.Probe(ctx, host, cluster.URL(ip, "/hostname"), 10*time.Millisecond, 3*time.Second)
		})
	}
	return func() [][]cluster.Answer {
		cancel()
		asking.Wait()
		return answers
	}
}

// staticRoutes gives the router's FRR static routes of addresses to a node, or takes them away with "no ip".
func (s *stage) staticRoutes(ctx context.Context, verb string, ips []string, node string) error {
	commands := []string{"configure terminal"}
	for _, ip := range ips {
		family, a := verb, netip.MustParseAddr(ip)
		if a.Is6() {
			family = strings.Replace(verb, "ip", "ipv6", 1)
		}
		i := slices.IndexFunc(s.Addresses(node), func(own netip.Addr) bool { return own.Is4() == a.Is4() })
		commands = append(commands, fmt.Sprintf("%s route %s %s", family, host(ip), s.Addresses(node)[i]))
	}
	out, err := s.Vtysh(ctx, lab.Router, commands...)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}
