// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"k8s.io/klog/v2/ktesting"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/link/rtnetlink"
	"github.com/tandem-lb/tandem/speaker/unnumbered"
)

// fabric is a router without addresses but the link-local ones of its links. Behind it is a client, which is the router itself:
//
//	node r1f1 fe80::… ── fe80::… swp1 router 10.77.1.2
//	     r1f2 fe80::… ── fe80::… swp2        fd77:1::2
type fabric struct {
	*frr
	links   []string // the ends of this node
	watcher *unnumbered.Watcher
	speaker *Speaker
}

// newFabric makes a router's namespace with n links to this node, and a Speaker.
func newFabric(t *testing.T, n int) *fabric {
	t.Helper()
	namespace := nettest.New(t, "router")
	t.Cleanup(func() { clearNamespace(namespace.Name) })
	number := int(routers.Add(1))
	logger, _ := ktesting.NewTestContext(t)
	f := &fabric{
		frr: &frr{
			t: t, namespace: namespace, ns: namespace.Name, link: fmt.Sprintf("r%d", number),
			router4: netip.AddrFrom4([4]byte{10, 77, byte(number), 2}), router6: netip.MustParseAddr(fmt.Sprintf("fd77:%d::2", number)),
		},
		watcher: unnumbered.New(logger), speaker: newSpeaker(t),
	}
	t.Cleanup(f.watcher.Close)
	namespace.IP(t, "link set lo up")
	namespace.IP(t, "addr add %s/32 dev lo", f.router4)
	namespace.IP(t, "addr add %s/128 dev lo", f.router6)
	for i := 1; i <= n; i++ {
		own := fmt.Sprintf("r%df%d", number, i)
		nettest.Run(t, "ip", "link", "add", own, "type", "veth", "peer", "name", fmt.Sprint("swp", i), "netns", f.ns)
		t.Cleanup(func() { nettest.Run(t, "ip", "link", "delete", own) })
		nettest.Run(t, "ip", "link", "set", own, "up")
		namespace.IP(t, "link set swp%d up", i)
		f.links = append(f.links, own)
	}
	for _, address := range []string{"198.51.100.200/32", "2001:db8:51::1000/128"} { // those of a Service
		nettest.Run(t, "ip", "addr", "add", address, "dev", "lo")
		t.Cleanup(func() { nettest.Run(t, "ip", "addr", "delete", address, "dev", "lo") })
	}
	return f
}

// declare waits until the Watcher has found a router on each link, and declares a session with each, as decisions do. It returns their
// addresses.
func (f *fabric) declare(isNew func(netip.Addr) bool) (found []netip.Addr) {
	f.t.Helper()
	var sessions []bgp.Session
	eventually(f.t, "router advertisements", func() string {
		links, err := rtnetlink.Open()
		if err != nil {
			f.t.Fatal(err)
		}
		ended, end := context.WithCancel(context.Background())
		end()
		_ = links.Run(ended)
		f.watcher.Set(f.links, links.Snapshot())
		found, sessions = nil, nil
		for _, name := range f.links {
			address, err := f.watcher.Peer(name)
			if err != nil || !isNew(address) {
				return fmt.Sprint(address, err)
			}
			i, _ := links.Snapshot().ByName(name)
			hop := i.LinkLocal()
			found = append(found, address)
			sessions = append(sessions, bgp.Session{
				Peer: bgp.Peer{
					Name: name, LocalASN: 64512, Dynamic: bgp.External, Address: address, Unnumbered: true, Interface: name,
					RouterID: netip.MustParseAddr("192.0.2.254"), ConnectTime: 1e9,
				},
				Routes: []bgp.Route{
					{Prefix: netip.MustParsePrefix("198.51.100.200/32"), NextHop: hop},
					{Prefix: netip.MustParsePrefix("2001:db8:51::1000/128"), NextHop: hop},
				},
			})
		}
		return ""
	})
	set(f.t, f.speaker, sessions...)
	for _, to := range []netip.Addr{f.router4, f.router6} { // for the answers
		prefix := netip.PrefixFrom(to, to.BitLen()).String()
		nettest.Run(f.t, "ip", "route", "replace", prefix, "via", "inet6", found[0].WithZone("").String(), "dev", f.links[0])
	}
	return found
}

// wantForwarding waits until the router's kernel has the routes of both families by all links, and their addresses answer behind it.
func (f *fabric) wantForwarding() {
	f.t.Helper()
	for prefix, source := range map[string]netip.Addr{"198.51.100.200": f.router4, "2001:db8:51::1000": f.router6} {
		family := "-4"
		if source.Is6() {
			family = "-6"
		}
		eventually(f.t, "the route to "+prefix, func() string {
			out := f.namespace.Exec(f.t, "ip", family, "route", "show", prefix)
			for i := range f.links {
				if !strings.Contains(out, fmt.Sprint("dev swp", i+1)) {
					return "no route by swp" + fmt.Sprint(i+1) + ":\n" + out
				}
			}
			return ""
		})
		eventually(f.t, "answers of "+prefix, func() string {
			out, err := f.namespace.Command("ping", "-c", "1", "-W", "1", "-I", source.String(), prefix).CombinedOutput()
			if err != nil {
				return string(out)
			}
			return ""
		})
	}
}

