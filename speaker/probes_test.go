// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/reachability"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// askProbes asks node2's speaker, and returns the code and the body of the answer.
func askProbes(p *probes, path string) (int, string) {
	mux := http.NewServeMux()
	p.register(mux)
	answer := httptest.NewRecorder()
	mux.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, path, nil))
	return answer.Code, strings.TrimSpace(answer.Body.String())
}

// TestProbesRefuse: what is no question about an address of a Service is refused, with the reason, and so is one question too many.
func TestProbesRefuse(t *testing.T) {
	p := newProbes("node2", 7573, lanOfTwo(t))
	for path, want := range map[string]string{
		"/probe/lan": `400 address is ""; give one of a Service, as 198.51.100.200`,
		"/probe/lan?address=::ffff:198.51.100.200":                      `400 address is "::ffff:198.51.100.200"; give one of a Service, as 198.51.100.200`,
		"/probe/lan?address=" + v4 + "&port=http":                       `400 port is "http"; give a TCP port of the Service, as 80`,
		"/probe/lan?address=198.51.100.1&port=22":                       "404 198.51.100.1 is no address of a Service: no IPAddress of Tandem stands for it",
		"/probe/through?address=" + v4 + "&router=198.51.100.1":         "400 port is missing; give a TCP port of the Service, as 80",
		"/probe/through?address=" + v4 + "&port=80&router=tor1":         `400 router is "tor1"; give an address of a router, as 198.51.100.1`,
		"/probe/through?address=" + v4 + "&port=80&router=198.51.100.7": "400 " + errNoRouter.Error(),
		"/probe/kernel?address=" + v4:                                   "400 port is missing; give a TCP port of the Service, as 80",
		"/probe/lan?address=" + v4 + "&node=node9&port=80": `200 {"node":"node2","address":"` + v4 + `","stations":[],` +
			`"error":"no interface of node node2 is in a subnet of node node9"}`,
	} {
		code, body := askProbes(p, path)
		if diff := cmp.Diff(want, fmt.Sprint(code, " ", body)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	foreign := httptest.NewRequest(http.MethodPost, "/probe/lan?address="+v4, nil)
	foreign.Header.Set("Sec-Fetch-Site", "cross-site")
	answer, mux := httptest.NewRecorder(), http.NewServeMux()
	p.register(mux)
	if mux.ServeHTTP(answer, foreign); answer.Code != http.StatusForbidden {
		t.Errorf("a page of another site is answered by %d", answer.Code)
	}
	p.limiter.SetBurst(0)
	if code, body := askProbes(p, "/probe/lan?address="+v4); code != http.StatusTooManyRequests {
		t.Errorf("beyond the rate: %d %s", code, body)
	}
	for range probesAtOnce {
		p.places <- struct{}{}
	}
	if code, body := askProbes(p, "/probe/lan?address="+v4); code != http.StatusTooManyRequests || !strings.Contains(body, "answered "+
		"already") {
		t.Errorf("beyond %d at once: %d %s", probesAtOnce, code, body)
	}
}

// TestProbesOnTheLAN: node2 asks for v4, which node1's kernel has, with a program behind it, and then also a printer.
func TestProbesOnTheLAN(t *testing.T) {
	lan := nettest.NewSwitch(t, "probes-switch")
	node1, node2, printer := nettest.New(t, "probes-node1"), nettest.New(t, "probes-node2"), nettest.New(t, "probes-printer")
	for mac, host := range map[string]*nettest.Namespace{"0b": node1, "0c": node2, "7f": printer} {
		lan.Plug(t, host, "02:00:00:00:00:"+mac)
		host.IP(t, "link set lo up")
		host.IP(t, "link set eth0 up")
	}
	lan.Await(t, node1, node2, printer)
	node1.IP(t, "addr add 198.51.100.11/24 dev eth0")
	node2.IP(t, "addr add 198.51.100.12/24 dev eth0")
	node1.IP(t, "addr add %s/32 dev eth0", v4)
	printer.IP(t, "addr add 198.51.100.77/24 dev eth0")
	listener := listenIn(t, node1, v4)
	port := listener.Addr().(*net.TCPAddr).AddrPort().Port()
	p := newProbes("node2", 7573, lanOfTwo(t))
	ask := func(path string, into any) {
		t.Helper()
		node2.Do(t, func() error {
			code, body := askProbes(p, path)
			if code != http.StatusOK {
				t.Errorf("%s is answered by %d %s", path, code, body)
			}
			return json.Unmarshal([]byte(body), into)
		})
	}
	want := func(path string, stations ...reachability.Station) {
		t.Helper()
		var got reachability.Asked
		ask(path, &got)
		if diff := cmp.Diff(stations, got.Stations); diff != "" || got.Node != "node2" || got.Interface != "eth0" || got.Error != "" {
			t.Errorf("%s: %+v (-want +got):\n%s", path, got, diff)
		}
	}
	holder := reachability.Station{MAC: "02:00:00:00:00:0b", Node: "node1", TCP: "Answers"}
	path := "/probe/lan?address=" + v4 + "&node=node1&interface=eth0&port=" + fmt.Sprint(port)
	want(path, holder)
	want(path+"&neighbours=false", holder)
	var dialed reachability.Dialed
	ask("/probe/kernel?address="+v4+"&port="+fmt.Sprint(port), &dialed)
	if dialed != (reachability.Dialed{Node: "node2", TCP: "Answers"}) {
		t.Errorf("the kernel of node2: %+v", dialed)
	}

	printer.IP(t, "addr add %s/32 dev eth0", v4)
	var two reachability.Asked
	ask(path, &two)
	if len(two.Stations) != 2 {
		t.Errorf("two machines have the address, and %+v answer", two.Stations)
	}
	for _, s := range two.Stations {
		if is := s.MAC == "02:00:00:00:00:7f"; is != (s.Node == "") || is != (s.TCP == "Refused") {
			t.Errorf("a station is %+v", s)
		}
	}
}

// TestProbesThroughARouter: node2 sends to v4 by the router, which passes it on to node1, which has it, until the router is given another MAC for v4.
func TestProbesThroughARouter(t *testing.T) {
	lan := nettest.NewSwitch(t, "through-switch")
	node1, node2, router := nettest.New(t, "through-node1"), nettest.New(t, "through-node2"), nettest.New(t, "through-router")
	for mac, host := range map[string]*nettest.Namespace{"0b": node1, "0c": node2, "01": router} {
		lan.Plug(t, host, "02:00:00:00:00:"+mac)
		host.IP(t, "link set lo up")
		host.IP(t, "link set eth0 up")
	}
	lan.Await(t, node1, node2, router)
	node1.IP(t, "addr add 198.51.100.11/24 dev eth0")
	node1.IP(t, "addr add %s/32 dev eth0", v4)
	node2.IP(t, "addr add 198.51.100.12/24 dev eth0")
	router.IP(t, "addr add 198.51.100.1/24 dev eth0")
	// The kernel limits redirects and messages of unreachable destinations together.
	router.Exec(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth0.send_redirects=0")
	port := listenIn(t, node1, v4).Addr().(*net.TCPAddr).AddrPort().Port()
	objects := lanOfTwo(t)
	status := &v1alpha1.SpeakerStatus{}
	if err := objects.Get(t.Context(), client.ObjectKey{Name: "node2"}, status); err != nil {
		t.Fatal(err)
	}
	status.Status.DefaultGateways = []string{"198.51.100.1"}
	status.Status.BGPSessions = []v1alpha1.BGPSession{{Peer: "tor9", Address: "198.51.100.9"}}
	if err := objects.Update(t.Context(), status); err != nil {
		t.Fatal(err)
	}
	p := newProbes("node2", 7573, objects)
	want := func(by string, through reachability.Through) {
		t.Helper()
		var got reachability.Through
		node2.Do(t, func() error {
			_, body := askProbes(p, fmt.Sprintf("/probe/through?address=%s&node=node1&port=%d&router=%s", v4, port, by))
			return json.Unmarshal([]byte(body), &got)
		})
		through.Node, through.Router = "node2", netip.MustParseAddr(by)
		if got != through {
			t.Errorf("by %s: %+v, want %+v", by, got, through)
		}
	}
	want("198.51.100.1", reachability.Through{TCP: "Answers"})
	want("198.51.100.9", reachability.Through{Error: "198.51.100.9 does not answer on eth0"})
	router.IP(t, "neigh replace %s lladdr 02:00:00:00:00:7f dev eth0 nud permanent", v4)
	want("198.51.100.1", reachability.Through{TCP: "Silent", Own: "Refused"})
	router.IP(t, "route add unreachable %s/32", v4)
	want("198.51.100.1", reachability.Through{TCP: "Unreachable", Own: "Refused"})
}

// listenIn accepts TCP connections to an address in a namespace until the test ends.
func listenIn(t *testing.T, ns *nettest.Namespace, address string) (listener net.Listener) {
	t.Helper()
	ns.Do(t, func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		return err
	})
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}
