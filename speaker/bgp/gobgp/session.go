// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
)

// session is one peer with the embedded GoBGP server that speaks to it.
type session struct {
	peer         bgp.Peer
	logger       klog.Logger
	notify       func()
	server       *server.BgpServer
	log          *logHandler
	stopWatching context.CancelFunc

	// ribMu orders what the embedded RIB is told. It is held while GoBGP works and guards the fields up to mu.
	ribMu           sync.Mutex
	declared        map[netip.Prefix]bgp.Route
	installed       map[netip.Prefix]bgp.Route
	extendedNextHop bool // the peer has offered RFC 8950 in its latest OPEN

	// mu guards all following fields. GoBGP logs with locks of its own held, so nothing is called while mu is.
	mu          sync.Mutex
	status      bgp.SessionState
	established uint64                // how many times
	announced   map[family.Family]int // prefixes in the embedded RIB
	total       map[family.Family]int // prefixes declared
}

// startSession starts a server for peer, which begins to connect.
func startSession(ctx context.Context, logger klog.Logger, peer bgp.Peer, notify func()) (*session, error) {
	s := &session{
		peer:      peer,
		logger:    klog.LoggerWithValues(logger, "peer", peer.Name),
		notify:    notify,
		installed: map[netip.Prefix]bgp.Route{},
		status:    bgp.SessionState{Peer: peer.Name, Address: peer.Address, State: bgp.Idle, Since: time.Now()},
	}
	s.log = newLogHandler(s.logger, s.failed)
	s.server = server.NewBgpServer(server.LoggerOption(s.log.slogger(), nil))
	go s.server.Serve()

	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	s.stopWatching = stopWatching
	if err := s.start(ctx, watching); err != nil {
		s.stopServer(ctx, bgp.Withdraw)
		return nil, fmt.Errorf("starting GoBGP: %w", err)
	}
	s.logger.Info("Started BGP session", "address", peer.Address, "localASN", peer.LocalASN, "peerASN", peer.PeerASN)
	return s, nil
}

func (s *session) start(ctx, watching context.Context) error {
	if err := s.server.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn:        s.peer.LocalASN,
		RouterId:   s.peer.RouterID.String(),
		ListenPort: -1,
		Families:   []uint32{0, 1}, // indices of GoBGP's own list: IPv4 and IPv6 unicast
	}}); err != nil {
		return err
	}
	// A route of the peer's that won against one of ours would withdraw ours. Our own routes pass through the same policy.
	ours := &api.Policy{
		Name: "ours",
		Statements: []*api.Statement{{
			Name:       "local",
			Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
			Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
		}},
	}
	if err := s.server.AddPolicy(ctx, &api.AddPolicyRequest{Policy: ours}); err != nil {
		return err
	}
	if err := s.server.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
		Name:          "global",
		Direction:     api.PolicyDirection_POLICY_DIRECTION_IMPORT,
		Policies:      []*api.Policy{ours},
		DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT,
	}}); err != nil {
		return err
	}
	callbacks := server.WatchEventMessageCallbacks{
		OnPeerUpdate: func(e *apiutil.WatchEventMessage_PeerEvent, _ time.Time) { s.peerChanged(&e.Peer) },
	}
	if err := s.server.WatchEvent(watching, callbacks, server.WatchPeer()); err != nil {
		return err
	}
	return s.server.AddPeer(ctx, &api.AddPeerRequest{Peer: s.config()})
}

