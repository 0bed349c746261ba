// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// reporting runs a sessionReporter of node1 in a bubble, with tor1 in the states that become sets.
func reporting(t *testing.T, test func(become func(state bgp.State, lastError string), gone func(string), expect func(...string))) {
	reader := fake.NewClientBuilder().WithScheme(config.Scheme()).
		WithObjects(&v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "tor1", UID: "1"}}).Build()
	synctest.Test(t, func(t *testing.T) {
		var states atomic.Pointer[[]peerState]
		states.Store(new([]peerState))
		events, changed := record.NewFakeRecorder(100), signal.New()
		go newSessionReporter("node1", reader, events, func() []peerState { return *states.Load() }).run(t.Context(), changed)
		set := func(peer peerState) {
			peer.Peer = peerNamed("tor1")
			states.Store(&[]peerState{peer})
			changed.Raise()
			time.Sleep(2 * time.Second)
			synctest.Wait()
		}
		become := func(state bgp.State, lastError string) {
			t.Helper()
			session := bgp.SessionState{State: state, Since: time.Now(), LastError: lastError}
			if state == bgp.Established {
				session.Families = family.All[:]
			}
			set(peerState{bgp: session})
		}
		test(become, func(text string) { set(peerState{problem: problem{text: text}}) }, func(want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, drain(events)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	})
}

const established = "Normal BGPSessionEstablished Node node1 has a session with 198.51.100.1 for IPv4 and IPv6"

func TestSessionEvents(t *testing.T) {
	reporting(t, func(become func(bgp.State, string), gone func(string), expect func(...string)) {
		become(bgp.Active, "connection refused")
		expect()
		become(bgp.Established, "connection refused")
		expect(established)
		become(bgp.Idle, "hold timer expired")
		expect("Warning BGPSessionLost Node node1 has lost its session with 198.51.100.1 for IPv4 and IPv6: hold timer expired")
		become(bgp.Active, "connection refused")
		expect()
		become(bgp.Established, "connection refused")
		expect(established)
		gone("there is no Secret tandem-system/missing")
		expect("Warning BGPSessionLost Node node1 has lost its session with 198.51.100.1 for IPv4 and IPv6: " +
			"there is no Secret tandem-system/missing")
	})
}

// A session that flaps is told by four events, and then by one a minute, which says what it missed. When it comes to rest, the last event
// says how.
func TestSessionEventsAreBounded(t *testing.T) {
	reporting(t, func(become func(bgp.State, string), _ func(string), expect func(...string)) {
		const lost = "Warning BGPSessionLost Node node1 has lost its session with 198.51.100.1 for IPv4 and IPv6: reset"
		for range 5 {
			become(bgp.Established, "")
			become(bgp.Idle, "reset")
		}
		expect(established, lost, established, lost)
		become(bgp.Established, "reset")
		time.Sleep(time.Minute)
		expect(established)
		become(bgp.Idle, "reset")
		become(bgp.Established, "reset")
		time.Sleep(time.Minute)
		expect(established + " again, which was lost in between: reset")
		time.Sleep(time.Hour)
		expect()
	})
}
