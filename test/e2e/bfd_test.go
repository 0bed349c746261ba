// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// bfdPeer is a BFD session as FRR has it.
type bfdPeer struct {
	Multihop        bool
	Peer            string
	Status          string
	Diagnostic      string
	ReceiveInterval int `json:"remote-receive-interval"`
	Transmit        int `json:"remote-transmit-interval"`
	Multiplier      int `json:"remote-detect-multiplier"`
}

// bfdWith returns what FRR on a host knows of its BFD sessions.
func (s *stage) bfdWith(ctx context.Context, host string) ([]bfdPeer, error) {
	out, err := s.Vtysh(ctx, host, "show bfd peers json")
	if err != nil {
		return nil, err
	}
	var peers []bfdPeer
	if err := json.Unmarshal([]byte(out), &peers); err != nil {
		return nil, fmt.Errorf("%w in %s", err, out)
	}
	slices.SortFunc(peers, func(a, b bfdPeer) int { return strings.Compare(a.Peer, b.Peer) })
	return peers, nil
}

// watched waits until FRR on a host and the speakers of these nodes agree that BFD sessions between them are up.
func (s *stage) watched(t *testing.T, host string, want ...bfdPeer) {
	t.Helper()
	s.until(t, patience, "BFD sessions with "+host, func(ctx context.Context) (bool, string) {
		got, err := s.bfdWith(ctx, host)
		return err == nil && slices.Equal(got, want), fmt.Sprintf("%+v %v", got, err)
	})
}

// bgpSession returns a node's session with the stage's peer.
func (s *stage) bgpSession(ctx context.Context, node string) (speakerv1alpha1.BGPSession, string) {
	state, err := s.speaker(ctx, node)
	for _, session := range state.BGPSessions {
		if session.Peer == s.ns {
			return session, fmt.Sprintf("%+v", session)
		}
	}
	return speakerv1alpha1.BGPSession{}, fmt.Sprint("no session, ", err)
}

// bfdProfile detects a failure after three intervals of so many milliseconds.
func bfdProfile(ms int) string {
	return fmt.Sprintf(`
apiVersion: tandem-lb.io/v1alpha1
kind: BFDProfile
metadata: {name: $NS}
spec: {receiveInterval: %dms, transmitInterval: %dms, detectMultiplier: 3}
`, ms, ms)
}

// bfdRouter is the router's configuration with such BFD for every node.
func bfdRouter(ms int) string {
	return strings.Replace(
		cluster.RouterConfig, "neighbor NODES remote-as 64512\n",
		fmt.Sprintf("neighbor NODES remote-as 64512\n neighbor NODES bfd 3 %d %d\n", ms, ms), 1,
	)
}

// upBy is how FRR shows a session with such BFD that is up.
func upBy(peer string, ms int) bfdPeer {
	return bfdPeer{Peer: peer, Status: "up", Diagnostic: "ok", ReceiveInterval: ms, Transmit: ms, Multiplier: 3}
}

