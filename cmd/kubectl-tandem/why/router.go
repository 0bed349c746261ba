// SPDX-License-Identifier: Apache-2.0

package why

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/reachability"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// way is how traffic to an address comes to the cluster.
type way struct {
	layer2     bool
	nodes      []string            // that get it
	interfaces []string            // on layer 2: those on which the holder answers
	peers      map[string][]string // by BGP: the nodes that tell a peer of the address, by the name of the peer
}

// probeRouter adds the hop Router, or says more of it: nodes send to the address by a router of their link, and it has to come back to the node
// that gets the traffic. On layer 2 the router is the default gateway, which has to know the MAC of the holder. By BGP it is the peer, which has
// to have the route. A router of which nothing is heard is not at fault: it may send nothing back to the link from which it came.
func (e *Engine) probeRouter(ctx context.Context, c *Chain, ip netip.Addr, port uint16, w way) {
	routers := map[string]string{} // what the router is called → its address
	if w.layer2 {
		for _, asker := range e.askers(w.nodes[0]) {
			for _, gateway := range e.gateways(asker, family.Of(ip)) {
				routers["the gateway "+gateway] = gateway
			}
		}
	} else {
		for peer := range w.peers {
			if address := e.addressOf(peer); address != "" && e.external(peer) {
				routers[fmt.Sprintf("%s (%s)", peer, address)] = address
			}
		}
	}
	var reached, refused, said []string
	for _, name := range sortedKeys(routers) {
		switch by := e.through(ctx, ip, port, routers[name], w); {
		case by == nil:
			said = append(said, "nothing comes back from "+name+", for the node's own address neither")
		case by.TCP == answers:
			reached = append(reached, fmt.Sprintf("%s by %s", by.Node, name))
		default:
			text := fmt.Sprintf("what %s sends to %s itself by %s comes back, and what it sends to this address by it does not", by.Node, by.to, name)
			if by.TCP == unreachable {
				text += ": unreachable, it is told"
			}
			refused = append(refused, text)
		}
	}
	switch {
	case len(refused) > 0 && w.layer2:
		c.set(Router, Fault, strings.Join(refused, "; "), fmt.Sprintf("an old neighbour entry of the router: there %s has to be at %s (ip neigh, show "+
			"arp); remove the entry. Or a filter of the router drops it", ip, e.macOf(ip, w)))
	case len(refused) > 0:
		c.set(Router, Fault, strings.Join(refused, "; "), fmt.Sprintf("the route was sent: an import filter, a route map or a prefix limit of the "+
			"router drops it, or another route is better. There: show bgp %s unicast %s, and the filters of the neighbour",
			strings.ToLower(string(family.Of(ip))), netip.PrefixFrom(ip, ip.BitLen())))
	case len(reached) > 0:
		c.set(Router, Well, fmt.Sprintf("port %d answers %s", port, list(reached)), "")
	case len(said) > 0 && w.layer2:
		c.set(Router, Unknown, strings.Join(said, "; "), "routers need not send back to the link from which it came: try from behind the router")
	}
}

// sentBy is what a node says that sent by a router, and the node to which the router was to pass it on.
type sentBy struct {
	reachability.Through
	to string
}

// through has nodes send to an address by a router. It returns what one says to which the address answers, else one that shows that the router
// does not pass it on, else nil. A router that spreads by BGP may send back to the very node that asks, which hears nothing then: silence counts
// for a node that gets no traffic itself.
func (e *Engine) through(ctx context.Context, ip netip.Addr, port uint16, router string, w way) *sentBy {
	var askers []string
	for _, node := range e.askers("") {
		if !w.layer2 || node != w.nodes[0] {
			askers = append(askers, node)
		}
	}
	said, _ := ask(askers, func(asker string) (sentBy, error) {
		to := w.nodes[0]
		if i := slices.IndexFunc(w.nodes, func(n string) bool { return n != asker }); i >= 0 {
			to = w.nodes[i]
		}
		by, err := e.Prober.Through(ctx, asker, to, router, ip, port)
		return sentBy{by, to}, err
	})
	var fault *sentBy
	for _, asker := range sortedKeys(said) {
		by := said[asker]
		if by.TCP == answers {
			return &by
		}
		if by.PassesOn() && (by.TCP == unreachable || !slices.Contains(w.nodes, asker)) && fault == nil {
			fault = &by
		}
	}
	return fault
}

