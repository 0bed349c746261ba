// SPDX-License-Identifier: Apache-2.0

package ui

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/overview"
)

// View is what the page shows at a moment.
type View struct {
	*overview.Overview
	Nodes  []Node  `json:"nodes"`
	Events []Event `json:"events"` // the newest first
}

// Node is a node with what it reaches.
type Node struct {
	Name     string `json:"name"`
	Alive    bool   `json:"alive"`
	Excluded bool   `json:"excluded"`
	// Services are those that it answers for on layer 2, as default/web.
	Services []string `json:"services"`
	// LANs are the subnets of its interfaces, and Peers the BGPPeers of its sessions.
	LANs  []string `json:"lans"`
	Peers []Peer   `json:"peers"`
}

// Peer is the end of a BGP session.
type Peer struct {
	Name        string `json:"name"`
	Established bool   `json:"established"`
}

// Event is something that has happened while the page's server looked.
type Event struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
	// Service is the Service that it is about, "" for none.
	Service string `json:"service,omitempty"`
}

// viewOf returns what the page shows of a cluster.
func viewOf(s *cluster.State) *View {
	v := &View{Overview: overview.Of(s), Nodes: []Node{}, Events: []Event{}}
	held := map[string][]string{}
	for i := range s.Announcements.Items {
		a := &s.Announcements.Items[i]
		if a.Status.Node != "" {
			held[a.Status.Node] = append(held[a.Status.Node], a.Service.Namespace+"/"+a.Service.Name)
		}
	}
	for i := range s.Speakers.Items {
		speaker := &s.Speakers.Items[i]
		known := s.Snapshot.Nodes[speaker.Name]
		n := Node{
			Name: speaker.Name, Alive: s.Snapshot.Alive(speaker.Name), Excluded: known.Excluded, Services: held[speaker.Name], LANs: []string{}, Peers: []Peer{},
		}
		for _, link := range known.Interfaces {
			for _, p := range link.Prefixes {
				if !p.Addr().IsLinkLocalUnicast() && !slices.Contains(n.LANs, p.String()) && !p.IsSingleIP() {
					n.LANs = append(n.LANs, p.String())
				}
			}
		}
		for _, session := range speaker.Status.BGPSessions {
			n.Peers = append(n.Peers, Peer{session.Peer, session.State == "Established"})
		}
		if n.Services == nil {
			n.Services = []string{}
		}
		slices.Sort(n.Services)
		slices.SortFunc(n.LANs, comparePrefixes)
		v.Nodes = append(v.Nodes, n)
	}
	slices.SortFunc(v.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	v.dropOwn(s)
	return v
}

// dropOwn leaves out the subnets that one node has alone, such as that of its Pods, unless a pool has addresses there.
func (v *View) dropOwn(s *cluster.State) {
	having := map[string]int{}
	for _, n := range v.Nodes {
		for _, lan := range n.LANs {
			having[lan]++
		}
	}
	inPool := func(lan string) bool {
		prefix, err := netip.ParsePrefix(lan)
		for _, addresses := range s.Snapshot.Config.Pools {
			if err == nil && addresses.OverlapsPrefix(prefix) {
				return true
			}
		}
		return false
	}
	for i := range v.Nodes {
		v.Nodes[i].LANs = slices.DeleteFunc(v.Nodes[i].LANs, func(lan string) bool { return having[lan] == 1 && !inPool(lan) })
	}
}

// comparePrefixes orders subnets, IPv4 first.
func comparePrefixes(a, b string) int {
	p, _ := netip.ParsePrefix(a)
	q, _ := netip.ParsePrefix(b)
	return cmp.Or(p.Addr().Compare(q.Addr()), cmp.Compare(p.Bits(), q.Bits()))
}

// changes says what has happened between two views: Services that came, went, moved or changed their state, nodes and sessions that did. For example
// default/web was on node1 and is on node2: "default/web moved from node1 to node2".
func changes(before, now *View) (events []Event) {
	add := func(service, format string, args ...any) {
		events = append(events, Event{Time: now.Time, Service: service, Text: fmt.Sprintf(format, args...)})
	}
	was, holders, held := servicesOf(before), holdersOf(before), holdersOf(now)
	for name, svc := range servicesOf(now) {
		old, known := was[name]
		switch from, to := holders[name], held[name]; {
		case !known:
			add(name, "%s is new", name)
		case from != to && from != "" && to != "":
			add(name, "%s moved from %s to %s", name, from, to)
		case old.State != svc.State:
			add(name, "%s is %s", name, strings.TrimSpace(string(svc.State)+" "+svc.By))
		}
		delete(was, name)
	}
	for name := range was {
		add(name, "%s is gone", name)
	}
	nodes := map[string]Node{}
	for _, n := range before.Nodes {
		nodes[n.Name] = n
	}
	for _, n := range now.Nodes {
		old, known := nodes[n.Name]
		switch {
		case !known:
			add("", "the speaker of %s is new", n.Name)
		case old.Alive != n.Alive:
			add("", "the speaker of %s is %s", n.Name, map[bool]string{true: "alive", false: "dead"}[n.Alive])
		case old.Excluded != n.Excluded:
			add("", "%s %s", n.Name, map[bool]string{true: "is drained or excluded", false: "may announce again"}[n.Excluded])
		}
		for _, p := range n.Peers {
			if i := slices.IndexFunc(old.Peers, func(o Peer) bool { return o.Name == p.Name }); i >= 0 && old.Peers[i].Established != p.Established {
				add("", "the session of %s with %s is %s", n.Name, p.Name, map[bool]string{true: "established", false: "down"}[p.Established])
			}
		}
	}
	slices.SortFunc(events, func(a, b Event) int { return strings.Compare(a.Text, b.Text) })
	return events
}

// servicesOf returns the Services of a view by their names, as default/web.
func servicesOf(v *View) map[string]*overview.Service {
	all := make(map[string]*overview.Service, len(v.Services))
	for i := range v.Services {
		all[v.Services[i].Namespace+"/"+v.Services[i].Name] = &v.Services[i]
	}
	return all
}

// holdersOf returns the nodes that answer on layer 2, by the Service.
func holdersOf(v *View) map[string]string {
	holders := map[string]string{}
	for _, n := range v.Nodes {
		for _, name := range n.Services {
			holders[name] = n.Name
		}
	}
	return holders
}
