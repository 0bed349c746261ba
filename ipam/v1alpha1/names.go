// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// This file has every name that users and other programs see of Tandem: classes, labels, annotations, types and reasons of conditions,
// and reasons of events. Those of the speakers' own kinds are in speaker/v1alpha1/names.go.

// LoadBalancerClass is the spec.loadBalancerClass of Services that want Tandem, whatever the cluster's default is.
const LoadBalancerClass = "tandem-lb.io/tandem"

// ManagedBy is the value of the label networkingv1.LabelManagedBy on every IPAddress that Tandem creates. An IPAddress
// with another value (the API server's own, for cluster IPs) is never touched.
const ManagedBy = "tandem-lb.io"

// LabelAddressPool is the label of an IPAddress that names the AddressPool the address was taken from.
const LabelAddressPool = "tandem-lb.io/address-pool"

// LabelMoveIn is the label by which `kubectl tandem move-in` hands Services and Nodes over: another load balancer announces those without it, and
// Tandem those with it, "moving" or "moved"; a Node has the value "leaving" before, until the other one's speaker has ended there. When it goes from a Node,
// the speaker there ends the BGP sessions that go with it as at a restart, for the other one to open its own. Objects that the command has made have it
// too, with the value "made", until the move is finished.
const LabelMoveIn = "tandem-lb.io/move-in"

// AnnotationLeft of an IPAddress says which Services have left the address, and when:
// {"default/web":"2026-01-02T15:04:05Z"}. The parent of an IPAddress that is named there has left it to the Services that
// share it, or to wait as spec.reuseAfter of its pool says. Users do not type it.
const AnnotationLeft = "tandem-lb.io/left"

// AnnotationSharers of an IPAddress says which Services have a shared address, and their ports there:
// {"default/api":["TCP/443"],"default/web":["TCP/80","UDP/53"]}. A Service is written there before it is given the address, so that
// two controller managers that both believe they lead give no port of an address twice. Users do not type it.
const AnnotationSharers = "tandem-lb.io/sharers"

// Finalizer is the finalizer of a Service whose addresses have to be released before it goes. Every provider that runs the
// service controller of k8s.io/cloud-provider sets the same one, which stands here too because that package links a
// client.
const Finalizer = "service.kubernetes.io/load-balancer-cleanup"

// AnnotationFinalizer marks a Service whose [Finalizer] is Tandem's. The controller manager writes it together with the
// finalizer, and removes it together with the finalizer, so that it knows after a crash which Services that are no load
// balancers any more it has to clean up after. Users do not type it.
const AnnotationFinalizer = "tandem-lb.io/finalizer"

// Annotations of a Service, as users type them.
const (
	// AnnotationAddressPool names the pools a Service may take addresses from, separated by commas. One pool of both
	// families or one pool per family will do.
	AnnotationAddressPool = "tandem-lb.io/address-pool"

	// AnnotationLoadBalancerIPs fixes the addresses of a Service, separated by commas, at most one of each family.
	AnnotationLoadBalancerIPs = "tandem-lb.io/load-balancer-ips"

	// AnnotationAllowSharedIP is a key. Services with the same key may share an address as long as their ports are
	// disjoint and their traffic policies agree.
	AnnotationAllowSharedIP = "tandem-lb.io/allow-shared-ip"

	// AnnotationReallocate, set to "true", gives up the addresses that their pool has lost, that are reserved, that another load balancer
	// gave and no pool holds, or that the Service may not share any more with the others on them, and takes new ones.
	AnnotationReallocate = "tandem-lb.io/reallocate"

	// AnnotationShareWithNamespaces names other namespaces, separated by commas. The Service may share an address with Services
	// there that have the same sharing key and name the namespace of this Service too: "shop,blog" on a Service in "front" and
	// "front" on one in "shop" let the two share.
	AnnotationShareWithNamespaces = "tandem-lb.io/share-with-namespaces"

	// AnnotationPreferredNodes is a label selector of nodes ("rack=1"). Where layer 2 announces the Service, such a node is
	// preferred, as by preferredNodes of an L2Advertisement with the weight 100.
	AnnotationPreferredNodes = "tandem-lb.io/preferred-nodes"
)

