// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2/ktesting"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
)

// patience bounds every wait for a router; nothing is expected to take that long.
const patience = 20 * time.Second

var routers atomic.Int32

// frr is a router in a namespace of its own, on a link of its own:
//
//	speaker 10.77.N.1 ── 10.77.N.2 router
//	     fd77:N::1          fd77:N::2
type frr struct {
	t         testing.TB
	namespace *nettest.Namespace
	ns        string // its name
	link      string // the speaker's end
	// Addresses of the speaker and the router.
	speaker4, speaker6, router4, router6 netip.Addr
	config                               string
}

// newRouter starts FRR with a bgpd.conf in which $S4, $S6, $R4 and $R6 stand for the addresses of both ends.
func newRouter(t testing.TB, config string) *frr {
	t.Helper()
	r := newLink(t)
	if _, err := os.Stat("/usr/lib/frr/bgpd"); err != nil {
		t.Fatalf("FRR is missing: apt-get install -y frr (%v)", err)
	}
	for _, dir := range []string{"/run/frr/" + r.ns, "/etc/frr/" + r.ns} {
		nettest.Run(t, "install", "-d", "-o", "frr", "-g", "frr", dir)
	}
	r.write("vtysh.conf", "")
	r.config = r.expand(config)
	r.start("zebra", "")
	r.startBGP()
	return r
}

// newLink makes a router's namespace and its link, with no router in it.
func newLink(t testing.TB) *frr {
	t.Helper()
	namespace := nettest.New(t, "router")
	t.Cleanup(func() { clearNamespace(namespace.Name) })
	n := int(routers.Add(1))
	r := &frr{
		t:         t,
		namespace: namespace,
		ns:        namespace.Name,
		link:      fmt.Sprintf("r%d", n),
		speaker4:  netip.AddrFrom4([4]byte{10, 77, byte(n), 1}),
		router4:   netip.AddrFrom4([4]byte{10, 77, byte(n), 2}),
		speaker6:  netip.MustParseAddr(fmt.Sprintf("fd77:%d::1", n)),
		router6:   netip.MustParseAddr(fmt.Sprintf("fd77:%d::2", n)),
	}
	nettest.Run(t, "ip", "link", "add", r.link, "type", "veth", "peer", "name", "up", "netns", r.ns)
	nettest.Run(t, "ip", "addr", "add", r.speaker4.String()+"/24", "dev", r.link)
	nettest.Run(t, "ip", "addr", "add", r.speaker6.String()+"/64", "dev", r.link, "nodad")
	nettest.Run(t, "ip", "link", "set", r.link, "addrgenmode", "none")
	nettest.Run(t, "ip", "addr", "add", "fe80::1/64", "dev", r.link, "nodad")
	nettest.Run(t, "ip", "link", "set", r.link, "up")
	namespace.IP(t, "addr add %s/24 dev up", r.router4)
	namespace.IP(t, "addr add %s/64 dev up nodad", r.router6)
	namespace.IP(t, "link set dev up addrgenmode none")
	namespace.IP(t, "addr add fe80::2/64 dev up nodad")
	namespace.IP(t, "link set dev up up")
	namespace.IP(t, "link set lo up")
	return r
}

func (r *frr) expand(s string) string {
	return strings.NewReplacer("$S4", r.speaker4.String(), "$S6", r.speaker6.String(),
		"$R4", r.router4.String(), "$R6", r.router6.String()).Replace(s)
}

