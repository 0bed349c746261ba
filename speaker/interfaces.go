// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"errors"
	"net"
	"net/netip"

	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// maxInterfaceAddresses is how many addresses of an interface are published at most.
const maxInterfaceAddresses = 32

// interfaceStates describes the interfaces that announce or might, and all that have addresses of the node. It is published in the
// SpeakerStatus, and this node decides from it too: so all speakers decide from the same description. Those that failed, with the reason,
// are interfaces on which layer 2 cannot be opened: another node is to announce there. Each address has the length of the subnet that the
// kernel reaches by the interface, see link.Snapshot.SubnetOf.
func interfaceStates(links *link.Snapshot, claimed func(netip.Addr) bool, failed map[string]error) []v1alpha1.InterfaceState {
	var states []v1alpha1.InterfaceState
	usable := func(i *link.Interface) bool { return i.Unusable() == "" && failed[i.Name] == nil }
	for _, i := range links.Interfaces {
		state := v1alpha1.InterfaceState{Name: i.Name, MAC: i.MAC.String(), Usable: i.Unusable() == "", Reason: string(i.Unusable())}
		if err := failed[i.Name]; err != nil && state.Usable {
			state.Usable, state.Reason = false, err.Error()
		}
		if i.Loopback {
			state.MAC = "" // It is all zeros, and no station's.
		}
		for _, a := range i.Addresses {
			if isNodes(&i, a, claimed) && len(state.Addresses) < maxInterfaceAddresses {
				state.Addresses = append(state.Addresses, links.SubnetOf(&i, a, usable).String())
			}
		}
		// The host's ends of pods' links come and go by the hundred; they have no address, and no Service is announced there.
		if len(state.Addresses) == 0 && (i.Kind == "veth" || !state.Usable) {
			continue
		}
		states = append(states, state)
	}
	return states
}

// isNodes reports whether an address of an interface is the node's own. A claimed address is a Service's that somebody has put there,
// mostly with the length of a single address, unless it brings a subnet to an interface that can announce. For example a node that joins
// with 198.51.100.200/24 on eth0 has that address, even if a Service has got it before: the controller manager tells both.
//
// kube-proxy in IPVS mode and kube-router put the addresses of all Services, thousands of ClusterIPs among them, on an interface that cannot
// announce, each with the length of a single address. Those say nothing of the node; only a loopback's do, from which it may speak BGP.
func isNodes(i *link.Interface, a link.Address, claimed func(netip.Addr) bool) bool {
	ip := a.Prefix.Addr()
	switch {
	case ip.IsLinkLocalUnicast() || ip.IsLoopback():
		return false
	case i.Unusable() != "" && !i.Loopback && a.Prefix.IsSingleIP():
		return false
	case claimed(ip):
		return i.Unusable() == "" && !a.Prefix.IsSingleIP()
	}
	return true
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

// speakerMACs returns the MACs of all interfaces that speakers report.
func speakerMACs(speakers []v1alpha1.SpeakerStatus) []net.HardwareAddr {
	var macs []net.HardwareAddr
	for i := range speakers {
		for _, state := range speakers[i].Status.Interfaces {
			if mac, err := net.ParseMAC(state.MAC); err == nil {
				macs = append(macs, mac)
			}
		}
	}
	return macs
}

// probed finds what nodes have found out about an address on an interface: this node by the states of layer 2, and the others by what they
// have published.
func probed(self string, states func(ip netip.Addr, iface string) (layer2.Status, bool), published func(node, iface string, ip netip.Addr) decision.Probe,
) func(node, iface string, ip netip.Addr) decision.Probe {
	return func(node, iface string, ip netip.Addr) decision.Probe {
		if node != self {
			return published(node, iface, ip)
		}
		state, found := states(ip, iface)
		if !found {
			return decision.Probe{}
		}
		p := decision.Probe{Free: state.Announced}
		if inUse, ok := errors.AsType[*layer2.InUseError](state.Err); ok {
			p.UsedBy = inUse.MAC.String()
		}
		return p
	}
}

// conflicts returns the addresses that layer 2 does not announce since other stations have them, as the status of this node lists them.
func conflicts(states []layer2.Status) []v1alpha1.AddressConflict {
	var all []v1alpha1.AddressConflict
	for _, s := range states {
		if inUse, ok := errors.AsType[*layer2.InUseError](s.Err); ok && len(all) < v1alpha1.MaxConflicts {
			all = append(all, v1alpha1.AddressConflict{Address: s.Address.String(), Interface: s.Interface, MAC: inUse.MAC.String()})
		}
	}
	return all
}

// announcements returns the announcements of a decision, as package layer2 takes them.
func announcements(d decision.Desired) []layer2.Announcement {
	all := make([]layer2.Announcement, len(d.Layer2))
	for i, a := range d.Layer2 {
		all[i] = layer2.Announcement(a)
	}
	return all
}
