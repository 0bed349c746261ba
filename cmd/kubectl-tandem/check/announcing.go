// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func alive(in *Input) *Step {
	var f found
	statuses := in.State.Speakers.Items
	if len(statuses) == 0 {
		f.fail("no speaker has written a SpeakerStatus")
	}
	for i := range statuses {
		if name := statuses[i].Name; !in.State.Snapshot.Alive(name) {
			f.fail("the speaker of %s is not alive", name)
		}
	}
	return f.step("speakers alive", plural(len(statuses), "speaker")+" alive, by what they report of each other",
		"kubectl get pods -o wide -l app.kubernetes.io/component=speaker, in the namespace of Tandem; the node may be off")
}

// conditions looks at a condition of all speakers. Bad is the status that is a failure. A speaker that is dead, or does not know, says nothing: without
// what it would say the step cannot pass.
func conditions(in *Input, name, condition string, bad metav1.ConditionStatus, well, fix string) *Step {
	var f found
	var silent []string
	for i := range in.State.Speakers.Items {
		speaker := &in.State.Speakers.Items[i]
		switch c := meta.FindStatusCondition(speaker.Status.Conditions, condition); {
		case c != nil && c.Status == bad:
			f.fail("%s: %s", speaker.Name, c.Message)
		case c == nil || c.Status == metav1.ConditionUnknown || !in.State.Snapshot.Alive(speaker.Name):
			silent = append(silent, speaker.Name)
		}
	}
	all := len(in.State.Speakers.Items)
	if len(silent) == all {
		return skip(name, "no speaker says so yet")
	}
	if len(silent) > 0 {
		f.warn("%d of %s do not say: %s", len(silent), plural(all, "speaker"), several(silent))
	}
	if len(f.failures) == 0 && len(silent) > 0 {
		return skip(name, "%s", f.warnings[0])
	}
	return f.step(name, well, fix)
}

func ready(in *Input) *Step {
	return conditions(in, "speakers ready", v1alpha1.ConditionReady, metav1.ConditionFalse, "every speaker announces what it should", "see docs/troubleshooting.md")
}

func gossip(in *Input) *Step {
	return conditions(in, "gossip", v1alpha1.ConditionPeersReachable, metav1.ConditionFalse, "every speaker reaches all others, by UDP and TCP",
		"open TCP and UDP port 7573 between the nodes, in each family that they have (manifests/examples/firewall)")
}

func kernelAnswers(in *Input) *Step {
	return conditions(in, "one answer", v1alpha1.ConditionKernelAnswers, metav1.ConditionTrue, "no kernel answers for the address of a Service",
		"with kube-proxy in IPVS mode set ipvs.strictARP, else take the addresses off the interface")
}

// lan looks whether the nodes hear their links, and whether another machine has the address of a Service.
func lan(in *Input) *Step {
	s := conditions(in, "links", v1alpha1.ConditionIsolatedFromLAN, metav1.ConditionTrue, "every node is heard on its links, and no other machine has an address of a Service", "")
	f := found{}
	if s.Result == Fail {
		f.failures = []string{s.Message}
	}
	onLayer2 := len(in.State.Snapshot.Config.L2) > 0
	for i := range in.State.Speakers.Items {
		speaker := &in.State.Speakers.Items[i]
		for _, c := range speaker.Status.Conflicts {
			f.fail("%s sees %s at %s by %s, which is no speaker", speaker.Name, c.Address, c.MAC, c.Interface)
		}
		usable := func(i v1alpha1.InterfaceState) bool { return i.Usable }
		if onLayer2 && !in.State.Snapshot.Nodes[speaker.Name].Excluded && !slices.ContainsFunc(speaker.Status.Interfaces, usable) {
			f.warn("%s has no interface that can announce on layer 2", speaker.Name)
		}
	}
	if s.Result == Skip {
		if len(f.failures)+len(f.warnings) == 0 {
			return s
		}
		f.warn("%s", s.Message)
	}
	return f.step(s.Name, s.Message, "look for the cable, the switch port and its VLAN; take an address that another machine has out of the pool by spec.ipv4.exclude or spec.ipv6.exclude")
}

