// SPDX-License-Identifier: Apache-2.0

package kernelroutes

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2/ktesting"

	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// lan is a node with routing software, another node, and a router, as docs/networks.md has them:
//
//	node .11 ──┐
//	other .12 ─┼── switch, 198.51.100.0/24 and 2001:db8:51::/64
//	router .1 ─┘
type lan struct {
	t                   *testing.T
	node, other, router *nettest.Namespace
	fabric              *nettest.Router // FRR on the router
	table               *Table          // on the node
	stop                func()
}

func newLAN(t *testing.T) *lan {
	l := &lan{t: t}
	cable := nettest.NewSwitch(t, "kernelroutes-switch")
	for last, host := range map[string]**nettest.Namespace{"11": &l.node, "12": &l.other, "1": &l.router} {
		n := nettest.New(t, "kernelroutes")
		cable.Plug(t, n, "")
		n.IP(t, "addr add 198.51.100.%s/24 dev eth0", last)
		n.IP(t, "addr add 2001:db8:51::%s/64 dev eth0 nodad", last)
		n.IP(t, "link set eth0 up")
		n.IP(t, "link set lo up")
		*host = n
	}
	l.fabric = nettest.StartFRR(t, l.router, "bgpd", `
router bgp 64513
 bgp router-id 198.51.100.1
 no bgp ebgp-requires-policy
 neighbor 198.51.100.11 remote-as 64512
 address-family ipv6 unicast
  neighbor 198.51.100.11 activate
`)
	l.start()
	return l
}

// start runs a Table on the node.
func (l *lan) start() {
	_, ctx := ktesting.NewTestContext(l.t)
	ctx, cancel := context.WithCancel(ctx)
	l.table = New(signal.New())
	table := l.table
	done := l.node.Go(l.t, func() error { return table.Run(ctx) })
	l.stop = func() { cancel(); <-done }
	l.t.Cleanup(l.stop)
}

// routes waits until the router has routes to these prefixes, with the node as their next hop.
func (l *lan) routes(when string, want ...string) {
	l.t.Helper()
	want = slices.Sorted(slices.Values(want))
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		var got []string
		for _, f := range []string{"ipv4", "ipv6"} {
			var table struct{ Routes map[string]any }
			if err := json.Unmarshal([]byte(l.fabric.Show("show bgp "+f+" unicast json")), &table); err != nil {
				l.t.Fatal(err)
			}
			got = slices.AppendSeq(got, maps.Keys(table.Routes))
		}
		slices.Sort(got)
		diff := cmp.Diff(want, got)
		if diff == "" {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("%s, the router has routes to (-want +got):\n%s", when, diff)
		}
	}
}

// healed waits until the node has what was flushed.
func (l *lan) healed(iface string) {
	l.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		has := l.node.Exec(l.t, "ip", "-4", "route", "show", "proto", "75") + l.node.Exec(l.t, "ip", "-6", "route", "show", "proto", "75")
		want := []string{"192.0.2.10 dev", "2001:db8:c::10 dev"}
		if iface != "" {
			has += l.node.Exec(l.t, "ip", "addr", "show", "dev", iface)
			want = append(want, "192.0.2.10/32", "2001:db8:c::10/128")
		}
		if !slices.ContainsFunc(want, func(text string) bool { return !strings.Contains(has, text) }) {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("after a flush, the node has\n%s", has)
		}
	}
}

const (
	// frrPeer is what FRR on the node needs beside the configuration in docs/networks.md.
	frrPeer = `
router bgp 64512
 bgp router-id 198.51.100.11
 no bgp ebgp-requires-policy
 neighbor 198.51.100.1 remote-as 64513
`
	birdPeer = `
router id 198.51.100.11;
protocol device { scan time 2; }
protocol bgp tor {
  local 198.51.100.11 as 64512; neighbor 198.51.100.1 as 64513;
  ipv4 { import none; export all; };
  ipv6 { import none; export all; next hop address 2001:db8:51::11; };
}
`
	// birdDirect takes the addresses of an interface, and looks at no routes.
	birdDirect = birdPeer + `
protocol direct { interface "kube-lb0"; ipv4; ipv6; }
`
)