// Annotations of a Node, as administrators type them.
const (
	// AnnotationZone becomes the label topology.kubernetes.io/zone of a Node that Tandem initialised, for machines of which nothing
	// else knows the zone.
	AnnotationZone = "tandem-lb.io/zone"

	// AnnotationRegion becomes the label topology.kubernetes.io/region in the same way.
	AnnotationRegion = "tandem-lb.io/region"

	// AnnotationDrain, set to "true", moves what the node announces to other nodes, and keeps it from announcing until it is
	// removed.
	AnnotationDrain = "tandem-lb.io/drain"

	// AnnotationBGPASN is the node's own autonomous system number, stronger than spec.myASN of a BGPPeer.
	AnnotationBGPASN = "tandem-lb.io/bgp-asn"

	// AnnotationBGPRouterID is the node's BGP identifier, an IPv4 address, stronger than spec.routerID of a BGPPeer.
	AnnotationBGPRouterID = "tandem-lb.io/bgp-router-id"

	// AnnotationBGPSourceIPv4 is the address that the node opens sessions with IPv4 peers from, stronger than spec.sourceAddress of a
	// BGPPeer.
	AnnotationBGPSourceIPv4 = "tandem-lb.io/bgp-source-ipv4"

	// AnnotationBGPSourceIPv6 is the address that the node opens sessions with IPv6 peers from, stronger than spec.sourceAddress of a
	// BGPPeer.
	AnnotationBGPSourceIPv6 = "tandem-lb.io/bgp-source-ipv6"
)

// Annotations of MetalLB that mean the same as ours, so that a Service need not be edited to move here. Where both are
// present ours wins, and metallb.io wins over the older metallb.universe.tf.
const (
	// MetalLBAnnotationAddressPool means the same as [AnnotationAddressPool].
	MetalLBAnnotationAddressPool = "metallb.io/address-pool"

	// MetalLBAnnotationLoadBalancerIPs means the same as [AnnotationLoadBalancerIPs].
	MetalLBAnnotationLoadBalancerIPs = "metallb.io/loadBalancerIPs"

	// MetalLBAnnotationAllowSharedIP means the same as [AnnotationAllowSharedIP].
	MetalLBAnnotationAllowSharedIP = "metallb.io/allow-shared-ip"

	// MetalLBLegacyAnnotationAddressPool means the same as [AnnotationAddressPool].
	MetalLBLegacyAnnotationAddressPool = "metallb.universe.tf/address-pool"

	// MetalLBLegacyAnnotationLoadBalancerIPs means the same as [AnnotationLoadBalancerIPs].
	MetalLBLegacyAnnotationLoadBalancerIPs = "metallb.universe.tf/loadBalancerIPs"

	// MetalLBLegacyAnnotationAllowSharedIP means the same as [AnnotationAllowSharedIP].
	MetalLBLegacyAnnotationAllowSharedIP = "metallb.universe.tf/allow-shared-ip"
)

// Annotations of kube-vip and Cilium that are read. Those for fixed addresses count only while a Service has no address.
const (
	// KubeVIPAnnotationLoadBalancerIPs means the same as [AnnotationLoadBalancerIPs]; 0.0.0.0, which asks for DHCP there, is passed over.
	KubeVIPAnnotationLoadBalancerIPs = "kube-vip.io/loadbalancerIPs"

	// CiliumAnnotationIPs means the same as [AnnotationLoadBalancerIPs].
	CiliumAnnotationIPs = "lbipam.cilium.io/ips"

	// CiliumLegacyAnnotationIPs means the same as [AnnotationLoadBalancerIPs].
	CiliumLegacyAnnotationIPs = "io.cilium/lb-ipam-ips"

	// CiliumAnnotationSharingKey means the same as [AnnotationAllowSharedIP].
	CiliumAnnotationSharingKey = "lbipam.cilium.io/sharing-key"

	// CiliumLegacyAnnotationSharingKey means the same as [AnnotationAllowSharedIP].
	CiliumLegacyAnnotationSharingKey = "io.cilium/lb-ipam-sharing-key"

	// CiliumAnnotationSharingCrossNamespace means the same as [AnnotationShareWithNamespaces]; "*" names all namespaces.
	CiliumAnnotationSharingCrossNamespace = "lbipam.cilium.io/sharing-cross-namespace"

	// CiliumLegacyAnnotationSharingCrossNamespace means the same as [AnnotationShareWithNamespaces]; "*" names all namespaces.
	CiliumLegacyAnnotationSharingCrossNamespace = "io.cilium/lb-ipam-sharing-cross-namespace"
)

// Types of conditions of an AddressPool.
const (
	// ConditionReady is True while each partition has a free address. It is False with reason Exhausted or Invalid.
	ConditionReady = "Ready"

	// ConditionOverlapping is True while another pool contains some of the same addresses. The message names those pools. No
	// address is given twice, and each of the pools counts it as used.
	ConditionOverlapping = "Overlapping"

	// ConditionStranded is True while Services hold addresses that the pool has lost. The message
	// names them. They stay until the Service goes or asks to be moved by [AnnotationReallocate].
	ConditionStranded = "Stranded"

	// ConditionReserved is True while the pool contains addresses that are never given: those of Nodes, routers, BGP peers and the API
	// server, network, broadcast and anycast addresses, and special ranges such as loopback. The message counts them, and names the first
	// ten and their owners. It names first what Services hold nevertheless, since they had it before it was reserved.
	ConditionReserved = "Reserved"

	// ConditionAtLimit is True while namespaces have as many addresses of the pool as limits.perNamespace lets them have. The message counts
	// them, and names the first ten. The condition is absent where the pool has no limits.
	ConditionAtLimit = "AtLimit"
)

