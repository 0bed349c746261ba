// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/selector"
	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Peer is a compiled v1alpha1.BGPPeer.
type Peer struct {
	Name  string
	Nodes selector.List
	// Peer is valid and has its defaults, but for what each node fills in: Password, from the Secret that PasswordSecret names; RouterID, by
	// the node's own address where the BGPPeer has none (the zero Addr); Address, where Gateway is set or Peer.Unnumbered; SourceAddress, where
	// SourceInterface is set; and what annotations of the Node say.
	Peer bgp.Peer
	// Gateway is the family whose default gateway is the peer, on Peer.Interface if that is set; "" for none.
	Gateway family.Family
	// SourceInterface is the name of the interface that has the address of the session; "" for none.
	SourceInterface string
	// Dynamic is how the peer's AS is accepted. Peer has Internal replaced by the AS, which is another on a node with an AS of its own.
	Dynamic bgp.DynamicASN
	// PasswordSecret is where the password of the session is, nil for a session without one.
	PasswordSecret *SecretKey
	// BFD says how BFD watches the peer, nil where it does not.
	BFD *BFD
}

// SecretKey is a key of a Secret in the namespace of the Secrets.
type SecretKey struct {
	Secret, Key string
}

// BFD is a compiled v1alpha1.BFDProfile.
type BFD struct {
	bfd.Params
	// MinimumTTL is the least TTL or hop limit that packets of a session over several hops may arrive with.
	MinimumTTL uint8
}

// The defaults of a BFDProfile. The API server fills in the same, so that users see them.
const (
	defaultBFDInterval         = 300 * time.Millisecond
	defaultBFDMultiplier int32 = 3
	defaultMinimumTTL    int32 = 254
)

// anyRouterID stands for the router ID of each node while a peer is validated, and anyAddress and anyRouter for an address that each node
// finds.
var (
	anyRouterID = netip.AddrFrom4([4]byte{192, 0, 2, 1})
	anyAddress  = map[family.Family]netip.Addr{family.IPv4: anyRouterID, family.IPv6: netip.MustParseAddr("2001:db8::1")}
	anyRouter   = netip.MustParseAddr("fe80::1")
)

// peer compiles a BGPPeer.
func (c *compiler) peer(f *findings, name string, spec *v1alpha1.BGPPeerSpec) Peer {
	compiled := Peer{
		Name:            name,
		Nodes:           f.selectors("spec.nodeSelectors", spec.NodeSelectors),
		Gateway:         family.Family(spec.DefaultGateway),
		SourceInterface: spec.SourceInterface,
		Dynamic:         bgp.DynamicASN(spec.DynamicASN),
		Peer: bgp.Peer{
			Name:            name,
			LocalASN:        uint32(spec.MyASN),
			PeerASN:         uint32(spec.PeerASN),
			Dynamic:         bgp.DynamicASN(spec.DynamicASN),
			Address:         f.address("spec.peerAddress", spec.PeerAddress, spec.Interface),
			Port:            uint16(spec.PeerPort),
			Unnumbered:      spec.PeerAddress == "" && spec.DefaultGateway == "",
			Interface:       spec.Interface,
			VRF:             spec.VRF,
			SourceAddress:   f.address("spec.sourceAddress", spec.SourceAddress, spec.Interface),
			RouterID:        f.address("spec.routerID", spec.RouterID, ""),
			HoldTime:        duration(spec.HoldTime),
			KeepaliveTime:   duration(spec.KeepaliveTime),
			ConnectTime:     duration(spec.ConnectTime),
			EBGPMultiHop:    spec.EBGPMultiHop,
			TTLSecurityHops: uint8(spec.TTLSecurityHops),

			MaxReceivedPrefixes: int(spec.MaxReceivedPrefixes),
		},
		BFD: c.bfd(f, spec.BFDProfile),
	}
	p := &compiled.Peer
	for _, af := range spec.Families {
		p.Families = append(p.Families, family.Family(af))
	}
	if gr := spec.GracefulRestart; gr != nil {
		p.GracefulRestart = bgp.GracefulRestart{Enabled: gr.Enabled == nil || *gr.Enabled, RestartTime: duration(gr.RestartTime)}
	}
	if ref := spec.PasswordSecret; ref != nil {
		compiled.PasswordSecret = &SecretKey{Secret: ref.Name, Key: cmp.Or(ref.Key, corev1.BasicAuthPasswordKey)}
	}
	p.NoHoldTimer = spec.HoldTime != nil && spec.HoldTime.Duration == 0
	p.Defaults()
	if len(f.invalid) == 0 { // An address that could not be read has been reported already.
		complete := *p
		switch {
		case compiled.Gateway != "":
			complete.Address = anyAddress[compiled.Gateway]
		case p.Unnumbered && p.Interface != "":
			complete.Address = anyRouter.WithZone(p.Interface)
		}
		if !p.RouterID.IsValid() {
			complete.RouterID = anyRouterID
		}
		for _, fault := range complete.Faults() {
			f.invalid = append(f.invalid, "spec."+fault.Error())
		}
	}
	return compiled
}

// bfd compiles the BFDProfile of a name, and returns nil where the name is empty or no profile has it.
func (c *compiler) bfd(f *findings, name string) *BFD {
	if name == "" {
		return nil
	}
	i := slices.IndexFunc(c.BFDProfiles, func(p v1alpha1.BFDProfile) bool { return p.Name == name })
	if !f.reference("spec.bfdProfile", "BFDProfile", name, func(string) bool { return i >= 0 }) {
		return nil
	}
	spec := &c.BFDProfiles[i].Spec
	return &BFD{
		MinimumTTL: uint8(cmp.Or(spec.MinimumTTL, defaultMinimumTTL)),
		Params: bfd.Params{
			Receive:    cmp.Or(duration(spec.ReceiveInterval), defaultBFDInterval),
			Transmit:   cmp.Or(duration(spec.TransmitInterval), defaultBFDInterval),
			Multiplier: uint8(cmp.Or(spec.DetectMultiplier, defaultBFDMultiplier)),
			Passive:    spec.PassiveMode,
		},
	}
}

// address reads an address. An IPv6 link-local one is on the interface. It returns the zero Addr for an empty text.
func (f *findings) address(field, text, iface string) netip.Addr {
	if text == "" {
		return netip.Addr{}
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		f.invalid = append(f.invalid, fmt.Sprintf("%s: %v", field, err))
	}
	if address.Is6() && address.IsLinkLocalUnicast() {
		address = address.WithZone(iface)
	}
	return address
}

func duration(d *metav1.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return d.Duration
}
