// SPDX-License-Identifier: Apache-2.0

package overview

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Speaker is the speaker of a node.
type Speaker struct {
	Node string `json:"node"`
	// Alive is what most of Tandem goes by: that one of the reports of speakers does not list it as dead.
	Alive bool `json:"alive"`
	// SeenBy are the nodes whose reports do not list it as dead, NotSeenBy those whose reports do. On the two sides of a partition they differ.
	SeenBy    []string `json:"seenBy"`
	NotSeenBy []string `json:"notSeenBy,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	// Layer2 is for how many Services the node is recorded as holder on layer 2.
	Layer2 int `json:"layer2"`
	// Established is how many of its BGP Sessions are; none of a speaker that is dead.
	Established int `json:"established"`
	Sessions    int `json:"sessions"`
	// Draining says what the node hands over and why, "" if it does not.
	Draining string `json:"draining,omitempty"`
	// Problems are the messages of its conditions that say that something is wrong.
	Problems []string `json:"problems,omitempty"`
}

// wrong are the conditions of a SpeakerStatus with the status that says that something is wrong.
var wrong = []struct {
	condition string
	is        metav1.ConditionStatus
	only      string // the reason, "" for any
}{
	{v1alpha1.ConditionReady, metav1.ConditionFalse, ""},
	{v1alpha1.ConditionPeersReachable, metav1.ConditionFalse, ""},
	{v1alpha1.ConditionIsolatedFromLAN, metav1.ConditionTrue, ""},
	{v1alpha1.ConditionKernelAnswers, metav1.ConditionTrue, ""},
	{v1alpha1.ConditionKernelRoutes, metav1.ConditionFalse, ""},
	{v1alpha1.ConditionOtherRouter, metav1.ConditionTrue, v1alpha1.ReasonSessionTaken},
}

// Speakers returns the speakers that have reported, by node. What a dead speaker has said last does not count as a problem of its own.
func Speakers(s *cluster.State) []Speaker {
	held := map[string]int{}
	for i := range s.Announcements.Items {
		held[s.Announcements.Items[i].Status.Node]++
	}
	speakers := []Speaker{}
	for i := range s.Speakers.Items {
		status := &s.Speakers.Items[i].Status
		speaker := Speaker{
			Node: s.Speakers.Items[i].Name, Alive: s.Snapshot.Alive(s.Speakers.Items[i].Name), SeenBy: []string{}, Addresses: status.Addresses,
			Layer2: held[s.Speakers.Items[i].Name], Sessions: len(status.BGPSessions),
		}
		for j := range s.Leases {
			reporter := ptr.Deref(s.Leases[j].Spec.HolderIdentity, s.Leases[j].Name)
			if report := observation.ViewAt(s.Now, s.Leases[j:j+1]); report.Alive(speaker.Node) {
				speaker.SeenBy = append(speaker.SeenBy, reporter)
			} else if report.Dead(speaker.Node) {
				speaker.NotSeenBy = append(speaker.NotSeenBy, reporter)
			}
		}
		for _, session := range status.BGPSessions {
			if speaker.Alive && session.State == v1alpha1.BGPState(bgp.Established) {
				speaker.Established++
			}
		}
		for _, w := range wrong {
			c := meta.FindStatusCondition(status.Conditions, w.condition)
			if speaker.Alive && c != nil && c.Status == w.is && (w.only == "" || w.only == c.Reason) {
				speaker.Problems = append(speaker.Problems, fmt.Sprintf("%s: %s", c.Reason, c.Message))
			}
		}
		if c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionDraining); c != nil && c.Status == metav1.ConditionTrue {
			speaker.Draining = c.Message
		}
		speakers = append(speakers, speaker)
	}
	slices.SortFunc(speakers, func(a, b Speaker) int { return cmp.Compare(a.Node, b.Node) })
	return speakers
}

// Unknown is the state of a session whose speaker is dead. What its SpeakerStatus says is left over.
const Unknown = "Unknown"

// Session is the BGP session of a node with a peer.
type Session struct {
	Node         string `json:"node"`
	Peer         string `json:"peer"`
	Address      string `json:"address,omitempty"`
	LocalAddress string `json:"localAddress,omitempty"`
	RemoteASN    int64  `json:"remoteASN,omitempty"`
	// State is one of RFC 4271 §8.2.2, or Unknown.
	State           string    `json:"state"`
	Since           time.Time `json:"since,omitzero"`
	Families        []string  `json:"families,omitempty"`
	NextHops        []string  `json:"nextHops,omitempty"`
	GracefulRestart bool      `json:"gracefulRestart"`
	AdvertisedIPv4  int32     `json:"advertisedIPv4"`
	AdvertisedIPv6  int32     `json:"advertisedIPv6"`
	Withheld        int32     `json:"withheld"`
	BFD             string    `json:"bfd,omitempty"`
	// Problem says what is wrong with it, "" if nothing is. That a speaker is dead, or its node excluded, is no problem of its sessions.
	Problem string `json:"problem,omitempty"`
}

// Sessions returns the sessions that speakers report, by peer and node.
func Sessions(s *cluster.State) []Session {
	sessions := []Session{}
	for i := range s.Speakers.Items {
		node := s.Speakers.Items[i].Name
		for _, b := range s.Speakers.Items[i].Status.BGPSessions {
			session := Session{
				Node: node, Peer: b.Peer, Address: b.Address, LocalAddress: b.LocalAddress, RemoteASN: b.RemoteASN, State: string(b.State),
				NextHops: b.NextHops, GracefulRestart: b.GracefulRestart, AdvertisedIPv4: b.AdvertisedIPv4, AdvertisedIPv6: b.AdvertisedIPv6,
				Withheld: b.Withheld, BFD: string(b.BFD),
			}
			if b.Since != nil {
				session.Since = b.Since.Time
			}
			for _, f := range b.Families {
				session.Families = append(session.Families, string(f))
			}
			switch {
			case !s.Snapshot.Alive(node):
				session = Session{Node: node, Peer: b.Peer, State: Unknown}
			case !s.Snapshot.Nodes[node].Excluded:
				session.Problem = problemOf(&b)
			}
			sessions = append(sessions, session)
		}
	}
	slices.SortFunc(sessions, func(a, b Session) int { return cmp.Or(cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Node, b.Node)) })
	return sessions
}

// problemOf says what is wrong with a session of a speaker that is alive.
func problemOf(b *v1alpha1.BGPSession) string {
	switch {
	case b.State != v1alpha1.BGPState(bgp.Established):
		return cmp.Or(b.LastError, "not established")
	case b.Withheld > 0:
		return fmt.Sprintf("%d prefixes are withheld: %s", b.Withheld, b.LastError)
	case b.BFD == "Down":
		return "BFD is down"
	}
	return ""
}
