// SPDX-License-Identifier: Apache-2.0

package why

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/reachability"
)

// A Prober asks speakers, and opens connections from this machine. Its errors mean that nothing is known.
type Prober interface {
	// LAN has the speaker of a node ask the link that it shares with another node's interface ("" for any) who has an address, and open a TCP
	// connection to each station that answers, unless the port is 0. Without neighbours it asks nobody, and sends to the other node.
	LAN(ctx context.Context, asker, node, iface string, ip netip.Addr, port uint16, neighbours bool) (reachability.Asked, error)
	// Kernel has the speaker of a node open a connection to an address, which kube-proxy forwards.
	Kernel(ctx context.Context, node string, ip netip.Addr, port uint16) (reachability.Dialed, error)
	// Routes returns what the speaker of a node tells a peer, by the prefix.
	Routes(ctx context.Context, node, peer string) (map[netip.Prefix]RouteState, error)
	// Through has the speaker of a node open a connection by a router, which is to pass it on to another node.
	Through(ctx context.Context, asker, node, router string, ip netip.Addr, port uint16) (reachability.Through, error)
	// Here opens a TCP connection from this machine.
	Here(ctx context.Context, ip netip.Addr, port uint16) (string, error)
	// StationHere returns the MAC that this machine has for an address, and false if it is not known.
	StationHere(ip netip.Addr) (mac string, found bool)
}

// RouteState is what a looking glass says of a route: whether it was sent, and if not, why not.
type RouteState struct {
	Sent     bool
	Withheld string
}

// mostAskers is how many nodes ask for one address.
const mostAskers = 4

// The words of package lan for what came back.
const answers, refused, unreachable, silent = "Answers", "Refused", "Unreachable", "Silent"

// askers returns the first nodes by name whose speakers are alive, without one.
func (e *Engine) askers(without string) []string {
	nodes := slices.DeleteFunc(e.nodeNames(), func(n string) bool { return n == without || !e.state.Snapshot.Alive(n) })
	return nodes[:min(len(nodes), mostAskers)]
}

// ask has several nodes answer a question at once, and returns the answers and the errors by the node.
func ask[T any](nodes []string, question func(node string) (T, error)) (answers map[string]T, failed map[string]error) {
	answers, failed = map[string]T{}, map[string]error{}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, node := range nodes {
		wait.Go(func() {
			answer, err := question(node)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[node] = err
			} else {
				answers[node] = answer
			}
		})
	}
	wait.Wait()
	return answers, failed
}

// probeNeighbour adds the hop Neighbour by what the LAN says at the moment.
func (e *Engine) probeNeighbour(ctx context.Context, c *Chain, ip netip.Addr, holder, iface string) {
	askers := e.askers(holder)
	if len(askers) == 0 {
		c.unknown(Neighbour, "no other node has a speaker that could ask", "ask from a machine of the LAN: arping, ndisc6")
		return
	}
	asked, failed := ask(askers, func(node string) (reachability.Asked, error) {
		return e.Prober.LAN(ctx, node, holder, iface, ip, 0, true)
	})
	var hear, deaf []string         // nodes that hear the holder, and nobody
	others := map[string][]string{} // who hears another station
	macs := map[string]bool{}
	var unable []string
	for _, node := range sortedKeys(asked) {
		a := asked[node]
		if a.Error != "" {
			unable = append(unable, node+": "+a.Error)
			continue
		}
		heard := false
		for _, station := range a.Stations {
			if station.Node == holder {
				heard, macs[station.MAC] = true, true
			} else {
				name := station.MAC
				if station.Node != "" {
					name += " of " + station.Node
				}
				others[name] = append(others[name], node)
			}
		}
		if heard {
			hear = append(hear, node)
		} else {
			deaf = append(deaf, node)
		}
	}
	for _, node := range sortedKeys(failed) {
		unable = append(unable, node+": "+failed[node].Error())
	}
	names := sortedKeys(others)
	switch {
	case len(names) > 0 && len(hear) > 0:
		c.fault(Neighbour, fmt.Sprintf("several machines answer: %s (%s), and %s", holder, list(sortedKeys(macs)), list(names)),
			"find the MAC on the switch, and take the address off that machine or out of the pool; a node with kube-proxy in IPVS mode "+
				"needs strictARP")
	case len(names) > 0:
		c.fault(Neighbour, fmt.Sprintf("%s answers in the place of %s", list(names), holder),
			"find the MAC on the switch, and take the address off that machine or out of the pool")
	case len(hear) == 0 && len(deaf) > 0:
		c.fault(Neighbour, fmt.Sprintf("nobody answers %s for the address", list(deaf)), remedySilent)
	case len(deaf) > 0:
		c.fault(Neighbour, fmt.Sprintf("%s %s %s, and %s %s nobody", list(hear), verb(len(hear), "hears", "hear"), holder, list(deaf),
			verb(len(deaf), "hears", "hear")), "look at the switch ports of "+list(deaf)+", and at what filters ARP or ND there")
	case len(hear) > 0:
		c.well(Neighbour, "%s %s %s (%s) and nobody else", list(hear), verb(len(hear), "hears", "hear"), holder, list(sortedKeys(macs)))
	default:
		c.unknown(Neighbour, "could not be asked: "+strings.Join(unable[:min(len(unable), 2)], "; "), "ask from a machine of the LAN: "+
			"arping, ndisc6")
	}
}

