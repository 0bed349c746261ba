// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/live"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/why"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/diagnosis"
	"github.com/tandem-lb/tandem/speaker/reachability"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

const (
	// mostAskers is how many nodes ask the LAN for an address, and one does where there are more addresses than fewAddresses: a speaker answers
	// five questions a second.
	mostAskers, fewAddresses = 2, 10
	// fewServices is how many Services are read one by one.
	fewServices = 10
	// busyPause is how long to wait for a speaker that has been asked too much.
	busyPause = time.Second
)

// Prober asks whether units answer.
type Prober struct {
	Cluster  *cluster.Cluster
	Speakers why.Prober
	// Doubt is called with what could not be asked, such as for want of rights, once each. Then what the speakers report counts alone.
	Doubt func(what string)

	mu      sync.Mutex // guards doubted
	doubted map[string]bool
}

// Probe implements API.Probe.
func (p *Prober) Probe(ctx context.Context, s *live.Snapshot, unit *live.Unit, early bool) string {
	if unit.Node != "" {
		state, err := p.Cluster.Read(ctx)
		if err != nil {
			return err.Error()
		}
		return p.node(ctx, state, s.PeersOf(unit.Node), unit.Node)
	}
	state, all, problem := p.services(ctx, unit.Names())
	if problem != "" {
		return problem
	}
	if early {
		return ""
	}
	var alive []string
	for _, node := range state.Nodes.Items {
		if state.Snapshot.Alive(node.Name) {
			alive = append(alive, node.Name)
		}
	}
	return p.lan(ctx, alive, all)
}

// services says why one of some Services is not announced, or what to ask the LAN. A few are read alone. Where one of them is announced otherwise than on
// layer 2, only the whole cluster says whether that is so.
func (p *Prober) services(ctx context.Context, names []types.NamespacedName) (state *cluster.State, questions []question, problem string) {
	read := p.Cluster.Read
	if len(names) <= fewServices {
		read = func(ctx context.Context) (*cluster.State, error) { return p.Cluster.ReadServices(ctx, names) }
	}
	state, err := read(ctx)
	if err == nil && len(names) <= fewServices && !onLayer2(state, names) {
		state, err = p.Cluster.Read(ctx)
	}
	if err != nil {
		return nil, nil, err.Error()
	}
	for _, name := range names {
		of, problem := service(state, name)
		if problem != "" {
			return nil, nil, problem
		}
		questions = append(questions, of...)
	}
	return state, questions, ""
}

// onLayer2 reports whether nothing of some Services is announced otherwise than on layer 2.
func onLayer2(state *cluster.State, names []types.NamespacedName) bool {
	return !slices.ContainsFunc(names, func(name types.NamespacedName) bool {
		return slices.ContainsFunc(state.Diagnoser.Service(name, false), func(f diagnosis.Finding) bool { return f.Announced && f.Way != diagnosis.Layer2 })
	})
}

// A question is what the LAN is asked: whether a node answers for an address of a Service.
type question struct {
	service types.NamespacedName
	address netip.Addr
	holder  string
}

// service says why a Service is not announced, or what to ask the LAN. A Service without a ready endpoint answers with neither product.
func service(state *cluster.State, name types.NamespacedName) (questions []question, problem string) {
	for _, finding := range state.Diagnoser.Service(name, false) {
		if finding.Reason == v1alpha1.ServiceReasonNoReadyEndpoint || finding.Reason == v1alpha1.ServiceReasonNoLocalEndpoint {
			continue
		}
		if !finding.Announced {
			return nil, fmt.Sprintf("%s of %s: %s", finding.Address, name, finding.Message)
		}
		if finding.Way == diagnosis.Layer2 {
			questions = append(questions, question{name, finding.Address, state.Records()[name].Node})
		}
	}
	return questions, ""
}

// lan has nodes ask the LAN, all at once, and returns the first problem that one of them finds.
func (p *Prober) lan(ctx context.Context, nodes []string, questions []question) string {
	group, asking := errgroup.WithContext(ctx)
	for i, q := range questions {
		for _, node := range askers(nodes, q.holder, i, len(questions)) {
			group.Go(func() error { return p.ask(asking, node, q) })
		}
	}
	if err := group.Wait(); err != nil {
		return err.Error()
	}
	return ""
}

// askers returns the nodes that ask the question with a number, of so many: never the holder, and of many questions each node the same share.
func askers(nodes []string, holder string, number, of int) []string {
	most := mostAskers
	if of > fewAddresses {
		most = 1
	}
	others := slices.DeleteFunc(slices.Clone(nodes), func(node string) bool { return node == holder })
	if len(others) <= most {
		return others
	}
	first := number % len(others)
	return append(others[first:], others[:first]...)[:most]
}

// ask has a node ask the LAN. The error says who answers instead of the holder. A node that cannot ask finds nothing.
func (p *Prober) ask(ctx context.Context, node string, q question) error {
	var answer reachability.Asked
	var err error
	for {
		answer, err = p.Speakers.LAN(ctx, node, q.holder, "", q.address, 0, true)
		if !cluster.IsBusy(err) {
			break
		}
		if err := sleep(ctx, busyPause); err != nil {
			break
		}
	}
	of := fmt.Sprintf("%s of %s: ", q.address, q.service)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s%s has not said in time who answers", of, node)
	case err != nil:
		p.doubt(fmt.Sprintf("%s cannot ask the LAN: %v", node, err))
		return nil
	case answer.Error != "":
		p.doubt(fmt.Sprintf("%s cannot ask the LAN: %s", node, answer.Error))
		return nil
	case len(answer.Stations) == 0:
		return fmt.Errorf("%s%s asks the LAN and hears nobody; %s is to answer", of, node, q.holder)
	}
	for _, station := range answer.Stations {
		if station.Node != q.holder {
			return fmt.Errorf("%s%s hears %s of %q answer, and %s is to", of, node, station.MAC, station.Node, q.holder)
		}
	}
	return nil
}

func (p *Prober) doubt(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
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
