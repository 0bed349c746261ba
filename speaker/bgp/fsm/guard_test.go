// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2/ktesting"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/bgp/guard"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// otherDaemon is the BIRD of this node, as Calico configures it: it has a session with graceful restart from the node's address, and
// announces a pod network.
const otherDaemon = `
router id $S4;
protocol device {}
protocol static { ipv4; route 10.244.1.0/24 blackhole; }
protocol bgp tor {
  local $S4 as 64512;
  neighbor $R4 as 64513;
  graceful restart on;
  connect delay time 1;
  connect retry time 2;
  error wait time 1, 2;
  ipv4 { import none; export all; };
}
`

// daemon is a BIRD in the namespace of the tests, which is the node's.
type daemon struct {
	t               *testing.T
	config, control string
	process         *os.Process // nil while it does not run
	ended           <-chan struct{}
}

func newDaemon(t *testing.T, config string) *daemon {
	t.Helper()
	dir := t.TempDir()
	d := &daemon{t: t, config: filepath.Join(dir, "bird.conf"), control: filepath.Join(dir, "bird.ctl")}
	if err := os.WriteFile(d.config, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.stop)
	return d
}

func (d *daemon) start() {
	d.t.Helper()
	cmd := exec.Command("bird", "-f", "-c", d.config, "-s", d.control)
	ended, err := nettest.Start(cmd)
	if err != nil {
		d.t.Fatal(err)
	}
	d.process, d.ended = cmd.Process, ended
}

// stop ends it out of the blue, so that the router keeps its routes for a while.
func (d *daemon) stop() {
	if d.process != nil {
		_ = d.process.Kill()
		<-d.ended
		d.process = nil
	}
}

// awaitSession waits until BIRD has its session.
func (d *daemon) awaitSession() {
	d.t.Helper()
	eventually(d.t, "BIRD's session", func() string {
		out, err := exec.Command("birdc", "-s", d.control, "show", "protocols", "tor").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Established") {
			return string(out)
		}
		return ""
	})
}

// drops returns how many sessions with a neighbour the router has lost.
func (r *frr) drops() int {
	r.t.Helper()
	var all map[string]struct{ ConnectionsDropped int }
	r.show(&all, "bgp neighbors "+r.speaker4.String())
	return all[r.speaker4.String()].ConnectionsDropped
}

// countedGuard tells of each time that it is asked.
type countedGuard struct {
	Guard
	asked chan error
}

func (g countedGuard) Allow() error {
	err := g.Guard.Allow()
	select {
	case g.asked <- err:
	default:
	}
	return err
}

// newGuardedSpeaker returns a Speaker with the guard of the product, and what the guard answers each time before a dial.
func newGuardedSpeaker(t *testing.T) (*Speaker, <-chan error) {
	t.Helper()
	logger, _ := ktesting.NewTestContext(t)
	asked := make(chan error, 100)
	others := guard.New(logger, signal.New())
	s := New(Config{Logger: logger, Guard: func(peer bgp.Peer) Guard { return countedGuard{others.Session(peer), asked} }})
	t.Cleanup(func() { s.Close(context.Background(), bgp.Withdraw) })
	return s, asked
}

// refused waits until the guard has refused a dial that many times more.
func refused(t *testing.T, asked <-chan error, times int) {
	t.Helper()
	for limit := time.After(patience); times > 0; {
		select {
		case err := <-asked:
			if err != nil {
				times--
			}
		case <-limit:
			t.Fatalf("the guard was to refuse %d dials more", times)
		}
	}
}

// withGracefulRestart is bothFamilies with a router that keeps the routes of neighbours that restart, so that a new connection ends the one
// before.
var withGracefulRestart = strings.Replace(bothFamilies, " no bgp ebgp", " bgp graceful-restart\n no bgp ebgp", 1)

const taken = "another program on this node already has a BGP session with this router"

// TestAnotherProgramHasTheSession has BIRD come first. Its session goes on as if there were no BGPPeer.
func TestAnotherProgramHasTheSession(t *testing.T) {
	r := newRouter(t, withGracefulRestart)
	bird := newDaemon(t, r.expand(otherDaemon))
	bird.start()
	bird.awaitSession()
	s, asked := newGuardedSpeaker(t)
	peer := r.peer()
	peer.ConnectTime = 1e9
	set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32")}})
	await(t, s, "tor1", "the reason", func(state bgp.SessionState) bool {
		return state.State == bgp.Idle && strings.Contains(state.LastError, taken)
	})
	refused(t, asked, 4)
	if n := r.drops(); n != 0 {
		t.Errorf("the router has lost %d sessions of BIRD", n)
	}
	// BIRD restarts, and nobody takes its place meanwhile.
	bird.stop()
	refused(t, asked, 2)
	bird.start()
	bird.awaitSession()
	refused(t, asked, 2)
	bird.awaitSession()
	if n := r.drops(); n != 1 {
		t.Errorf("the router has lost %d sessions, want that of the BIRD that was killed", n)
	}
}

// TestAnotherProgramComesLater has the speaker come first, and give the session up when BIRD wants it.
func TestAnotherProgramComesLater(t *testing.T) {
	for _, tt := range []struct {
		name string
		ours bgp.GracefulRestart
	}{
		{"without graceful restart", bgp.GracefulRestart{}},
		{"with graceful restart", bgp.GracefulRestart{Enabled: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRouter(t, withGracefulRestart)
			s, asked := newGuardedSpeaker(t)
			peer := r.peer()
			peer.ConnectTime, peer.GracefulRestart = 1e9, tt.ours
			set(t, s, bgp.Session{Peer: peer, Routes: []bgp.Route{r.route("198.51.100.200/32")}})
			awaitState(t, s, "tor1", bgp.Established)
			bird := newDaemon(t, r.expand(otherDaemon))
			bird.start()
			await(t, s, "tor1", "the reason", func(state bgp.SessionState) bool {
				return state.State == bgp.Idle && strings.Contains(state.LastError, taken)
			})
			bird.awaitSession()
			before := r.drops()
			refused(t, asked, 4)
			r.wantRIB(map[string][]path{"10.244.1.0/24": {r.ofBIRD()}})
			if n := r.drops(); n != before {
				t.Errorf("the router has lost %d sessions of BIRD", n-before)
			}
		})
	}
}

// ofBIRD is the path to the pod network.
func (r *frr) ofBIRD() path {
	p := external(r.speaker4)
	p.Peer.RouterID = r.speaker4.String()
	return p
}

// TestTwoAddresses has BIRD and the speaker speak with one router from two addresses of the node, which is nobody's loss.
func TestTwoAddresses(t *testing.T) {
	r := newRouter(t, bothFamilies)
	bird := newDaemon(t, r.expand(otherDaemon))
	bird.start()
	bird.awaitSession()
	s, _ := newGuardedSpeaker(t)
	peer := r.peer()
	second := r.speaker4.As4()
	second[3] = 11
	peer.SourceAddress = netip.AddrFrom4(second)
	nettest.Run(t, "ip", "addr", "add", peer.SourceAddress.String()+"/24", "dev", r.link)
	r.configure("router bgp 64513", "neighbor "+peer.SourceAddress.String()+" remote-as 64512",
		"address-family ipv4 unicast", "neighbor "+peer.SourceAddress.String()+" activate")
	set(t, s, bgp.Session{Peer: peer})
	awaitState(t, s, "tor1", bgp.Established)
	bird.awaitSession()
	if n := r.drops(); n != 0 {
		t.Errorf("the router has lost %d sessions of BIRD", n)
	}
}