// addressesAnswer looks whether the LAN hears the holders of addresses: each address is asked for by one speaker, and one that has none to ask for
// does not know.
func addressesAnswer(in *Input) *Step {
	const name = "addresses"
	var f found
	ask := 0
	for i := range in.State.Speakers.Items {
		speaker := &in.State.Speakers.Items[i]
		c := meta.FindStatusCondition(speaker.Status.Conditions, v1alpha1.ConditionAddressesAnswer)
		if c == nil || c.Status == metav1.ConditionUnknown || !in.State.Snapshot.Alive(speaker.Name) {
			continue
		}
		if ask++; c.Status == metav1.ConditionFalse {
			f.fail("%s: %s", speaker.Name, c.Message)
		}
	}
	if ask == 0 {
		return skip(name, "no speaker has an address to ask for")
	}
	return f.step(name, "the LAN hears the nodes that hold addresses on layer 2, as other nodes ask", "kubectl tandem why ADDRESS --probe")
}

// configured calls look with the conditions of each object that users write.
func configured(in *Input, look func(kind, name string, conditions []metav1.Condition)) {
	c := &in.State.Config
	for i := range c.AddressPools {
		look("AddressPool", c.AddressPools[i].Name, c.AddressPools[i].Status.Conditions)
	}
	for i := range c.L2Advertisements {
		look("L2Advertisement", c.L2Advertisements[i].Name, c.L2Advertisements[i].Status.Conditions)
	}
	for i := range c.BGPPeers {
		look("BGPPeer", c.BGPPeers[i].Name, c.BGPPeers[i].Status.Conditions)
	}
	for i := range c.BGPAdvertisements {
		look("BGPAdvertisement", c.BGPAdvertisements[i].Name, c.BGPAdvertisements[i].Status.Conditions)
	}
	for i := range c.BFDProfiles {
		look("BFDProfile", c.BFDProfiles[i].Name, c.BFDProfiles[i].Status.Conditions)
	}
	for i := range c.Communities {
		look("Community", c.Communities[i].Name, c.Communities[i].Status.Conditions)
	}
	for i := range c.InterfaceAdvertisements {
		look("InterfaceAdvertisement", c.InterfaceAdvertisements[i].Name, c.InterfaceAdvertisements[i].Status.Conditions)
	}
}

func configuration(in *Input) *Step {
	var f found
	n := 0
	configured(in, func(kind, name string, conditions []metav1.Condition) {
		n++
		c := meta.FindStatusCondition(conditions, ipamv1alpha1.ConditionReady)
		switch {
		case c == nil:
			f.warn("%s %s has not been looked at yet", kind, name)
		case c.Status == metav1.ConditionFalse && c.Reason != ipamv1alpha1.ReasonExhausted:
			f.fail("%s %s: %s", kind, name, c.Message)
		}
	})
	return f.step("configuration", plural(n, "object")+" accepted", "correct the field that the message names")
}

func effective(in *Input) *Step {
	var f found
	n := 0
	configured(in, func(kind, name string, conditions []metav1.Condition) {
		if !strings.HasSuffix(kind, "Advertisement") {
			return
		}
		n++
		if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionEffective); c != nil && c.Status == metav1.ConditionFalse {
			f.fail("%s %s: %s", kind, name, c.Message)
		}
	})
	if n == 0 {
		f.warn("there is no advertisement, so that nothing is announced")
	}
	return f.step("advertisements", plural(n, "advertisement")+" with a pool, a node and a way to announce", "correct what the advertisement selects, or create one (docs/announcing.md)")
}