// documented returns the configuration in docs/networks.md that begins so.
func documented(t *testing.T, start string) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/networks.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "\n    "+start)
	if !found {
		t.Fatalf("docs/networks.md has no %q", start)
	}
	block, _, _ := strings.Cut(start+rest, "\n\n")
	return strings.ReplaceAll(block, "\n    ", "\n") + "\n"
}

// TestRedistribution has routing software of the node announce what a Table puts into its kernel.
func TestRedistribution(t *testing.T) {
	frr := frrPeer + documented(t, "ip prefix-list TANDEM")
	bird := birdPeer + documented(t, "protocol kernel { learn;")
	for _, tt := range []struct {
		name  string
		start func(l *lan)
		iface string
	}{
		{"FRR redistributes kernel routes", func(l *lan) { nettest.StartFRR(l.t, l.node, "bgpd", frr) }, ""},
		{"FRR redistributes connected routes", func(l *lan) {
			nettest.StartFRR(l.t, l.node, "bgpd", strings.ReplaceAll(frr, "redistribute kernel", "redistribute connected"))
		}, "kube-lb0"},
		{"BIRD learns kernel routes", func(l *lan) { nettest.StartBIRD(l.t, l.node, bird) }, ""},
		{"BIRD takes the addresses of an interface", func(l *lan) { nettest.StartBIRD(l.t, l.node, birdDirect) }, "kube-lb0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLAN(t)
			tt.start(l)
			l.table.Set([]Entry{on(four, tt.iface), on(six, tt.iface)})
			l.routes("at first", "192.0.2.10/32", "2001:db8:c::10/128")
			l.node.IP(t, "route flush proto 75")
			l.node.IP(t, "-6 route flush proto 75")
			if tt.iface != "" {
				l.node.IP(t, "addr flush dev %s", tt.iface)
			}
			l.healed(tt.iface)
			l.routes("after a flush", "192.0.2.10/32", "2001:db8:c::10/128")
			l.stop() // The speaker restarts.
			l.start()
			l.routes("after a restart", "192.0.2.10/32", "2001:db8:c::10/128")
			more := entry("192.0.2.11/32", tt.iface)
			l.table.Set([]Entry{more, on(six, tt.iface)})
			l.routes("with another address", "192.0.2.11/32", "2001:db8:c::10/128")
			if tt.iface == "" {
				l.table.Set([]Entry{entry("192.0.2.0/24", ""), aggregate})
				l.routes("with aggregates", "192.0.2.0/24", "2001:db8:c::/120")
			}
			if err := l.table.Clear(t.Context()); err != nil {
				t.Fatal(err)
			}
			l.routes("in the end")
		})
	}
}

// calico is BIRD as Calico configures it, in the syntax of BIRD 2: everything of the kernel is learnt, and what is in the CIDR of an
// IPPool is exported, to a mesh of the nodes and to a router, with graceful restart.
const calico = `
router id 198.51.100.11;
filter calico_export_to_bgp_peers { if net ~ [10.244.0.0/16+, 192.0.2.0/24+] then accept; reject; }
filter calico_kernel_programming { accept; }
protocol kernel {
  learn; persist; scan time 2; graceful restart; merge paths on;
  ipv4 { import all; export filter calico_kernel_programming; };
}
protocol device { scan time 2; }
protocol direct { interface -"cali*", -"kube-ipvs*", "*"; ipv4; }
template bgp bgp_template {
  debug { states };
  local 198.51.100.11 as 64512; multihop; graceful restart;
  connect delay time 2; connect retry time 5; error wait time 5,30;
  ipv4 { import all; export filter calico_export_to_bgp_peers; add paths on; gateway recursive; next hop self; };
}
protocol bgp Mesh_198_51_100_12 from bgp_template { neighbor 198.51.100.12 as 64512; passive on; }
protocol bgp Node_198_51_100_1 from bgp_template { neighbor 198.51.100.1 as 64513; }
`

// calicoOther is the same on the other node.
const calicoOther = `
router id 198.51.100.12;
protocol device {}
protocol bgp Mesh_198_51_100_11 {
  local 198.51.100.12 as 64512; neighbor 198.51.100.11 as 64512; graceful restart;
  ipv4 { import all; export none; add paths on; };
}
`

var (
	established = regexp.MustCompile(`(?m)^((?:Mesh|Node)_\S+)\s+BGP\s+\S+\s+up\s+\S+(?: \S+)?\s+Established`)
	stateChange = regexp.MustCompile(`(?m)(?:Mesh|Node)_\S+: State changed to .*`)
)

