// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestProbes has node1 decide about the Service web, and about others that share its addresses. Only node1 is alive. Each line says what is
// probed and what is recorded.
func TestProbes(t *testing.T) {
	const station = "02:00:00:00:00:42"
	recorded := func(node string, svc Service, interfaces []string, addresses ...string) Service {
		svc.Holder, svc.Recorded = node, Record{Addresses: addresses, Interfaces: interfaces}
		return svc
	}
	eth0, both := []string{"eth0"}, []string{"eth0", "eth1"}
	const (
		probes4, probes6 = "probe " + v4 + " on eth0", "probe " + v6 + " on eth0"
		takes4, takes6   = "announce " + v4 + " on eth0", "announce " + v6 + " on eth0"
	)
	for _, tt := range []struct {
		name     string
		services []Service
		// free and used are the addresses, with their interfaces, of which the probes of node1 have found out something.
		free, used []string
		// eth1 has the subnet as well.
		eth1 bool
		want []string
		// explained is what Explain says of v4 on node1.
		explained string
	}{
		{
			name:     "the addresses of a new Service are probed, and nothing is recorded yet",
			services: []Service{service("web", v4, v6)},
			want:     []string{probes4, probes6}, explained: "Probing",
		},
		{
			name:     "one is found free before the other, and they are recorded together",
			services: []Service{service("web", v4, v6)}, free: []string{v4 + " eth0"},
			want: []string{probes4, probes6}, explained: "Announced (eth0)",
		},
		{
			name:     "when they are free they are recorded",
			services: []Service{service("web", v4, v6)}, free: []string{v4 + " eth0", v6 + " eth0"},
			want: []string{probes4, probes6, "record web: " + v4 + ", " + v6 + " on eth0"}, explained: "Announced (eth0)",
		},
		{
			name:     "an address in use is not recorded, the other is",
			services: []Service{service("web", v4, v6)}, free: []string{v6 + " eth0"}, used: []string{v4 + " eth0"},
			want: []string{probes4, probes6, "record web: " + v6 + " on eth0"}, explained: "AddressInUse (" + station + " on eth0)",
		},
		{
			name:     "with both in use the node is recorded, and no address",
			services: []Service{service("web", v4, v6)}, used: []string{v4 + " eth0", v6 + " eth0"},
			want: []string{probes4, probes6, "record web:  on "}, explained: "AddressInUse (" + station + " on eth0)",
		},
		{
			name:     "a speaker that restarts goes on with what it is on record for",
			services: []Service{recorded("node1", service("web", v4, v6), eth0, v4, v6)},
			want:     []string{takes4, takes6, "record web: " + v4 + ", " + v6 + " on eth0"}, explained: "Announced (eth0)",
		},
		{
			name:     "a takeover from a dead node is not probed, and not recorded before this node answers",
			services: []Service{recorded("node2", service("web", v4, v6), eth0, v4, v6)},
			want:     []string{takes4, takes6}, explained: "Announced (eth0)",
		},
		{
			name:     "then it is recorded",
			services: []Service{recorded("node2", service("web", v4, v6), eth0, v4, v6)}, free: []string{v4 + " eth0", v6 + " eth0"},
			want: []string{takes4, takes6, "record web: " + v4 + ", " + v6 + " on eth0"}, explained: "Announced (eth0)",
		},
		{
			name:     "nor is one from a node whose interfaces have other names",
			services: []Service{recorded("node2", service("web", v4, v6), []string{"ens3"}, v4, v6)}, free: []string{v4 + " eth0", v6 + " eth0"},
			want: []string{takes4, takes6, "record web: " + v4 + ", " + v6 + " on eth0"}, explained: "Announced (eth0)",
		},
		{
			name:     "an address that was given up is not probed",
			services: []Service{recorded("", service("web", v4, v6), nil, v4, v6)}, free: []string{v4 + " eth0", v6 + " eth0"},
			want: []string{takes4, takes6, "record web: " + v4 + ", " + v6 + " on eth0"}, explained: "Announced (eth0)",
		},
		{
			name:     "a second address is probed while the first is announced",
			services: []Service{recorded("node1", service("web", v4, v6), eth0, v6)},
			want:     []string{probes4, takes6, "record web: " + v6 + " on eth0"}, explained: "Probing",
		},
		{
			name:     "a takeover of a Service with an address that its last holder found in use probes that one alone",
			services: []Service{recorded("node2", service("web", v4, v6), eth0, v6)}, free: []string{v6 + " eth0"},
			want: []string{probes4, takes6, "record web: " + v6 + " on eth0"}, explained: "Probing",
		},
		{
			name:     "a Service whose address changes keeps its holder while the new one is probed",
			services: []Service{recorded("node1", service("web", v4), eth0, other4)},
			want:     []string{probes4, "record web:  on "}, explained: "Probing",
		},
		{
			name:     "an address that a sharer is on record for is not probed",
			services: []Service{recorded("node1", service("mail", v4), eth0, v4), service("web", v4)},
			want:     []string{takes4, "record mail: " + v4 + " on eth0", "record web: " + v4 + " on eth0"}, explained: "Announced (eth0)",
		},
		{
			name: "a takeover that is recorded in part is a takeover",
			services: []Service{
				recorded("node1", service("mail", v4), []string{"eth9"}, v4), recorded("node2", service("web", v4), eth0, v4),
			},
			want: []string{takes4, "record mail: " + v4 + " on eth0", "record web: " + v4 + " on eth0"}, explained: "Announced (eth0)",
		},
		{
			name:     "a record of another Service does not count",
			services: []Service{recorded("node1", service("old", other4), eth0, other4, v4), service("web", v4)},
			want:     []string{probes4, "announce " + other4 + " on eth0", "record old: " + other4 + " on eth0"}, explained: "Probing",
		},
		{
			name:     "a new address is probed on each interface",
			services: []Service{service("web", v4)}, eth1: true, free: []string{v4 + " eth1"}, used: []string{v4 + " eth0"},
			want: []string{"probe " + v4 + " on eth0, eth1", "record web: " + v4 + " on eth1"}, explained: "Announced (eth1)",
		},
		{
			name:     "an interface that comes later is probed while the other announces",
			services: []Service{recorded("node1", service("web", v4), eth0, v4)}, eth1: true,
			want: []string{takes4, "probe " + v4 + " on eth1", "record web: " + v4 + " on eth0"}, explained: "Announced (eth0)",
		},
		{
			name:     "and recorded when the address is free there",
			services: []Service{recorded("node1", service("web", v4), eth0, v4)}, eth1: true, free: []string{v4 + " eth1"},
			want: []string{takes4, "probe " + v4 + " on eth1", "record web: " + v4 + " on eth0, eth1"}, explained: "Announced (eth0, eth1)",
		},
		{
			name:     "two interfaces of the record are not probed",
			services: []Service{recorded("node1", service("web", v4), both, v4)}, eth1: true,
			want:      []string{"announce " + v4 + " on eth0, eth1", "record web: " + v4 + " on eth0, eth1"},
			explained: "Announced (eth0, eth1)",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := lan(tt.services...).from("node1")
			s.Alive = dead("node2", "node3")
			if tt.eth1 {
				changeNode(s, "node1", func(n *Node) { n.Interfaces[1].Prefixes = n.Interfaces[0].Prefixes })
			}
			s.Probed = func(_, iface string, ip netip.Addr) Probe {
				p := Probe{Free: slices.Contains(tt.free, ip.String()+" "+iface)}
				if slices.Contains(tt.used, ip.String()+" "+iface) {
					p.UsedBy = station
				}
				return p
			}
			d := Decide(s)
			var got []string
			for _, a := range d.Layer2 {
				if at := without(a.Interfaces, a.Probe); len(at) > 0 {
					got = append(got, fmt.Sprintf("announce %s on %s", a.Address, strings.Join(at, ", ")))
				}
				if len(a.Probe) > 0 {
					got = append(got, fmt.Sprintf("probe %s on %s", a.Address, strings.Join(a.Probe, ", ")))
				}
			}
			for name, r := range d.Records {
				addresses, interfaces := strings.Join(r.Addresses, ", "), strings.Join(r.Interfaces, ", ")
				got = append(got, fmt.Sprintf("record %s: %s on %s", name.Name, addresses, interfaces))
			}
			slices.Sort(got)
			slices.Sort(tt.want)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Decide (-want +got):\n%s", diff)
			}
			if got := explained(t, s, v4, "node1", ""); got != tt.explained {
				t.Errorf("Explain says %q, want %q", got, tt.explained)
			}
		})
	}
}

// A caller that knows of no probes takes each address to be free. A node may know that another has found an address in use.
func TestUnknownProbes(t *testing.T) {
	s := lan(service("web", v4)).from("node3") // which is elected
	if d := Decide(s); len(d.Records) != 1 {
		t.Errorf("Recorded %v, want web", d.Records)
	}
	if got := explained(t, s, v4, "node3", ""); got != "Announced (eth0)" {
		t.Errorf("Explained by the node itself: %s", got)
	}
	s.Node, s.Probed = "node1", func(node, iface string, ip netip.Addr) Probe {
		if node == "node3" && iface == "eth0" && ip == netip.MustParseAddr(v4) {
			return Probe{UsedBy: "02:00:00:00:00:42"}
		}
		return Probe{Free: true}
	}
	if got, want := explained(t, s, v4, "node3", ""), "AddressInUse (02:00:00:00:00:42 on eth0)"; got != want {
		t.Errorf("Explained by another node: %s, want %s", got, want)
	}
}
