// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/time/rate"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/lan"
	"github.com/tandem-lb/tandem/speaker/reachability"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

const (
	// So many questions a second are answered, after a first lot at once, and so many at a time. Each sends two frames to a link, and up to three to
	// each station that answers.
	probeRate, probeBurst, probesAtOnce = 5, 30, 8
	// mostStations is how many stations that answer for one address are tried by TCP.
	mostStations = 4
	// dialTimeout bounds a connection of the kernel of this node, which goes to a Pod of the cluster.
	dialTimeout = 2 * time.Second
)

// probes answers a person who wants to know whether an address answers. It asks only for addresses of Services, those that have a claim, so that it
// is no scanner of networks.
//
//	POST /probe/lan?address=198.51.100.200&node=node1&interface=eth0&port=80
//	    asks the link of that interface of node1 who has the address, and opens a TCP connection to each station that answers; with
//	    neighbours=false it asks nobody, and sends to node1, as a router does
//	POST /probe/through?address=198.51.100.200&node=node1&router=198.51.100.1&port=80
//	    opens a TCP connection to the address by a router of this node, which is to pass it on to node1: a default gateway, or the peer of a
//	    BGP session. Where nothing comes back, the port of gossip of node1 is tried the same way
//	POST /probe/kernel?address=198.51.100.200&port=80
//	    opens a connection from this node, which kube-proxy forwards
type probes struct {
	node    string
	objects client.Reader
	gossip  uint16 // the port that every node has
	limiter *rate.Limiter
	places  chan struct{} // has one element for each question that is being answered
}

func newProbes(node string, gossip uint16, objects client.Reader) *probes {
	return &probes{
		node: node, gossip: gossip, objects: objects, limiter: rate.NewLimiter(probeRate, probeBurst), places: make(chan struct{}, probesAtOnce),
	}
}

// register adds the handlers. A page of the web that a browser shows cannot use them.
func (p *probes) register(mux *http.ServeMux) {
	protection := http.NewCrossOriginProtection()
	for path, answer := range map[string]func(context.Context, probeQuestion) (any, error){"lan": p.lan, "through": p.through, "kernel": p.kernel} {
		mux.Handle("POST /probe/"+path, protection.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p.serve(w, r, answer)
		})))
	}
}

