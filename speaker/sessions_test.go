// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// peerNamed returns a peer with both families.
func peerNamed(name string) config.Peer {
	return config.Peer{Name: name, Peer: bgp.Peer{
		Name: name, Address: netip.MustParseAddr("198.51.100.1"), Families: []family.Family{family.IPv4, family.IPv6},
	}}
}

// A router on which one family is not activated is the usual mistake of dual-stack: the status says which prefixes it costs.
func TestBGPSession(t *testing.T) {
	since := metav1.NewTime(time.Unix(1700000000, 0))
	got := bgpSession(peerState{Peer: peerNamed("tor1"), bgp: bgp.SessionState{
		State: bgp.Established, Since: since.Time,
		Local: netip.MustParseAddr("198.51.100.11"), RemoteASN: 64513, GracefulRestart: true,
		Families: []family.Family{family.IPv4}, Advertised: map[family.Family]int{family.IPv4: 3},
		Withheld:  map[family.Family]int{family.IPv6: 2},
		LastError: "of yesterday", LastErrorAt: since.Add(-time.Hour),
	}, nextHops: []netip.Addr{netip.MustParseAddr("198.51.100.11"), netip.MustParseAddr("2001:db8:51::11")}})
	want := v1alpha1.BGPSession{
		Peer: "tor1", Address: "198.51.100.1", LocalAddress: "198.51.100.11", RemoteASN: 64513, GracefulRestart: true,
		State: v1alpha1.BGPEstablished, Since: &since, Families: []corev1.IPFamily{corev1.IPv4Protocol},
		NextHops: []string{"198.51.100.11", "2001:db8:51::11"}, AdvertisedIPv4: 3, Withheld: 2, LastErrorTime: &since,
		LastError: "2 prefixes are not announced: the peer has agreed to [IPv4] only, or to no IPv6 next hops for IPv4 (RFC 8950); " +
			"activate the missing family or capability there",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("session (-want +got):\n%s", diff)
	}
}