// Reasons of the conditions of an AddressPool.
const (
	// ReasonAvailable is the reason of Ready=True: each partition has a free address.
	ReasonAvailable = "Available"
	// ReasonExhausted is the reason of Ready=False where a partition has no free address. The message names the family.
	ReasonExhausted = "Exhausted"
	// ReasonInvalid is the reason of Ready=False where the spec cannot be used, such as a selector with an unknown
	// operator or a partition that excludes all of its ranges. The message names the field.
	ReasonInvalid = "Invalid"
	// ReasonOverlap is the reason of Overlapping=True.
	ReasonOverlap = "AddressesInSeveralPools"
	// ReasonNoOverlap is the reason of Overlapping=False.
	ReasonNoOverlap = "NoOverlap"
	// ReasonStranded is the reason of Stranded=True.
	ReasonStranded = "AddressesOutsidePool"
	// ReasonNoneStranded is the reason of Stranded=False.
	ReasonNoneStranded = "NoneStranded"
	// ReasonReserved is the reason of Reserved=True where no Service holds such an address.
	ReasonReserved = "AddressesReserved"
	// ReasonReservedInUse is the reason of Reserved=True where Services hold such addresses. The message names them.
	ReasonReservedInUse = "ReservedAddressesInUse"
	// ReasonNoneReserved is the reason of Reserved=False.
	ReasonNoneReserved = "NoneReserved"
	// ReasonAtLimit is the reason of AtLimit=True.
	ReasonAtLimit = "NamespacesAtLimit"
	// ReasonBelowLimit is the reason of AtLimit=False.
	ReasonBelowLimit = "BelowLimit"
)

// Types of the conditions that the controller manager writes into the status of a Service that Tandem serves.
const (
	// ServiceConditionAllocated is True while the Service publishes an address of each family that it requires. The message has the
	// addresses and their pools, or says why there is none.
	ServiceConditionAllocated = "tandem-lb.io/Allocated"

	// ServiceConditionAnnounced is True while each address that the Service publishes is announced: on layer 2 by the record of a speaker
	// that is alive, or by an established BGP session that has been sent its prefix.
	ServiceConditionAnnounced = "tandem-lb.io/Announced"
)

// Reasons of the conditions of a Service.
const (
	// ServiceReasonAllocated is the reason of Allocated=True.
	ServiceReasonAllocated = "Allocated"
	// ServiceReasonNotAllocated is the reason of both conditions where the Service lacks an address. The message says why.
	ServiceReasonNotAllocated = "NotAllocated"
	// ServiceReasonAnnounced is the reason of Announced=True.
	ServiceReasonAnnounced = "Announced"
	// ServiceReasonNoClaim is the reason where no IPAddress of Tandem stands for an address that the Service publishes.
	ServiceReasonNoClaim = "NoClaim"
	// ServiceReasonAddressInNoPool is the reason of Allocated=False where the status shows an address that Tandem has not given, and that no
	// AddressPool holds. The Service keeps it, and gets no other one, until a pool holds it or [AnnotationReallocate] gives it up.
	ServiceReasonAddressInNoPool = "AddressInNoPool"
	// ServiceReasonStatusOverwritten is the reason of both conditions where another controller writes its own addresses into the status of the
	// Service again and again. The message names it.
	ServiceReasonStatusOverwritten = "StatusOverwritten"
	// ServiceReasonNoAdvertisement is the reason where no advertisement selects the pool of the address, or none the Service.
	ServiceReasonNoAdvertisement = "NoAdvertisement"
	// ServiceReasonNoNode is the reason where nodeSelectors select no node that may announce.
	ServiceReasonNoNode = "NoNode"
	// ServiceReasonNoPeer is the reason where a BGPAdvertisement selects the address, and tells it to no BGPPeer of a node.
	ServiceReasonNoPeer = "NoPeer"
	// ServiceReasonNoReadyEndpoint is the reason where the Service has no ready endpoint of the address's family.
	ServiceReasonNoReadyEndpoint = "NoReadyEndpoint"
	// ServiceReasonNoLocalEndpoint is the reason where externalTrafficPolicy is Local and no node that could announce the address has a
	// ready endpoint.
	ServiceReasonNoLocalEndpoint = "NoLocalEndpoint"
	// ServiceReasonNoInterface is the reason where no node has an interface in the address's subnet, or none of the right name.
	ServiceReasonNoInterface = "NoInterface"
	// ServiceReasonNoLiveSpeaker is the reason where no speaker is alive on a node that could announce the address.
	ServiceReasonNoLiveSpeaker = "NoLiveSpeaker"
	// ServiceReasonOtherHolder is the reason where the node that answers for the other addresses of the Service cannot answer for this one.
	ServiceReasonOtherHolder = "OtherHolder"
	// ServiceReasonNoSession is the reason where no node can have a BGP session with the peer. The message says why.
	ServiceReasonNoSession = "NoSession"
	// ServiceReasonFamilyNotCarried is the reason where spec.families of the BGPPeer leaves the address's family out.
	ServiceReasonFamilyNotCarried = "FamilyNotCarried"
	// ServiceReasonSessionDown is the reason where the BGP sessions that would carry the address are not established.
	ServiceReasonSessionDown = "SessionDown"
	// ServiceReasonWithheld is the reason where sessions are established, and carry no prefix of the family.
	ServiceReasonWithheld = "Withheld"
	// ServiceReasonAddressInUse is the reason where another machine on the link of the node that would announce the address has it.
	ServiceReasonAddressInUse = "AddressInUse"
	// ServiceReasonPending is the reason where a speaker is about to announce the address.
	ServiceReasonPending = "Pending"
)

