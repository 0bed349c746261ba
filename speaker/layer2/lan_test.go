// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"

	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// patience bounds each wait for an event. No test depends on how soon one comes.
const patience = 10 * time.Second

// A lan is a switch with hosts:
//
//	client .1 ──┬── switch ──┬── node1 .11
//	            └── …        └── node2 .12        198.51.100.0/24, 2001:db8:51::/64
type lan struct{ *nettest.Switch }

// A host is a network namespace with an interface eth0 on a lan.
type host struct{ *nettest.Namespace }

func newLAN(t *testing.T) lan {
	t.Helper()
	return lan{nettest.NewSwitch(t, "layer2-switch")}
}

// add adds a host whose addresses end in n.
func (l lan) add(t *testing.T, name string, n int) host {
	t.Helper()
	h := host{nettest.New(t, "layer2-"+name)}
	l.plug(t, h, n)
	return h
}

// plug connects a host to the switch; its MAC ends in n as well.
func (l lan) plug(t *testing.T, h host, n int) {
	t.Helper()
	l.Plug(t, h.Namespace, fmt.Sprintf("02:00:00:00:00:%02x", n))
	h.IP(t, "addr add 198.51.100.%d/24 dev eth0", n)
	h.IP(t, "addr add 2001:db8:51::%d/64 dev eth0 nodad", n)
	h.IP(t, "link set eth0 up")
	l.Await(t, h.Namespace)
}

// eth0 returns the host's interface as the caller of SetInterfaces would see it.
func (h host) eth0(t *testing.T) (iface Interface) {
	t.Helper()
	h.Do(t, func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err == nil {
			iface = Interface{Name: ifi.Name, Index: ifi.Index, MAC: ifi.HardwareAddr}
		}
		return err
	})
	return iface
}

// A running is an Announcer that runs in a host.
type running struct {
	*Announcer
	registry  *prometheus.Registry
	changed   signal.Signal
	conflicts chan Conflict
	stop      func()
}

// announce runs an Announcer in the host until the test ends.
func (h host) announce(t *testing.T) *running {
	t.Helper()
	r := &running{
		registry:  prometheus.NewRegistry(),
		changed:   signal.New(),
		conflicts: make(chan Conflict, 16),
	}
	r.Announcer = New(Config{
		Registerer: r.registry,
		OnConflict: func(c Conflict) { r.conflicts <- c },
		OnChange:   r.changed.Raise,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := h.Go(t, func() error { return r.Run(ctx) })
	r.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(r.stop)
	r.SetInterfaces([]Interface{h.eth0(t)})
	return r
}

// waitUntil waits until what is announced fulfils a condition.
func (r *running) waitUntil(t *testing.T, what string, condition func([]Status) bool) {
	t.Helper()
	timeout := time.After(patience)
	for !condition(r.Announced()) {
		select {
		case <-r.changed:
		case <-timeout:
			t.Fatalf("Not %s in time; announced: %+v", what, r.Announced())
		}
	}
}

// set announces addresses on eth0 and waits until they are.
func (r *running) set(t *testing.T, addrs ...netip.Addr) {
	t.Helper()
	var announcements []Announcement
	for _, a := range addrs {
		announcements = append(announcements, Announcement{Address: a, Interfaces: []string{"eth0"}})
	}
	r.Set(announcements)
	r.waitUntil(t, "announced", func(status []Status) bool {
		return len(status) == len(addrs) && !slices.ContainsFunc(status, func(s Status) bool { return !s.Announced || s.Err != nil })
	})
}

// counter returns the sum of a counter or a gauge over the series that have all the label values.
func (r *running) counter(t *testing.T, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.Metric {
			var values []string
			for _, l := range m.Label {
				values = append(values, l.GetValue())
			}
			if !slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(values, l) }) {
				sum += m.Counter.GetValue() + m.Gauge.GetValue()
			}
		}
	}
	return sum
}