// What may keep a session from coming up is no error of one that has come up, nor the reason why it was lost.
func TestDoubtEndsWithAnAnswer(t *testing.T) {
	const doubt = "the peer is behind a router"
	for _, tt := range []struct {
		name  string
		state bgp.SessionState
		want  string
	}{
		{"no answer", bgp.SessionState{State: bgp.Active, LastError: "i/o timeout"}, doubt},
		{"established", bgp.SessionState{State: bgp.Established, RemoteASN: 64513}, ""},
		{"lost", bgp.SessionState{State: bgp.Active, RemoteASN: 64513, LastError: "hold timer expired"}, "hold timer expired"},
	} {
		if got := bgpSession(peerState{Peer: peerNamed("tor1"), bgp: tt.state, doubt: problem{text: doubt}}).LastError; got != tt.want {
			t.Errorf("%s: last error %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A problem of a peer is in its state without a session, and is published once.
func TestSessionsReportProblemsOnce(t *testing.T) {
	changed := signal.New()
	s := newSessions(t.Context(), changed)
	desired := decision.Desired{
		Peers: []config.Peer{peerNamed("tor2")}, Problems: map[string]string{"tor2": "there is no Secret tandem-system/missing"},
	}
	s.Set(desired, nil)
	want := []v1alpha1.BGPSession{{
		Peer: "tor2", Address: "198.51.100.1", State: v1alpha1.BGPIdle, LastError: "there is no Secret tandem-system/missing",
	}}
	noted := s.published()
	if noted[0].LastErrorTime == nil {
		t.Error("nothing says since when there is a problem")
	}
	noted[0].LastErrorTime = nil
	if diff := cmp.Diff(want, noted); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	select {
	case <-changed:
	default:
		t.Fatal("the problem is not published")
	}
	s.Set(desired, nil)
	if len(changed) != 0 {
		t.Error("a problem that has not changed is published again")
	}
	s.Set(decision.Desired{}, nil)
	if len(changed) != 1 || len(s.published()) != 0 {
		t.Errorf("the end of the problem is not published: %v", s.published())
	}
}

// BFD begins when BGP is established, goes on after a loss, and follows the local address of BGP.
func TestBFDFollowsBGP(t *testing.T) {
	addr := netip.MustParseAddr
	tor1 := bfd.Session{Name: "tor1", Remote: addr("198.51.100.1"), Local: addr("198.51.100.50")}
	moved := bfd.Session{Name: "tor1", Remote: addr("198.51.100.2"), Local: addr("198.51.100.50")}
	from := func(s bfd.Session, local string) bfd.Session { s.Local = addr(local); return s }
	state := func(is bgp.State, local string) []bgp.SessionState {
		s := bgp.SessionState{Peer: "tor1", Address: addr("198.51.100.1"), State: is}
		if local != "" {
			s.Local = addr(local)
		}
		return []bgp.SessionState{s}
	}
	taken := func(step string) []string {
		if strings.Contains(step, "taken") {
			return []string{"tor1"}
		}
		return nil
	}
	e := establishedPeers{}
	for _, step := range []struct {
		name    string
		desired []bfd.Session
		states  []bgp.SessionState
		want    []bfd.Session
	}{
		{"before BGP is established", []bfd.Session{tor1}, state(bgp.OpenConfirm, "198.51.100.11"), nil},
		{"when it is", []bfd.Session{tor1}, state(bgp.Established, "198.51.100.11"), []bfd.Session{from(tor1, "198.51.100.11")}},
		{"when it is lost", []bfd.Session{tor1}, state(bgp.Active, ""), []bfd.Session{from(tor1, "198.51.100.11")}},
		{"when it comes from another address", []bfd.Session{tor1}, state(bgp.Established, "198.51.100.12"), []bfd.Session{from(tor1, "198.51.100.12")}},
		{"when the peer has another address", []bfd.Session{moved}, state(bgp.Established, "198.51.100.12"), nil},
		{"when it has the old one again", []bfd.Session{tor1}, state(bgp.Active, ""), nil},
		{"when BGP does not say its address", []bfd.Session{tor1}, state(bgp.Established, ""), []bfd.Session{tor1}},
		{"when it is not to be watched", nil, state(bgp.Established, ""), nil},
		{"when it is to be again", []bfd.Session{tor1}, state(bgp.Established, ""), []bfd.Session{tor1}},
		{"when another program has taken BGP", []bfd.Session{tor1}, state(bgp.Idle, ""), nil},
		{"when it is again, and BGP is away", []bfd.Session{tor1}, state(bgp.Active, ""), nil},
	} {
		if diff := cmp.Diff(step.want, e.watch(step.desired, step.states, taken(step.name)), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
}

// Two BGPPeers name one router: the one that has no session says why.
func TestAPeerThatIsRefusedSaysWhy(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	changed := signal.New()
	s := newSessions(ctx, changed)
	var desired decision.Desired
	for _, name := range []string{"tor1", "tor2"} {
		p := peerNamed(name)
		p.Peer.LocalASN, p.Peer.PeerASN, p.Peer.RouterID = 64512, 64513, netip.MustParseAddr("198.51.100.11")
		p.Peer.Defaults()
		desired.Peers, desired.BGP = append(desired.Peers, p), append(desired.BGP, bgp.Session{Peer: p.Peer})
	}
	s.Set(desired, nil)
	done := make(chan error)
	go func() { done <- s.run(ctx) }()
	told := func() string {
		if states := s.states(); len(states) == 2 {
			return bgpSession(states[1]).LastError
		}
		return ""
	}
	for deadline := time.After(20 * time.Second); !strings.Contains(told(), `198.51.100.1 is that of peer "tor1"`); {
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("tor2 says %q", told())
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.close(t.Context(), bgp.Withdraw)
}