// Reasons of the events that Tandem writes on a Service, beside those of the upstream service controller.
const (
	// EventAllocatedAddresses says which addresses the Service was given, and from which AddressPools.
	EventAllocatedAddresses = "AllocatedAddresses"

	// EventReleasedAddresses says which addresses the Service no longer has.
	EventReleasedAddresses = "ReleasedAddresses"

	// EventMissingAddress says which family of a PreferDualStack Service has no address, and why.
	EventMissingAddress = "MissingAddress"

	// EventNotShared says that the Service got an address of its own, although another namespace has one with the same sharing key, and
	// which annotations let the two share it.
	EventNotShared = "NotShared"

	// EventKeptAddress says that the Service keeps an address although another Service on it does not admit it any more, as after an edit of
	// ports, and why.
	EventKeptAddress = "KeptAddress"

	// EventSharingAgrees says that what EventKeptAddress told has ended.
	EventSharingAgrees = "SharingAgrees"

	// EventIgnoredAnnotation says that an annotation of another product asks for an address that the Service does not have.
	EventIgnoredAnnotation = "IgnoredAnnotation"

	// EventReservedAddress says, of a Service and of the Node, that an address of the Service has become one that must not be given, such as
	// the address of a Node. Nothing is taken away.
	EventReservedAddress = "ReservedAddress"

	// EventStatusOverwritten says which other controller writes its own addresses into the status of the Service, and how to end that.
	EventStatusOverwritten = "StatusOverwritten"

	// EventClaimFailed says that the IPAddress of an address that the Service publishes could not be created, and why. It is
	// tried again.
	EventClaimFailed = "ClaimFailed"

	// EventAnnouncingLayer2 says which node answers for the addresses of the Service, and on which interfaces.
	EventAnnouncingLayer2 = "AnnouncingLayer2"

	// EventTargetRefused says that the node that spec.target of the Service's L2Announcement names cannot take its addresses over, and why.
	EventTargetRefused = "TargetRefused"

	// EventNotAnnounced says why an address of the Service has not been announced for ten seconds.
	EventNotAnnounced = "NotAnnounced"

	// EventAddressConflict says that another machine answers for an address of the Service, and with which MAC address. An address for
	// which it answered before the first announcement is not announced.
	EventAddressConflict = "AddressConflict"
)

// Reasons of the events that Tandem writes on a BGPPeer.
const (
	// EventBGPSessionEstablished says which node has a session with the peer now, and which families it carries.
	EventBGPSessionEstablished = "BGPSessionEstablished"

	// EventBGPSessionLost says which node has lost its session with the peer, which families it carried, and why it ended.
	EventBGPSessionLost = "BGPSessionLost"
)

// Reasons of the events that Tandem writes on a Node or a Service.
const (
	// EventInvalidTopologyLabel says that AnnotationZone or AnnotationRegion of a Node cannot be the value of a label, and why.
	EventInvalidTopologyLabel = "InvalidTopologyLabel"

	// EventInvalidAnnotation names an annotation of a Node or a Service whose value cannot be read, and so has no effect, and says what is wrong
	// with it.
	EventInvalidAnnotation = "InvalidAnnotation"

	// EventDraining says that the Node hands over what it announces, and why. EventDrained says that it announces nothing any more.
	EventDraining = "Draining"
	EventDrained  = "Drained"
)