// waitNeighbour waits until the host's neighbour cache has addr with a MAC, in one of the states.
func (h host) waitNeighbour(t *testing.T, addr netip.Addr, want net.HardwareAddr, states int) {
	t.Helper()
	updates, done := make(chan netlink.NeighUpdate, 64), make(chan struct{})
	defer close(done)
	if err := netlink.NeighSubscribeWithOptions(updates, done, netlink.NeighSubscribeOptions{
		Namespace: &h.Handle, ListExisting: true,
	}); err != nil {
		t.Fatal(err)
	}
	var last string
	timeout := time.After(patience)
	for {
		select {
		case u := <-updates:
			if got, _ := netip.AddrFromSlice(u.IP); got.Unmap() == addr {
				last = fmt.Sprintf("%s in state %#x", u.HardwareAddr, u.State)
				if slices.Equal(u.HardwareAddr, want) && u.State&states != 0 {
					return
				}
			}
		case <-timeout:
			t.Fatalf("Neighbour %s of %s: want %s in one of the states %#x, last seen: %s", addr, h.Name, want, states, last)
		}
	}
}

// talk sends a datagram to addr, which makes the kernel look for it.
func (h host) talk(t *testing.T, addr netip.Addr) {
	t.Helper()
	h.Do(t, func() error {
		conn, err := net.Dial("udp", netip.AddrPortFrom(addr, 9).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("x"))
		return err
	})
}

// A tap sends and receives whole frames on a host's eth0.
type tap struct{ conn *packet.Conn }

// tap opens a tap that sees frames of one Ethernet type.
func (h host) tap(t *testing.T, etherType int) *tap {
	t.Helper()
	iface := h.eth0(t)
	var conn *packet.Conn
	h.Do(t, func() (err error) {
		conn, err = packet.Listen(&net.Interface{Index: iface.Index, HardwareAddr: iface.MAC}, packet.Raw, etherType, nil)
		return err
	})
	t.Cleanup(func() { _ = conn.Close() })
	return &tap{conn: conn}
}

func (p *tap) send(t *testing.T, frame []byte) {
	t.Helper()
	if _, err := p.conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
		t.Fatal(err)
	}
}

// until returns the frames up to and including the first that ends the wait.
func (p *tap) until(t *testing.T, end func(frame []byte) bool) (frames [][]byte) {
	t.Helper()
	if err := p.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for {
		buf := make([]byte, maxFrame)
		n, _, err := p.conn.ReadFrom(buf)
		if err != nil {
			t.Fatalf("Waiting for a frame: %v; seen: %x", err, frames)
		}
		frames = append(frames, buf[:n])
		if end(buf[:n]) {
			return frames
		}
	}
}

// waitGroup waits until the host's eth0 is a member of a multicast group. Groups are joined after the first announcement.
func (h host) waitGroup(t *testing.T, group netip.Addr) {
	t.Helper()
	for limit := time.Now().Add(patience); !h.inGroup(t, group); {
		if time.Now().After(limit) {
			t.Fatalf("Not in group %s", group)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// inGroup reports whether the host's eth0 is a member of a multicast group, as the kernel sees it.
func (h host) inGroup(t *testing.T, group netip.Addr) (member bool) {
	t.Helper()
	h.Do(t, func() error {
		// /proc/thread-self rather than /proc/net, which follows the main thread.
		b, err := os.ReadFile(filepath.Join("/proc/thread-self/net/igmp6"))
		member = strings.Contains(string(b), strings.ReplaceAll(group.StringExpanded(), ":", ""))
		return err
	})
	return member
}

// waitAllMulticast waits until so many have asked the host's eth0 to receive all multicast, as the kernel counts them.
func (h host) waitAllMulticast(t *testing.T, want int) {
	t.Helper()
	for limit := time.Now().Add(patience); ; <-time.After(10 * time.Millisecond) {
		_, count, found := strings.Cut(h.Exec(t, "ip", "-d", "link", "show", "dev", "eth0"), " allmulti ")
		n := 0
		if _, err := fmt.Sscan(count, &n); !found || err != nil {
			t.Fatal("ip -d link does not tell how many have asked to receive all multicast: it takes iproute2 6.1 and Linux 6.0 (IFLA_ALLMULTI)")
		}
		if n == want {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("%d have asked eth0 to receive all multicast, want %d", n, want)
		}
	}
}
