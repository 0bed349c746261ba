// SPDX-License-Identifier: Apache-2.0

// Package handover moves what nodes announce, as a user asks: off a node that is about to be rebooted, to a node that is named, or from nodes that
// have more than their share.
//
// Each is planned first, and done then. A plan is pure: it asks [decision] what would be if the [decision.Snapshot] was a little different, for
// example if node1 was excluded, so that it says what speakers will do and has no rules of its own. Doing it is one write: the annotation
// tandem-lb.io/drain of the Node, or spec.target of an L2Announcement. Speakers hand over, make before break, and the caller waits for them.
//
// What happens between the plan and the write, such as the death of another node, makes the plan wrong and the write no worse: speakers decide anew.
package handover

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/diagnosis"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// A Move is a Service whose addresses another node answers for afterwards, on layer 2.
type Move struct {
	Service   string       `json:"service"` // as default/web
	Addresses []netip.Addr `json:"addresses"`
	From      string       `json:"from"`
	To        string       `json:"to"`
}

// Left is an address that a node announces, and no other node can.
type Left struct {
	Service string     `json:"service"`
	Address netip.Addr `json:"address"`
	// Still says that the address goes on being announced in another way: nothing answers for it on layer 2 any more, and routers have it by BGP.
	Still bool `json:"stillAnnounced,omitempty"`
	// Why says why no other node can, as the condition Announced of the Service will.
	Why string `json:"why,omitempty"`
}

// Drain is what happens when a node is drained.
type Drain struct {
	Node string `json:"node"`
	// Already says why the node is not to announce now, "" if it may. Then no other node takes over more than it does already.
	Already string `json:"already,omitempty"`
	// Gone says of a node with Already that it has handed over. Without a live speaker it says no more than that no record of the node is left.
	Gone bool `json:"gone,omitempty"`
	// Speaker says that the speaker of the node is alive, so that it hands over and says when it has.
	Speaker bool   `json:"speaker"`
	Moves   []Move `json:"moves"`
	// Routes is how many addresses the node announces by BGP to Peers.
	Routes int      `json:"routes"`
	Peers  []string `json:"peers,omitempty"`
	Left   []Left   `json:"left"`
}

// Silenced returns the addresses that nothing announces afterwards.
func (d *Drain) Silenced() (silenced []Left) {
	return slices.DeleteFunc(slices.Clone(d.Left), func(l Left) bool { return l.Still })
}

// HandingOver reports whether the node is not to announce, and has not handed over yet.
func (d *Drain) HandingOver() bool { return d.Already != "" && !d.Gone }

// PlanDrain says what happens when a node is drained. It returns an error for a Node that does not exist.
func PlanDrain(s *cluster.State, node string) (*Drain, error) {
	object, err := findNode(s, node)
	if err != nil {
		return nil, err
	}
	d := &Drain{Node: node, Speaker: s.Snapshot.Alive(node), Moves: []Move{}, Left: []Left{}}
	if s.Snapshot.Nodes[node].Excluded {
		reason, _ := observation.Exclusion(object, observation.ExclusionRules{CordonCounts: true}) // The speaker knows whether a cordon counts.
		d.Already = cmp.Or(reason, "its speaker says that it is being drained")
		d.Gone = progressOf(s, node).gone(d.Speaker)
		return d, nil
	}
	after := without(s.Snapshot, node)
	p := &drainPlan{
		Drain: d, before: decision.NewExplainer(s.Snapshot), after: decision.NewExplainer(after),
		routes: map[decision.Alike]routes{}, peers: map[string]bool{},
	}
	for i := range s.Snapshot.Services {
		p.service(&s.Snapshot.Services[i])
	}
	d.Peers = slices.Sorted(maps.Keys(p.peers))
	p.explain(after, s.Records())
	return d, nil
}

