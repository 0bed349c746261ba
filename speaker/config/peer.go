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
	// Peer is valid and has its defaults, but for two fields that each node fills in: Password, from the Secret that PasswordSecret names,
	// and RouterID, by the node's own address where the BGPPeer has none (the zero Addr).
	Peer bgp.Peer
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

// anyRouterID stands for the router ID of each node while a peer is validated.
var anyRouterID = netip.AddrFrom4([4]byte{192, 0, 2, 1})

// peer compiles a BGPPeer. One without an address is not used.
func (c *compiler) peer(f *findings, name string, spec *v1alpha1.BGPPeerSpec) (compiled Peer, addressed bool) {
	compiled = Peer{
		Name:  name,
		Nodes: f.selectors("spec.nodeSelectors", spec.NodeSelectors),
		Peer: bgp.Peer{
			Name:            name,
			LocalASN:        uint32(spec.MyASN),
			PeerASN:         uint32(spec.PeerASN),
			Dynamic:         bgp.DynamicASN(spec.DynamicASN),
			Address:         f.address("spec.peerAddress", spec.PeerAddress, spec.Interface),
			Port:            uint16(spec.PeerPort),
			SourceAddress:   f.address("spec.sourceAddress", spec.SourceAddress, spec.Interface),
			RouterID:        f.address("spec.routerID", spec.RouterID, ""),
			HoldTime:        duration(spec.HoldTime),
			KeepaliveTime:   duration(spec.KeepaliveTime),
			ConnectTime:     duration(spec.ConnectTime),
			EBGPMultiHop:    spec.EBGPMultiHop,
			TTLSecurityHops: uint8(spec.TTLSecurityHops),
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
	if hold := spec.HoldTime; hold != nil && hold.Duration == 0 {
		f.notBuilt = append(f.notBuilt, "spec.holdTime: this version cannot propose 0s and proposes 90s; it does follow a peer that proposes 0s")
	}
	addressed = spec.PeerAddress != ""
	switch {
	case addressed:
	case spec.DefaultGateway != "":
		f.notBuilt = append(f.notBuilt,
			"spec.defaultGateway: this version does not look for the gateway and opens no session; set spec.peerAddress")
	default:
		f.notBuilt = append(f.notBuilt,
			"spec.interface: this version has no unnumbered sessions and does not open this one; set spec.peerAddress")
	}
	if spec.SourceInterface != "" {
		f.notBuilt = append(f.notBuilt, "spec.sourceInterface: this has no effect in this version; set spec.sourceAddress")
	}
	if spec.MaxReceivedPrefixes != 0 {
		f.notBuilt = append(f.notBuilt, "spec.maxReceivedPrefixes: this has no effect in this version; limit what the peer announces on the peer")
	}
	p.Defaults()
	if addressed && len(f.invalid) == 0 { // An address that could not be read has been reported already.
		complete := *p
		if !p.RouterID.IsValid() {
			complete.RouterID = anyRouterID
		}
		for _, fault := range complete.Faults() {
			f.invalid = append(f.invalid, "spec."+fault.Error())
		}
	}
	return compiled, addressed
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
