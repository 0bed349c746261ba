// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/why"
	"github.com/tandem-lb/tandem/speaker/reachability"
)

// hereTimeout bounds the connection that this machine tries.
const hereTimeout = 3 * time.Second

// prober asks speakers for `why --probe` and `move-in`, each by one connection. One that breaks is opened anew for the next question. Several goroutines may
// ask at the same time.
type prober struct {
	connect func(ctx context.Context, node string) (*cluster.Speaker, error)

	mu       sync.Mutex // guards speakers
	speakers map[string]*connection
}

// connection is one to a speaker. The first caller connects, and the others wait until it is ready.
type connection struct {
	ready   chan struct{} // closed when one of the following is set
	speaker *cluster.Speaker
	err     error
}

var _ why.Prober = &prober{}

// newProber returns a prober of the speakers in the namespace of Tandem.
func newProber(c *cluster.Cluster, system string) *prober {
	return &prober{
		connect:  func(ctx context.Context, node string) (*cluster.Speaker, error) { return c.Speaker(ctx, system, node) },
		speakers: map[string]*connection{},
	}
}

// ask has the speaker of a node answer a question. It connects anew where another caller has given up while it connected for both.
func (p *prober) ask(ctx context.Context, node string, question func(*cluster.Speaker) error) error {
	for {
		p.mu.Lock()
		c, known := p.speakers[node]
		if !known {
			c = &connection{ready: make(chan struct{})}
			p.speakers[node] = c
		}
		p.mu.Unlock()
		if !known {
			c.speaker, c.err = p.connect(ctx, node)
			close(c.ready)
		}
		select {
		case <-c.ready:
		case <-ctx.Done():
			return ctx.Err()
		}
		if c.err != nil {
			p.forget(node, c)
			if errors.Is(c.err, context.Canceled) && ctx.Err() == nil {
				continue
			}
			return c.err
		}
		err := question(c.speaker)
		if _, refused := errors.AsType[*cluster.RefusedError](err); err != nil && !refused && ctx.Err() == nil {
			p.forget(node, c)
		}
		return err
	}
}

// forget ends a connection that has failed, unless that has happened already.
func (p *prober) forget(node string, c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.speakers[node] != c {
		return
	}
	delete(p.speakers, node)
	if c.err == nil {
		_ = c.speaker.Close()
	}
}

// close ends all connections. Nobody asks any more.
func (p *prober) close() {
	for node, c := range maps.Clone(p.speakers) {
		p.forget(node, c)
	}
}

// probe has the speaker of a node find something out.
func (p *prober) probe(ctx context.Context, node, path string, query url.Values, answer any) error {
	return p.ask(ctx, node, func(s *cluster.Speaker) error { return s.Post(ctx, path+"?"+query.Encode(), answer) })
}

// LAN implements [why.Prober].
func (p *prober) LAN(
	ctx context.Context, asker, node, iface string, ip netip.Addr, port uint16, neighbours bool,
) (asked reachability.Asked, err error) {
	err = p.probe(ctx, asker, "/probe/lan", url.Values{
		"address": {ip.String()}, "node": {node}, "interface": {iface}, "port": {strconv.Itoa(int(port))}, "neighbours": {strconv.FormatBool(neighbours)},
	}, &asked)
	return asked, err
}

// Kernel implements [why.Prober].
func (p *prober) Kernel(ctx context.Context, node string, ip netip.Addr, port uint16) (dialed reachability.Dialed, err error) {
	err = p.probe(ctx, node, "/probe/kernel", url.Values{"address": {ip.String()}, "port": {strconv.Itoa(int(port))}}, &dialed)
	return dialed, err
}

// Routes implements [why.Prober].
func (p *prober) Routes(ctx context.Context, node, peer string) (map[netip.Prefix]why.RouteState, error) {
	var routes []struct {
		Prefix   netip.Prefix `json:"prefix"`
		Sent     bool         `json:"sent"`
		Withheld string       `json:"withheld"`
	}
	if err := p.ask(ctx, node, func(s *cluster.Speaker) error {
		return s.Get(ctx, "/bgp/routes?"+url.Values{"peer": {peer}}.Encode(), &routes)
	}); err != nil {
		return nil, err
	}
	states := map[netip.Prefix]why.RouteState{}
	for _, r := range routes {
		states[r.Prefix] = why.RouteState{Sent: r.Sent, Withheld: r.Withheld}
	}
	return states, nil
}

// Through implements [why.Prober].
func (p *prober) Through(
	ctx context.Context, asker, node, router string, ip netip.Addr, port uint16,
) (said reachability.Through, err error) {
	err = p.probe(ctx, asker, "/probe/through", url.Values{
		"address": {ip.String()}, "node": {node}, "router": {router}, "port": {strconv.Itoa(int(port))},
	}, &said)
	return said, err
}

// StationHere implements [why.Prober].
func (*prober) StationHere(ip netip.Addr) (mac string, found bool) { return why.StationHere(ip) }

// Here implements [why.Prober].
func (p *prober) Here(ctx context.Context, ip netip.Addr, port uint16) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, hereTimeout)
	defer cancel()
	return why.DialHere(ctx, ip, port)
}
