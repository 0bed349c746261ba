// SPDX-License-Identifier: Apache-2.0

// Package lookingglass has the JSON of a speaker's looking glass that programs read: the speaker writes these types, and kubectl-tandem reads the
// same. The looking glass answers on loopback of the node, at the port that the flag --looking-glass-bind-address of the speaker names.
//
//	GET /bgp/routes?peer=tor1                        []Route
//	GET /facts?interface=eth0&to=198.51.100.12       Facts
//
// What it says of the LAN has its types in package reachability.
package lookingglass

import "net/netip"

// Facts are what a speaker sees of its node that the API does not have, for those who look for a mistake in how the node is set up.
type Facts struct {
	// Version is that of the speaker.
	Version string `json:"version"`
	// Sysctls are parameters of the kernel by their names, as in "net.ipv4.ip_forward": "1". One that the kernel does not have is left out.
	Sysctls map[string]string `json:"sysctls"`
	// Routes are the interfaces by which the kernel sends to the IPv4 addresses that the question names, by the address: as in "198.51.100.12": "eth0". One
	// to which there is no route is left out. It is nil of a speaker of a release before.
	Routes map[string]string `json:"routes"`
	// DefaultRoute are the interfaces of the IPv4 default route that the kernel prefers, several if it has several next hops.
	DefaultRoute []string `json:"defaultRoute,omitempty"`
	// KubeProxyMode is what kube-proxy says of itself, such as "nftables"; "" where nothing answers at the port of its metrics.
	KubeProxyMode string `json:"kubeProxyMode,omitempty"`
	// KubeProxyError is why it is not known although something listens there.
	KubeProxyError string `json:"kubeProxyError,omitempty"`
}

// Route is one that is declared to a peer, as the peer is told it, or with the reason why it is not.
type Route struct {
	Prefix  netip.Prefix `json:"prefix"`
	NextHop netip.Addr   `json:"nextHop,omitzero"`
	// LinkLocal is the address that the peer is told beside an IPv6 NextHop on the link that it shares with the node.
	LinkLocal     netip.Addr `json:"linkLocal,omitzero"`
	LocalPref     *uint32    `json:"localPref,omitempty"`
	MED           *uint32    `json:"med,omitempty"`
	ASPathPrepend uint8      `json:"asPathPrepend,omitempty"`
	Communities   []string   `json:"communities,omitempty"`
	Sent          bool       `json:"sent"`
	// Withheld says why the peer has not been sent the route.
	Withheld string `json:"withheld,omitempty"`
}