func sessions(in *Input) *Step {
	const name = "BGP sessions"
	if len(in.State.Config.BGPPeers) == 0 {
		return skip(name, "there is no BGPPeer")
	}
	var f found
	established := 0
	for i := range in.State.Speakers.Items {
		speaker := &in.State.Speakers.Items[i]
		if c := meta.FindStatusCondition(speaker.Status.Conditions, v1alpha1.ConditionOtherRouter); c != nil && c.Reason == v1alpha1.ReasonSessionTaken {
			f.fail("%s: %s", speaker.Name, c.Message)
		}
		for _, session := range speaker.Status.BGPSessions {
			switch {
			case session.State != v1alpha1.BGPEstablished && session.LastError != "":
				f.fail("%s with %s is %s: %s", speaker.Name, session.Peer, session.State, session.LastError)
			case session.State != v1alpha1.BGPEstablished:
				f.fail("%s with %s is %s", speaker.Name, session.Peer, session.State)
			default:
				established++
			}
		}
	}
	if established == 0 && len(f.failures) == 0 {
		f.fail("no node has a session: nodeSelectors of the BGPPeers select none")
	}
	return f.step(name, plural(established, "session")+" established", `docs/troubleshooting.md, "A BGP session is not Established", goes through what the router says`)
}

// router compares what routers have agreed to with what we have for them.
func router(in *Input) *Step {
	const name = "routers"
	peers := map[string]*v1alpha1.BGPPeer{}
	for i := range in.State.Config.BGPPeers {
		peers[in.State.Config.BGPPeers[i].Name] = &in.State.Config.BGPPeers[i]
	}
	explainer := decision.NewExplainer(in.State.Snapshot)
	var f found
	n := 0
	for i := range in.State.Speakers.Items {
		speaker := &in.State.Speakers.Items[i]
		for _, session := range speaker.Status.BGPSessions {
			peer := peers[session.Peer]
			if session.State != v1alpha1.BGPEstablished || peer == nil {
				continue
			}
			n++
			what := speaker.Name + " with " + session.Peer
			if session.Withheld > 0 {
				f.fail("%s: %s not sent: %s", what, plural(int(session.Withheld), "prefix"), session.LastError)
			}
			for of, sent := range map[family.Family]int32{family.IPv4: session.AdvertisedIPv4, family.IPv6: session.AdvertisedIPv6} {
				declared := explainer.Declared(decision.NodePeer{Node: speaker.Name, Peer: session.Peer}, of)
				if declared > 0 && !slices.Contains(session.Families, corev1.IPFamily(of)) && session.Withheld == 0 && sent == 0 {
					f.fail("%s: the router has not agreed to %s, and we have %d prefixes of it", what, of, declared)
				}
			}
			if restart := peer.Spec.GracefulRestart; restart != nil && (restart.Enabled == nil || *restart.Enabled) && !session.GracefulRestart {
				f.warn("%s: the router has not agreed to graceful restart, so that routes go while the speaker restarts", what)
			}
			if session.BFD != "" && session.BFD != "Up" {
				f.warn("%s: BFD is %s, so that a dead link is found by the hold time alone", what, session.BFD)
			}
		}
	}
	if n == 0 {
		return skip(name, "no session is established")
	}
	slices.Sort(f.failures)
	return f.step(name, "they have agreed to all that we have for them",
		"on the router activate the family for the neighbour, with graceful restart and BFD where the BGPPeer has them (manifests/examples/routers)")
}

// pools looks at the conditions of pools, and whether an advertisement selects each.
func pools(in *Input) *Step {
	var f found
	for i := range in.State.Config.AddressPools {
		pool := &in.State.Config.AddressPools[i]
		for condition, bad := range map[string]metav1.ConditionStatus{
			ipamv1alpha1.ConditionReady: metav1.ConditionFalse, ipamv1alpha1.ConditionOverlapping: metav1.ConditionTrue, ipamv1alpha1.ConditionStranded: metav1.ConditionTrue,
		} {
			c := meta.FindStatusCondition(pool.Status.Conditions, condition)
			if c != nil && c.Status == bad && c.Reason != ipamv1alpha1.ReasonInvalid { // which the step "configuration" has
				f.warn("%s: %s", pool.Name, c.Message)
			}
		}
		if !isSelected(&in.State.Snapshot.Config, pool.Name) {
			f.fail("no advertisement selects pool %s", pool.Name)
		}
	}
	if len(in.State.Config.AddressPools) == 0 {
		f.warn("there is no AddressPool, so that no Service gets an address")
	}
	slices.Sort(f.warnings)
	return f.step("pools", plural(len(in.State.Config.AddressPools), "pool")+" with free addresses, each advertised",
		"add a range to the pool, or name the pool in addressPools of an advertisement (docs/addresses.md)")
}