// config returns the peer in GoBGP's terms.
func (s *session) config() *api.Peer {
	p := s.peer
	gr := p.GracefulRestart
	config := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: p.Address.String(),
			LocalAsn:        p.LocalASN,
			PeerAsn:         p.PeerASN, // zero takes any
			AuthPassword:    string(p.Password),
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime:               uint64(p.HoldTime / time.Second),
			KeepaliveInterval:      uint64(p.KeepaliveTime / time.Second),
			ConnectRetry:           uint64(p.ConnectTime / time.Second),
			IdleHoldTimeAfterReset: 1,
		}},
		Transport: &api.Transport{RemotePort: uint32(p.Port)},
		EbgpMultihop: &api.EbgpMultihop{
			Enabled:     p.EBGPMultiHop,
			MultihopTtl: 255,
		},
		GracefulRestart: &api.GracefulRestart{
			Enabled:     gr.Enabled,
			RestartTime: uint32(gr.RestartTime / time.Second),
			// The first OPEN says that this process has restarted and that the node has gone on forwarding: so the peer
			// keeps the routes of the process before (RFC 4724 §4.2). If there was none, it changes nothing.
			LocalRestarting: gr.Enabled,
			// Our routes do not depend on those of the peer, so that there is nothing to wait for.
			DeferralTime: 1,
		},
	}
	if p.SourceAddress.IsValid() {
		config.Transport.LocalAddress = p.SourceAddress.String()
	}
	if p.TTLSecurityHops > 0 {
		// A packet sent with 255 has 255 left on the link, and one less for every router passed (RFC 5082 §3).
		config.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 256 - uint32(p.TTLSecurityHops)}
	}
	for _, f := range p.Families {
		afi := api.Family_AFI_IP
		if f == family.IPv6 {
			afi = api.Family_AFI_IP6
		}
		config.AfiSafis = append(config.AfiSafis, &api.AfiSafi{
			Config: &api.AfiSafiConfig{
				Family:  &api.Family{Afi: afi, Safi: api.Family_SAFI_UNICAST},
				Enabled: true,
			},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: gr.Enabled}},
		})
	}
	return config
}

// setRoutes makes routes the declared ones. A route that cannot be announced is left out and reported. Of two routes with the
// same prefix and different attributes the first counts.
func (s *session) setRoutes(routes []bgp.Route) error {
	var errs []error
	declared := make(map[netip.Prefix]bgp.Route, len(routes))
	for _, r := range routes {
		if err := r.Validate(); err != nil {
			errs = append(errs, err)
			continue
		}
		r = normalRoute(r)
		if first, ok := declared[r.Prefix]; ok {
			if !equalRoutes(first, r) {
				errs = append(errs, fmt.Errorf("prefix %v is declared twice with different attributes", r.Prefix))
			}
			continue
		}
		declared[r.Prefix] = r
	}
	s.ribMu.Lock()
	defer s.ribMu.Unlock()
	s.declared = declared
	return errors.Join(append(errs, s.syncRIB())...)
}

// syncRIB makes the embedded RIB hold the declared routes that may be sent. New paths go first: where 192.0.2.0/24 takes the
// place of 192.0.2.10/32, the peer has one of the two at any moment. It is called with ribMu held.
func (s *session) syncRIB() error {
	var adding []bgp.Route
	var paths, stale []*apiutil.Path
	for prefix, r := range s.declared {
		if old, ok := s.installed[prefix]; ok && equalRoutes(old, r) || r.NeedsExtendedNextHop() && !s.extendedNextHop {
			continue
		}
		path, err := newPath(r, s.peer)
		if err != nil {
			return fmt.Errorf("prefix %v: %w", prefix, err)
		}
		adding, paths = append(adding, r), append(paths, path)
	}
	if len(paths) > 0 {
		if _, err := s.server.AddPath(apiutil.AddPathRequest{Paths: paths}); err != nil {
			return fmt.Errorf("adding paths: %w", err)
		}
		for _, r := range adding {
			s.installed[r.Prefix] = r
		}
	}

	for prefix, old := range s.installed {
		r, ok := s.declared[prefix]
		if ok && (!r.NeedsExtendedNextHop() || s.extendedNextHop) {
			continue
		}
		path, err := newPath(old, s.peer)
		if err != nil {
			return fmt.Errorf("prefix %v: %w", prefix, err)
		}
		stale = append(stale, path)
		delete(s.installed, prefix)
	}
	if len(stale) > 0 {
		if err := s.server.DeletePath(apiutil.DeletePathRequest{Paths: stale}); err != nil {
			return fmt.Errorf("withdrawing paths: %w", err)
		}
	}

	announced, total := byFamily(s.installed), byFamily(s.declared)
	s.mu.Lock()
	changed := !maps.Equal(s.announced, announced) || !maps.Equal(s.total, total)
	s.announced, s.total = announced, total
	s.mu.Unlock()
	if changed {
		s.notify()
	}
	return nil
}

