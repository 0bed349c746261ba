// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/reachability"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// metricsOf compares some metrics of a collector, without their help.
func metricsOf(t *testing.T, c prometheus.Collector, want string, names ...string) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var help strings.Builder
	for _, f := range families {
		help.WriteString("# HELP " + f.GetName() + " " + f.GetHelp() + "\n# TYPE " + f.GetName() + " gauge\n")
		for line := range strings.Lines(want) {
			if name, _, _ := strings.Cut(line, "{"); strings.Fields(name)[0] == f.GetName() {
				help.WriteString(line)
			}
		}
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(help.String()), names...); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("GatherAndLint = %v, %v", problems, err)
	}
}

// someFound is what the LAN has answered to a speaker: for one address it has not.
func someFound() found {
	return found{
		unanswered: []reachability.Target{{Address: netip.MustParseAddr("198.51.100.209"), Node: "node2", Interface: "eth0"}},
		answered:   map[family.Family]int{family.IPv6: 7},
	}
}

// An address that another station has is not announced, and one that another node holds and does not answer for is not reachable.
func TestMetrics(t *testing.T) {
	var isolated atomic.Bool
	c := &collector{peers: func() []peerState { return nil }, isolated: &isolated, found: someFound, announced: func() []layer2.Status {
		return []layer2.Status{
			{Address: netip.MustParseAddr(v4), Interface: "eth0", Announced: true},
			{Address: netip.MustParseAddr(v4), Interface: "eth1", Err: &layer2.InUseError{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x42}}},
		}
	}}
	expect := func(isolated string) {
		t.Helper()
		metricsOf(t, c, `tandem_address_reachable{address="198.51.100.209",family="IPv4",holder="node2"} 0
tandem_layer2_address_announced{address="`+v4+`",interface="eth0"} 1
tandem_layer2_address_announced{address="`+v4+`",interface="eth1"} 0
tandem_reachable_addresses{family="IPv4"} 0
tandem_reachable_addresses{family="IPv6"} 7
tandem_speaker_isolated `+isolated+"\n")
	}
	expect("0")
	isolated.Store(true)
	expect("1")
}

// A peer has its gauges for each family that its sessions are to carry, also where the node has no session with it. Families of tor3, whose
// session is established, are as the router has agreed to them.
func TestMetricsOfPeers(t *testing.T) {
	watched := peerNamed("tor2")
	watched.BFD, watched.Peer.Address = &config.BFD{}, netip.MustParseAddr("2001:db8:51::1")
	watched.Peer.Families = []family.Family{family.IPv6}
	sessions := newSessions(t.Context(), signal.New())
	sessions.Set(decision.Desired{
		Peers:    []config.Peer{peerNamed("tor1"), watched},
		Problems: map[string]string{"tor2": "there is no Secret tandem-system/missing"},
		BGP:      []bgp.Session{{Peer: peerNamed("tor1").Peer}}, // which GoBGP has not been handed yet, or refuses
	}, nil)
	var isolated atomic.Bool
	c := &collector{isolated: &isolated, found: func() found { return found{} }, announced: func() []layer2.Status { return nil }, peers: func() []peerState {
		established := peerState{
			Peer: peerNamed("tor3"),
			bgp: bgp.SessionState{
				State: bgp.Established, Advertised: map[family.Family]int{family.IPv4: 3}, Withheld: map[family.Family]int{family.IPv6: 2},
				Received: map[family.Family]int{family.IPv6: 7},
			},
			bfd: bfd.SessionState{State: bfd.Up, Detection: 900 * time.Millisecond},
		}
		established.BFD = &config.BFD{}
		return append(sessions.states(), established)
	}}
	metricsOf(t, c, `tandem_bfd_detection_seconds{peer="tor2"} 0
tandem_bfd_detection_seconds{peer="tor3"} 0.9
tandem_bfd_session_up{family="IPv4",peer="tor3"} 1
tandem_bfd_session_up{family="IPv6",peer="tor2"} 0
tandem_bgp_announced_prefixes{family="IPv4",peer="tor1"} 0
tandem_bgp_announced_prefixes{family="IPv4",peer="tor3"} 3
tandem_bgp_announced_prefixes{family="IPv6",peer="tor1"} 0
tandem_bgp_announced_prefixes{family="IPv6",peer="tor2"} 0
tandem_bgp_announced_prefixes{family="IPv6",peer="tor3"} 0
tandem_bgp_received_prefixes{family="IPv4",peer="tor1"} 0
tandem_bgp_received_prefixes{family="IPv4",peer="tor3"} 0
tandem_bgp_received_prefixes{family="IPv6",peer="tor1"} 0
tandem_bgp_received_prefixes{family="IPv6",peer="tor2"} 0
tandem_bgp_received_prefixes{family="IPv6",peer="tor3"} 7
tandem_bgp_session_up{family="IPv4",peer="tor1"} 0
tandem_bgp_session_up{family="IPv4",peer="tor3"} 1
tandem_bgp_session_up{family="IPv6",peer="tor1"} 0
tandem_bgp_session_up{family="IPv6",peer="tor2"} 0
tandem_bgp_session_up{family="IPv6",peer="tor3"} 1
tandem_bgp_withheld_prefixes{family="IPv4",peer="tor1"} 0
tandem_bgp_withheld_prefixes{family="IPv4",peer="tor3"} 0
tandem_bgp_withheld_prefixes{family="IPv6",peer="tor1"} 0
tandem_bgp_withheld_prefixes{family="IPv6",peer="tor2"} 0
tandem_bgp_withheld_prefixes{family="IPv6",peer="tor3"} 2
tandem_reachable_addresses{family="IPv4"} 0
tandem_reachable_addresses{family="IPv6"} 0
tandem_speaker_isolated 0
`)
}
