// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// route is a path to a prefix as FRR has it.
type route struct {
	NextHop, ASPath, Communities, LargeCommunities string
	MED, LocalPref                                 int
}

// routes asks FRR on the router for the paths to a prefix, in the order of their next hops.
func (s *stage) routes(ctx context.Context, prefix string) ([]route, error) {
	family := "ipv4"
	if strings.Contains(prefix, ":") {
		family = "ipv6"
	}
	out, err := s.Vtysh(ctx, lab.Router, "show bgp "+family+" unicast "+prefix+" json")
	if err != nil {
		return nil, err
	}
	var answer struct {
		Paths []struct {
			ASPath         struct{ String string }
			Community      struct{ String string }
			LargeCommunity struct{ String string }
			Metric         int
			LocPrf         int
			NextHops       []struct{ IP, Scope string }
		}
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return nil, fmt.Errorf("%w in %s", err, out)
	}
	var routes []route
	for _, p := range answer.Paths {
		for _, hop := range p.NextHops {
			if hop.Scope != "link-local" {
				routes = append(routes, route{hop.IP, p.ASPath.String, p.Community.String, p.LargeCommunity.String, p.Metric, p.LocPrf})
			}
		}
	}
	slices.SortFunc(routes, func(a, b route) int { return cmp.Compare(a.NextHop, b.NextHop) })
	return routes, nil
}

// host returns the prefix of one address.
func host(ip string) string {
	a := netip.MustParseAddr(ip)
	return netip.PrefixFrom(a, a.BitLen()).String()
}

// announcedFrom waits until the router has paths to each address by exactly these nodes' own addresses of the same family.
func (s *stage) announcedFrom(t *testing.T, ips []string, nodes ...string) {
	t.Helper()
	for _, ip := range ips {
		var want []string
		for _, node := range nodes {
			for _, a := range s.Addresses(node) {
				if a.Is4() == netip.MustParseAddr(ip).Is4() {
					want = append(want, a.String())
				}
			}
		}
		s.until(t, patience, fmt.Sprintf("next hops %v to %s", want, ip), func(ctx context.Context) (bool, string) {
			routes, err := s.routes(ctx, host(ip))
			var got []string
			for _, r := range routes {
				got = append(got, r.NextHop)
			}
			return err == nil && slices.Equal(got, want), fmt.Sprint(got, err)
		})
	}
}

// hops returns the next hops of the routes by BGP that are in the router's kernel, by the address.
func (s *stage) hops(ctx context.Context) (map[string][]string, error) {
	const bgp = "186" // RTPROT_BGP: not every version of ip knows the name.
	hops := map[string][]string{}
	for _, family := range []string{"-4", "-6"} {
		out, err := s.Command(ctx, lab.Router, "ip", "-j", family, "route", "show", "proto", bgp).Output()
		if err != nil {
			return nil, err
		}
		var routes []struct {
			Dst, Gateway string
			NextHops     []struct{ Gateway string }
		}
		if len(out) == 0 {
			continue
		}
		if err := json.Unmarshal(out, &routes); err != nil {
			return nil, fmt.Errorf("%w in %s", err, out)
		}
		for _, r := range routes {
			if r.Gateway != "" {
				hops[r.Dst] = append(hops[r.Dst], r.Gateway)
			}
			for _, hop := range r.NextHops {
				hops[r.Dst] = append(hops[r.Dst], hop.Gateway)
			}
		}
	}
	return hops, nil
}

// router restarts FRR on the router with another configuration until the test ends.
func (s *stage) router(t *testing.T, config string) {
	t.Helper()
	if err := s.StartFRR(t.Context(), lab.Router, config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.StartFRR(context.Background(), lab.Router, cluster.RouterConfig); err != nil {
			t.Error(err)
		}
	})
}

func TestEveryEligibleNodeAnnouncesToTheRouter(t *testing.T) {
	s := newStage(t, dual)
	nodes := s.Nodes()
	s.pool(t, "", "192.0.2.0/24", "2001:db8:c::/64") // on no link: the router needs the routes
	s.bgp(t)
	s.web(t, nodes...)
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	s.announcedFrom(t, ips, nodes...)
	for _, ip := range ips {
		s.reach(t, lab.Ext, ip, "/hostname")
	}

	t.Run("a node with the exclusion label does not", func(t *testing.T) {
		node := &corev1.Node{}
		node.Name = "node3"
		s.patch(t, node, `{metadata: {labels: {node.kubernetes.io/exclude-from-external-load-balancers: ""}}}`)
		t.Cleanup(func() {
			s.kubectlAfter(t, "label", "node", "node3", "node.kubernetes.io/exclude-from-external-load-balancers-")
		})
		s.announcedFrom(t, ips, "node1", "node2")
		s.patch(t, node, `{metadata: {labels: {node.kubernetes.io/exclude-from-external-load-balancers: "false"}}}`)
		s.announcedFrom(t, ips, nodes...)
	})
	t.Run("a Service without a ready endpoint is announced by none", func(t *testing.T) {
		for _, node := range nodes {
			s.remove(t, &corev1.Pod{ObjectMeta: s.pod(node)})
		}
		s.announcedFrom(t, ips)
		s.web(t, "node2")
		s.announcedFrom(t, ips, nodes...)
		for _, ip := range ips {
			s.reach(t, lab.Ext, ip, "/hostname")
		}
	})
	t.Run("a deleted Service is withdrawn", func(t *testing.T) {
		s.remove(t, &corev1.Service{ObjectMeta: s.service("web").ObjectMeta})
		s.announcedFrom(t, ips)
	})
}

