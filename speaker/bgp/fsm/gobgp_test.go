// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
)

// gobgpPort is a port in the namespace of the tests.
const gobgpPort = 1790

// newGoBGP starts GoBGP's server, AS 64513, which waits for the speaker on loopback.
func newGoBGP(t *testing.T, restart bool) *server.BgpServer {
	t.Helper()
	s := server.NewBgpServer(server.LoggerOption(slog.New(slog.NewTextHandler(io.Discard, nil)), nil))
	go s.Serve()
	t.Cleanup(s.Stop)
	ctx := t.Context()
	if err := s.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: 64513, RouterId: "192.0.2.1", ListenPort: gobgpPort, ListenAddresses: []string{"127.0.0.1"},
	}}); err != nil {
		t.Fatal(err)
	}
	peer := &api.Peer{
		Conf:            &api.PeerConf{NeighborAddress: "127.0.0.1", PeerAsn: 64512, AuthPassword: "correct"},
		Transport:       &api.Transport{PassiveMode: true},
		GracefulRestart: &api.GracefulRestart{Enabled: restart, RestartTime: 60},
	}
	for _, afi := range []api.Family_Afi{api.Family_AFI_IP, api.Family_AFI_IP6} {
		peer.AfiSafis = append(peer.AfiSafis, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: &api.Family{Afi: afi, Safi: api.Family_SAFI_UNICAST}, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: restart}},
		})
	}
	if err := s.AddPeer(ctx, &api.AddPeerRequest{Peer: peer}); err != nil {
		t.Fatal(err)
	}
	return s
}

// gobgpRIB returns every path that the server has, in its own words.
func gobgpRIB(t *testing.T, s *server.BgpServer) []string {
	t.Helper()
	var rib []string
	for _, f := range []packet.Family{packet.RF_IPv4_UC, packet.RF_IPv6_UC} {
		if err := s.ListPath(apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: f}, func(prefix packet.NLRI, paths []*apiutil.Path) {
			for _, p := range paths {
				text := prefix.String()
				if p.Stale {
					text += " stale"
				}
				for _, attr := range p.Attrs {
					text += " " + attr.String()
				}
				rib = append(rib, text)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(rib)
	return rib
}

// TestGoBGP has a third implementation say what it has received: over a session with a password, IPv4 by both kinds of next hop.
func TestGoBGP(t *testing.T) {
	router := newGoBGP(t, true)
	peer := peerOfFakes()
	peer.Address, peer.Port, peer.Password = netip.MustParseAddr("127.0.0.1"), gobgpPort, "correct"
	peer.GracefulRestart = bgp.GracefulRestart{Enabled: true, RestartTime: time.Minute}
	full := route("198.51.100.200/32", "192.0.2.11")
	full.MED, full.Prepend = new(uint32(7)), 1
	full.Communities = []bgp.Community{bgp.GracefulShutdown, {Large: true, A: 64512, B: 1, C: 2}}
	routes := []bgp.Route{full, route("198.51.100.201/32", "2001:db8::11"), route("2001:db8:51::1000/128", "2001:db8::11")}
	want := []string{
		"198.51.100.200/32 {Origin: i} {AsPath: 64512 64512} {Nexthop: 192.0.2.11} {Med: 7} {Communities: planned-shut} " +
			"{LargeCommunity: [ 64512:1:2]}",
		"198.51.100.201/32 {Origin: i} {AsPath: 64512} {MpReach(ipv4-unicast): {Nexthop: 2001:db8::11, NLRIs: [198.51.100.201/32:0]}}",
		"2001:db8:51::1000/128 {Origin: i} {AsPath: 64512} {MpReach(ipv6-unicast): {Nexthop: 2001:db8::11, NLRIs: [2001:db8:51::1000/128:0]}}",
	}
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: peer, Routes: routes})
	wantRIB := func(want []string) {
		t.Helper()
		eventually(t, "GoBGP's RIB (-want +got)", func() string { return cmp.Diff(want, gobgpRIB(t, router)) })
	}
	wantRIB(want)
	state := awaitState(t, s, "tor1", bgp.Established)
	if !state.GracefulRestart || state.Local != peer.Address || state.Withheld[family.IPv4] > 0 {
		t.Errorf("The state is %+v", state)
	}

	s.Close(context.Background(), bgp.Restart)
	stale := slices.Clone(want)
	for i, text := range stale {
		stale[i] = strings.Replace(text, " ", " stale ", 1)
	}
	wantRIB(stale)
	s = newSpeaker(t)
	set(t, s, bgp.Session{Peer: peer, Routes: routes[:2]}) // one has gone meanwhile: its path goes with the end of the RIB
	wantRIB(want[:2])
	set(t, s, bgp.Session{Peer: peer, Routes: routes[1:]})
	wantRIB(want[1:])

	if err := router.ShutdownPeer(t.Context(), &api.ShutdownPeerRequest{
		Address: "127.0.0.1", Communication: "maintenance until 14:00",
	}); err != nil {
		t.Fatal(err)
	}
	await(t, s, "tor1", "the operator's words", func(state bgp.SessionState) bool {
		return strings.Contains(state.LastError, `subcode 2(administrative shutdown) "maintenance until 14:00"`)
	})
	awaitState(t, s, "tor1", bgp.Established)
	wantRIB(want[1:])
	s.Close(context.Background(), bgp.Withdraw)
	wantRIB(nil)
}

// TestGoBGPTakesAll sends as many routes as a large cluster has.
func TestGoBGPTakesAll(t *testing.T) {
	router := newGoBGP(t, false)
	peer := peerOfFakes()
	peer.Address, peer.Port, peer.Password = netip.MustParseAddr("127.0.0.1"), gobgpPort, "correct"
	var routes []bgp.Route
	for _, f := range family.All {
		for _, prefix := range manyPrefixes(f, 10_000) {
			hop := "192.0.2.11"
			if f == family.IPv6 {
				hop = "2001:db8::11"
			}
			routes = append(routes, bgp.Route{Prefix: prefix, NextHop: netip.MustParseAddr(hop)})
		}
	}
	s := newSpeaker(t)
	set(t, s, bgp.Session{Peer: peer, Routes: routes})
	count := func(want int) {
		t.Helper()
		eventually(t, fmt.Sprintf("GoBGP to have %d routes", want), func() string { return cmp.Diff(want, len(gobgpRIB(t, router))) })
	}
	count(20_000)
	set(t, s, bgp.Session{Peer: peer, Routes: routes[5_000:15_000]})
	count(10_000)
}
