// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The hosts of a lab beside its nodes.
const (
	// Router forwards between the LAN and the outside, and is everyone's default gateway.
	Router = "router"
	// ControlPlane runs etcd, the API server, the controller manager and the scheduler.
	ControlPlane = "cp"
	// Client is a machine on the nodes' own LAN.
	Client = "client"
	// Ext is a machine behind the router. To tests that look at source addresses only Ext is outside the cluster.
	Ext = "ext"
	// bridge is the namespace of the LAN's switch. It is no host: it has no address.
	bridge = "sw"
)

// NodeName returns the name of node i, counted from 1. It is the node's name in Kubernetes and that of its host.
func NodeName(i int) string { return fmt.Sprintf("node%d", i) }

// plan is the address plan of a lab: pure, and the same for every lab of one size and one choice of families. IPv4
// addresses come first wherever there are two.
type plan struct {
	name     string
	nodes    int
	families Families
}

// pair holds what both families write in their own way.
type pair struct{ ipv4, ipv6 string }

// of returns the parts of p that belong to the plan's families.
func (p plan) of(both pair) []string {
	switch p.families {
	case IPv4:
		return []string{both.ipv4}
	case IPv6:
		return []string{both.ipv6}
	default:
		return []string{both.ipv4, both.ipv6}
	}
}

// namespace returns the network namespace of a host.
func (p plan) namespace(host string) string { return p.name + "-" + host }

// namespaces returns the names of all network namespaces, the switch's first.
func (p plan) namespaces() []string {
	names := []string{p.namespace(bridge)}
	for _, host := range p.hosts() {
		names = append(names, p.namespace(host))
	}
	return names
}

// hosts returns the names of everything that has an address.
func (p plan) hosts() []string {
	return append([]string{Router, ControlPlane, Client, Ext}, p.nodeNames()...)
}

func (p plan) nodeNames() []string {
	var names []string
	for i := range p.nodes {
		names = append(names, NodeName(i+1))
	}
	return names
}

// number returns a host's number on the LAN. Both families write it in the same digits: 198.51.100.11 and
// 2001:db8:51::11.
func (p plan) number(host string) (int, bool) {
	switch host {
	case Router:
		return 1, true
	case ControlPlane:
		return 10, true
	case Client:
		return 100, true
	}
	if i := slices.Index(p.nodeNames(), host); i >= 0 {
		return 11 + i, true
	}
	return 0, false
}

// lan returns a host's addresses on the LAN with the lengths of its prefixes.
func (p plan) lan(number int) []string {
	return p.of(pair{fmt.Sprintf("198.51.100.%d/24", number), fmt.Sprintf("2001:db8:51::%d/64", number)})
}

// outside returns addresses on the network behind the router.
func (p plan) outside(number int) []string {
	return p.of(pair{fmt.Sprintf("203.0.113.%d/24", number), fmt.Sprintf("2001:db8:203::%d/64", number)})
}

// addresses returns a host's addresses, or nil if there is no such host.
func (p plan) addresses(host string) []netip.Addr {
	var prefixes []string
	if number, ok := p.number(host); ok {
		prefixes = p.lan(number)
	} else if host == Ext {
		prefixes = p.outside(100)
	}
	return addrs(prefixes)
}

// podCIDRs returns the networks of the pods of node i.
func (p plan) podCIDRs(i int) []string {
	return p.of(pair{fmt.Sprintf("10.244.%d.0/24", i), fmt.Sprintf("fd00:244:0:%d::/64", i)})
}

// podGateways returns the addresses of node i on its pods' bridge, with the lengths of its prefixes.
func (p plan) podGateways(i int) []string {
	return p.of(pair{fmt.Sprintf("10.244.%d.1/24", i), fmt.Sprintf("fd00:244:0:%d::1/64", i)})
}

func (p plan) clusterCIDRs() []string { return p.of(pair{"10.244.0.0/16", "fd00:244::/48"}) }
func (p plan) serviceCIDRs() []string { return p.of(pair{"10.96.0.0/16", "fd00:96::/112"}) }
func (p plan) defaultRoutes() []string {
	return p.of(pair{"0.0.0.0/0", "::/0"})
}

