// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/live"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/why"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/diagnosis"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// mostAskers is how many nodes ask the LAN for an address.
const mostAskers = 2

// Prober asks whether units answer.
type Prober struct {
	Cluster  *cluster.Cluster
	Speakers why.Prober
	// Doubt is called with what could not be asked, such as for want of rights, once each. Then what the speakers report counts alone.
	Doubt func(what string)

	doubted map[string]bool
}

// Probe implements API.Probe.
func (p *Prober) Probe(ctx context.Context, s *live.Snapshot, unit *live.Unit, early bool) string {
	state, err := p.Cluster.Read(ctx)
	if err != nil {
		return err.Error()
	}
	if unit.Node != "" {
		return p.node(ctx, state, s.PeersOf(unit.Node), unit.Node)
	}
	for _, name := range unit.Names() {
		if problem := p.service(ctx, state, name, early); problem != "" {
			return problem
		}
	}
	return ""
}

// service says why a Service does not answer. One without a ready endpoint answers with neither product.
func (p *Prober) service(ctx context.Context, state *cluster.State, name types.NamespacedName, early bool) string {
	for _, finding := range state.Diagnoser.Service(name, false) {
		if finding.Reason == v1alpha1.ServiceReasonNoReadyEndpoint || finding.Reason == v1alpha1.ServiceReasonNoLocalEndpoint {
			continue
		}
		if !finding.Announced {
			return fmt.Sprintf("%s of %s: %s", finding.Address, name, finding.Message)
		}
		if early || finding.Way != diagnosis.Layer2 {
			continue
		}
		if problem := p.lan(ctx, state, finding.Address, state.Records()[name].Node); problem != "" {
			return fmt.Sprintf("%s of %s: %s", finding.Address, name, problem)
		}
	}
	return ""
}

// lan has other nodes ask who has an address.
func (p *Prober) lan(ctx context.Context, state *cluster.State, ip netip.Addr, holder string) string {
	asked := 0
	for _, node := range state.Nodes.Items {
		if node.Name == holder || !state.Snapshot.Alive(node.Name) || asked == mostAskers {
			continue
		}
		asked++
		answer, err := p.Speakers.LAN(ctx, node.Name, holder, "", ip, 0, true)
		if err != nil || answer.Error != "" {
			p.doubt(fmt.Sprintf("%s cannot ask the LAN: %v%s", node.Name, errorOr(err), answer.Error))
			continue
		}
		heard := false
		for _, station := range answer.Stations {
			if station.Node != holder {
				return fmt.Sprintf("%s hears %s of %q answer, and %s is to", node.Name, station.MAC, station.Node, holder)
			}
			heard = true
		}
		if !heard {
			return fmt.Sprintf("%s asks the LAN and hears nobody; %s is to answer", node.Name, holder)
		}
	}
	return ""
}

func errorOr(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (p *Prober) doubt(what string) {
	if p.doubted == nil {
		p.doubted = map[string]bool{}
	}
	if !p.doubted[what] {
		p.doubted[what] = true
		p.Doubt(what)
	}
}

// node says why the sessions of a node are not established, or have not told their routes.
func (p *Prober) node(ctx context.Context, state *cluster.State, peers []string, node string) string {
	i := slices.IndexFunc(state.Speakers.Items, func(s speakerv1alpha1.SpeakerStatus) bool { return s.Name == node })
	if i < 0 {
		return "Tandem's speaker of " + node + " reports nothing"
	}
	sessions := state.Speakers.Items[i].Status.BGPSessions
	for _, peer := range peers {
		j := slices.IndexFunc(sessions, func(s speakerv1alpha1.BGPSession) bool { return s.Peer == peer })
		if j < 0 {
			return "BGPPeer " + peer + ": its session has not begun"
		}
		if sessions[j].State != speakerv1alpha1.BGPEstablished {
			return strings.TrimSuffix(fmt.Sprintf("BGPPeer %s: its session is %s: %s", peer, sessions[j].State, sessions[j].LastError), ": ")
		}
		routes, err := p.Speakers.Routes(ctx, node, peer)
		if err != nil {
			p.doubt(err.Error())
		}
		for prefix, route := range routes {
			if !route.Sent && route.Withheld == "" {
				return fmt.Sprintf("BGPPeer %s has not been told %s yet", peer, prefix)
			}
		}
	}
	return ""
}
