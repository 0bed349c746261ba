// SPDX-License-Identifier: Apache-2.0

package unnumbered

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/ndp"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/link/rtnetlink"
)

// patience bounds each wait. None takes nearly as long.
const patience = 20 * time.Second

func TestMain(m *testing.M) { os.Exit(nettest.Main(m, nil)) }

// newLink connects this namespace and some others by a switch. Each has an interface eth0, with fe80::11 here and fe80::1, fe80::2 and so
// on there.
func newLink(t *testing.T, others ...*nettest.Namespace) (own *nettest.Namespace) {
	t.Helper()
	own = nettest.Own(t)
	lan := nettest.NewSwitch(t, "lan")
	t.Cleanup(func() { own.IP(t, "link delete eth0") })
	for i, ns := range append([]*nettest.Namespace{own}, others...) {
		lan.Plug(t, ns, "")
		address := fmt.Sprintf("fe80::%d/64", i)
		if i == 0 {
			address = "fe80::11/64"
		}
		ns.IP(t, "link set eth0 addrgenmode none")
		ns.IP(t, "addr add %s dev eth0 nodad", address)
		ns.IP(t, "link set eth0 up")
	}
	for _, ns := range append([]*nettest.Namespace{own}, others...) {
		for up := false; !up; time.Sleep(10 * time.Millisecond) { // A carrier takes a moment to be seen.
			ns.Do(t, func() error {
				links, err := snapshot()
				if err == nil {
					i, _ := links.ByName("eth0")
					up = i.Up
				}
				return err
			})
		}
	}
	return own
}

// snapshot returns the interfaces of the namespace of this thread.
func snapshot() (*link.Snapshot, error) {
	links, err := rtnetlink.Open()
	if err != nil {
		return nil, err
	}
	ended, end := context.WithCancel(context.Background())
	end()
	return links.Snapshot(), links.Run(ended) // Run closes the sockets
}

// set has a Watcher look at eth0 as it is now.
func set(t *testing.T, w *Watcher) {
	t.Helper()
	links, err := snapshot()
	if err != nil {
		t.Fatal(err)
	}
	w.Set([]string{"eth0"}, links)
}

// station opens a socket on eth0 of a namespace.
func station(t *testing.T, ns *nettest.Namespace) *socket {
	t.Helper()
	var s *socket
	ns.Do(t, func() error {
		links, err := snapshot()
		if err != nil {
			return err
		}
		i, _ := links.ByName("eth0")
		s, err = listen(i, i.LinkLocal())
		return err
	})
	t.Cleanup(s.close)
	return s
}

// advertise has a router answer solicitations as long as the test runs, and advertise once.
func advertise(t *testing.T, ns *nettest.Namespace) {
	t.Helper()
	s := station(t, ns)
	if err := s.send(true, false); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			m, _, err := s.receive()
			if _, ok := m.(*ndp.RouterSolicitation); ok {
				err = s.send(true, false)
			}
			if err != nil {
				return
			}
		}
	}()
}

func newWatcher(t *testing.T) *Watcher {
	logger, _ := ktesting.NewTestContext(t)
	w := New(logger)
	t.Cleanup(w.Close)
	return w
}

// awaitPeer waits for what the Watcher says of eth0.
func awaitPeer(t *testing.T, w *Watcher, want, wantErr string) {
	t.Helper()
	timeout := time.After(patience)
	for {
		peer, err := w.Peer("eth0")
		if (want == "" && !peer.IsValid() || want != "" && peer.String() == want+"%eth0") &&
			(wantErr == "" && err == nil || wantErr != "" && err != nil && strings.Contains(err.Error(), wantErr)) {
			return
		}
		select {
		case <-w.Changes():
		case <-timeout:
			t.Fatalf("Waited in vain for %q with the error %q: %v, %v", want, wantErr, peer, err)
		}
	}
}

func TestWatcher(t *testing.T) {
	router, second := nettest.New(t, "router"), nettest.New(t, "second")
	own := newLink(t, router, second)
	w := newWatcher(t)
	set(t, w)
	awaitPeer(t, w, "", "no router answers")
	advertise(t, router)
	awaitPeer(t, w, "fe80::1", "")
	advertise(t, second)
	awaitPeer(t, w, "fe80::1", "2 routers answer on eth0 (fe80::1, fe80::2)")
	own.IP(t, "link set eth0 down")
	set(t, w)
	awaitPeer(t, w, "fe80::1", "is down")
	w.Set(nil, &link.Snapshot{})
	if _, err := w.Peer("eth0"); err == nil {
		t.Error("an interface that no peer names has a router")
	}
}

// TestRouterWithAnotherAddress has the router come back with another MAC, and so with another link-local address.
func TestRouterWithAnotherAddress(t *testing.T) {
	router, replacement := nettest.New(t, "router"), nettest.New(t, "replacement")
	newLink(t, router, replacement)
	w := newWatcher(t)
	set(t, w)
	advertise(t, router)
	awaitPeer(t, w, "fe80::1", "")
	router.IP(t, "link set eth0 down")
	advertise(t, replacement)
	awaitPeer(t, w, "fe80::2", "")
}

