// SPDX-License-Identifier: Apache-2.0

package overview

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/speaker/decision"
)

// Route is a prefix that nodes are to announce to a peer, as speakers decide it.
type Route struct {
	Prefix netip.Prefix `json:"prefix"`
	Peer   string       `json:"peer"`
	// Services are those of which the prefix has an address, as "default/web".
	Services []string `json:"services"`
	// Nodes announce it, and NotSentBy would if their sessions carried it, each with the reason.
	Nodes     []string      `json:"nodes"`
	NotSentBy []NodeProblem `json:"notSentBy,omitempty"`
}

// NodeProblem says why a node does not do what it is to do.
type NodeProblem struct {
	Node   string `json:"node"`
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
}

// Routes returns what is to be announced by BGP, by prefix and peer. What a speaker has really sent is known to that speaker; this is worked out of the
// snapshot, with the sessions that speakers report.
func Routes(s *cluster.State) []Route {
	type key struct {
		prefix netip.Prefix
		peer   string
	}
	routes := map[key]*Route{}
	explainer := decision.NewExplainer(s.Snapshot)
	for i := range s.Snapshot.Services {
		service := &s.Snapshot.Services[i]
		for _, x := range explainer.Explain(service.Name) {
			if x.Peer == "" || !x.Declared() {
				continue
			}
			for _, prefix := range x.Prefixes {
				r := routes[key{prefix, x.Peer}]
				if r == nil {
					r = &Route{Prefix: prefix, Peer: x.Peer, Nodes: []string{}}
					routes[key{prefix, x.Peer}] = r
				}
				r.add(service.Name.String(), x)
			}
		}
	}
	all := make([]Route, 0, len(routes))
	for _, r := range routes {
		all = append(all, *r)
	}
	slices.SortFunc(all, func(a, b Route) int { return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Peer, b.Peer)) })
	return all
}

// add adds what one node does with one address in the prefix of a route.
func (r *Route) add(service string, x decision.Explanation) {
	if !slices.Contains(r.Services, service) {
		r.Services = append(r.Services, service)
	}
	if x.Reason == decision.Announced {
		if !slices.Contains(r.Nodes, x.Node) {
			r.Nodes = append(r.Nodes, x.Node)
		}
		return
	}
	if !slices.ContainsFunc(r.NotSentBy, func(p NodeProblem) bool { return p.Node == x.Node }) {
		r.NotSentBy = append(r.NotSentBy, NodeProblem{x.Node, string(x.Reason), x.Detail})
	}
}