// byFamily counts the prefixes of each family.
func byFamily(routes map[netip.Prefix]bgp.Route) map[family.Family]int {
	count := map[family.Family]int{}
	for prefix := range routes {
		count[family.Of(prefix.Addr())]++
	}
	return count
}

// state returns what is known about the session.
func (s *session) state() bgp.SessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.status
	state.Families = slices.Clone(state.Families)
	if state.State == bgp.Established {
		state.Advertised, state.Withheld = map[family.Family]int{}, map[family.Family]int{}
		for _, f := range state.Families {
			state.Advertised[f] = s.announced[f]
		}
		for f, total := range s.total {
			if withheld := total - state.Advertised[f]; withheld > 0 {
				state.Withheld[f] = withheld
			}
		}
	}
	return state
}

var states = map[packet.FSMState]bgp.State{
	packet.BGP_FSM_IDLE:        bgp.Idle,
	packet.BGP_FSM_CONNECT:     bgp.Active,
	packet.BGP_FSM_ACTIVE:      bgp.Active,
	packet.BGP_FSM_OPENSENT:    bgp.OpenSent,
	packet.BGP_FSM_OPENCONFIRM: bgp.OpenConfirm,
	packet.BGP_FSM_ESTABLISHED: bgp.Established,
}

// losses says in words why GoBGP left a session, where its log does not say it better.
var losses = map[api.PeerState_DisconnectReason]string{
	api.PeerState_DISCONNECT_REASON_READ_FAILED:      "the connection was closed or reset by the peer",
	api.PeerState_DISCONNECT_REASON_WRITE_FAILED:     "the connection was lost while writing to it",
	api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART: "the connection was lost; the peer may be restarting gracefully",
	api.PeerState_DISCONNECT_REASON_HOLD_TIMER_EXPIRED: "hold timer expired: " +
		"neither KEEPALIVE nor UPDATE came from the peer for the hold time",
	api.PeerState_DISCONNECT_REASON_INVALID_MSG: "the peer refused our OPEN, " +
		"mostly because it expects another AS number than ours; its log tells",
}

// peerChanged takes note of a step of the state machine.
func (s *session) peerChanged(peer *apiutil.Peer) {
	state, ok := states[peer.State.SessionState]
	if !ok {
		return // the server is going down
	}
	if loss := losses[peer.State.DisconnectReason]; state == bgp.Idle && loss != "" {
		s.failed(loss)
	}

	s.mu.Lock()
	old := s.status.State
	s.status.State = state
	if (state == bgp.Established) != (old == bgp.Established) {
		s.status.Since = time.Now()
		s.status.Families = nil
	}
	if state == bgp.Established {
		s.established++
		s.status.RemoteASN = peer.State.PeerASN
		s.status.RouterID = peer.State.RouterID
		s.status.Families = negotiated(s.peer.Families, peer.State.RemoteCap)
	}
	status := s.status
	s.mu.Unlock()

	switch {
	case state == bgp.Established && s.peer.Dynamic == bgp.External && status.RemoteASN == s.peer.LocalASN:
		s.refuseInternal()
	case state == bgp.Established:
		s.logger.Info("Established BGP session", "remoteASN", status.RemoteASN, "routerID", status.RouterID,
			"families", status.Families)
		s.ribMu.Lock()
		s.extendedNextHop = offersExtendedNextHop(peer.State.RemoteCap)
		if err := s.syncRIB(); err != nil {
			s.failed(err.Error())
		}
		s.ribMu.Unlock()
	case old == bgp.Established:
		s.logger.Info("Lost BGP session", "reason", status.LastError)
	}
	s.notify()
}

// refuseInternal ends the session of a peer that was declared External and is of our own AS.
func (s *session) refuseInternal() {
	reason := fmt.Sprintf("the peer is in our own AS %d, but dynamicASN is External; no further try until the peer is declared otherwise",
		s.peer.LocalASN)
	s.failed(reason)
	if err := s.server.DisablePeer(context.Background(), &api.DisablePeerRequest{
		Address:       s.peer.Address.String(),
		Communication: reason,
	}); err != nil {
		s.logger.Error(err, "Failed to shut the BGP session down")
	}
}