// isSelected reports whether some advertisement is for a pool.
func isSelected(c *config.Config, pool string) bool {
	return slices.ContainsFunc(c.L2, func(ad config.L2Advertisement) bool { return ad.SelectsPool(pool) }) ||
		slices.ContainsFunc(c.BGP, func(ad config.BGPAdvertisement) bool { return ad.SelectsPool(pool) }) ||
		slices.ContainsFunc(c.Interfaces, func(ad config.InterfaceAdvertisement) bool { return ad.SelectsPool(pool) })
}

// networks compares the ranges of pools with the networks of the cluster and of the nodes.
func networks(in *Input) *Step {
	const step = "pools and networks"
	var f found
	snapshot := in.State.Snapshot
	for _, name := range slices.Sorted(maps.Keys(snapshot.Config.Pools)) {
		onLayer2 := slices.ContainsFunc(snapshot.Config.L2, func(ad config.L2Advertisement) bool { return ad.SelectsPool(name) && len(ad.Interfaces) == 0 })
		otherwise := slices.ContainsFunc(snapshot.Config.BGP, func(ad config.BGPAdvertisement) bool { return ad.SelectsPool(name) }) ||
			slices.ContainsFunc(snapshot.Config.Interfaces, func(ad config.InterfaceAdvertisement) bool { return ad.SelectsPool(name) }) ||
			slices.ContainsFunc(snapshot.Config.L2, func(ad config.L2Advertisement) bool { return ad.SelectsPool(name) && len(ad.Interfaces) > 0 })
		for _, r := range snapshot.Config.Pools[name].Ranges() {
			for network, of := range in.Networks {
				if r.Overlaps(netipx.RangeOfPrefix(network)) {
					f.fail("%s of pool %s is in %s, the network of %s", r, name, network, of)
				}
			}
			if onLayer2 && !otherwise && !onLink(snapshot, r.From()) {
				f.fail("no node has an interface in the subnet of %s of pool %s", r, name)
			}
		}
	}
	slices.Sort(f.failures)
	if in.ServiceCIDRsErr != nil && len(f.failures) == 0 {
		return skip(step, "the network of ClusterIPs is not known: %v", in.ServiceCIDRsErr)
	}
	known := "Pods or ClusterIPs"
	if !slices.ContainsFunc(in.State.Nodes.Items, func(n corev1.Node) bool { return len(n.Spec.PodCIDRs) > 0 }) {
		known = "ClusterIPs (no Node has a podCIDR, so that the network of Pods is not known)"
	}
	return f.step(step, "no range is in the network of "+known+", and those for layer 2 are in subnets of nodes",
		"choose ranges of the nodes' subnets for layer 2, and others for BGP, outside of the networks of Pods and ClusterIPs")
}

// onLink reports whether some node has an interface in the subnet of an address.
func onLink(s *decision.Snapshot, ip netip.Addr) bool {
	for _, node := range s.Nodes {
		for _, i := range node.Interfaces {
			if slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool { return p.Contains(ip) }) {
				return true
			}
		}
	}
	return false
}

// servicesAnnounced looks whether each Service of ours has its addresses, and whether they are announced.
func servicesAnnounced(in *Input) *Step {
	var f found
	n := 0
	for i := range in.State.Services.Items {
		svc := &in.State.Services.Items[i]
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || meta.FindStatusCondition(svc.Status.Conditions, ipamv1alpha1.ServiceConditionAllocated) == nil {
			continue // It is another provider's, or is about to be served.
		}
		n++
		name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
		if c := meta.FindStatusCondition(svc.Status.Conditions, ipamv1alpha1.ServiceConditionAllocated); c.Status == metav1.ConditionFalse {
			f.fail("%s: %s", name, c.Message)
			continue
		}
		for _, finding := range in.State.Diagnoser.Service(name, true) {
			if !finding.Announced {
				f.fail("%s: %s", name, finding.Message)
				break
			}
		}
	}
	return f.step("Services", fmt.Sprintf("%s with all addresses, announced", plural(n, "Service")), "kubectl tandem why service/NAME")
}