func anyRouter(netip.Addr) bool { return true }

const unnumberedFRR = `
router bgp 64513
 bgp router-id $R4
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 NEIGHBOR
 address-family ipv4 unicast
  ACTIVATE
 address-family ipv6 unicast
  ACTIVATE
`

// startFRR starts FRR with an unnumbered neighbour on each link.
func (f *fabric) startFRR(setting string) {
	f.t.Helper()
	for _, dir := range []string{"/run/frr/" + f.ns, "/etc/frr/" + f.ns} {
		nettest.Run(f.t, "install", "-d", "-o", "frr", "-g", "frr", dir)
	}
	f.write("vtysh.conf", "")
	var neighbors, activate []string
	for i := range f.links {
		neighbors = append(neighbors, fmt.Sprintf("neighbor swp%d interface remote-as external", i+1))
		activate = append(activate, fmt.Sprintf("neighbor swp%d activate", i+1))
		if setting != "" {
			neighbors = append(neighbors, fmt.Sprintf("neighbor swp%d %s", i+1, setting))
		}
	}
	lines := strings.NewReplacer("NEIGHBOR", strings.Join(neighbors, "\n "), "ACTIVATE", strings.Join(activate, "\n  "))
	f.config = f.expand(lines.Replace(unnumberedFRR))
	f.start("zebra", "")
	f.startBGP()
}

func TestUnnumbered(t *testing.T) {
	for _, tt := range []struct {
		name, setting string
		links         int
	}{
		{"one link", "", 1},
		{"one link with TTL security", "ttl-security hops 1", 1},
		{"two links", "", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFabric(t, tt.links)
			f.startFRR(tt.setting)
			f.declare(anyRouter)
			f.wantForwarding()
		})
	}
}

// TestUnnumberedRouterRestart has the router come back with another MAC, and so with another link-local address.
func TestUnnumberedRouterRestart(t *testing.T) {
	f := newFabric(t, 1)
	f.startFRR("")
	old := f.declare(anyRouter)[0]
	f.wantForwarding()
	f.stopBGP(syscall.SIGKILL)
	f.namespace.IP(t, "link set swp1 down")
	f.namespace.IP(t, "link set swp1 address 02:00:00:00:77:01")
	f.namespace.IP(t, "link set swp1 up")
	f.startBGP()
	f.declare(func(address netip.Addr) bool { return address != old })
	f.wantForwarding()
}

// TestLinkMadeAnew: a link that is removed and made again under its name, as a VLAN of a bond is, has another index.
func TestLinkMadeAnew(t *testing.T) {
	router := nettest.New(t, "router")
	router.Do(t, func() error {
		listener, err := net.Listen("tcp", ":179")
		if err == nil {
			t.Cleanup(func() { listener.Close() })
		}
		return err
	})
	const name = "anew"
	for range 2 {
		nettest.Run(t, "ip", "link", "add", name, "type", "veth", "peer", "name", "up", "netns", router.Name)
		nettest.Run(t, "ip", "link", "set", name, "addrgenmode", "none")
		nettest.Run(t, "ip", "addr", "add", "fe80::11/64", "dev", name, "nodad")
		nettest.Run(t, "ip", "link", "set", name, "up")
		router.IP(t, "link set dev up addrgenmode none")
		router.IP(t, "addr add fe80::1/64 dev up nodad")
		router.IP(t, "link set dev up up")
		conn, err := dial(t.Context(), bgp.Peer{Address: netip.MustParseAddr("fe80::1%" + name), Port: 179})
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		nettest.Run(t, "ip", "link", "delete", name)
	}
}

const unnumberedBIRD = `
router id $R4;
protocol device {}
protocol kernel { ipv4 { export all; }; }
protocol kernel { ipv6 { export all; }; }
protocol radv {
  interface "swp1" { max ra interval 10; default lifetime 0; };
}
protocol bgp node1 {
  local as 64513;
  neighbor range fe80::/10 external;
  interface "swp1";
  ipv4 { import all; export none; extended next hop on; };
  ipv6 { import all; export none; };
}
`

func TestUnnumberedBIRD(t *testing.T) {
	f := newFabric(t, 1)
	dir := t.TempDir()
	config, control := filepath.Join(dir, "bird.conf"), filepath.Join(dir, "bird.ctl")
	if err := os.WriteFile(config, []byte(f.expand(unnumberedBIRD)), 0o644); err != nil {
		t.Fatal(err)
	}
	// It goes into the background and ends with its namespace.
	nettest.Run(t, "nsenter", "--net=/run/netns/"+f.ns, "--", "bird", "-c", config, "-s", control)
	f.declare(anyRouter)
	f.wantForwarding()
}
