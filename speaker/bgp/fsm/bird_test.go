// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
)

const wantBIRD = `Table master4:
198.51.100.200/32    unicast [tandem now] * (100) [AS64512i]
	via $S4 on up
	Type: BGP univ
	BGP.origin: IGP
	BGP.as_path: 64512 64512
	BGP.next_hop: $S4
	BGP.med: 10
	BGP.local_pref: 100
	BGP.community: (64512,100) (65535,0)
	BGP.large_community: (64512, 1, 2)

Table master6:
2001:db8:51::1000/128 unicast [tandem now from $S4] * (100) [AS64512i]
	via $S6 on up
	Type: BGP univ
	BGP.origin: IGP
	BGP.as_path: 64512 64512
	BGP.next_hop: $S6 fe80::1
	BGP.med: 10
	BGP.local_pref: 100
	BGP.community: (64512,100) (65535,0)
	BGP.large_community: (64512, 1, 2)
`

// wantBIRDOverIPv6 has the prefix of a node without IPv4: its gateway is IPv6 (RFC 8950). Of the two next hops BIRD takes the global one.
const wantBIRDOverIPv6 = `Table master4:
198.51.100.200/32    unicast [tandem now from $S4] * (100) [AS64512i]
	via $S6 on up
	Type: BGP univ
	BGP.origin: IGP
	BGP.as_path: 64512
	BGP.next_hop: $S6 fe80::1
	BGP.local_pref: 100
`

// TestBIRD compares the routes with what another implementation received, in its own words.
func TestBIRD(t *testing.T) {
	linkLocal := netip.MustParseAddr("fe80::1")
	for _, row := range []struct {
		name   string
		ipv4   string // what BIRD's channel of IPv4 has
		routes func(r *frr) []bgp.Route
		want   string
	}{
		{name: "attributes, and both next hops of IPv6", routes: func(r *frr) []bgp.Route {
			routes := []bgp.Route{r.route("198.51.100.200/32"), r.route("2001:db8:51::1000/128")}
			routes[1].LinkLocal = linkLocal
			for i := range routes {
				routes[i].MED, routes[i].Prepend = new(uint32(10)), 1
				routes[i].Communities = []bgp.Community{
					{Large: true, A: 64512, B: 1, C: 2}, {A: 64512, B: 100}, bgp.GracefulShutdown,
				}
			}
			return routes
		}, want: wantBIRD},
		{name: "IPv4 by both next hops of IPv6", ipv4: "extended next hop on;", routes: func(r *frr) []bgp.Route {
			prefix := netip.MustParsePrefix("198.51.100.200/32")
			return []bgp.Route{{Prefix: prefix, NextHop: r.speaker6, LinkLocal: linkLocal}}
		}, want: wantBIRDOverIPv6},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := newLink(t)
			control := r.bird(t, row.ipv4)
			s := newSpeaker(t)
			set(t, s, bgp.Session{Peer: r.peer(), Routes: row.routes(r)})
			awaitState(t, s, "tor1", bgp.Established)
			want := r.expand(row.want)
			eventually(t, "BIRD's table (-want +got)", func() string {
				out := nettest.Run(t, "birdc", "-s", control, "show", "route", "all", "protocol", "tandem")
				_, table, _ := strings.Cut(out, "\n") // after the greeting, which has the version
				return cmp.Diff(want, table)
			})
		})
	}
}

// bird starts BIRD as the router, with settings of its channel of IPv4, and returns the path of its control socket. It goes into the background and ends
// with its namespace.
func (r *frr) bird(t *testing.T, ipv4 string) (control string) {
	t.Helper()
	if _, err := exec.LookPath("bird"); err != nil {
		t.Fatalf("BIRD is missing: apt-get install -y bird2 (%v)", err)
	}
	dir := t.TempDir()
	config, control := filepath.Join(dir, "bird.conf"), filepath.Join(dir, "bird.ctl")
	if err := os.WriteFile(config, []byte(r.expand(`
router id $R4;
timeformat route "now";
protocol device {}
protocol bgp tandem {
  local $R4 as 64513;
  neighbor $S4 as 64512;
  ipv4 { import all; export none; `+ipv4+` };
  ipv6 { import all; export none; };
}
`)), 0o644); err != nil {
		t.Fatal(err)
	}
	nettest.Run(t, "nsenter", "--net=/run/netns/"+r.ns, "--", "bird", "-c", config, "-s", control)
	return control
}