// The advertisements select the Service by a label of its namespace, which that gets when all else is there, and loses at the end.
func TestExternalTrafficPolicyLocalIsAnnouncedWhereEndpointsAre(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	s.bgp(t)
	s.layer2On(t, "node1")
	s.onlyLabelled(t, "L2Advertisement")
	s.onlyLabelled(t, "BGPAdvertisement")
	svc := s.service("web", v4, v6)
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	s.add(t, svc)
	ips := s.addresses(t, "web", 2)
	client, ext := s.Addresses(lab.Client), s.Addresses(lab.Ext)

	s.web(t, "node3")
	notSelected := "namespaceSelectors of L2Advertisement " + s.ns + " do not select namespace " + s.ns
	s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionFalse, notSelected)
	s.announcedFrom(t, ips)
	s.label(t, true)
	s.announcedFrom(t, ips, "node3")
	if holder := s.holder(t, "web", 2); holder != "node3" {
		t.Errorf("%s holds the Service on layer 2, want the node with the endpoint, however much node1 is preferred", holder)
	}
	for i, ip := range ips {
		for from, want := range map[string]netip.Addr{lab.Client: client[i], lab.Ext: ext[i]} {
			got, err := netip.ParseAddrPort(s.reach(t, from, ip, "/clientip"))
			if err != nil {
				t.Fatal(err)
			}
			if got.Addr() != want {
				t.Errorf("%s saw the request of %s come from %s, want %s", ip, from, got.Addr(), want)
			}
		}
	}
	s.web(t, "node2")
	s.announcedFrom(t, ips, "node2", "node3")
	s.remove(t, &corev1.Pod{ObjectMeta: s.pod("node3")})
	s.announcedFrom(t, ips, "node2")
	s.until(t, patience, "node2 to hold the Service on layer 2", func(ctx context.Context) (bool, string) {
		holder := s.holder(t, "web", 2)
		return holder == "node2", holder
	})
	for _, ip := range ips {
		s.reach(t, lab.Client, ip, "/clientip")
		s.reach(t, lab.Ext, ip, "/clientip")
	}
	s.label(t, false)
	s.announcedFrom(t, ips)
	s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionFalse, notSelected)
	if macs := s.macs(t.Context(), ips[0]); len(macs) > 0 {
		t.Errorf("%v still answer for %s on the LAN", macs, ips[0])
	}
}

// Two Services with externalTrafficPolicy Local have their pods on different nodes, and one aggregate. Each node announces the aggregate, and the
// address of its own Service beside it: a router that spreads over both nodes would lose half of the connections.
func TestAnAggregateLosesNothingOfLocalServices(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", "192.0.2.48/28", "2001:db8:c::30/124")
	s.bgp(t)
	s.patch(t, s.object(t, "BGPAdvertisement"), `{spec: {aggregationLength: 28, aggregationLengthV6: 124}}`)
	s.web(t, "node1", "node2")
	for _, node := range []string{"node1", "node2"} {
		s.kubectl(t, "label", "pod", "-n", s.ns, "web-"+node, "on="+node)
		svc := s.service("on-"+node, v4, v6)
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		svc.Spec.Selector = map[string]string{"on": node}
		s.add(t, svc)
	}
	for _, aggregate := range []string{"192.0.2.48/28", "2001:db8:c::30/124"} {
		s.until(t, patience, "two paths to "+aggregate, func(ctx context.Context) (bool, string) {
			paths, err := s.routes(ctx, aggregate)
			return err == nil && len(paths) == 2, fmt.Sprint(paths, err)
		})
	}
	for _, node := range []string{"node1", "node2"} {
		ips := s.addresses(t, "on-"+node, 2)
		s.announcedFrom(t, ips, node)
		for _, ip := range ips {
			for range 10 {
				if got := s.reach(t, lab.Ext, ip, "/hostname"); got != node {
					t.Errorf("%s answers for %s, want %s", got, ip, node)
				}
			}
		}
	}
}

