// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLinks(t *testing.T) {
	for _, test := range []struct {
		name string
		plan plan
		want string
	}{
		{
			name: "one node with both families",
			plan: plan{name: "x", nodes: 1, families: Dual},
			want: `
x-sw:
  link set lo up
  link add br0 type bridge mcast_snooping 0
  link set br0 up
  link add p-router type veth peer name eth0 netns x-router
  link set p-router master br0 up
  link add p-cp type veth peer name eth0 netns x-cp
  link set p-cp master br0 up
  link add p-client type veth peer name eth0 netns x-client
  link set p-client master br0 up
  link add p-node1 type veth peer name eth0 netns x-node1
  link set p-node1 master br0 up
x-router:
  link set lo up
  link set eth0 up
  address add 198.51.100.1/24 dev eth0
  address add 2001:db8:51::1/64 dev eth0 nodad
  link add ext0 type veth peer name eth0 netns x-ext
  link set ext0 up
  address add 203.0.113.1/24 dev ext0
  address add 2001:db8:203::1/64 dev ext0 nodad
  route add 10.244.1.0/24 via 198.51.100.11
  route add fd00:244:0:1::/64 via 2001:db8:51::11
x-cp:
  link set lo up
  link set eth0 up
  address add 198.51.100.10/24 dev eth0
  address add 2001:db8:51::10/64 dev eth0 nodad
  route add 0.0.0.0/0 via 198.51.100.1
  route add ::/0 via 2001:db8:51::1
  route add 10.244.1.0/24 via 198.51.100.11
  route add fd00:244:0:1::/64 via 2001:db8:51::11
x-client:
  link set lo up
  link set eth0 up
  address add 198.51.100.100/24 dev eth0
  address add 2001:db8:51::100/64 dev eth0 nodad
  route add 0.0.0.0/0 via 198.51.100.1
  route add ::/0 via 2001:db8:51::1
x-ext:
  link set lo up
  link set eth0 up
  address add 203.0.113.100/24 dev eth0
  address add 2001:db8:203::100/64 dev eth0 nodad
  route add 0.0.0.0/0 via 203.0.113.1
  route add ::/0 via 2001:db8:203::1
x-node1:
  link set lo up
  link set eth0 up
  address add 198.51.100.11/24 dev eth0
  address add 2001:db8:51::11/64 dev eth0 nodad
  route add 0.0.0.0/0 via 198.51.100.1
  route add ::/0 via 2001:db8:51::1
  link add cni0 address 02:00:00:00:ce:01 type bridge
  link set cni0 up
  address add 10.244.1.1/24 dev cni0
  address add fd00:244:0:1::1/64 dev cni0 nodad
`,
		},
		{
			name: "two nodes with IPv6 only know no IPv4 and route to each other's pods",
			plan: plan{name: "y", nodes: 2, families: IPv6},
			want: `
y-sw:
  link set lo up
  link add br0 type bridge mcast_snooping 0
  link set br0 up
  link add p-router type veth peer name eth0 netns y-router
  link set p-router master br0 up
  link add p-cp type veth peer name eth0 netns y-cp
  link set p-cp master br0 up
  link add p-client type veth peer name eth0 netns y-client
  link set p-client master br0 up
  link add p-node1 type veth peer name eth0 netns y-node1
  link set p-node1 master br0 up
  link add p-node2 type veth peer name eth0 netns y-node2
  link set p-node2 master br0 up
y-router:
  link set lo up
  link set eth0 up
  address add 2001:db8:51::1/64 dev eth0 nodad
  link add ext0 type veth peer name eth0 netns y-ext
  link set ext0 up
  address add 2001:db8:203::1/64 dev ext0 nodad
  route add fd00:244:0:1::/64 via 2001:db8:51::11
  route add fd00:244:0:2::/64 via 2001:db8:51::12
y-cp:
  link set lo up
  link set eth0 up
  address add 2001:db8:51::10/64 dev eth0 nodad
  route add ::/0 via 2001:db8:51::1
  route add fd00:244:0:1::/64 via 2001:db8:51::11
  route add fd00:244:0:2::/64 via 2001:db8:51::12
y-client:
  link set lo up
  link set eth0 up
  address add 2001:db8:51::100/64 dev eth0 nodad
  route add ::/0 via 2001:db8:51::1
y-ext:
  link set lo up
  link set eth0 up
  address add 2001:db8:203::100/64 dev eth0 nodad
  route add ::/0 via 2001:db8:203::1
y-node1:
  link set lo up
  link set eth0 up
  address add 2001:db8:51::11/64 dev eth0 nodad
  route add ::/0 via 2001:db8:51::1
  link add cni0 address 02:00:00:00:ce:01 type bridge
  link set cni0 up
  address add fd00:244:0:1::1/64 dev cni0 nodad
  route add fd00:244:0:2::/64 via 2001:db8:51::12
y-node2:
  link set lo up
  link set eth0 up
  address add 2001:db8:51::12/64 dev eth0 nodad
  route add ::/0 via 2001:db8:51::1
  route add fd00:244:0:1::/64 via 2001:db8:51::11
  link add cni0 address 02:00:00:00:ce:02 type bridge
  link set cni0 up
  address add fd00:244:0:2::1/64 dev cni0 nodad
`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got strings.Builder
			got.WriteString("\n")
			for _, batch := range test.plan.links() {
				got.WriteString(batch.namespace + ":\n  " + strings.Join(batch.commands, "\n  ") + "\n")
			}
			if diff := cmp.Diff(test.want, got.String()); diff != "" {
				t.Errorf("commands (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	for _, test := range []struct {
		name     string
		families Families
		host     string
		want     string
	}{
		{"a node has a pair, IPv4 first", Dual, "node3", "198.51.100.13,2001:db8:51::13"},
		{"the tenth node's addresses are alike in decimal digits", Dual, "node10", "198.51.100.20,2001:db8:51::20"},
		{"a node of an IPv4 lab", IPv4, "node1", "198.51.100.11"},
		{"a node of an IPv6 lab", IPv6, "node1", "2001:db8:51::11"},
		{"the router has its LAN addresses", Dual, Router, "198.51.100.1,2001:db8:51::1"},
		{"the host behind the router", Dual, Ext, "203.0.113.100,2001:db8:203::100"},
		{"a node that the lab doesn't have", Dual, "node11", ""},
		{"the switch is no host", Dual, bridge, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := plan{name: "x", nodes: 10, families: test.families}
			if got := join(p.addresses(test.host)); got != test.want {
				t.Errorf("addresses(%s) = %s, want %s", test.host, got, test.want)
			}
		})
	}
}

// Pods outside the cluster CIDR would be masqueraded by kube-proxy.
func TestPodsAreInClusterCIDRs(t *testing.T) {
	p := plan{name: "x", nodes: 80, families: Dual}
	clusters := prefixes(t, p.clusterCIDRs())
	for i := range p.nodes {
		for j, pods := range prefixes(t, p.podCIDRs(i+1)) {
			if !clusters[j].Contains(pods.Addr()) || pods.Bits() < clusters[j].Bits() {
				t.Errorf("pods of node%d, %s, are outside %s", i+1, pods, clusters[j])
			}
		}
	}
}