// probeRoutes adds the hop Route by what the looking glasses of nodes say. Peers has the nodes whose sessions are to carry the address, by
// the peer.
func (e *Engine) probeRoutes(ctx context.Context, c *Chain, ip netip.Addr, peers map[string][]string) {
	var sent, withheld, unable []string
	for _, peer := range sortedKeys(peers) {
		nodes := peers[peer]
		answers, failed := ask(nodes[:min(len(nodes), mostAskers)], func(node string) (map[netip.Prefix]RouteState, error) {
			return e.Prober.Routes(ctx, node, peer)
		})
		for _, node := range sortedKeys(answers) {
			found := false
			for prefix, route := range answers[node] {
				switch {
				case !prefix.Contains(ip):
					continue
				case route.Sent:
					sent = append(sent, fmt.Sprintf("%s by %s", prefix, node))
				default:
					withheld = append(withheld, fmt.Sprintf("%s to %s by %s: %s", prefix, peer, node, route.Withheld))
				}
				found = true
			}
			if !found {
				withheld = append(withheld, fmt.Sprintf("%s declares no prefix of it to %s", node, peer))
			}
		}
		for _, node := range sortedKeys(failed) {
			unable = append(unable, node+": "+failed[node].Error())
		}
	}
	switch {
	case len(withheld) > 0 && len(sent) == 0:
		c.fault(Route, "not sent: "+strings.Join(withheld[:min(len(withheld), 2)], "; "), remedyFor(Route, "", withheld[0]))
	case len(sent) > 0:
		text := "sent: " + list(sent)
		if len(withheld) > 0 {
			text += "; not " + strings.Join(withheld[:min(len(withheld), 2)], "; ")
		}
		c.well(Route, "%s", text)
	default:
		c.unknown(Route, "could not be asked: "+strings.Join(unable[:min(len(unable), 2)], "; "), "")
	}
}

// port returns the TCP port to try, 0 if the Service has none.
func (e *Engine) port(svc *corev1.Service) uint16 {
	if e.Port != 0 {
		return e.Port
	}
	for _, p := range svc.Spec.Ports {
		if p.Protocol == corev1.ProtocolTCP || p.Protocol == "" {
			return uint16(p.Port)
		}
	}
	return 0
}

