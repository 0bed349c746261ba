// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2/ktesting"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// TestLookingGlass asks a speaker whose peer does not answer.
func TestLookingGlass(t *testing.T) {
	_, ctx := ktesting.NewTestContext(t)
	var s Speaker
	ask := func(path string) (int, string) {
		answer := httptest.NewRecorder()
		s.LookingGlass().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		return answer.Code, answer.Body.String()
	}
	want := func(path string, code int, body string) {
		t.Helper()
		gotCode, got := ask(path)
		if diff := cmp.Diff(body, got); diff != "" || gotCode != code {
			t.Errorf("%s is answered by %d (-want +got):\n%s", path, gotCode, diff)
		}
	}
	want("/bgp/sessions", http.StatusServiceUnavailable, "the speaker is starting\n")

	sessions := newSessions(ctx, signal.New())
	t.Cleanup(func() { sessions.close(ctx, bgp.Withdraw) })
	s.sessions.Store(sessions)
	want("/bgp/sessions", http.StatusOK, "[]\n")
	want("/bfd", http.StatusOK, "[]\n")
	peer := bgp.Peer{
		Name: "tor1", LocalASN: 64512, PeerASN: 64513, Address: netip.MustParseAddr("127.0.0.1"), Port: 1, // nobody listens there
		RouterID: netip.MustParseAddr("192.0.2.254"),
	}
	peer.Defaults()
	route := bgp.Route{
		Prefix: netip.MustParsePrefix("198.51.100.200/32"), NextHop: netip.MustParseAddr("198.51.100.11"), MED: new(uint32(0)),
		Communities: []bgp.Community{bgp.GracefulShutdown, {Large: true, A: 64512, B: 1, C: 2}},
	}
	if err := sessions.bgp.Set(ctx, []bgp.Session{{Peer: peer, Routes: []bgp.Route{route}}}); err != nil {
		t.Fatal(err)
	}
	sessions.Set(decision.Desired{}, nil)
	want("/bgp/routes?peer=tor1", http.StatusOK, `[{"prefix":"198.51.100.200/32","nextHop":"198.51.100.11","med":0,`+
		`"communities":["65535:0","large:64512:1:2"],"sent":false,"withheld":"the session is not established"}]`+"\n")
	both := routeAnswers([]bgp.RouteState{{Route: bgp.Route{NextHop: netip.MustParseAddr("2001:db8:51::11"), LinkLocal: netip.MustParseAddr("fe80::11")}}})
	if got := both[0].LinkLocal.String(); got != "fe80::11" {
		t.Errorf("beside the next hop there is %s", got)
	}
	late := bgp.Route{Prefix: netip.MustParsePrefix("198.51.100.201/32"), NextHop: route.NextHop}
	sessions.hold([]bgp.Session{{Peer: peer, Routes: []bgp.Route{route, late}}}, []bgp.Session{{Peer: peer, Routes: []bgp.Route{route}}})
	sessions.Set(decision.Desired{NoNextHop: map[string][]bgp.Route{"tor1": {{Prefix: netip.MustParsePrefix("2001:db8::1/128")}}}}, nil)
	want("/bgp/routes?peer=tor1", http.StatusOK, `[{"prefix":"198.51.100.200/32","nextHop":"198.51.100.11","med":0,`+
		`"communities":["65535:0","large:64512:1:2"],"sent":false,"withheld":"the session is not established"},`+
		`{"prefix":"198.51.100.201/32","nextHop":"198.51.100.11","sent":false,"withheld":"it is new, or was withdrawn a moment ago, and waits"},`+
		`{"prefix":"2001:db8::1/128","sent":false,"withheld":"this node has no IPv6 address on the peer's link"}]`+"\n")
	want("/bgp/routes?peer=tor2", http.StatusNotFound, "no such peer has a session on this node; /bgp/sessions lists them\n")
}
