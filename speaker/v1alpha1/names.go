// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// This file has the types and reasons of the conditions of this package's kinds. All other names are in ipam/v1alpha1/names.go.

// ConditionReady is the type of the condition that says whether an object is in use. In a SpeakerStatus it says whether
// the speaker of that node announces.
const ConditionReady = "Ready"

// ConditionEffective is the type of the condition of an advertisement that says whether there is a pool, a node with a live speaker, and an
// interface, an established session, or the right to change the kernel, to announce by. An advertisement that is invalid does not have it.
const ConditionEffective = "Effective"

// ConditionPeersReachable is the type of the condition of a SpeakerStatus that says whether gossip reaches the speakers of all other nodes
// that live, by what the API and the LAN say of them.
const ConditionPeersReachable = "PeersReachable"

// Reasons of the condition PeersReachable.
const (
	// ReasonPeersReachable is the reason of PeersReachable=True.
	ReasonPeersReachable = "Reachable"
	// ReasonPeersUnreachable is the reason of PeersReachable=False. The message names the nodes, with the addresses and the port at which their
	// speakers do not answer.
	ReasonPeersUnreachable = "Unreachable"
)

// ConditionDraining is the type of the condition of a SpeakerStatus that says whether the node hands over what it announces, or has done so,
// since its Node is drained, excluded or deleted.
const ConditionDraining = "Draining"

// Reasons of the condition Draining.
const (
	// ReasonNotDraining is the reason of Draining=False.
	ReasonNotDraining = "NotDraining"
	// ReasonExcludeLabelIgnored is the reason of Draining=False where the speaker ignores the label
	// node.kubernetes.io/exclude-from-external-load-balancers, whether the node has it or not.
	ReasonExcludeLabelIgnored = "ExcludeLabelIgnored"
	// ReasonLeaving is the reason of Draining=True while the node still announces: by BGP with the least preference, and on layer 2 until
	// another node does. The message says why.
	ReasonLeaving = "Leaving"
	// ReasonGone is the reason of Draining=True when the node announces nothing any more. The message says why.
	ReasonGone = "Gone"
)

// ConditionIsolatedFromLAN is the type of the condition of a SpeakerStatus that says whether the node hears nothing on a link any more, though
// the link is up. It takes over nothing there, and other nodes take over what it has.
const ConditionIsolatedFromLAN = "IsolatedFromLAN"

// Reasons of the condition IsolatedFromLAN.
const (
	// ReasonLANAnswers is the reason of IsolatedFromLAN=False.
	ReasonLANAnswers = "LANAnswers"
	// ReasonNothingAnswers is the reason of IsolatedFromLAN=True. The message names the interfaces.
	ReasonNothingAnswers = "NothingAnswers"
)

// ConditionKernelAnswers is the type of the condition of a SpeakerStatus that says whether the kernel of the node answers for addresses that are
// announced on layer 2, since some interface has them. Then more than one node answers for an address.
const ConditionKernelAnswers = "KernelAnswers"

// Reasons of the condition KernelAnswers.
const (
	// ReasonOnlyTheHolderAnswers is the reason of KernelAnswers=False.
	ReasonOnlyTheHolderAnswers = "OnlyTheHolderAnswers"
	// ReasonAddressOnInterface is the reason of KernelAnswers=True. The message names the first addresses and their interfaces.
	ReasonAddressOnInterface = "AddressOnInterface"
)

// ConditionAddressesAnswer is the type of the condition of a SpeakerStatus that says whether the LAN answers for the addresses of Services that other
// nodes hold, as far as this node has to ask for them: each address is asked for by one node that does not hold it.
const ConditionAddressesAnswer = "AddressesAnswer"

// Reasons of the condition AddressesAnswer.
const (
	// ReasonHoldersAnswer is the reason of AddressesAnswer=True.
	ReasonHoldersAnswer = "HoldersAnswer"
	// ReasonNotAsked is the reason of AddressesAnswer=Unknown: the speaker has just started, or its node is cut off or isolated.
	ReasonNotAsked = "NotAsked"
	// ReasonNoAnswer is the reason of AddressesAnswer=False. The message names the first addresses and the nodes that are to answer;
	// status.unanswered has them.
	ReasonNoAnswer = "NoAnswer"
)

