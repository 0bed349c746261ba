// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// run runs a command on a host of the cluster.
func (s *stage) run(t *testing.T, host, command string) {
	t.Helper()
	args := strings.Fields(command)
	if out, err := s.Command(t.Context(), host, args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s on %s: %v\n%s", command, host, err, out)
	}
}

// cable connects a node to the router by a link that has no addresses but link-local ones, and is called fab0 on the node.
func (s *stage) cable(t *testing.T, node, port string) {
	t.Helper()
	s.run(t, node, "ip link add fab0 type veth peer name "+port+" netns "+filepath.Base(s.Namespace(lab.Router)))
	t.Cleanup(func() {
		if out, err := s.Command(context.Background(), node, "ip", "link", "delete", "fab0").CombinedOutput(); err != nil {
			t.Errorf("removing fab0 of %s: %v\n%s", node, err, out)
		}
	})
}

// TestLinkLocalPeers has routed links. node1 names the router by its interface alone. node2 names the router's link-local address.
func TestLinkLocalPeers(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", "192.0.2.0/24", "2001:db8:c::/64") // on no link: the router needs the routes
	s.web(t, "node1")
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)

	s.cable(t, "node1", "swp1")
	s.cable(t, "node2", "swp2")
	s.run(t, "node2", "ip link set fab0 addrgenmode none")
	s.run(t, lab.Router, "ip link set swp2 addrgenmode none")
	s.run(t, "node2", "ip addr add fe80::12/64 dev fab0 nodad")
	s.run(t, lab.Router, "ip addr add fe80::1/64 dev swp2 nodad")
	s.run(t, "node1", "ip link set fab0 up")
	s.run(t, "node2", "ip link set fab0 up")
	s.run(t, lab.Router, "ip link set swp1 up")
	s.run(t, lab.Router, "ip link set swp2 up")
	peers := strings.Replace(cluster.RouterConfig, " address-family ipv4 unicast\n", ` neighbor swp1 interface remote-as external
 neighbor fe80::12 remote-as 64512
 neighbor fe80::12 interface swp2
 neighbor fe80::12 capability extended-nexthop
 address-family ipv4 unicast
`, 1)
	const activate = "  neighbor NODES activate\n"
	s.router(t, strings.ReplaceAll(peers, activate, activate+"  neighbor swp1 activate\n  neighbor fe80::12 activate\n"))
	s.create(t, `
apiVersion: tandem-lb.io/v1alpha1
kind: BGPPeer
metadata: {name: $NS-unnumbered}
spec:
  myASN: 64512
  dynamicASN: External
  interface: fab0
  nodeSelectors: [{matchLabels: {kubernetes.io/hostname: node1}}]
---
apiVersion: tandem-lb.io/v1alpha1
kind: BGPPeer
metadata: {name: $NS-link-local}
spec:
  myASN: 64512
  peerASN: 64513
  peerAddress: fe80::1
  interface: fab0
  nodeSelectors: [{matchLabels: {kubernetes.io/hostname: node2}}]
---
apiVersion: tandem-lb.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: $NS}
spec: {addressPools: [$NS], peers: [$NS-unnumbered, $NS-link-local]}
`)
	for _, node := range []string{"node1", "node2"} {
		s.until(t, patience, "a session of "+node+" with both prefixes", func(ctx context.Context) (bool, string) {
			state, err := s.speaker(ctx, node)
			if err != nil || len(state.BGPSessions) != 1 {
				return false, fmt.Sprint(state.BGPSessions, err)
			}
			got := state.BGPSessions[0]
			address, err := netip.ParseAddr(got.Address)
			return got.State == speakerv1alpha1.BGPEstablished && got.AdvertisedIPv4 == 1 && got.AdvertisedIPv6 == 1 &&
				err == nil && address.IsLinkLocalUnicast() && address.Zone() == "fab0", fmt.Sprintf("%+v", got)
		})
	}
	for _, ip := range ips {
		family := "-4"
		if strings.Contains(ip, ":") {
			family = "-6"
		}
		s.until(t, patience, "routes to "+ip+" by both links", func(ctx context.Context) (bool, string) {
			out, err := s.Command(ctx, lab.Router, "ip", family, "route", "show", ip).CombinedOutput()
			routes := string(out)
			return err == nil && strings.Contains(routes, "dev swp1") && strings.Contains(routes, "dev swp2"), fmt.Sprint(routes, err)
		})
		s.reach(t, lab.Ext, ip, "/hostname")
	}
}
