// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"errors"
	"net/netip"
	"slices"
	"time"
	"unique"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
)

// agreement is what two OPEN messages come to.
type agreement struct {
	asn      uint32
	routerID netip.Addr
	// holdTime is 0 where neither side sends KEEPALIVEs.
	holdTime time.Duration
	families []family.Family // in the order of our declaration
	// fourOctets says that the peer reads AS numbers of four octets in AS_PATH (RFC 6793).
	fourOctets bool
	// extendedNextHop says that the peer takes IPv4 prefixes with IPv6 next hops (RFC 8950 §4).
	extendedNextHop bool
	// gracefulRestart says that both sides have the capability of RFC 4724.
	gracefulRestart bool
}

// carries reports whether the peer can be sent a prefix with these attributes.
func (a *agreement) carries(prefix netip.Prefix, attrs unique.Handle[attributes]) bool {
	f := family.Of(prefix.Addr())
	return slices.Contains(a.families, f) && (f == family.IPv6 || a.extendedNextHop || attrs.Value().nextHop.Is4())
}

// unicast are the families in GoBGP's terms.
var unicast = map[family.Family]packet.Family{family.IPv4: packet.RF_IPv4_UC, family.IPv6: packet.RF_IPv6_UC}

// newOpen returns the OPEN message for a peer. The speaker has restarted if this process has not had a session with the peer yet.
func newOpen(p bgp.Peer, restarted bool) (*packet.BGPMessage, error) {
	var caps []packet.ParameterCapabilityInterface
	var forwarding []*packet.CapGracefulRestartTuple
	for _, f := range p.Families {
		caps = append(caps, packet.NewCapMultiProtocol(unicast[f]))
		forwarding = append(forwarding, packet.NewCapGracefulRestartTuple(unicast[f], true))
	}
	caps = append(caps, packet.NewCapRouteRefresh(), packet.NewCapFourOctetASNumber(p.LocalASN))
	if slices.Contains(p.Families, family.IPv4) {
		caps = append(caps, packet.NewCapExtendedNexthop([]*packet.CapExtendedNexthopTuple{
			packet.NewCapExtendedNexthopTuple(packet.RF_IPv4_UC, packet.AFI_IP6),
		}))
	}
	if gr := p.GracefulRestart; gr.Enabled {
		// Without the N bit of RFC 8538 a NOTIFICATION ends everything, as our CEASE is to.
		caps = append(caps, packet.NewCapGracefulRestart(restarted, false, uint16(gr.RestartTime/time.Second), forwarding))
	}
	asn := uint16(packet.AS_TRANS)
	if p.LocalASN <= 65535 {
		asn = uint16(p.LocalASN)
	}
	return packet.NewBGPOpenMessage(asn, uint16(p.HoldTime/time.Second), p.RouterID,
		[]packet.OptionParameterInterface{packet.NewOptionParameterCapability(caps)})
}

// ownASRetry is how long a peer that was to be in another AS than ours, and is not, is left alone.
const ownASRetry = time.Minute

// parseOpen returns what the peer's OPEN and our own come to, or the loss with which the peer is refused.
func parseOpen(body []byte, p bgp.Peer) (*agreement, *loss) {
	var open packet.BGPOpen
	if err := open.DecodeFromBytes(body); err != nil {
		return nil, refusal(err)
	}
	asn, err := packet.ValidateOpenMsg(&open, p.PeerASN, p.LocalASN, p.RouterID)
	switch {
	case err != nil:
		return nil, refusal(err)
	case asn == 0: // RFC 7607
		return nil, breach(packet.BGP_ERROR_OPEN_MESSAGE_ERROR, packet.BGP_ERROR_SUB_BAD_PEER_AS, "the peer says that its AS is 0")
	case p.Dynamic == bgp.External && asn == p.LocalASN:
		l := breach(packet.BGP_ERROR_OPEN_MESSAGE_ERROR, packet.BGP_ERROR_SUB_BAD_PEER_AS,
			"the peer is in our own AS %d, but dynamicASN is External", asn)
		l.wait = ownASRetry
		return nil, l
	}
	// Without a capability of RFC 4760 the peer has IPv4.
	a := &agreement{asn: asn, routerID: open.ID, holdTime: min(p.HoldTime, time.Duration(open.HoldTime)*time.Second)}
	theirs := map[packet.Family]bool{}
	for _, parameter := range open.OptParams {
		if capabilities, ok := parameter.(*packet.OptionParameterCapability); ok {
			for _, c := range capabilities.Capability {
				a.add(c, theirs)
			}
		}
	}
	if len(theirs) == 0 {
		theirs[packet.RF_IPv4_UC] = true
	}
	a.gracefulRestart = a.gracefulRestart && p.GracefulRestart.Enabled
	a.families = slices.DeleteFunc(slices.Clone(p.Families), func(f family.Family) bool { return !theirs[unicast[f]] })
	return a, nil
}

// add takes note of a capability of the peer's.
func (a *agreement) add(c packet.ParameterCapabilityInterface, families map[packet.Family]bool) {
	switch c := c.(type) {
	case *packet.CapMultiProtocol:
		families[c.CapValue] = true
	case *packet.CapFourOctetASNumber:
		a.fourOctets = true
	case *packet.CapGracefulRestart:
		a.gracefulRestart = true
	case *packet.CapExtendedNexthop:
		for _, t := range c.Tuples {
			if t.NLRIAFI == packet.AFI_IP && t.NLRISAFI == packet.SAFI_UNICAST && t.NexthopAFI == packet.AFI_IP6 {
				a.extendedNextHop = true
			}
		}
	}
}

// refusal returns an error of GoBGP's package as the loss that it stands for.
func refusal(err error) *loss {
	var m *packet.MessageError
	if !errors.As(err, &m) {
		return breach(packet.BGP_ERROR_OPEN_MESSAGE_ERROR, 0, "%v", err)
	}
	l := breach(m.TypeCode, m.SubTypeCode, "%s", m.Message)
	l.data = m.Data
	return l
}