// negotiated returns those of our families that the peer's OPEN has too. An OPEN without the capability of RFC 4760
// means IPv4.
func negotiated(ours []family.Family, caps []packet.ParameterCapabilityInterface) []family.Family {
	var theirs []family.Family
	for _, c := range caps {
		mp, ok := c.(*packet.CapMultiProtocol)
		switch {
		case ok && mp.CapValue == packet.RF_IPv4_UC:
			theirs = append(theirs, family.IPv4)
		case ok && mp.CapValue == packet.RF_IPv6_UC:
			theirs = append(theirs, family.IPv6)
		}
	}
	return slices.DeleteFunc(slices.Clone(ours), func(f family.Family) bool { return !slices.Contains(theirs, f) })
}

// offersExtendedNextHop reports whether the peer takes IPv4 prefixes with IPv6 next hops (RFC 8950 §4).
func offersExtendedNextHop(caps []packet.ParameterCapabilityInterface) bool {
	for _, c := range caps {
		extended, ok := c.(*packet.CapExtendedNexthop)
		if !ok {
			continue
		}
		for _, t := range extended.Tuples {
			if t.NLRIAFI == packet.AFI_IP && t.NLRISAFI == packet.SAFI_UNICAST && t.NexthopAFI == packet.AFI_IP6 {
				return true
			}
		}
	}
	return false
}

// failed takes note of an error. A repetition of the same text changes nothing.
func (s *session) failed(text string) {
	s.mu.Lock()
	repeated := s.status.LastError == text
	s.status.LastError = text
	s.mu.Unlock()
	if !repeated {
		s.logger.V(2).Info("Noted a BGP failure", "reason", text)
		s.notify()
	}
}

// reset ends the connection, and with it everything that was learned from either side, if it is established. It connects again at once.
func (s *session) reset(ctx context.Context, reason string) error {
	s.mu.Lock()
	established := s.status.State == bgp.Established
	s.mu.Unlock()
	if !established {
		return nil
	}
	s.failed(reason)
	if err := s.server.ResetPeer(ctx, &api.ResetPeerRequest{Address: s.peer.Address.String(), Communication: reason}); err != nil {
		return fmt.Errorf("resetting the BGP session: %w", err)
	}
	return nil
}

// close ends the session and returns when nothing of it is left.
func (s *session) close(ctx context.Context, mode bgp.CloseMode) {
	if mode == bgp.Withdraw {
		s.withdraw(ctx)
	}
	s.stopServer(ctx, mode)
	s.logger.Info("Closed BGP session", "mode", mode)
}

const (
	// The CEASE that follows takes everything back as well, so there is no use in waiting long for a slow peer.
	withdrawTimeout  = 500 * time.Millisecond
	withdrawInterval = 10 * time.Millisecond
)

// withdraw takes every prefix back and waits until GoBGP's queue is written: until the count of UPDATEs has risen and
// then stays the same. GoBGP offers no better sign.
func (s *session) withdraw(ctx context.Context) {
	state, before := s.state(), s.updatesSent(ctx)
	if err := s.setRoutes(nil); err != nil {
		s.logger.Error(err, "Failed to withdraw routes")
	}
	if state.Advertised[family.IPv4]+state.Advertised[family.IPv6] == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, withdrawTimeout)
	defer cancel()
	ticks := time.NewTicker(withdrawInterval)
	defer ticks.Stop()
	for last := before; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		now := s.updatesSent(ctx)
		if now > before && now == last {
			return
		}
		last = now
	}
}

// updatesSent returns the count of UPDATE messages, or zero where the server does not answer.
func (s *session) updatesSent(ctx context.Context) (updates uint64) {
	// An error means that the server or ctx has ended, and then there is nothing to count.
	_ = s.server.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		updates = p.GetState().GetMessages().GetSent().GetUpdate()
	})
	return updates
}

func (s *session) stopServer(ctx context.Context, mode bgp.CloseMode) {
	s.stopWatching()
	s.log.mute() // from here on GoBGP reports failures that the stop causes
	if err := s.server.StopBgp(context.WithoutCancel(ctx), &api.StopBgpRequest{
		AllowGracefulRestart: mode == bgp.Restart,
	}); err != nil {
		s.logger.Error(err, "Failed to stop GoBGP")
	}
	s.server.Stop() // StopBgp leaves the BFD part running
}
