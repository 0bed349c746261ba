// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// setNetwork has Nodes with these addresses, in subnets, join and others leave.
func (c *cluster) setNetwork(interfaces ...string) {
	c.t.Helper()
	network := ipam.Network{}
	for i, text := range interfaces {
		node := ipam.NetworkNode{Name: "node" + string(rune('1'+i)), Interfaces: []netip.Prefix{netip.MustParsePrefix(text)}}
		network.Nodes = append(network.Nodes, node)
	}
	c.network.Store(&network)
	for _, l := range c.leaders {
		l.NetworkChanged()
	}
	c.settle()
}

func (c *cluster) wantReserved(pool, reason, message string) {
	c.t.Helper()
	got := meta.FindStatusCondition(c.pool(pool).Status.Conditions, v1alpha1.ConditionReserved)
	if got == nil || got.Reason != reason || !strings.Contains(got.Message, message) {
		c.t.Errorf("condition Reserved of %s is %v, want the reason %s and %q", pool, got, reason, message)
	}
}

// Addresses of the network are not given, and whoever asks for one is told whose it is.
func TestReservedAddressesAreNotGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "198.51.100.0/24 2001:db8:51::/64"))
		l, start := c.build()
		c.setNetwork("198.51.100.1/24", "2001:db8:51::1/64")
		start()
		c.settle()
		c.create(newService("web", require, "IPv4 IPv6"))
		l.mustSync("web")
		c.wantShown("web", "198.51.100.2 2001:db8:51::2")
		c.create(newService("hijack", single, "IPv4", annotate(fixedKey, "198.51.100.1")))
		l.wantError("hijack", "198.51.100.1 (address of Node node1)")
		c.wantReserved("lan", v1alpha1.ReasonReserved, "3 IPv4 and 2 IPv6 addresses are never given, the first of them: "+
			"198.51.100.0 (network address of 198.51.100.0/24 on node1), 198.51.100.1 (address of Node node1), ")
		if got := c.pool("lan").Status.IPv4.Capacity; got != 253 {
			t.Errorf("the capacity is %d, want 253", got)
		}
		// The Node goes, and the Service that waits for its address is woken.
		l.takeWoken()
		c.setNetwork("203.0.113.1/32")
		l.wantWoken("hijack")
		l.mustSync("hijack")
		c.wantShown("hijack", "198.51.100.1")
	})
}

// A Node joins with the address of a Service: nothing is taken away, and everybody is told, once for each leader.
func TestNodeJoinsWithAddressOfService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1 192.0.2.2"))
		l := c.lead()
		c.create(newService("web", single, "IPv4"))
		l.mustSync("web")
		c.wantReserved("lan", v1alpha1.ReasonNoneReserved, "")
		c.setNetwork("192.0.2.1/32")
		c.setNetwork("192.0.2.1/32", "203.0.113.1/32")
		c.wantReserved("lan", v1alpha1.ReasonReservedInUse, "192.0.2.1 reserved and in use")
		for _, want := range []string{
			"Warning ReservedAddress 192.0.2.1 is the address of Node node1",
			"192.0.2.1, the address of Node node1, is an address of Service default/web",
		} {
			if n := l.eventsWith(want); n != 1 {
				t.Errorf("%d events say %q, want 1: %v", n, want, l.events)
			}
		}
		l.mustSync("web")
		c.wantShown("web", "192.0.2.1")
		c.wantClaims("192.0.2.1=web")

		l.stop()
		l = c.lead()
		if n := l.eventsWith("Warning ReservedAddress 192.0.2.1 is the address of Node node1"); n != 1 {
			t.Errorf("%d events of the next leader, want 1: %v", n, l.events)
		}
		l.mustSync("web")
		c.wantShown("web", "192.0.2.1")
		c.edit("web", annotate(v1alpha1.AnnotationReallocate, "true"))
		l.mustSync("web")
		c.settle()
		c.wantShown("web", "192.0.2.2")
		c.wantReserved("lan", v1alpha1.ReasonReserved, "1 IPv4 addresses are never given")
	})
}
