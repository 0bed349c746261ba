// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/tandem-lb/tandem/ipam/family"
)

// DynamicASN accepts a peer by its relation to the local AS instead of its number.
type DynamicASN string

const (
	// Internal is the same AS as ours.
	Internal DynamicASN = "Internal"
	// External is any AS but ours. The OPEN of a peer that is of our own AS is refused, and it is tried again a minute later.
	External DynamicASN = "External"
)

// Password is a TCP MD5 key (RFC 2385). It prints as "REDACTED".
type Password string

// MaxPasswordBytes is the length of the longest Password that the kernel takes (TCP_MD5SIG_MAXKEYLEN).
const MaxPasswordBytes = 80

// String keeps the key out of logs and errors.
func (Password) String() string { return "REDACTED" }

// GoString keeps the key out of %#v.
func (Password) GoString() string { return "REDACTED" }

// MarshalText keeps the key out of JSON.
func (Password) MarshalText() ([]byte, error) { return []byte("REDACTED"), nil }

// GracefulRestart is the restarting side of RFC 4724.
type GracefulRestart struct {
	Enabled bool
	// RestartTime is how long the peer is to keep our routes after it has lost us: whole seconds, up to 4095.
	RestartTime time.Duration
}

// Peer is a BGP neighbour as a speaker sees it. Defaults fills in zero values, Faults says what makes a peer invalid.
type Peer struct {
	Name     string
	LocalASN uint32
	// PeerASN is the neighbour's AS, or zero if Dynamic says which AS to accept.
	PeerASN uint32
	Dynamic DynamicASN
	// Address is the neighbour's. A link-local one has the interface as its zone, as in fe80::1%eth1.
	Address netip.Addr
	Port    uint16
	// Unnumbered says that the user names the peer by its interface, and that Address was learned from the router advertisements there.
	Unnumbered bool
	// Interface is the one that the connection is bound to, "" where the routing table chooses it. VRF is the routing domain of the
	// connection, by the name of its device, "" for the main one.
	Interface, VRF string
	// SourceAddress is the local address of the connection. The zero Addr leaves the choice to the kernel, which cannot be
	// foreseen where the node has several addresses on the link: a router that sends router advertisements gives the
	// node one more.
	SourceAddress netip.Addr
	// RouterID is the BGP identifier, an IPv4 address unique in the AS. See the function RouterID.
	RouterID netip.Addr
	// HoldTime, KeepaliveTime and ConnectTime are whole seconds, and zero is the default. HoldTime is proposed; the lesser of both sides'
	// holds, and KEEPALIVEs are sent after a third of it at the latest. ConnectTime is the longest time between two attempts to connect.
	HoldTime      time.Duration
	KeepaliveTime time.Duration
	ConnectTime   time.Duration
	// NoHoldTimer proposes a hold time of 0: neither side sends KEEPALIVEs, and a peer that dies without a word is noticed by nothing but
	// BFD, or by TCP after minutes. HoldTime and KeepaliveTime are zero then.
	NoHoldTimer bool
	// EBGPMultiHop says that an external peer may be more than one hop away. Packets leave with the highest TTL in any case, which a router
	// on the link takes whether it checks TTLs (GTSM) or not.
	EBGPMultiHop bool
	// TTLSecurityHops is how many hops away the peer may be at most; packets from further off are dropped by the
	// kernel (GTSM, RFC 5082). 1 is a peer on the link, 0 turns it off.
	TTLSecurityHops uint8
	Password        Password
	GracefulRestart GracefulRestart
	Families        []family.Family
	// MaxReceivedPrefixes ends the session with CEASE when the peer announces more prefixes than that in all families together. 0 is no limit.
	MaxReceivedPrefixes int
}

const (
	defaultPort     = 179
	defaultHoldTime = 90 * time.Second // RFC 4271 §10
	// RFC 4271 §10 suggests 120 s between attempts. A router that has come back would have no session for so long, and a
	// SYN every 5 s costs neither side anything.
	defaultConnectTime = 5 * time.Second
	defaultRestartTime = 30 * time.Second

	asTrans = 23456 // stands for a four-octet AS in two octets and is assigned to no network (RFC 6793 §9)

	maxRestartTime = 4095 * time.Second // twelve bits (RFC 4724 §3)
	maxTimer       = 65535 * time.Second
)

// Defaults fills in the fields that were left out. The API server fills in the same ones of a BGPPeer, so that users see them; a test in
// package config holds the two together.
func (p *Peer) Defaults() {
	if p.Port == 0 {
		p.Port = defaultPort
	}
	if p.Dynamic == Internal && p.PeerASN == 0 {
		p.PeerASN, p.Dynamic = p.LocalASN, ""
	}
	if p.HoldTime == 0 && !p.NoHoldTimer {
		p.HoldTime = defaultHoldTime
	}
	if p.KeepaliveTime == 0 {
		p.KeepaliveTime = (p.HoldTime / 3).Truncate(time.Second)
	}
	if p.ConnectTime == 0 {
		p.ConnectTime = defaultConnectTime
	}
	if p.GracefulRestart.Enabled && p.GracefulRestart.RestartTime == 0 {
		p.GracefulRestart.RestartTime = defaultRestartTime
	}
	if len(p.Families) == 0 {
		p.Families = []family.Family{family.IPv4, family.IPv6}
	}
}

// Validate reports everything that is wrong with a peer whose defaults are filled in: the Faults, each on a line.
func (p Peer) Validate() error { return errors.Join(p.Faults()...) }