// TestBFDNoticesADeadNode has the switch forward nothing for a node. Its link stays up, so that BGP alone would take the hold time, 90 s
// here.
func TestBFDNoticesADeadNode(t *testing.T) {
	for family, name := range []string{"IPv4", "IPv6"} {
		t.Run("over "+name, func(t *testing.T) {
			s := newStage(t, dual)
			s.pool(t, "", "192.0.2.0/24", "2001:db8:c::/64")
			s.web(t, s.others("node1")...)
			s.add(t, s.service("web", v4, v6))
			ips := s.addresses(t, "web", 2)
			s.router(t, bfdRouter(100))
			s.create(t, bfdProfile(100))
			s.bgp(t)
			s.patch(t, s.object(t, "BGPPeer"), `{spec: {bfdProfile: $NS, peerAddress: "`+s.Addresses(lab.Router)[family].String()+`"}}`)
			s.announcedFrom(t, ips, s.Nodes()...)
			var want []bfdPeer
			for _, node := range s.Nodes() {
				want = append(want, upBy(s.Addresses(node)[family].String(), 100))
			}
			s.watched(t, lab.Router, want...)
			s.until(t, patience, "the speaker to say so", func(ctx context.Context) (bool, string) {
				session, detail := s.bgpSession(ctx, "node1")
				return session.BFD == "Up", detail
			})

			probing, stop := context.WithCancel(t.Context())
			defer stop()
			probes := s.probes(probing, lab.Ext, ips)
			s.steady(t, lab.Ext, ips)
			t.Cleanup(func() {
				if err := s.SetForwarding(context.Background(), "node1", true); err != nil {
					t.Error(err)
				}
			})
			start := time.Now()
			if err := s.SetForwarding(t.Context(), "node1", false); err != nil {
				t.Fatal(err)
			}
			s.announcedFrom(t, ips, s.others("node1")...)
			s.steady(t, lab.Ext, ips)
			stop()
			for i, answers := range probes() {
				t.Logf("%s: %s", ips[i], failures(answers, start))
			}
			if err := s.SetForwarding(t.Context(), "node1", true); err != nil {
				t.Fatal(err)
			}
			s.announcedFrom(t, ips, s.Nodes()...)
			s.until(t, patience, "the session to be up and to tell what happened", func(ctx context.Context) (bool, string) {
				session, detail := s.bgpSession(ctx, "node1")
				return session.BFD == "Up" && session.State == speakerv1alpha1.BGPEstablished && strings.Contains(session.LastError, "BFD: "), detail
			})
		})
	}
}

// TestBFDOverSeveralHops watches a router behind the router.
func TestBFDOverSeveralHops(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", "192.0.2.0/24", "2001:db8:c::/64")
	s.web(t, "node1")
	s.add(t, s.service("web", v4, v6))
	s.addresses(t, "web", 2)
	node, ext := s.Addresses("node1")[0].String(), s.Addresses(lab.Ext)[0].String()
	if err := s.StartFRR(t.Context(), lab.Ext, `frr defaults datacenter
hostname ext
bfd
 peer `+node+` multihop local-address `+ext+`
  detect-multiplier 3
  receive-interval 100
  transmit-interval 100
  minimum-ttl 254
router bgp 64513
 bgp router-id 192.0.2.254
 no bgp ebgp-requires-policy
 neighbor `+node+` remote-as 64512
 neighbor `+node+` ebgp-multihop 5
 neighbor `+node+` disable-connected-check
 neighbor `+node+` update-source `+ext+`
 neighbor `+node+` bfd`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.StopFRR(context.Background(), lab.Ext); err != nil {
			t.Error(err)
		}
	})
	s.create(t, bfdProfile(100)+`---
apiVersion: tandem-lb.io/v1alpha1
kind: BGPPeer
metadata: {name: $NS}
spec: {myASN: 64512, peerASN: 64513, peerAddress: "`+ext+`", ebgpMultiHop: true, bfdProfile: $NS, nodeSelectors: [{matchLabels: {kubernetes.io/hostname: node1}}]}
---
apiVersion: tandem-lb.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: $NS}
spec: {addressPools: [$NS], peers: [$NS]}
`)
	up := upBy(node, 100)
	up.Multihop = true
	s.watched(t, lab.Ext, up)
	s.until(t, patience, "both sessions on the node", func(ctx context.Context) (bool, string) {
		session, detail := s.bgpSession(ctx, "node1")
		return session.BFD == "Up" && session.State == speakerv1alpha1.BGPEstablished, detail
	})
}