// forwarding adds the hops from KubeProxy on: whether the nodes that get the traffic forward it, and whether others reach them.
func (e *Engine) forwarding(ctx context.Context, c *Chain, svc *corev1.Service, ip netip.Addr, w way) {
	port := e.port(svc)
	if !w.layer2 {
		slices.Sort(w.nodes)
	}
	w.nodes = slices.Compact(w.nodes)
	switch {
	case len(w.nodes) == 0:
		return
	case e.Prober == nil:
		c.unknown(KubeProxy, "not asked", "--probe opens connections")
		return
	case port == 0:
		c.unknown(KubeProxy, "the Service has no TCP port: what forwards UDP or SCTP says nothing", "try a client of the protocol")
		return
	}
	nodes := w.nodes[:min(len(w.nodes), mostAskers)]
	if !e.probeKernel(ctx, c, svc, ip, port, nodes) {
		return
	}
	if !e.probeTCP(ctx, c, svc, ip, port, nodes) {
		return
	}
	if i := slices.IndexFunc(c.Steps, func(s Step) bool { return s.Hop == TCP }); c.Steps[i].Mark == Well {
		e.probeRouter(ctx, c, ip, port, w)
	}
	e.probeHere(ctx, c, ip, port, w)
	if c.Fault() == nil {
		e.notProbed(c, svc, port)
	}
}

// notProbed adds what no probe has seen.
func (e *Engine) notProbed(c *Chain, svc *corev1.Service, port uint16) {
	text := fmt.Sprintf("what it answers on port %d was not looked at, nor whether long packets pass", port)
	var others []string
	for _, p := range svc.Spec.Ports {
		if protocol := cmp.Or(p.Protocol, corev1.ProtocolTCP); protocol != corev1.ProtocolTCP || uint16(p.Port) != port {
			others = append(others, fmt.Sprintf("%s %d", protocol, p.Port))
		}
	}
	remedy := "try a client of the protocol, such as curl -v, with a long answer too"
	if len(others) > 0 {
		text += "; not tried: " + strings.Join(others[:min(len(others), 3)], ", ")
		remedy = "--port tries another TCP port; " + remedy
	}
	c.unknown(Program, text, remedy)
}

// probeKernel adds the hop KubeProxy, and reports whether there is more to see.
func (e *Engine) probeKernel(ctx context.Context, c *Chain, svc *corev1.Service, ip netip.Addr, port uint16, nodes []string) bool {
	dialed, failed := ask(nodes, func(node string) (reachability.Dialed, error) { return e.Prober.Kernel(ctx, node, ip, port) })
	by := map[string][]string{}
	for node, d := range dialed {
		by[d.TCP] = append(by[d.TCP], node)
	}
	at := fmt.Sprintf("port %d", port)
	bad := slices.Concat(by[silent], by[unreachable], by[refused])
	switch ranges := sourceRanges(svc); {
	case len(bad) > 0 && ranges != "":
		c.unknown(KubeProxy, fmt.Sprintf("no answer to a connection from %s itself%s", list(bad), ranges), remedySources)
		return true
	case len(by[silent]) > 0:
		c.fault(KubeProxy, fmt.Sprintf("a connection from %s itself to %s gets no answer", list(by[silent]), at),
			"does kube-proxy run there, and has it the Service? kubectl logs -n kube-system -l k8s-app=kube-proxy; on the node: nft list "+
				"ruleset, "+
				"iptables-save, ipvsadm. Or the Pods drop the packets: a NetworkPolicy, the Pod network")
	case len(by[unreachable]) > 0:
		c.fault(KubeProxy, fmt.Sprintf("%s rejects the connection to %s", list(by[unreachable]), at),
			"kube-proxy rejects a Service without endpoints; externalTrafficPolicy and the readiness of the Pods, as kube-proxy has seen "+
				"them")
	case len(by[refused]) > 0:
		c.fault(TCP, fmt.Sprintf("%s: the connection to %s is refused", list(by[refused]), at),
			fmt.Sprintf("kube-proxy rejects it, since it knows of no endpoint (is it up to date? kubectl logs -n kube-system -l "+
				"k8s-app=kube-proxy); or the Pod is reached and no program listens on the targetPort, or not on its %s address", family.Of(ip)))
	case len(by[answers]) > 0:
		c.well(KubeProxy, "a connection from %s itself to %s is accepted", list(by[answers]), at)
		return true
	default:
		c.unknown(KubeProxy, "could not be asked: "+firstError(failed), "")
		return true
	}
	return false
}

const remedySources = "nodes may not be among the sources that the Service admits: try from one that is"