// TestBesideCalico has BIRD as Calico configures it redistribute routes, while its sessions stay as they are.
func TestBesideCalico(t *testing.T) {
	l := newLAN(t)
	log := filepath.Join(t.TempDir(), "states")
	bird := nettest.StartBIRD(t, l.node, fmt.Sprintf("log %q { trace };\n", log)+calico)
	other := nettest.StartBIRD(t, l.other, calicoOther)
	sessions := func() (up []string) {
		for _, m := range established.FindAllStringSubmatch(bird.Show("show protocols"), -1) {
			up = append(up, m[1])
		}
		return up
	}
	// changes are those of the states of both sessions so far: a session that was lost and came back within a moment has more.
	changes := func() []string {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return stateChange.FindAllString(string(text), -1)
	}
	for deadline := time.Now().Add(patience); len(sessions()) != 2; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the sessions are not established:\n%s", bird.Show("show protocols"))
		}
	}
	before := changes()
	if !slices.ContainsFunc(before, func(line string) bool { return strings.HasSuffix(line, "to up") }) {
		t.Fatalf("the log of BIRD does not tell of its sessions: %q", before)
	}
	l.table.Set([]Entry{four, six})
	l.routes("with Tandem's routes", "192.0.2.10/32")
	for deadline := time.Now().Add(patience); !strings.Contains(other.Show("show route"), "192.0.2.10/32"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the mesh has not told the other node:\n%s", other.Show("show route"))
		}
	}
	l.stop()
	l.start()
	l.table.Set([]Entry{six})
	l.routes("without them")
	if diff := cmp.Diff(before, changes()); diff != "" || len(sessions()) != 2 {
		t.Errorf("the states of BIRD's sessions (-before +after):\n%s\n%s", diff, bird.Show("show protocols"))
	}
}

// TestPacketsThatNobodyWantsEnd sends one ping to an address that the router has by the node. Without a route to it the node sends the
// packet back to the router, by its default route, again and again until the TTL is spent.
func TestPacketsThatNobodyWantsEnd(t *testing.T) {
	l := newLAN(t)
	for _, n := range []*nettest.Namespace{l.node, l.router} {
		n.Exec(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.send_redirects=0",
			"net.ipv4.conf.eth0.send_redirects=0")
	}
	l.node.IP(t, "route add default via 198.51.100.1")
	l.node.IP(t, "-6 route add default via 2001:db8:51::1")
	l.router.IP(t, "route add 192.0.2.10 via 198.51.100.11")
	l.router.IP(t, "-6 route add 2001:db8:c::10 via 2001:db8:51::11")
	l.other.IP(t, "route add default via 198.51.100.1")
	l.other.IP(t, "-6 route add default via 2001:db8:51::1")
	set := func(t *testing.T, entries ...Entry) {
		t.Helper()
		l.table.Set(entries)
		for deadline := time.Now().Add(patience); len(l.table.State().Entries) != len(entries); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the kernel has %v, want %v", l.table.State().Entries, entries)
			}
		}
	}
	for _, f := range []struct {
		name, address, counter string
	}{{"IPv4", "192.0.2.10", "IpForwDatagrams"}, {"IPv6", "2001:db8:c::10", "Ip6OutForwDatagrams"}} {
		t.Run(f.name, func(t *testing.T) {
			forwarded := func() string {
				out := l.router.Exec(t, "nstat", "-asz", f.counter)
				fields := strings.Fields(out)
				return fields[len(fields)-2]
			}
			ping := func() (packets int) {
				before, err := strconv.Atoi(forwarded())
				if err != nil {
					t.Fatal(err)
				}
				_ = l.other.Command("ping", "-c1", "-W1", f.address).Run() // Nobody answers.
				after, err := strconv.Atoi(forwarded())
				if err != nil {
					t.Fatal(err)
				}
				return after - before
			}
			set(t)
			// Neighbours have to find each other first.
			for deadline := time.Now().Add(patience); ; {
				n := ping()
				if n >= 10 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("the router has forwarded %d packets without the route, and so the test tests nothing", n)
				}
			}
			set(t, four, six)
			if n := ping(); n > 1 {
				t.Errorf("the router has forwarded %d packets, want the one that was sent", n)
			}
		})
	}
}