// TestBFDLeavesAGracefulRestartAlone restarts the one speaker that announces a Service, to a router that keeps routes over a graceful
// restart and drops them when BFD fails. Its BFD session stays up, and then notices the death of the node.
func TestBFDLeavesAGracefulRestartAlone(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", "192.0.2.0/24", "2001:db8:c::/64")
	s.web(t, s.others("node1")...)
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	node := s.Addresses("node1")[0].String()
	// FRR forgets a neighbour that it knows by its range alone, and its routes, as soon as the connection closes.
	s.router(t, strings.Replace(
		bfdRouter(300), " bgp listen range 198.51.100.0/24 peer-group NODES\n",
		" neighbor "+node+" peer-group NODES\n neighbor "+node+" graceful-restart-helper\n", 1,
	))
	s.create(t, bfdProfile(300))
	s.bgp(t)
	s.patch(
		t, s.object(t, "BGPPeer"),
		`{spec: {bfdProfile: $NS, gracefulRestart: {enabled: true}, nodeSelectors: [{matchLabels: {kubernetes.io/hostname: node1}}]}}`,
	)
	s.announcedFrom(t, ips, "node1")
	up := upBy(node, 300)
	s.watched(t, lab.Router, up)
	downs := s.bfdDowns(t, lab.Router)
	probing, stop := context.WithCancel(t.Context())
	defer stop()
	probes := s.probes(probing, lab.Ext, ips)
	s.steady(t, lab.Ext, ips)
	before, err := s.process("node1", programs["speaker"])
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	s.deletePod(t, "speaker", "node1")
	s.speakerIsAnother(t, "node1", before.pid)
	s.until(t, patience, "both sessions on the node", func(ctx context.Context) (bool, string) {
		session, detail := s.bgpSession(ctx, "node1")
		return session.BFD == "Up" && session.State == speakerv1alpha1.BGPEstablished && session.AdvertisedIPv4 == 1, detail
	})
	s.watched(t, lab.Router, up)
	t.Logf("the speaker was back, with both sessions, after %v", time.Since(start).Round(time.Millisecond))
	s.announcedFrom(t, ips, "node1")
	stop()
	for i, answers := range probes() {
		t.Logf("%s: %s", ips[i], failures(answers, start))
		if slices.ContainsFunc(answers, func(a cluster.Answer) bool { return a.At.After(start) && a.Err != nil }) {
			t.Errorf("%s did not answer all the while", ips[i])
		}
	}
	if after := s.bfdDowns(t, lab.Router); after != downs {
		t.Errorf("the router's BFD session went down %d times, want it to stay up", after-downs)
	}
	t.Cleanup(func() {
		if err := s.SetForwarding(context.Background(), "node1", true); err != nil {
			t.Error(err)
		}
	})
	start = time.Now()
	if err := s.SetForwarding(t.Context(), "node1", false); err != nil {
		t.Fatal(err)
	}
	s.announcedFrom(t, ips)
	t.Logf("the router had dropped the routes of a node that died %v later", time.Since(start).Round(time.Millisecond))
}

