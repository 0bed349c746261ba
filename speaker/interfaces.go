// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net/netip"

	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// interfaceStates describes the interfaces that announce or might. It is published in the SpeakerStatus, and this node decides from it too:
// so all speakers decide from the same description. Claimed addresses are the Services' and not the node's.
func interfaceStates(links *link.Snapshot, claimed func(netip.Addr) bool) []v1alpha1.InterfaceState {
	var states []v1alpha1.InterfaceState
	for _, i := range links.Interfaces {
		state := v1alpha1.InterfaceState{Name: i.Name, MAC: i.MAC.String(), Usable: i.Unusable() == "", Reason: string(i.Unusable())}
		for _, a := range i.Addresses {
			if ip := a.Prefix.Addr(); !claimed(ip) && !ip.IsLinkLocalUnicast() {
				state.Addresses = append(state.Addresses, a.Prefix.String())
			}
		}
		// The host's ends of pods' links come and go by the hundred; they have no address, and no Service is announced there.
		if i.Loopback || len(state.Addresses) == 0 && (i.Kind == "veth" || !state.Usable) {
			continue
		}
		states = append(states, state)
	}
	return states
}

// usableInterfaces returns the interfaces that can announce, as package layer2 takes them.
func usableInterfaces(links *link.Snapshot) []layer2.Interface {
	var usable []layer2.Interface
	for _, i := range links.Interfaces {
		if i.Unusable() == "" {
			usable = append(usable, layer2.Interface{Name: i.Name, Index: i.Index, MAC: i.MAC})
		}
	}
	return usable
}

// announcements returns the announcements of a decision, as package layer2 takes them.
func announcements(d decision.Desired) []layer2.Announcement {
	all := make([]layer2.Announcement, len(d.Layer2))
	for i, a := range d.Layer2 {
		all[i] = layer2.Announcement(a)
	}
	return all
}