// TestAdvertisement compares what the router hears of a node.
func TestAdvertisement(t *testing.T) {
	router := nettest.New(t, "router")
	newLink(t, router)
	s := station(t, router)
	w := newWatcher(t)
	set(t, w)
	links, err := snapshot()
	if err != nil {
		t.Fatal(err)
	}
	i, _ := links.ByName("eth0")
	want := &ndp.RouterAdvertisement{Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: i.MAC}}}
	source, got := nextAdvertisement(t, s)
	if diff := cmp.Diff(want, got); diff != "" || source != netip.MustParseAddr("fe80::11") {
		t.Errorf("an advertisement from %v (-want +got):\n%s", source, diff)
	}
}

// nextAdvertisement returns the next one that a station hears, and its source without the zone.
func nextAdvertisement(t *testing.T, s *socket) (netip.Addr, *ndp.RouterAdvertisement) {
	t.Helper()
	for {
		m, source, err := s.receive()
		if err != nil {
			t.Fatal(err)
		}
		if advertisement, ok := m.(*ndp.RouterAdvertisement); ok {
			return source.WithZone(""), advertisement
		}
	}
}

// TestHostsAreLeftAlone has a host on the link that takes a default route from router advertisements.
func TestHostsAreLeftAlone(t *testing.T) {
	router, host := nettest.New(t, "router"), nettest.New(t, "host")
	newLink(t, router, host)
	for _, setting := range []string{"forwarding=1", "accept_ra=2"} {
		host.Exec(t, "sysctl", "-qw", "net.ipv6.conf.eth0."+setting)
	}
	hears := station(t, host)
	s := station(t, router)
	b := marshal(t, &ndp.RouterAdvertisement{RouterLifetime: time.Hour, CurrentHopLimit: 61})
	if _, err := s.conn.WriteTo(b, nil, s.multicast(allNodes)); err != nil {
		t.Fatal(err)
	}
	if source, _ := nextAdvertisement(t, hears); source != netip.MustParseAddr("fe80::1") {
		t.Fatalf("heard %v first", source)
	}
	routes := func() string {
		var kept []string
		for line := range strings.SplitSeq(host.Exec(t, "ip", "-6", "route", "show", "default"), "\n") {
			before, _, _ := strings.Cut(line, " expires ")
			kept = append(kept, before)
		}
		return strings.Join(kept, "\n") + host.Exec(t, "sysctl", "net.ipv6.conf.eth0.hop_limit")
	}
	before := routes()
	// A socket has a packet before the kernel takes it in.
	for deadline := time.Now().Add(patience); !strings.Contains(before, "via fe80::1 ") || !strings.Contains(before, "= 61"); before = routes() {
		if time.Now().After(deadline) {
			t.Fatalf("the host has no default route from the router: %s", before)
		}
	}
	w := newWatcher(t)
	set(t, w)
	if source, _ := nextAdvertisement(t, hears); source != netip.MustParseAddr("fe80::11") {
		t.Fatalf("heard %v and not the node", source)
	}
	if diff := cmp.Diff(before, routes()); diff != "" {
		t.Errorf("our advertisement has changed the routes of a host (-before +after):\n%s", diff)
	}
}

// TestHostilePackets sends what a router never would, and then what it does.
func TestHostilePackets(t *testing.T) {
	router := nettest.New(t, "router")
	newLink(t, router)
	s := station(t, router)
	w := newWatcher(t)
	set(t, w)
	valid := marshal(t, &ndp.RouterAdvertisement{})
	for _, hostile := range []struct {
		hopLimit int
		packet   []byte
	}{
		{64, valid},
		{255, valid[:8]},
		{255, append(append([]byte(nil), valid...), 1, 0)},                   // an option without a length
		{255, append(append([]byte(nil), valid...), make([]byte, 60000)...)}, // longer than the buffer
	} {
		err := s.conn.SetMulticastHopLimit(hostile.hopLimit)
		if err == nil {
			_, err = s.conn.WriteTo(hostile.packet, nil, s.multicast(allNodes))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	advertise(t, router) // which comes after them
	awaitPeer(t, w, "fe80::1", "")
}

// TestIsOwn: an advertisement of this node is told from that of a router with the same address.
func TestIsOwn(t *testing.T) {
	mac := func(last byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, last} }
	w := New(klog.Background())
	w.Set(nil, &link.Snapshot{Interfaces: []link.Interface{
		{Name: "docker0", MAC: mac(1), Addresses: []link.Address{{Prefix: netip.MustParsePrefix("fe80::1/64")}}},
	}})
	for _, tt := range []struct {
		name, source string
		mac          net.HardwareAddr
		want         bool
	}{
		{"docker0 on the same link", "fe80::1%eth1", mac(1), true},
		{"docker0, which names no MAC", "fe80::1%eth1", nil, true},
		{"a router with the address of docker0", "fe80::1%eth1", mac(9), false},
		{"a router", "fe80::2%eth1", mac(9), false},
		{"a router that names no MAC", "fe80::2%eth1", nil, false},
	} {
		m := &ndp.RouterAdvertisement{}
		if tt.mac != nil {
			m.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: tt.mac}}
		}
		if got := w.isOwn(m, netip.MustParseAddr(tt.source)); got != tt.want {
			t.Errorf("%s: is own %v, want %v", tt.name, got, tt.want)
		}
	}
}
