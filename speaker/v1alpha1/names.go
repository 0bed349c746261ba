// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// This file has the types and reasons of the conditions of this package's kinds. All other names are in ipam/v1alpha1/names.go.

// ConditionReady is the type of the condition that says whether an object is in use. In a SpeakerStatus it says whether
// the speaker of that node announces.
const ConditionReady = "Ready"

// ConditionEffective is the type of the condition of an L2Advertisement or a BGPAdvertisement that says whether there is a pool, a node with
// a live speaker, and an interface or an established session to announce by. An advertisement that is invalid does not have it.
const ConditionEffective = "Effective"

// Reasons of the condition Effective.
const (
	// ReasonEffective is the reason of Effective=True.
	ReasonEffective = "Effective"
	// ReasonNoPool is the reason where the advertisement selects no AddressPool that exists.
	ReasonNoPool = "NoPool"
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
	// ReasonNotImplemented is the reason where the object asks for something this version of the speaker does not do.
	// The message names the field. The rest of the object is used, unless nothing is left to do without the field: a
	// BGPPeer with defaultGateway and no peerAddress has no session.
	ReasonNotImplemented = "NotImplemented"
)

// Reasons of the condition Ready of a SpeakerStatus.
const (
	// ReasonAnnouncing is the reason of Ready=True. The message says how many BGP sessions are established.
	ReasonAnnouncing = "Announcing"
	// ReasonBGPFailed is the reason where the speaker cannot run BGP at all. The message is the error.
	ReasonBGPFailed = "BGPFailed"
	// ReasonLayer2Failed is the reason where the speaker cannot answer ARP or NDP for some addresses. The message names the first
	// of them with their interfaces.
	ReasonLayer2Failed = "Layer2Failed"
)
