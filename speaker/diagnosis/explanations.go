// SPDX-License-Identifier: Apache-2.0

package diagnosis

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/decision"
)

// explanation is what matters here of a decision.Explanation.
type explanation struct {
	node, peer, detail string
	reason             decision.Reason
}

// explanations are those of all addresses that are explained alike. For example 10,000 Services have addresses of one pool that are to be
// announced by BGP, and all sessions are down: what each node says to that is worked out once, and not for each Service.
type explanations struct {
	all []explanation // as decision.Explainer.ExplainAlike yields them, by node
	// What follows is for Services that are served from every node.
	announced map[bool]bool // see byBGP
	collected *collected    // nil before it was needed
}

// explain returns the explanations of an address that advertisements of these kinds select, and whether they are those of a shared address,
// which has them for itself.
func (d *Diagnoser) explain(svc *decision.Service, address decision.Address, layer2, toPeers bool) (e *explanations, shared bool) {
	alike, ok := d.explainer.Alike(svc.Name, address)
	if e := d.known[alike]; ok && e != nil {
		return e, false
	}
	e = &explanations{announced: map[bool]bool{}}
	for x := range d.explainer.ExplainAlike(svc.Name, address) {
		if x.Peer == "" && !layer2 || x.Peer != "" && !toPeers {
			continue
		}
		if x.Peer != "" && x.Reason == decision.Announced && d.sent(x.Node, x.Peer, family.Of(address.IP)) == 0 {
			x.Reason = decision.Withheld
		}
		e.all = append(e.all, explanation{node: x.Node, peer: x.Peer, detail: x.Detail, reason: x.Reason})
	}
	if ok {
		if d.size += len(e.all); d.size > mostKnown {
			clear(d.known)
			d.size = len(e.all)
		}
		d.known[alike] = e
	}
	return e, !ok
}

// sent returns how many prefixes of a family a session has been sent.
func (d *Diagnoser) sent(node, peer string, f family.Family) int {
	return d.snapshot.Sessions[decision.NodePeer{Node: node, Peer: peer}].Advertised[f]
}

// byBGP reports whether a session announces an address, from one of the nodes with endpoints, nil for every node. The session of a Service
// that was not announced before has to have been sent all that it should carry.
func (d *Diagnoser) byBGP(e *explanations, f family.Family, announced bool, endpoints map[string]bool) bool {
	if is, known := e.announced[announced]; known && endpoints == nil {
		return is
	}
	is, incomplete := false, 0
	for i := range e.all {
		x := &e.all[i]
		if x.peer == "" || x.reason != decision.Announced || endpoints != nil && !endpoints[x.node] {
			continue
		}
		is = announced || d.hasAll(decision.NodePeer{Node: x.node, Peer: x.peer}, f)
		if incomplete++; is || incomplete == 3 { // To count what a session should carry takes a look at every Service.
			break
		}
	}
	if endpoints == nil {
		e.announced[announced] = is
	}
	return is
}

// named are the nodes and the peers of explanations that have one reason, sorted, and the first detail.
type named struct {
	nodes, peers []string
	detail       string
}

// collected are explanations by their reasons, without those of candidates on layer 2.
type collected struct {
	byReason   map[decision.Reason]*named
	candidates int  // nodes that no selector leaves out
	layer2     bool // some node is a candidate on layer 2
}

// collect returns the explanations by their reasons for a Service that is served from the nodes with endpoints, nil for every node.
func (e *explanations) collect(endpoints map[string]bool) *collected {
	if endpoints == nil && e.collected != nil {
		return e.collected
	}
	c := &collected{byReason: map[decision.Reason]*named{}}
	last := ""
	for i := range e.all {
		x := &e.all[i]
		reason, candidate := x.reason, true
		switch reason {
		case decision.PeerNotOnNode, decision.NodeNotSelected, decision.NodeExcluded, decision.PeerNotSelected:
			candidate = false
		case decision.NoAdvertisement, decision.PoolNotSelected, decision.ServiceNotSelected, decision.NoReadyEndpoint:
		default: // They come after the question where endpoints are.
			if endpoints != nil && !endpoints[x.node] {
				reason = decision.NoLocalEndpoint
			}
		}
		if candidate && x.node != last {
			c.candidates, last = c.candidates+1, x.node
		}
		if x.peer == "" && reason == decision.Announced {
			c.layer2 = true
			continue
		}
		n := c.byReason[reason]
		if n == nil {
			n = &named{}
			c.byReason[reason] = n
		}
		n.detail = cmp.Or(n.detail, x.detail)
		if k := len(n.nodes); k == 0 || n.nodes[k-1] != x.node {
			n.nodes = append(n.nodes, x.node)
		}
		if x.peer != "" && !slices.Contains(n.peers, x.peer) {
			n.peers = append(n.peers, x.peer)
		}
	}
	for _, n := range c.byReason {
		slices.Sort(n.peers)
	}
	if endpoints == nil {
		e.collected = c
	}
	return c
}

// collection is what is known of one address.
type collection struct {
	*collected
	address netip.Addr
	// holder answers for the Service on layer 2, and ofHolder is why it does not answer for this address; for an address with candidates.
	holder   string
	ofHolder decision.Explanation
}

// holds reports whether the holder is a candidate for the address.
func (c *collection) holds() bool {
	if !c.layer2 {
		return false
	}
	switch c.ofHolder.Reason {
	case decision.Announced, decision.AddressInUse, decision.Probing, decision.StartupHold, decision.Yielded:
		return true
	}
	return false
}

// has reports whether some explanation has a reason.
func (c *collection) has(r decision.Reason) bool {
	if r == decision.OtherHolder {
		return c.layer2 && !c.holds()
	}
	return c.byReason[r] != nil || c.holds() && c.ofHolder.Reason == r
}

// named returns, sorted, the nodes and the peers of the explanations that have a reason, and their first detail.
func (c *collection) named(r decision.Reason) (nodes, peers []string, detail string) {
	if n := c.byReason[r]; n != nil {
		return n.nodes, n.peers, n.detail
	}
	if c.holds() && c.ofHolder.Reason == r {
		return []string{c.holder}, nil, c.ofHolder.Detail
	}
	return nil, nil, ""
}