// sourceRanges says which sources a Service admits, "" if all. Where those leave nodes out, kube-proxy drops what they send.
func sourceRanges(svc *corev1.Service) string {
	if len(svc.Spec.LoadBalancerSourceRanges) == 0 {
		return ""
	}
	return "; loadBalancerSourceRanges are " + strings.Join(svc.Spec.LoadBalancerSourceRanges, ", ")
}

// probeTCP adds the hop TCP: other nodes send to those that get the traffic, as clients and routers do. It reports whether there is more to
// see.
func (e *Engine) probeTCP(ctx context.Context, c *Chain, svc *corev1.Service, ip netip.Addr, port uint16, nodes []string) bool {
	results := map[string][]string{} // node → node, by what came back
	var unable []string
	for _, node := range nodes {
		askers := e.askers(node)
		asked, failed := ask(askers[:min(len(askers), 2)], func(asker string) (reachability.Asked, error) {
			return e.Prober.LAN(ctx, asker, node, "", ip, port, false)
		})
		for _, asker := range sortedKeys(asked) {
			a := asked[asker]
			if a.Error != "" || len(a.Stations) == 0 || a.Stations[0].TCP == "" {
				text := a.Error
				if text == "" && len(a.Stations) > 0 {
					text = a.Stations[0].Error
				}
				unable = append(unable, asker+": "+text)
				continue
			}
			results[a.Stations[0].TCP] = append(results[a.Stations[0].TCP], asker+" by "+node)
		}
		if len(failed) > 0 {
			unable = append(unable, firstError(failed))
		}
	}
	bad := slices.Concat(results[silent], results[unreachable], results[refused])
	switch ranges := sourceRanges(svc); {
	case len(bad) > 0 && ranges != "":
		c.unknown(TCP, fmt.Sprintf("no answer to %s%s", list(bad), ranges), remedySources)
	case len(bad) > 0:
		c.fault(TCP, fmt.Sprintf("port %d does not answer %s, though the node forwards what it sends itself", port, list(bad)),
			"a firewall on that node drops what comes from outside (nft list ruleset), rp_filter does (sysctl "+
				"net.ipv4.conf.all.rp_filter), or "+
				"forwarding is off (sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding)")
		return false
	case len(results[answers]) > 0:
		c.well(TCP, "port %d answers %s", port, list(results[answers]))
	case len(unable) > 0:
		c.unknown(TCP, "could not be tried from another node: "+unable[0], "")
	default:
		c.unknown(TCP, "no other node could try", "")
	}
	return true
}

// probeHere adds the hop Here. That this machine gets no answer is no fault of the Service's: there may be no way from here. But it is a fault that
// it sends to another station than the holder.
func (e *Engine) probeHere(ctx context.Context, c *Chain, ip netip.Addr, port uint16, w way) {
	result, err := e.Prober.Here(ctx, ip, port)
	if err == nil && result == answers {
		c.well(Here, "this machine reaches port %d", port)
		return
	}
	if w.layer2 && e.probeStation(c, ip, w) {
		return
	}
	text := "this machine gets no answer"
	if err != nil {
		text += ": " + err.Error()
	} else if result != silent {
		text = "this machine is told: " + strings.ToLower(result)
	}
	remedy := "has this machine a way to the subnet of the address? The nodes answer: what is missing is on the network between"
	if !w.layer2 {
		remedy = "the nodes answer: does the router have the route, and does it pass it on? A filter for the neighbour, or for the " +
			"prefix, drops it"
	}
	c.unknown(Here, text, remedy)
}

// firstError returns the first of some errors, with the node.
func firstError(failed map[string]error) string {
	for _, node := range sortedKeys(failed) {
		return node + ": " + failed[node].Error()
	}
	return "no node"
}

// DialHere opens a TCP connection from this machine, as Prober.Here does.
func DialHere(ctx context.Context, ip netip.Addr, port uint16) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(ip, port).String())
	if err == nil {
		return answers, conn.Close()
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return silent, nil
	}
	return "", err
}

// sortedKeys returns the keys of a map, sorted.
func sortedKeys[K ~string, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
