// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/lab"
)

// node1 gets a second interface on the LAN, and then an IPv6 address of 128 bits, as DHCPv6 gives it, with a route to the subnet. It answers for both
// addresses, by the one interface by which its kernel reaches the subnet.
func TestOneInterfaceAnswersInASubnet(t *testing.T) {
	answers := func(t *testing.T, s *stage, ips []string) {
		t.Helper()
		mac := s.mac(t, "node1")
		for _, ip := range ips {
			s.until(t, patience, ip+" at eth0 alone", func(ctx context.Context) (bool, string) {
				got := s.macs(ctx, ip)
				return slices.Equal(got, []string{mac}), fmt.Sprint(got)
			})
		}
		if diff := cmp.Diff([]string{"eth0"}, s.record(t).Status.Interfaces); diff != "" {
			t.Errorf("interfaces on record (-want +got):\n%s", diff)
		}
	}
	t.Run("of two on one LAN", func(t *testing.T) {
		s := newStage(t, dual)
		ips := s.heldBy(t, "node1")
		s.run(t, "node1", "ip link add eth1 link eth0 type macvlan mode bridge")
		t.Cleanup(func() { s.undo(t, "node1", "ip link delete eth1") })
		s.run(t, "node1", "ip addr add 198.51.100.61/24 dev eth1")
		s.run(t, "node1", "ip addr add 2001:db8:51::61/64 dev eth1 nodad")
		s.run(t, "node1", "ip link set eth1 up")
		s.until(t, patience, "the speaker to see eth1", func(ctx context.Context) (bool, string) {
			state, err := s.speaker(ctx, "node1")
			return slices.ContainsFunc(state.Interfaces, func(i speakerv1alpha1.InterfaceState) bool {
				return i.Name == "eth1" && len(i.Addresses) >= 2
			}), fmt.Sprintf("%+v, %v", state.Interfaces, err)
		})
		answers(t, s, ips)
	})
	t.Run("with an address of a single length", func(t *testing.T) {
		s := newStage(t, dual)
		own := s.Addresses("node1")[1].String()
		t.Cleanup(func() {
			for _, command := range []string{
				"ip -6 addr del " + own + "/128 dev eth0", "ip -6 addr add " + own + "/64 dev eth0 nodad",
				"ip -6 route replace default via " + s.Addresses(lab.Router)[1].String(), "ip -6 route del 2001:db8:51::/64 metric 1024",
			} {
				s.undo(t, "node1", command)
			}
		})
		s.run(t, "node1", "ip -6 addr del "+own+"/64 dev eth0")
		s.run(t, "node1", "ip -6 addr add "+own+"/128 dev eth0 nodad")
		s.run(t, "node1", "ip -6 route replace 2001:db8:51::/64 dev eth0")
		s.run(t, "node1", "ip -6 route replace default via "+s.Addresses(lab.Router)[1].String())
		ips := s.heldBy(t, "node1") // what it held would have moved while it was in no IPv6 subnet
		answers(t, s, ips)
		s.reach(t, lab.Client, ips[1], "/hostname")
		s.reach(t, lab.Ext, ips[1], "/hostname")
	})
}

// undo runs a command on a host when a test ends.
func (s *stage) undo(t *testing.T, host, command string) {
	t.Helper()
	args := strings.Fields(command)
	if out, err := s.Command(context.Background(), host, args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%s on %s: %v\n%s", command, host, err, out)
	}
}