// serve answers a question, if it is one of a claimed address and not one too many.
func (p *probes) serve(w http.ResponseWriter, r *http.Request, answer func(context.Context, probeQuestion) (any, error)) {
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
	default:
		http.Error(w, fmt.Sprintf("%d questions are being answered already; try again in a second", probesAtOnce), http.StatusTooManyRequests)
		return
	}
	if !p.limiter.Allow() {
		http.Error(w, fmt.Sprintf("more than %d questions a second; try again in a second", probeRate), http.StatusTooManyRequests)
		return
	}
	question, err := readProbe(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if p.objects.Get(r.Context(), client.ObjectKey{Name: question.address.String()}, &networkingv1.IPAddress{}) != nil {
		http.Error(w, fmt.Sprintf("%s is no address of a Service: no IPAddress of Tandem stands for it", question.address), http.StatusNotFound)
		return
	}
	content, err := answer(r.Context(), question)
	if errors.Is(err, errNoPort) || errors.Is(err, errNoRouter) {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(content) // it fails where the client is gone
}

// probeQuestion is what a person asks.
type probeQuestion struct {
	address     netip.Addr
	node, iface string
	neighbours  bool
	router      netip.Addr // the zero Addr for none
	port        uint16     // 0 for no TCP
}

// readProbe reads a question. The error names the parameter that is wrong.
func readProbe(r *http.Request) (q probeQuestion, err error) {
	q = probeQuestion{node: r.FormValue("node"), iface: r.FormValue("interface"), neighbours: r.FormValue("neighbours") != "false"}
	if q.address, err = netip.ParseAddr(r.FormValue("address")); err != nil || q.address.Zone() != "" || q.address.Is4In6() {
		return q, fmt.Errorf("address is %q; give one of a Service, as 198.51.100.200", r.FormValue("address"))
	}
	port, err := strconv.ParseUint(cmp.Or(r.FormValue("port"), "0"), 10, 16)
	if err != nil {
		return q, fmt.Errorf("port is %q; give a TCP port of the Service, as 80", r.FormValue("port"))
	}
	q.port = uint16(port)
	if router := r.FormValue("router"); router != "" {
		if q.router, err = netip.ParseAddr(router); err != nil {
			return q, fmt.Errorf("router is %q; give an address of a router, as 198.51.100.1", router)
		}
	}
	return q, nil
}

// lan asks the link that this node shares with the node that is to answer.
func (p *probes) lan(ctx context.Context, q probeQuestion) (any, error) {
	asked := reachability.Asked{Node: p.node, Address: q.address, Stations: []reachability.Station{}}
	var speakers v1alpha1.SpeakerStatusList
	if err := p.objects.List(ctx, &speakers, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	link, ok := linkTo(p.node, speakers.Items, q.node, q.iface)
	if !ok {
		asked.Error = fmt.Sprintf("no interface of node %s is in a subnet of node %s", p.node, q.node)
		return asked, nil
	}
	asked.Interface = link.Via
	on, err := net.InterfaceByName(link.Via)
	if err != nil {
		return nil, err
	}
	own := ownOn(&link, q.address)
	found := []net.HardwareAddr{link.MAC[:]}
	if q.neighbours {
		if found, err = lan.Stations(ctx, on, own, q.address, 2); err != nil {
			asked.Error = err.Error()
			return asked, nil
		}
	}
	names := nodesByMAC(speakers.Items)
	for _, mac := range found[:min(len(found), mostStations)] {
		station := reachability.Station{MAC: mac.String(), Node: names[mac.String()]}
		if q.port != 0 {
			result, err := lan.Connect(ctx, on, own, mac, netip.AddrPortFrom(q.address, q.port))
			if station.TCP = string(result); err != nil {
				station.Error = err.Error()
			}
		}
		asked.Stations = append(asked.Stations, station)
	}
	return asked, nil
}

var errNoRouter = errors.New("router is no default gateway of this node and no peer of its BGP sessions; SpeakerStatus lists them")

// through sends to an address by a router, which is on the link that this node shares with the node to which the router is to pass it on.
func (p *probes) through(ctx context.Context, q probeQuestion) (any, error) {
	if q.port == 0 {
		return nil, errNoPort
	}
	var speakers v1alpha1.SpeakerStatusList
	if err := p.objects.List(ctx, &speakers, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	if !isRouterOf(p.node, speakers.Items, q.router) {
		return nil, errNoRouter
	}
	said := reachability.Through{Node: p.node, Router: q.router}
	link, ok := linkTo(p.node, speakers.Items, q.node, q.iface)
	i := slices.IndexFunc(link.Pairs, func(pair lan.Pair) bool { return pair.Own.Is4() == q.address.Is4() })
	if !ok || i < 0 {
		said.Error = fmt.Sprintf("node %s and node %s have no %s addresses in one subnet", p.node, q.node, family.Of(q.address))
		return said, nil
	}
	on, err := net.InterfaceByName(link.Via)
	if err != nil {
		return nil, err
	}
	own, theirs := link.Pairs[i].Own, link.Pairs[i].Target
	asking := ownOn(&link, q.router)
	macs, err := lan.Stations(ctx, on, asking, q.router.WithZone(""), 1)
	if err == nil && len(macs) == 0 {
		err = fmt.Errorf("%s does not answer on %s", q.router, link.Via)
	}
	if err != nil {
		said.Error = err.Error()
		return said, nil
	}
	result, err := lan.Connect(ctx, on, own, macs[0], netip.AddrPortFrom(q.address, q.port))
	if said.TCP = string(result); err == nil && (result == lan.TCPSilent || result == lan.TCPUnreachable) {
		result, err = lan.Connect(ctx, on, own, macs[0], netip.AddrPortFrom(theirs, p.gossip))
		said.Own = string(result)
	}
	if err != nil {
		said.Error = err.Error()
	}
	return said, nil
}

// isRouterOf reports whether an address is that of a default gateway of a node, or of the peer of one of its BGP sessions.
func isRouterOf(node string, speakers []v1alpha1.SpeakerStatus, router netip.Addr) bool {
	is := func(text string) bool { a, err := netip.ParseAddr(text); return err == nil && a == router }
	for i := range speakers {
		if status := &speakers[i].Status; speakers[i].Name == node {
			return slices.ContainsFunc(status.DefaultGateways, is) ||
				slices.ContainsFunc(status.BGPSessions, func(s v1alpha1.BGPSession) bool { return is(s.Address) })
		}
	}
	return false
}

// nodesByMAC returns the nodes by the MACs of their interfaces.
func nodesByMAC(speakers []v1alpha1.SpeakerStatus) map[string]string {
	names := map[string]string{}
	for i := range speakers {
		for _, state := range speakers[i].Status.Interfaces {
			if mac, err := net.ParseMAC(state.MAC); err == nil {
				names[mac.String()] = speakers[i].Name
			}
		}
	}
	return names
}

var errNoPort = errors.New("port is missing; give a TCP port of the Service, as 80")

// kernel opens a connection as any program of this node would.
func (p *probes) kernel(ctx context.Context, q probeQuestion) (any, error) {
	if q.port == 0 {
		return nil, errNoPort
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(q.address, q.port).String())
	if err == nil {
		_ = conn.Close()
	}
	return reachability.Dialed{Node: p.node, TCP: string(dialResult(err))}, nil
}

// dialResult says what came back for a connection that ended with an error, nil for none.
func dialResult(err error) lan.TCPResult {
	switch {
	case err == nil:
		return lan.TCPAnswers
	case errors.Is(err, syscall.ECONNREFUSED):
		return lan.TCPRefused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return lan.TCPUnreachable
	}
	return lan.TCPSilent
}