func TestTheRouterHearsTheAttributesOfAnAdvertisement(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", "192.0.2.0/24", "2001:db8:c::/64")
	s.web(t, "node1")
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	s.create(t, `
apiVersion: tandem-lb.io/v1alpha1
kind: Community
metadata: {name: $NS}
spec: {communities: [{name: primary-path, value: "64512:1000"}]}
---
apiVersion: tandem-lb.io/v1alpha1
kind: BGPPeer
metadata: {name: $NS}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 198.51.100.1, nodeSelectors: [{matchLabels: {kubernetes.io/hostname: node1}}]}
---
apiVersion: tandem-lb.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: $NS}
spec:
  addressPools: [$NS]
  peers: [$NS]
  localPref: 200
  med: 10
  asPathPrepend: 2
  communities: ["64512:100", "no-advertise", "primary-path", "large:64512:1:2"]
---
apiVersion: tandem-lb.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: $NS-aggregate}
spec: {addressPools: [$NS], peers: [$NS], aggregationLength: 28, aggregationLengthV6: 120, communities: [no-export]}
`)
	becomes := func(t *testing.T, prefix string, want route) {
		t.Helper()
		s.until(t, patience, "the right path to "+prefix, func(ctx context.Context) (bool, string) {
			got, err := s.routes(ctx, prefix)
			diff := gocmp.Diff([]route{want}, got)
			return err == nil && diff == "", fmt.Sprintf("%v (-want +got)\n%s", err, diff)
		})
	}
	own := s.Addresses("node1")
	full := route{
		ASPath: "64512 64512 64512", Communities: "64512:100 64512:1000 no-advertise", LargeCommunities: "64512:1:2", MED: 10, LocalPref: 0,
	}
	aggregate := route{ASPath: "64512", Communities: "no-export"}
	lengths := []int{28, 120}
	t.Run("over eBGP, without a local preference (RFC 4271 §5.1.5)", func(t *testing.T) {
		for i, ip := range ips {
			full.NextHop, aggregate.NextHop = own[i].String(), own[i].String()
			becomes(t, host(ip), full)
			becomes(t, netip.PrefixFrom(netip.MustParseAddr(ip), lengths[i]).Masked().String(), aggregate)
		}
	})
	t.Run("over iBGP, without a prepended AS path (RFC 4271 §5.1.2)", func(t *testing.T) {
		s.router(t, strings.ReplaceAll(cluster.RouterConfig, "router bgp 64513", "router bgp 64512"))
		s.patch(t, s.object(t, "BGPPeer"), `{spec: {peerASN: 64512}}`)
		for i, ip := range ips {
			full.NextHop, aggregate.NextHop = own[i].String(), own[i].String()
			full.ASPath, full.LocalPref, aggregate.ASPath, aggregate.LocalPref = "Local", 200, "Local", 100
			becomes(t, host(ip), full)
			becomes(t, netip.PrefixFrom(netip.MustParseAddr(ip), lengths[i]).Masked().String(), aggregate)
		}
	})
}

func TestASessionNeedsItsPassword(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", "192.0.2.0/24", "2001:db8:c::/64")
	s.web(t, "node1")
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	s.bgp(t)
	s.announcedFrom(t, ips, s.Nodes()...)
	s.router(t, strings.Replace(
		cluster.RouterConfig, "neighbor NODES remote-as 64512", "neighbor NODES remote-as 64512\n neighbor NODES password correct-horse", 1,
	))
	s.patch(t, s.object(t, "BGPPeer"), `{spec: {passwordSecret: {name: $NS}}}`)
	s.until(t, patience, "word of the missing Secret", func(ctx context.Context) (bool, string) {
		got, detail := s.bgpSession(ctx, "node1")
		return got.State != speakerv1alpha1.BGPEstablished && strings.Contains(got.LastError, "there is no Secret tandem-system/"+s.ns), detail
	})
	s.announcedFrom(t, ips)
	s.create(t, `{apiVersion: v1, kind: Secret, metadata: {name: $NS, namespace: tandem-system}, stringData: {password: correct-horse}}`)
	s.announcedFrom(t, ips, s.Nodes()...)
	s.until(t, patience, "a session without complaint", func(ctx context.Context) (bool, string) {
		got, detail := s.bgpSession(ctx, "node1")
		return got.State == speakerv1alpha1.BGPEstablished && got.AdvertisedIPv4 == 1 && got.AdvertisedIPv6 == 1, detail
	})
}

func TestASessionOverIPv6CarriesBothFamilies(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", "192.0.2.0/24", "2001:db8:c::/64")
	s.web(t, "node1")
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	s.bgp(t)
	s.patch(t, s.object(t, "BGPPeer"), `{spec: {peerAddress: "2001:db8:51::1"}}`)
	s.announcedFrom(t, ips, s.Nodes()...)
	for _, ip := range ips {
		s.reach(t, lab.Ext, ip, "/hostname")
	}
}