func (r *frr) write(name, content string) string {
	r.t.Helper()
	path := filepath.Join("/etc/frr", r.ns, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// start runs a daemon of FRR, which forks and returns once it listens.
func (r *frr) start(daemon string, config string) {
	r.t.Helper()
	path := r.write(daemon+".conf", config)
	nettest.Run(r.t, "nsenter", "--net=/run/netns/"+r.ns, "--", "/usr/lib/frr/"+daemon,
		"-d", "-N", r.ns, "-A", "127.0.0.1", "-P", "0", "-f", path)
}

func (r *frr) startBGP() {
	r.t.Helper()
	r.start("bgpd", r.config)
}

// stopBGP ends the router's BGP daemon: in order with SIGTERM, or out of the blue with SIGKILL.
func (r *frr) stopBGP(signal syscall.Signal) {
	r.t.Helper()
	pid := r.signalBGP(signal)
	eventually(r.t, "bgpd to end", func() string {
		if syscall.Kill(pid, 0) == nil {
			return "still there"
		}
		return ""
	})
}

func (r *frr) signalBGP(signal syscall.Signal) (pid int) {
	r.t.Helper()
	text, err := os.ReadFile("/run/frr/" + r.ns + "/bgpd.pid")
	if err != nil {
		r.t.Fatal(err)
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
		r.t.Fatal(err)
	}
	if err := syscall.Kill(pid, signal); err != nil {
		r.t.Fatal(err)
	}
	return pid
}

// show asks the router and parses its JSON.
func (r *frr) show(into any, query string) {
	r.t.Helper()
	out := nettest.Run(r.t, "vtysh", "-N", r.ns, "-c", "show "+query+" json")
	if err := json.Unmarshal([]byte(out), into); err != nil {
		r.t.Fatalf("show %s: %v: %s", query, err, out)
	}
}

func (r *frr) configure(lines ...string) {
	r.t.Helper()
	args := []string{"-N", r.ns, "-c", "configure terminal"}
	for _, line := range lines {
		args = append(args, "-c", r.expand(line))
	}
	nettest.Run(r.t, "vtysh", args...)
}

// path is what the router knows about a path, all of it that a speaker can influence.
type path struct {
	ASPath          struct{ String string }         `json:"aspath"`
	Origin          string                          `json:"origin"`
	MED             *int                            `json:"metric"`
	LocalPref       *int                            `json:"locPrf"`
	Community       struct{ String string }         `json:"community"`
	LargeCommunity  struct{ String string }         `json:"largeCommunity"`
	AtomicAggregate bool                            `json:"atomicAggregate"`
	NextHops        []nextHop                       `json:"nexthops"`
	Peer            struct{ RouterID, Type string } `json:"peer"`
	Stale           bool                            `json:"stale"`
}

type nextHop struct {
	IP    string `json:"ip"`
	Used  bool   `json:"used"`
	Scope string `json:"scope"`
}

// rib returns the best paths of both families.
func (r *frr) rib() map[string][]path {
	r.t.Helper()
	rib := map[string][]path{}
	for _, family := range []string{"ipv4", "ipv6"} {
		var table struct{ Routes map[string]any }
		r.show(&table, "bgp "+family+" unicast")
		for prefix := range table.Routes {
			var entry struct{ Paths []path }
			r.show(&entry, "bgp "+family+" unicast "+prefix)
			if len(entry.Paths) > 0 { // it may have gone between the two questions
				rib[prefix] = entry.Paths
			}
		}
	}
	return rib
}

// wantRIB waits until the router's RIB is want, and nothing else.
func (r *frr) wantRIB(want map[string][]path) {
	r.t.Helper()
	eventually(r.t, "the router's RIB (-want +got)", func() string { return cmp.Diff(want, r.rib()) })
}

// neighbor returns what the router says about the session to address.
func (r *frr) neighbor(address netip.Addr) (n neighbor) {
	r.t.Helper()
	all := map[string]neighbor{}
	r.show(&all, "bgp neighbors "+address.String())
	return all[address.String()]
}

type neighbor struct {
	BGPState         string
	RemoteRouterID   string `json:"remoteRouterId"`
	HostLocal        string
	HostForeign      string
	HoldTime         int `json:"bgpTimerHoldTimeMsecs"`
	KeepAlive        int `json:"bgpTimerKeepAliveIntervalMsecs"`
	LastResetDueTo   string
	LastNotification string `json:"lastNotificationReason"`
	MessageStats     struct{ UpdatesRecv int }
	// GracefulRestart holds the bits of RFC 4724 §3 in our latest OPEN.
	GracefulRestart struct {
		RBit                     bool
		IPv4Unicast, IPv6Unicast struct{ FBit bool }
	} `json:"gracefulRestartInfo"`
}

// eventually waits until check has nothing to complain about.
func eventually(t testing.TB, what string, check func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		complaint := check()
		if complaint == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("Waited in vain for %s:\n%s", what, complaint)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// newSpeaker returns a Speaker that is closed after the test.
func newSpeaker(t *testing.T) *Speaker {
	logger, _ := ktesting.NewTestContext(t)
	s := New(Config{Logger: logger})
	t.Cleanup(func() { s.Close(context.Background(), bgp.Withdraw) })
	return s
}

func set(t testing.TB, s *Speaker, sessions ...bgp.Session) {
	t.Helper()
	if err := s.Set(context.Background(), withDefaults(sessions)); err != nil {
		t.Fatal(err)
	}
}

// withDefaults returns the sessions with the defaults of their peers, which package config fills in for the speaker.
func withDefaults(sessions []bgp.Session) []bgp.Session {
	sessions = slices.Clone(sessions)
	for i := range sessions {
		sessions[i].Peer.Defaults()
	}
	return sessions
}

// await waits for a state of the named peer.
func await(t *testing.T, s *Speaker, peer, what string, is func(bgp.SessionState) bool) bgp.SessionState {
	t.Helper()
	timeout := time.After(patience)
	for {
		for _, state := range s.States() {
			if state.Peer == peer && is(state) {
				return state
			}
		}
		select {
		case <-s.Changes():
		case <-timeout:
			t.Fatalf("Waited in vain for %s: %+v", what, s.States())
		}
	}
}

func awaitState(t *testing.T, s *Speaker, peer string, want bgp.State) bgp.SessionState {
	t.Helper()
	return await(t, s, peer, string(want), func(state bgp.SessionState) bool { return state.State == want })
}