// ConditionKernelRoutes is the type of the condition of a SpeakerStatus that says whether the kernel of the node has what InterfaceAdvertisements
// ask for. Where none concerns the node there is no such condition.
const ConditionKernelRoutes = "KernelRoutes"

// Reasons of the condition KernelRoutes.
const (
	// ReasonInTheKernel is the reason of KernelRoutes=True.
	ReasonInTheKernel = "InTheKernel"
	// ReasonNotPermitted is the reason where the speaker lacks NET_ADMIN. Nothing is in the kernel.
	ReasonNotPermitted = "NotPermitted"
	// ReasonKernelRoutesFailed is the reason where the kernel has refused something. The message has the first errors. The rest is in the kernel.
	ReasonKernelRoutesFailed = "KernelRoutesFailed"
	// ReasonAddressesRefused is the reason where an address is not put there, or not in the prefix that is asked for. The message says why.
	ReasonAddressesRefused = "AddressesRefused"
)

// ConditionOtherRouter is the type of the condition of a SpeakerStatus that says whether another program of the node speaks BGP, such as Calico's
// BIRD. A node without a BGPPeer does not have it.
const ConditionOtherRouter = "OtherRouter"

// Reasons of the condition OtherRouter.
const (
	// ReasonNoOtherRouter is the reason of OtherRouter=False.
	ReasonNoOtherRouter = "NoOtherRouter"
	// ReasonListensForBGP is the reason where another program listens on port 179, and is in no session's way.
	ReasonListensForBGP = "ListensForBGP"
	// ReasonSessionTaken is the reason where another program has a session with the router of a BGPPeer, from the same address. The speaker
	// leaves it alone. The message names the BGPPeers, and says what to do.
	ReasonSessionTaken = "SessionTaken"
)

// Reasons of the condition Effective.
const (
	// ReasonEffective is the reason of Effective=True.
	ReasonEffective = "Effective"
	// ReasonNoPool is the reason where the advertisement selects no AddressPool that exists.
	ReasonNoPool = "NoPool"
	// ReasonNoNamespace is the reason where namespaceSelectors select no Namespace.
	ReasonNoNamespace = "NoNamespace"
	// ReasonNoNode is the reason where nodeSelectors select no node that may announce. The message names those that are excluded.
	ReasonNoNode = "NoNode"
	// ReasonNoInterface is the reason where no selected node has an interface in the subnet of a selected pool, or one that interfaces match.
	ReasonNoInterface = "NoInterface"
	// ReasonNoPeer is the reason where a BGPAdvertisement tells no BGPPeer of a selected node.
	ReasonNoPeer = "NoPeer"
	// ReasonNoLiveSpeaker is the reason where no speaker is alive on the selected nodes that could announce.
	ReasonNoLiveSpeaker = "NoLiveSpeaker"
	// ReasonSessionDown is the reason where the selected nodes have no established session with any of the peers of a BGPAdvertisement.
	ReasonSessionDown = "SessionDown"
)

// Reasons of the condition Ready.
const (
	// ReasonAccepted is the reason of Ready=True: the object is valid and in use.
	ReasonAccepted = "Accepted"
	// ReasonUnknownReference is the reason where the object names a pool, peer, profile or community that does not exist.
	// The other objects that it names are used. The message names those that are missing. A missing Secret is reported in the
	// SpeakerStatus of each node, since only speakers may read Secrets.
	ReasonUnknownReference = "UnknownReference"
	// ReasonInvalid is the reason where the API server could not see a mistake, such as a selector with an unknown
	// operator. The message names the field. The object is not used; of a Community only the community at fault.
	ReasonInvalid = "Invalid"
)

// Reasons of the condition Ready of a SpeakerStatus.
const (
	// ReasonAnnouncing is the reason of Ready=True. The message says how many BGP sessions are established.
	ReasonAnnouncing = "Announcing"
	// ReasonNoSession is the reason where none of the BGP sessions of the node is established.
	ReasonNoSession = "NoSession"
	// ReasonBGPFailed is the reason where the speaker cannot run BGP at all. The message is the error.
	ReasonBGPFailed = "BGPFailed"
	// ReasonLayer2Failed is the reason where the speaker cannot answer ARP or NDP for some addresses. The message names the first
	// of them with their interfaces.
	ReasonLayer2Failed = "Layer2Failed"
)
