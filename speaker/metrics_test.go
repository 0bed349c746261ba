// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// A peer with which the node cannot have a session is down, and an address that another station has is not announced.
func TestMetrics(t *testing.T) {
	sessions := newSessions(t.Context(), signal.New())
	sessions.Set(decision.Desired{
		Problems: map[string]string{"tor2": "there is no Secret tandem-system/missing"},
		BGP:      []bgp.Session{{Peer: bgp.Peer{Name: "tor1"}}}, // which GoBGP has not been handed yet, or refuses
	})
	var isolated atomic.Bool
	c := &collector{sessions: sessions.states, isolated: &isolated, announced: func() []layer2.Status {
		return []layer2.Status{
			{Address: netip.MustParseAddr(v4), Interface: "eth0", Announced: true},
			{Address: netip.MustParseAddr(v4), Interface: "eth1", Err: &layer2.InUseError{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x42}}},
		}
	}}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	expect := func(isolated string) {
		t.Helper()
		want := `
# HELP tandem_bgp_session_up Whether the BGP session is established; 0 too for a peer with which the node cannot have one.
# TYPE tandem_bgp_session_up gauge
tandem_bgp_session_up{peer="tor1"} 0
tandem_bgp_session_up{peer="tor2"} 0
# HELP tandem_layer2_address_announced Whether the node answers for an address that it holds; 0 while another station has it, or while it is probed.
# TYPE tandem_layer2_address_announced gauge
tandem_layer2_address_announced{address="` + v4 + `",interface="eth0"} 1
tandem_layer2_address_announced{address="` + v4 + `",interface="eth1"} 0
# HELP tandem_speaker_isolated Whether the speaker sees neither another speaker nor the API, and answers for nothing on layer 2.
# TYPE tandem_speaker_isolated gauge
tandem_speaker_isolated ` + isolated + "\n"
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
			t.Error(err)
		}
	}
	expect("0")
	isolated.Store(true)
	expect("1")
}