// Faults returns everything that is wrong with a peer whose defaults are filled in, none for a valid one. Each error begins with the name
// of the field as users type it below spec of a BGPPeer, for example "holdTime: 2s is not between 3s and 18h12m15s".
func (p Peer) Faults() (errs []error) {
	refuse := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	seconds := func(field string, d, least, most time.Duration) {
		switch {
		case d%time.Second != 0:
			refuse(field, "%v is not a whole number of seconds", d)
		case d < least || d > most:
			refuse(field, "%v is not between %v and %v", d, least, most)
		}
	}

	if p.Name == "" {
		refuse("name", "required")
	}
	if p.LocalASN == 0 || p.LocalASN == asTrans {
		refuse("myASN", "%d is not an AS number of yours", p.LocalASN)
	}
	switch {
	case p.PeerASN == 0 && p.Dynamic == "":
		refuse("peerASN", "required, or dynamicASN")
	case p.PeerASN != 0 && p.Dynamic != "":
		refuse("dynamicASN", "cannot be combined with peerASN")
	case p.PeerASN == asTrans:
		refuse("peerASN", "%d is not an AS number of anyone", p.PeerASN)
	case p.Dynamic != "" && p.Dynamic != Internal && p.Dynamic != External:
		refuse("dynamicASN", "%q is neither External nor Internal", p.Dynamic)
	}

	switch a := p.Address; {
	case !a.IsValid():
		refuse("peerAddress", "required")
	case a.Is4In6():
		refuse("peerAddress", "%v is an IPv4 address in IPv6 form: write %v", a, a.Unmap())
	case a.IsUnspecified() || a.IsMulticast():
		refuse("peerAddress", "%v is not the address of a router", a)
	case a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "":
		refuse("peerAddress", "%v is link-local and needs the zone of its interface, such as %v%%eth1", a, a)
	case a.Zone() != "" && !a.IsLinkLocalUnicast():
		refuse("peerAddress", "%v has a zone, which only link-local addresses have", a)
	}
	if a := p.SourceAddress; a.IsValid() {
		switch {
		case a.IsUnspecified() || a.IsMulticast() || a.Is4In6():
			refuse("sourceAddress", "%v is not an address of a node", a)
		case p.Address.IsValid() && a.Is4() != p.Address.Is4():
			refuse("sourceAddress", "%v and peerAddress %v are of different families", a, p.Address)
		}
	}
	if id := p.RouterID; !id.Is4() || id.IsUnspecified() || id.IsMulticast() {
		refuse("routerID", "%v is not a unicast IPv4 address", id)
	}

	switch {
	case !p.NoHoldTimer:
		seconds("holdTime", p.HoldTime, 3*time.Second, maxTimer) // RFC 4271 §4.2
		seconds("keepaliveTime", p.KeepaliveTime, time.Second, maxTimer)
		if p.KeepaliveTime > p.HoldTime/3 {
			refuse("keepaliveTime", "%v is more than a third of holdTime %v (RFC 4271 §4.4)", p.KeepaliveTime, p.HoldTime)
		}
	case p.KeepaliveTime != 0:
		refuse("keepaliveTime", "%v has no effect with holdTime 0s, which means that no KEEPALIVEs are sent: leave it out", p.KeepaliveTime)
	}
	seconds("connectTime", p.ConnectTime, time.Second, maxTimer)

	if p.EBGPMultiHop && p.TTLSecurityHops > 0 {
		refuse("ttlSecurityHops", "cannot be combined with ebgpMultiHop: raise ttlSecurityHops instead")
	}
	if p.TTLSecurityHops == 255 {
		refuse("ttlSecurityHops", "255 is not between 1 and 254")
	}
	if len(p.Password) > MaxPasswordBytes {
		refuse("password", "%d bytes are more than the %d of a TCP MD5 key", len(p.Password), MaxPasswordBytes)
	}
	if p.GracefulRestart.Enabled {
		seconds("gracefulRestart.restartTime", p.GracefulRestart.RestartTime, time.Second, maxRestartTime)
	}
	if p.MaxReceivedPrefixes < 0 {
		refuse("maxReceivedPrefixes", "%d is negative", p.MaxReceivedPrefixes)
	}
	for i, f := range p.Families {
		switch {
		case f != family.IPv4 && f != family.IPv6:
			refuse("families", "%q is neither IPv4 nor IPv6", f)
		case slices.Contains(p.Families[:i], f):
			refuse("families", "%s is named twice", f)
		}
	}
	return errs
}

// Device returns the name of the interface that the connection is bound to, which may be that of a VRF, "" for none.
func (p Peer) Device() string { return cmp.Or(p.Interface, p.VRF) }

// IsExternal reports whether the peer is declared to be in another AS.
func (p Peer) IsExternal() bool { return p.PeerASN != p.LocalASN }

// RouterID derives a BGP identifier for a node that has no IPv4 address.
//
// It is the first four bytes of the SHA-256 hash of the node's name, moved into 1.0.0.0–223.255.255.255 so that it is
// a valid unicast address, neither zero (RFC 6286 §2.1) nor multicast. The same name gives the same identifier for
// ever, since a changed one resets every session. Among 1000 nodes two share one with a probability of about 1 in
// 7500; such nodes set routerID.
func RouterID(nodeName string) netip.Addr {
	sum := sha256.Sum256([]byte(nodeName))
	const first, count = 1 << 24, 223 << 24
	var id [4]byte
	binary.BigEndian.PutUint32(id[:], first+binary.BigEndian.Uint32(sum[:4])%count)
	return netip.AddrFrom4(id)
}
