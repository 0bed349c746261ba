// SPDX-License-Identifier: Apache-2.0

package live

import (
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// metalLB is MetalLB since 0.13, whose configuration is objects. On layer 2 it can be stopped for a Service, or for a pool, and by BGP for a Node.
type metalLB struct{ deployed }

func (metalLB) names() names {
	return names{
		key: "metallb", title: "MetalLB", allocator: "MetalLB's controller", speakers: "MetalLB's speakers", page: "docs/moving-in/metallb.md",
	}
}

func (p metalLB) found(o Objects) bool { return p.allocator(o) != nil || len(p.announcers(o)) > 0 }

func (metalLB) allocator(o Objects) map[string]any {
	for _, d := range o.of("apps", "Deployment") {
		if component(d) == "controller" {
			return d
		}
	}
	return nil
}

func (metalLB) announcers(o Objects) (list []map[string]any) {
	for _, d := range o.of("apps", "DaemonSet") {
		if component(d) != "" {
			list = append(list, d)
		}
	}
	return list
}

func (metalLB) configuration(s *Snapshot) (all []map[string]any) {
	for _, ref := range s.Objects.SecretsOfTheirs() {
		if secret := s.Objects[ref]; secret != nil {
			all = append(all, secret)
		}
	}
	for _, kind := range []string{"IPAddressPool", "L2Advertisement", "BGPAdvertisement", "BGPPeer", "BFDProfile", "Community", "MetalLB"} {
		all = append(all, s.Objects.of(theirGroup, kind)...)
	}
	return all
}

func (p metalLB) obstacles(s *Snapshot) (messages []movein.Message) {
	if p.allocator(s.Objects) == nil {
		messages = append(messages, refuse("no-metallb", "the cluster", "there is no Deployment of MetalLB's controller; only a MetalLB that runs can be moved. "+
			"For MetalLB before 0.13, see the steps of docs/moving-in.md"))
	}
	if len(p.announcers(s.Objects)) == 0 {
		messages = append(messages, refuse("no-metallb", "the cluster", "there is no DaemonSet of MetalLB's speakers"))
	}
	router := slices.IndexFunc(p.announcers(s.Objects), func(d map[string]any) bool { return component(d) == "frr-k8s" })
	for _, o := range s.Objects.of(frrGroup, "FRRConfiguration") {
		if router >= 0 && !strings.HasPrefix(text(o, "metadata", "name"), "metallb-") { // MetalLB's is metallb-node1.
			messages = append(messages, refuse("frr", RefOf(o).String(), "it is not MetalLB's, and what it configures would end with %s, which the move takes off the "+
				"nodes: move by the steps of %s, and keep that router, with other sessions than Tandem's", RefOf(p.announcers(s.Objects)[router]), p.names().page))
		}
	}
	if operators := s.Objects.of(theirGroup, "MetalLB"); len(operators) > 0 {
		messages = append(messages, warn("owned", RefOf(operators[0]).String(), "MetalLB's operator would start again what the move stops; scale the operator to "+
			"no replica first"))
	}
	return messages
}

func (metalLB) remember(s *Snapshot, r *Record, keep keeper) {
	r.ByPool = !s.Objects.knowsServiceSelectors() && len(s.Objects.of(theirGroup, "L2Advertisement")) > 0
	for _, kind := range []string{"IPAddressPool", "L2Advertisement"} {
		for _, o := range s.Objects.of(theirGroup, kind) {
			keep(o, []string{"spec"}, []string{"metadata", "labels"}, []string{"metadata", "annotations"})
		}
	}
	for _, o := range s.Objects.of("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") {
		if i := webhookOfL2(o); i >= 0 && r.ByPool {
			ref := RefOf(o)
			r.Webhook, r.FailurePolicy = &ref, text(items(o, "webhooks")[i], "failurePolicy")
		}
	}
}

// holders returns the nodes that MetalLB's speakers say they announce from. MetalLB writes it since 0.14.
func (metalLB) holders(o Objects) map[string]string {
	nodes := map[string]string{}
	for _, status := range o.of(theirGroup, "ServiceL2Status") {
		nodes[text(status, "status", "serviceNamespace")+"/"+text(status, "status", "serviceName")] = text(status, "status", "node")
	}
	return nodes
}

func (metalLB) narrow(m *machine) Action { return first(m.openWebhook, m.narrowTheirs) }

// stopped also stops the move where something has taken the switch out of MetalLB's objects: MetalLB would announce what has moved.
func (p metalLB) stopped(m *machine) Action {
	return first(func() Action { return p.deployed.stopped(m) }, func() Action {
		for _, ref := range m.switched() {
			return stop("%s has been written back, so that MetalLB announces what has moved, too: pause what has done it (Flux, Argo CD, Helm, an operator), and go "+
				"back by kubectl tandem move-in undo", ref)
		}
		return Action{}
	})
}

func (metalLB) widen(m *machine) Action { return first(m.advertisementsBack, m.speakersBack) }

func (metalLB) units(m *machine, services []map[string]any) []*Unit {
	if m.Record.ByPool {
		return m.poolUnits(services)
	}
	return sharingUnits(services)
}

func (metalLB) silence(m *machine, u *Unit) Action {
	for _, ad := range m.poolAdvertisements() {
		if ref := RefOf(ad); slices.Contains(u.Advertisements, ref.Name) {
			if a := m.remove(ref, "stop MetalLB's announcing of "+u.Name); !a.Done() {
				return a
			}
		}
	}
	return Action{}
}

func (metalLB) speak(m *machine, u *Unit) Action {
	for _, ad := range m.poolAdvertisements() {
		if ref := RefOf(ad); slices.Contains(u.Advertisements, ref.Name) && m.Objects[ref] == nil {
			return m.create(ad, "have MetalLB announce "+u.Name+" again")
		}
	}
	return Action{}
}

// classes are those of the argument --lb-class.
func (p metalLB) classes(o Objects) (classes []string) {
	for _, d := range append(p.announcers(o), p.allocator(o)) {
		for _, c := range items(d, "spec", "template", "spec", "containers") {
			for _, arg := range texts(c, "args") {
				if class, ok := strings.CutPrefix(strings.TrimLeft(arg, "-"), "lb-class="); ok {
					classes = append(classes, class)
				}
			}
		}
	}
	return classes
}

func (metalLB) after(*Record) string { return "uninstall MetalLB as you installed it" }

func (metalLB) tidy(svc map[string]any) {
	for _, key := range []string{"metallb.io/ip-allocated-from-pool", "metallb.universe.tf/ip-allocated-from-pool"} {
		set(svc, nil, "metadata", "annotations", key)
	}
}
