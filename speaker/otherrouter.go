// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// otherRouter returns what is known of other programs of this node that speak BGP, and whether there is a peer to look for them.
func (s *sessions) otherRouter() (condition metav1.Condition, known bool) {
	peers := s.peers.Load()
	if peers == nil || len(*peers) == 0 {
		return metav1.Condition{Type: v1alpha1.ConditionOtherRouter}, false
	}
	listening, taken := s.others.OtherRouter()
	return otherRouter(listening, slices.DeleteFunc(taken, func(name string) bool {
		return !slices.ContainsFunc(*peers, func(p config.Peer) bool { return p.Name == name })
	})), true
}

// otherRouter returns the condition OtherRouter of a SpeakerStatus: listening says that another program of the node listens for BGP, and
// taken are the BGPPeers whose router another program has a session with.
func otherRouter(listening bool, taken []string) metav1.Condition {
	condition := metav1.Condition{
		Type: v1alpha1.ConditionOtherRouter, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonSessionTaken,
	}
	switch {
	case len(taken) > 0:
		condition.Message = "another program on this node has a BGP session with the router of BGPPeer " + strings.Join(taken, ", ") +
			", and a router keeps one for each address of the node: delete the BGPPeer and let that program announce, " +
			"Calico by serviceLoadBalancerIPs of its BGPConfiguration, FRR and BIRD by redistributing the routes of an InterfaceAdvertisement; " +
			"or give spec.sourceAddress another address of the node"
	case listening:
		condition.Reason = v1alpha1.ReasonListensForBGP
		condition.Message = "another program on this node listens on port 179, such as Calico's BIRD, FRR or MetalLB; " +
			"it may have sessions with any router but those of the BGPPeers"
	default:
		condition.Status, condition.Reason = metav1.ConditionFalse, v1alpha1.ReasonNoOtherRouter
		condition.Message = "no other program on this node listens for BGP or has a session with the router of a BGPPeer"
	}
	return condition
}