// progressOf returns how far a node has handed over when the cluster was read.
func progressOf(s *cluster.State, node string) (p Progress) {
	for i := range s.Speakers.Items {
		if status := &s.Speakers.Items[i]; status.Name == node {
			p.Condition = meta.FindStatusCondition(status.Status.Conditions, v1alpha1.ConditionDraining)
		}
	}
	for service, record := range s.Records() {
		if record.Node == node {
			p.Recorded = append(p.Recorded, service.String())
		}
	}
	slices.Sort(p.Recorded)
	return p
}

// findNode returns the Node of a name.
func findNode(s *cluster.State, name string) (*corev1.Node, error) {
	if i := slices.IndexFunc(s.Nodes.Items, func(n corev1.Node) bool { return n.Name == name }); i >= 0 {
		return &s.Nodes.Items[i], nil
	}
	return nil, fmt.Errorf("there is no Node %q; kubectl get nodes lists them", name)
}

// without returns a snapshot as it is when a node is excluded.
func without(s *decision.Snapshot, node string) *decision.Snapshot {
	after := *s
	after.Nodes = maps.Clone(s.Nodes)
	excluded := after.Nodes[node]
	excluded.Excluded = true
	after.Nodes[node] = excluded
	return &after
}

// drainPlan is a Drain that is being worked out.
type drainPlan struct {
	*Drain
	before, after *decision.Explainer
	routes        map[decision.Alike]routes
	peers         map[string]bool // that the node tells addresses
}

// routes says who announces an address by BGP.
type routes struct {
	peers  []string // that the node tells the address
	others bool     // some other node tells a peer
}

// service adds what happens to a Service.
func (p *drainPlan) service(svc *decision.Service) {
	move := Move{Service: svc.Name.String(), From: p.Node}
	for _, address := range svc.Addresses {
		holder, x := p.before.Holder(svc.Name, address)
		held := holder == p.Node && x.Reason == decision.Announced
		r := p.byBGP(svc, address)
		if len(r.peers) > 0 {
			p.Routes++
			for _, peer := range r.peers {
				p.peers[peer] = true
			}
		}
		_, inKernel := p.before.InKernel(svc.Name, address)
		if !held && len(r.peers) == 0 && !inKernel {
			continue
		}
		successor, x := p.after.Holder(svc.Name, address)
		answers := successor != "" && x.Reason == decision.Announced
		if held && answers {
			move.To, move.Addresses = successor, append(move.Addresses, address.IP)
		}
		_, staysInKernel := p.after.InKernel(svc.Name, address)
		still := answers || r.others || staysInKernel
		if held && !answers || !still {
			p.Left = append(p.Left, Left{Service: svc.Name.String(), Address: address.IP, Still: still})
		}
	}
	if len(move.Addresses) > 0 {
		p.Moves = append(p.Moves, move)
	}
}

// byBGP returns who announces an address by BGP. It is worked out once for all addresses that are Alike.
func (p *drainPlan) byBGP(svc *decision.Service, address decision.Address) (r routes) {
	alike, common := p.before.Alike(svc.Name, address)
	common = common && !svc.Local
	if known, ok := p.routes[alike]; ok && common {
		return known
	}
	for x := range p.before.ExplainAddress(svc.Name, address) {
		switch {
		case x.Peer == "" || x.Reason != decision.Announced:
		case x.Node == p.Node:
			r.peers = append(r.peers, x.Peer)
		default:
			r.others = true
		}
	}
	if common {
		p.routes[alike] = r
	}
	return r
}

// explain fills in why addresses are left, by what will be diagnosed when the node has given up its records.
func (p *drainPlan) explain(after *decision.Snapshot, records map[types.NamespacedName]observation.Record) {
	if len(p.Left) == 0 {
		return
	}
	maps.DeleteFunc(records, func(_ types.NamespacedName, r observation.Record) bool { return r.Node == p.Node })
	diagnoser := diagnosis.New(after, records)
	for i := range p.Left {
		left := &p.Left[i]
		namespace, name, _ := strings.Cut(left.Service, "/")
		for _, finding := range diagnoser.Service(types.NamespacedName{Namespace: namespace, Name: name}, false) {
			if finding.Address == left.Address && !finding.Announced {
				left.Why = finding.Message
			}
		}
	}
}
