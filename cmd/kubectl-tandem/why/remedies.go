// SPDX-License-Identifier: Apache-2.0

package why

import (
	"strings"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

const remedySilent = "a switch or a firewall drops ARP or neighbour solicitations: port security, dynamic ARP inspection, ND guard, MLD " +
	"snooping without a " +
	"querier, nft or ebtables on the node; or the speaker there cannot answer: kubectl tandem why node/NAME"

const remedyMultihop = "set ebgpMultiHop: true in the BGPPeer, and let the router speak with each node over several hops too: neighbor … " +
	"ebgp-multihop 2 of FRR and IOS, multihop 2 of BIRD, multihop ttl 2 of Junos; or name the router of the nodes' own link in peerAddress"

// byReason are the remedies of the reasons of a diagnosis that need no more to be known.
var byReason = map[string]string{
	ipamv1alpha1.ServiceReasonNoClaim: "an event ClaimFailed on the Service says what refuses the claim; it is tried again every 30 " +
		"seconds. A claim of another " +
		"manager has to be deleted by its owner",
	ipamv1alpha1.ServiceReasonNoAdvertisement: "name the pool in addressPools of an L2Advertisement or a BGPAdvertisement, and the " +
		"Service's labels in its " +
		"serviceSelectors and those of its namespace in namespaceSelectors, or leave them out",
	ipamv1alpha1.ServiceReasonNoNode: "correct nodeSelectors, label a node, or let a node announce again: " +
		"node.kubernetes.io/exclude-from-external-load-balancers " +
		"(unless the speakers have --ignore-exclude-label) and tandem-lb.io/drain exclude it",
	ipamv1alpha1.ServiceReasonNoReadyEndpoint: "kubectl get endpointslices -l kubernetes.io/service-name=NAME: does the selector match " +
		"Pods, are they ready, and " +
		"have they an address of the family?",
	ipamv1alpha1.ServiceReasonNoLocalEndpoint: "run a Pod on a node that can announce, or use externalTrafficPolicy: Cluster",
	ipamv1alpha1.ServiceReasonNoInterface: "take a pool of the nodes' subnet, announce by BGP, or set interfaces of the L2Advertisement " +
		"where routers have a route to " +
		"the nodes; kubectl get speakerstatuses -o yaml has what each node sees",
	ipamv1alpha1.ServiceReasonNoLiveSpeaker: "kubectl get pods -n tandem-system -o wide: do the speakers run?",
	ipamv1alpha1.ServiceReasonOtherHolder: "give that node an interface in the subnet of this address, or the Service addresses of " +
		"subnets that one node has",
	ipamv1alpha1.ServiceReasonAddressInUse: "find the MAC on the switch, and take the address off that machine, or out of the pool " +
		"by spec.ipv4.exclude or spec.ipv6.exclude",
	ipamv1alpha1.ServiceReasonPending: "wait a moment and ask again; if it stays, the log of the speaker says more",
	ipamv1alpha1.ServiceReasonNoPeer: "create a BGPPeer, or correct nodeSelectors of the BGPPeer and peers of the " +
		"BGPAdvertisement",
	ipamv1alpha1.ServiceReasonFamilyNotCarried: "add the family to spec.families of the BGPPeer, or leave them out",
	ipamv1alpha1.ServiceReasonAddressInNoPool: "add the address to an AddressPool, and the Service keeps it; or give it up: kubectl annotate " +
		"service NAME " + ipamv1alpha1.AnnotationReallocate + "=true",
	ipamv1alpha1.ServiceReasonStatusOverwritten: "let one controller serve the Service: stop the other one (k3s: --disable=servicelb), " +
		"or use " +
		"--load-balancer-class-only and spec.loadBalancerClass",
}

// byText are the remedies of what programs say, by a part of the text: of allocation, and of BGP sessions.
var byText = []struct{ text, remedy string }{
	{"no free address", "add a range to the pool, or delete a Service; the waiting Service is served at once"},
	{"released too recently", "wait, or lower reuseAfter of the pool"},
	{"is reserved", "a Node, a router or the like has it: ask for another address, or leave the choice to the pool"},
	{"in no pool", "ask for an address of a pool that admits the Service, or add the address to one"},
	{"gives no address that is asked for", "the pool has fixedAddresses: Denied: remove the annotation or spec.loadBalancerIP"},
	{"no pool with IPv", "give one of the pools a partition of the family: spec.ipv4 or spec.ipv6"},
	{"no pool that this Service may use", "all pools have autoAssign: false or selectors that do not match: name one by " +
		"tandem-lb.io/address-pool, or mend the selectors"},
	{"does not exist", "create it, or correct the annotation"},
	{"is in use", "ask for another address, or share it: both Services need the same tandem-lb.io/allow-shared-ip"},
	{"at its limit", "delete a Service of the namespace, or have limits.perNamespace of the pool raised"},
	{"there is no Secret", "create the Secret that spec.passwordSecret of the BGPPeer names, in the namespace of Tandem's Secrets"},
	{"there is no key", "spec.passwordSecret of the BGPPeer names a key that the Secret does not have"},
	{"another program on this node", "another BGP program of the node has a session with that router: docs/troubleshooting.md says what " +
		"to do beside Calico, FRR and BIRD"},
	{"peer expects another AS", "spec.myASN of the BGPPeer, or remote-as on the router"},
	{"sent NOTIFICATION code 2(open) subcode 2", "spec.peerASN of the BGPPeer, or the router's own AS"},
	{"the peer is behind a router: set spec.ebgpMultiHop", remedyMultihop},
	{"no answer from the peer", "the router drops the packets: another MD5 password, or one on one side alone; ttlSecurityHops on one " +
		"side alone; or it is behind " +
		"another router, and ebgpMultiHop is missing here or there; or a firewall closes TCP 179"},
	{"connection refused", "no BGP on that address and port of the router"},
	{"closed the connection before it sent an OPEN", "the router does not know the address of the node as a neighbour, or has the " +
		"session shut down"},
	{"code 6(cease)", "the router has ended the session; what its operator wrote is in quotes"},
	{"hold timer expired", "the router sent or read nothing for the hold time: look at the link and at its load"},
	{"BFD", "BFD packets do not pass, UDP 3784 or 4784, or the router runs none with this node"},
	{"no route", "the node has no route to the peer"},
	{"has agreed to", "activate the family for the neighbour on the router"},
	{"no IPv6 prefix", "activate IPv6 for the neighbour on the router; the node needs an IPv6 address on the link"},
	{"no IPv4 prefix", "activate IPv4 for the neighbour on the router; the node needs an IPv4 address on the link"},
	{"address on the peer's link", "give the interface an address of the family: it is the next hop"},
}

// remedyFor returns what to do about a fault. What a program has said goes before the reason of the diagnosis.
func remedyFor(hop Hop, reason, text string) string {
	if hop == Pool || hop == Session || hop == Route || hop == ByBGP {
		for _, r := range byText {
			if strings.Contains(text, r.text) {
				return r.remedy
			}
		}
	}
	if remedy := byReason[reason]; remedy != "" {
		return remedy
	}
	switch hop {
	case Pool:
		return "kubectl describe service has the events, and kubectl tandem pools the pools"
	case Session, Route, ByBGP:
		return "kubectl tandem why peer/NAME; the router's log says its side"
	}
	return ""
}