// gateways returns the default gateways of a node, of one family.
func (e *Engine) gateways(node string, f family.Family) (gateways []string) {
	if status := e.speakers[node]; status != nil {
		for _, text := range status.Status.DefaultGateways {
			if ip, err := netip.ParseAddr(text); err == nil && family.Of(ip) == f {
				gateways = append(gateways, text)
			}
		}
	}
	return gateways
}

// addressOf returns the address of a peer, as a session with it has it, "" if none is established.
func (e *Engine) addressOf(peer string) string {
	for _, node := range sortedKeys(e.speakers) {
		for _, s := range e.speakers[node].Status.BGPSessions {
			if s.Peer == peer && s.State == v1alpha1.BGPEstablished && s.Address != "" {
				return s.Address
			}
		}
	}
	return ""
}

// distant says of which peers the BGPPeers do not allow several hops, though the nodes that tell them of an address have no subnet with them. The
// session of such a peer comes up where it sends with a TTL above 1.
func (e *Engine) distant(peers map[string][]string) (texts []string) {
	for _, name := range sortedKeys(peers) {
		i := slices.IndexFunc(e.state.Snapshot.Config.Peers, func(p config.Peer) bool { return p.Name == name })
		address, err := netip.ParseAddr(e.addressOf(name))
		if i < 0 || err != nil || address.IsLinkLocalUnicast() {
			continue
		}
		peer := e.state.Snapshot.Config.Peers[i].Peer
		if !peer.IsExternal() || peer.EBGPMultiHop || peer.TTLSecurityHops > 1 {
			continue
		}
		far := slices.DeleteFunc(slices.Clone(peers[name]), func(node string) bool { return e.onLink(node, address) })
		if len(far) > 0 {
			texts = append(texts, fmt.Sprintf("%s (%s) is in no subnet of %s", name, address, list(far)))
		}
	}
	return texts
}

// onLink reports whether an interface of a node is in the subnet of an address. One of a node that says nothing of its interfaces may be.
func (e *Engine) onLink(node string, ip netip.Addr) bool {
	status := e.speakers[node]
	return status == nil || slices.ContainsFunc(status.Status.Interfaces, func(i v1alpha1.InterfaceState) bool { return isIn(i, ip) })
}

// isIn reports whether an interface is in the subnet of an address.
func isIn(i v1alpha1.InterfaceState, ip netip.Addr) bool {
	return slices.ContainsFunc(i.Addresses, func(text string) bool { p, err := netip.ParsePrefix(text); return err == nil && p.Contains(ip) })
}

// external reports whether a peer is of another AS, and so a router and no route reflector, which passes nothing on.
func (e *Engine) external(peer string) bool {
	peers := e.state.Snapshot.Config.Peers
	i := slices.IndexFunc(peers, func(p config.Peer) bool { return p.Name == peer })
	return i >= 0 && peers[i].Peer.IsExternal()
}

// macOf returns the MACs with which the holder of an address answers for it: those of the interfaces on record, or else those in the subnet of the
// address. A bridge of Pods can announce too, and has another MAC.
func (e *Engine) macOf(ip netip.Addr, w way) string {
	holder := w.nodes[0]
	var onRecord, inSubnet []string
	if status := e.speakers[holder]; status != nil {
		for _, i := range status.Status.Interfaces {
			if i.Usable && slices.Contains(w.interfaces, i.Name) {
				onRecord = append(onRecord, i.MAC)
			}
			if i.Usable && isIn(i, ip) {
				inSubnet = append(inSubnet, i.MAC)
			}
		}
	}
	switch {
	case len(onRecord) > 0:
		return strings.Join(onRecord, " or ")
	case len(inSubnet) > 0:
		return strings.Join(inSubnet, " or ")
	}
	return "the MAC of " + holder
}

// probeStation adds the hop Here if this machine has another MAC for an address than those with which its holder answers, and reports whether it did.
func (e *Engine) probeStation(c *Chain, ip netip.Addr, w way) bool {
	mac, found := e.Prober.StationHere(ip)
	holder, right := w.nodes[0], e.macOf(ip, w)
	if !found || e.speakers[holder] == nil || strings.Contains(strings.ToLower(right), strings.ToLower(mac)) {
		return false
	}
	c.fault(Here, fmt.Sprintf("this machine gets no answer, and has %s for the address, while %s, which holds it, has %s", mac, holder, right),
		fmt.Sprintf("an old neighbour entry: ip neigh flush to %s on this machine. It should have learned from a gratuitous ARP or an unsolicited "+
			"neighbour advertisement; where the entry comes back, another machine of this LAN has the address, or this is another network with "+
			"the same subnet", ip))
	return true
}
