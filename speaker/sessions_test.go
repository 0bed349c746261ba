// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/ipam/family"
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
		Families: []family.Family{family.IPv4}, Advertised: map[family.Family]int{family.IPv4: 3},
		Withheld:  map[family.Family]int{family.IPv6: 2},
		LastError: "of yesterday",
	}})
	want := v1alpha1.BGPSession{
		Peer: "tor1", Address: "198.51.100.1", State: v1alpha1.BGPEstablished, Since: &since, AdvertisedIPv4: 3,
		LastError: "2 prefixes are not announced: the peer has agreed to [IPv4] only, or to no IPv6 next hops for IPv4 (RFC 8950); " +
			"activate the missing family or capability there",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("session (-want +got):\n%s", diff)
	}
}

// A problem of a peer is in its state without a session, and is published once.
func TestSessionsReportProblemsOnce(t *testing.T) {
	changed := signal.New()
	s := newSessions(t.Context(), changed)
	desired := decision.Desired{
		Peers: []config.Peer{peerNamed("tor2")}, Problems: map[string]string{"tor2": "there is no Secret tandem-system/missing"},
	}
	s.Set(desired)
	want := []v1alpha1.BGPSession{{
		Peer: "tor2", Address: "198.51.100.1", State: v1alpha1.BGPIdle, LastError: "there is no Secret tandem-system/missing",
	}}
	if diff := cmp.Diff(want, s.published()); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	select {
	case <-changed:
	default:
		t.Fatal("the problem is not published")
	}
	s.Set(desired)
	if len(changed) != 0 {
		t.Error("a problem that has not changed is published again")
	}
	s.Set(decision.Desired{})
	if len(changed) != 1 || len(s.published()) != 0 {
		t.Errorf("the end of the problem is not published: %v", s.published())
	}
}
