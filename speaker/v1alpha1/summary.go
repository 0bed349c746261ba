// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"
	"strconv"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// listWidth is the width of a column that shows a list. kubectl shows three of them in 120 columns.
const listWidth = 24

// pools says which pools are selected.
func (s *Selection) pools() string {
	switch {
	case len(s.AddressPools)+len(s.AddressPoolSelectors) == 0:
		return "all"
	case len(s.AddressPoolSelectors) == 0:
		return ipamv1alpha1.Listed(s.AddressPools, listWidth)
	case len(s.AddressPools) == 0:
		return "by label"
	}
	return ipamv1alpha1.Listed(append([]string{"by label"}, s.AddressPools...), listWidth)
}

// orAll returns the elements of a list, of which none stands for all.
func orAll[T ~string](list []T) string {
	if len(list) == 0 {
		return "all"
	}
	return ipamv1alpha1.Listed(list, listWidth)
}

// Summarize sets the summary from the spec.
func (a *L2Advertisement) Summarize() {
	a.Status.Summary = &ConfigSummary{Pools: a.Spec.pools(), Interfaces: "in the subnet"}
	if len(a.Spec.Interfaces) > 0 {
		a.Status.Summary.Interfaces = ipamv1alpha1.Listed(a.Spec.Interfaces, listWidth)
	}
}

// Summarize sets the summary from the spec.
func (a *BGPAdvertisement) Summarize() {
	a.Status.Summary = &ConfigSummary{
		Pools: a.Spec.pools(), Peers: orAll(a.Spec.Peers), Communities: ipamv1alpha1.Listed(a.Spec.Communities, listWidth),
	}
}

// Summarize sets the summary from the spec.
func (a *InterfaceAdvertisement) Summarize() {
	a.Status.Summary = &ConfigSummary{Pools: a.Spec.pools()}
}

// Summarize sets the summary from the spec, and leaves Established as it is.
func (p *BGPPeer) Summarize() {
	s := ConfigSummary{Peer: p.Spec.PeerAddress, PeerASN: string(p.Spec.DynamicASN)}
	if p.Status.Summary != nil {
		s.Established = p.Status.Summary.Established
	}
	switch {
	case p.Spec.DefaultGateway != "":
		s.Peer = string(p.Spec.DefaultGateway) + " gateway"
	case p.Spec.PeerAddress == "":
		s.Peer = "any on " + p.Spec.Interface
	case p.Spec.Interface != "":
		s.Peer += "%" + p.Spec.Interface
	}
	if p.Spec.PeerASN != 0 {
		s.PeerASN = strconv.FormatInt(p.Spec.PeerASN, 10)
	}
	p.Status.Summary = &s
}

// Summarize sets the summary from the spec.
func (c *Community) Summarize() {
	var named []string
	for _, n := range c.Spec.Communities {
		named = append(named, n.Name+"="+n.Value)
	}
	c.Status.Summary = &ConfigSummary{Communities: ipamv1alpha1.Listed(named, 2*listWidth)}
}

// Summarize does nothing: the spec of a BFDProfile has no lists.
func (*BFDProfile) Summarize() {}

// Summarize sets the summary from the other fields.
func (s *SpeakerState) Summarize() {
	var sessions []string
	established := 0
	for _, session := range s.BGPSessions {
		sessions = append(sessions, session.Peer+" "+string(session.State))
		if session.State == BGPEstablished {
			established++
		}
	}
	s.Summary = &SpeakerSummary{
		Addresses: ipamv1alpha1.Listed(s.Addresses, 2*listWidth), BGPSessions: ipamv1alpha1.Listed(sessions, 2*listWidth),
		BGPEstablished: fmt.Sprintf("%d/%d", established, len(sessions)),
	}
}
