// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/reachability"
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
	p := newProbes("node2", lanOfTwo(t))
	for path, want := range map[string]string{
		"/probe/lan": `400 address is ""; give one of a Service, as 198.51.100.200`,
		"/probe/lan?address=::ffff:198.51.100.200": `400 address is "::ffff:198.51.100.200"; give one of a Service, as 198.51.100.200`,
		"/probe/lan?address=" + v4 + "&port=http":  `400 port is "http"; give a TCP port of the Service, as 80`,
		"/probe/lan?address=198.51.100.1&port=22":  "404 198.51.100.1 is no address of a Service: no IPAddress of Tandem stands for it",
		"/probe/kernel?address=" + v4:              "400 port is missing; give a TCP port of the Service, as 80",
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
	node1.IP(t, "addr add 198.51.100.11/24 dev eth0")
	node2.IP(t, "addr add 198.51.100.12/24 dev eth0")
	node1.IP(t, "addr add %s/32 dev eth0", v4)
	printer.IP(t, "addr add 198.51.100.77/24 dev eth0")
	listener := listenIn(t, node1, v4)
	port := listener.Addr().(*net.TCPAddr).AddrPort().Port()
	p := newProbes("node2", lanOfTwo(t))
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