// TestSoakOneConfigurationOfTheRouter has a router with BFD and graceful restart, as docs/announcing.md teaches, through all that happens to
// nodes: all speakers restart, which no request and no route notices; a node is drained, which no new connection notices; and a node dies, whose
// share of the requests fails until BFD has found it.
func TestSoakOneConfigurationOfTheRouter(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", "192.0.2.0/24", "2001:db8:c::/64") // on no link: the router needs the routes
	s.web(t, s.others("node1")...)
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	neighbors := ""
	var up []bfdPeer
	for _, node := range s.Nodes() {
		neighbors += " neighbor " + s.Addresses(node)[0].String() + " peer-group NODES\n"
		up = append(up, upBy(s.Addresses(node)[0].String(), 100))
	}
	s.router(t, strings.Replace(bfdRouter(100), " bgp listen range 198.51.100.0/24 peer-group NODES\n", neighbors, 1))
	s.create(t, bfdProfile(100))
	s.bgp(t)
	s.patch(t, s.object(t, "BGPPeer"), `{spec: {bfdProfile: $NS, gracefulRestart: {enabled: true}}}`)
	ready := func() {
		t.Helper()
		s.announcedFrom(t, ips, s.Nodes()...)
		s.watched(t, lab.Router, up...)
		s.steady(t, lab.Ext, ips)
	}
	ready()
	t.Run("speakers restart", func(t *testing.T) {
		n, sum := repetitions(t, 10), &tally{}
		withdrawn, downs := s.withdrawals(t, ips), s.bfdDowns(t, lab.Router)
		var broken []error
		for range n {
			talking, silence := context.WithCancel(t.Context())
			defer silence()
			stop := s.asking(t, lab.Ext, ips, 80)
			waits := []func() []error{s.talk(talking, t, lab.Ext, ips[0]), s.talk(talking, t, lab.Ext, ips[1])}
			s.kubectl(t, "rollout", "restart", "-n", "tandem-system", "daemonset/tandem-speaker")
			s.kubectl(t, "rollout", "status", "-n", "tandem-system", "daemonset/tandem-speaker", "--timeout=180s")
			ready()
			stop(sum)
			silence()
			for _, wait := range waits {
				broken = append(broken, wait()...)
			}
		}
		soaked.note(t, fmt.Sprintf("%d rollouts", n), "%v, %d of %d open connections broke", sum, len(broken), n*2*liveConnections)
		if routes, failures := withdrawn(), s.bfdDowns(t, lab.Router)-downs; sum.failed > 0 || routes > 0 || failures > 0 {
			t.Errorf("%v, %d routes were withdrawn, BFD went down %d times; want nothing of that", sum, routes, failures)
		} else if len(broken) > 0 { // Where routes change, they have to.
			t.Errorf("connections broke: %v", broken)
		}
	})
	t.Run("a node is drained", func(t *testing.T) {
		n, sum := repetitions(t, 10), &tally{}
		changes, downs := s.routeChanges(t, ips), s.bfdDowns(t, lab.Router)
		for range n {
			stop := s.asking(t, lab.Ext, ips, 80)
			s.kubectl(t, "annotate", "node", "node1", "tandem-lb.io/drain=true")
			s.announcedFrom(t, ips, s.others("node1")...)
			if n > 1 {
				time.Sleep(10 * time.Second) // prefixes that come back sooner are taken for flapping ones, and wait longer each time
			}
			s.kubectl(t, "annotate", "node", "node1", "tandem-lb.io/drain-")
			ready()
			stop(sum)
		}
		underWay, failures := sum.underWay(changes()), s.bfdDowns(t, lab.Router)-downs
		soaked.note(t, fmt.Sprintf("%d drains", n), "%v, %d of them under way while the router's routes changed", sum, underWay)
		if sum.failed > underWay {
			t.Errorf("%v, %d of them under way while the router's routes changed; BFD went down %d times", sum, underWay, failures)
		}
	})
	t.Run("a node dies", func(t *testing.T) {
		t.Cleanup(func() {
			if err := s.SetForwarding(context.Background(), "node1", true); err != nil {
				t.Error(err)
			}
		})
		var took []time.Duration
		n := repetitions(t, 30)
		for range n {
			if n > 1 {
				time.Sleep(30 * time.Second) // a session that is lost sooner, again and again, is opened later each time
			}
			probing, stop := context.WithCancel(t.Context())
			probes := s.probes(probing, lab.Ext, ips)
			s.steady(t, lab.Ext, ips)
			start := time.Now()
			if err := s.SetForwarding(t.Context(), "node1", false); err != nil {
				t.Fatal(err)
			}
			s.announcedFrom(t, ips, s.others("node1")...)
			s.steady(t, lab.Ext, ips)
			stop()
			last := time.Duration(0) // when the last request that failed was sent
			for _, answers := range probes() {
				for _, a := range answers {
					if a.Err != nil && a.At.After(start) {
						last = max(last, a.At.Sub(start))
					}
				}
			}
			took = append(took, last)
			if err := s.SetForwarding(t.Context(), "node1", true); err != nil {
				t.Fatal(err)
			}
			ready()
		}
		soaked.note(t, "from the death of a node to the last request that failed", "%s", spread(took))
	})
}

// bfdDowns counts how often FRR's BFD sessions on a host have gone down.
func (s *stage) bfdDowns(t *testing.T, host string) (downs int) {
	t.Helper()
	out, err := s.Vtysh(t.Context(), host, "show bfd peers counters json")
	if err != nil {
		t.Fatal(err)
	}
	var peers []struct {
		Down int `json:"session-down"`
	}
	if err := json.Unmarshal([]byte(out), &peers); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for _, p := range peers {
		downs += p.Down
	}
	return downs
}