// serviceIPs returns the addresses of the Service "kubernetes".
func (p plan) serviceIPs() []netip.Addr { return addrs(p.of(pair{"10.96.0.1/16", "fd00:96::1/112"})) }

// apiServer returns the address at which everyone reaches the API server.
func (p plan) apiServer() netip.AddrPort {
	return netip.AddrPortFrom(p.addresses(ControlPlane)[0], 6443)
}

// links returns, namespace by namespace, the commands for `ip -batch` that build the network. Namespaces exist already;
// a command may name the namespace of an earlier one.
func (p plan) links() []batch {
	sw := batch{namespace: p.namespace(bridge)}
	// Without snooping the switch floods multicast as a plain one does: neighbour discovery needs no querier.
	sw.add("link set lo up", "link add br0 type bridge mcast_snooping 0", "link set br0 up")
	var hosts []batch

	for _, host := range p.hosts() {
		b := batch{namespace: p.namespace(host)}
		b.add("link set lo up")
		if number, ok := p.number(host); ok {
			sw.add(fmt.Sprintf("link add %s type veth peer name eth0 netns %s", port(host), b.namespace),
				fmt.Sprintf("link set %s master br0 up", port(host)))
			b.add("link set eth0 up")
			b.addAddresses("eth0", p.lan(number))
		}
		switch host {
		case Router:
			b.add(fmt.Sprintf("link add ext0 type veth peer name eth0 netns %s", p.namespace(Ext)), "link set ext0 up")
			b.addAddresses("ext0", p.outside(1))
		case Ext:
			b.add("link set eth0 up")
			b.addAddresses("eth0", p.outside(100))
			b.addRoutes(p.defaultRoutes(), addrs(p.outside(1)))
		default:
			b.addRoutes(p.defaultRoutes(), addrs(p.lan(1)))
		}
		// Pods are reachable from the nodes, the control plane and the router, as in a cluster whose CNI plugin
		// routes. The client reaches them through the router.
		for i, node := range p.nodeNames() {
			switch host {
			case node:
				b.add(fmt.Sprintf("link add cni0 address %s type bridge", podGatewayMAC(i+1)), "link set cni0 up")
				b.addAddresses("cni0", p.podGateways(i+1))
			case Client, Ext:
			default:
				b.addRoutes(p.podCIDRs(i+1), p.addresses(node))
			}
		}
		hosts = append(hosts, b)
	}
	return append([]batch{sw}, hosts...)
}

// podGatewayMAC returns the MAC address of the bridge of a node's pods. Without an address of its own a bridge takes the lowest of its ports', and so
// another one when a pod comes or goes: the other pods send to the old one until they notice, which they do late in IPv6, and for minutes while many
// connections are opened.
func podGatewayMAC(node int) string { return fmt.Sprintf("02:00:00:00:ce:%02x", node) }

// port returns the name of the switch's port to which a host is connected.
func port(host string) string { return "p-" + host }

// batch is what `ip -n namespace -batch -` reads.
type batch struct {
	namespace string
	commands  []string
}

func (b *batch) add(commands ...string) { b.commands = append(b.commands, commands...) }

func (b *batch) addAddresses(link string, prefixes []string) {
	for _, prefix := range prefixes {
		command := fmt.Sprintf("address add %s dev %s", prefix, link)
		if netip.MustParsePrefix(prefix).Addr().Is6() {
			command += " nodad"
		}
		b.add(command)
	}
}

func (b *batch) addRoutes(destinations []string, gateways []netip.Addr) {
	for i, destination := range destinations {
		b.add(fmt.Sprintf("route add %s via %s", destination, gateways[i]))
	}
}

func addrs(prefixes []string) []netip.Addr {
	var addrs []netip.Addr
	for _, prefix := range prefixes {
		addrs = append(addrs, netip.MustParsePrefix(prefix).Addr())
	}
	return addrs
}

// join writes addresses as flags of Kubernetes expect them.
func join[T fmt.Stringer](values []T) string {
	var texts []string
	for _, v := range values {
		texts = append(texts, v.String())
	}
	return strings.Join(texts, ",")
}
