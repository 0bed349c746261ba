// SPDX-License-Identifier: Apache-2.0

package live

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

const (
	label = v1alpha1.LabelMoveIn

	// Values of the label: of an object that the move has made, of a Node that the other product's speaker is to leave, and of a Service or Node that is on
	// its way, or has moved.
	made, leaving, moving, moved = "made", "leaving", "moving", "moved"
)

// Plan is what a move would do, as people and programs read it.
type Plan struct {
	// From is the product that Services come from, as MetalLB, "" if none was found.
	From string `json:"from"`
	// Smallest is the smallest unit on layer 2: "Service", "pool", or "all", where the product can only be stopped whole.
	Smallest string        `json:"smallest"`
	Services []PlanService `json:"services"`
	// Nodes are those whose BGP sessions move, one after the other.
	Nodes []string `json:"nodes,omitempty"`
	// Objects are those that are made, in their order.
	Objects  []string         `json:"objects"`
	Messages []movein.Message `json:"messages"`
	// Refused says that the move cannot start: a message of level error says why.
	Refused bool `json:"refused"`
	// Record is what the move writes down first; nil if it is refused.
	Record *Record `json:"-"`
}

// PlanService is what a move does to one Service.
type PlanService struct {
	Service   string       `json:"service"`
	Addresses []netip.Addr `json:"addresses"`
	Pools     []string     `json:"pools"`
	// Units are those that it moves in: one of layer 2, the Nodes, or both.
	Units []string `json:"units"`
	// Now is the node that it is announced from on layer 2, "" if that is not known.
	Now string `json:"now,omitempty"`
	// Notices is what its traffic will notice.
	Notices string `json:"notices"`
}

// input returns what [movein.Convert] reads of a product.
func (s *Snapshot) input(from origin) (movein.Input, error) {
	all := from.configuration(s)
	for _, o := range slices.Concat(s.Objects.of("", "Service"), s.Objects.of("", "Node"), from.announcers(s.Objects)) {
		serves := text(o, "spec", "type") == "LoadBalancer" && text(o, "metadata", "deletionTimestamp") == ""
		if text(o, "kind") != "Service" || serves {
			all = append(all, o)
		}
	}
	data, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": all})
	return movein.Input{Name: movein.Cluster, Data: data}, err
}

// convert returns Tandem's objects for those of a product.
func (s *Snapshot) convert(from origin, keepInUse bool) (movein.Result, error) {
	input, err := s.input(from)
	if err != nil {
		return movein.Result{}, err
	}
	return movein.Convert([]movein.Input{input}, movein.Options{From: from.names().key, Live: true, KeepInUse: keepInUse}), nil
}

// MakePlan plans a move that has not begun.
func MakePlan(s *Snapshot, keepInUse bool) (*Plan, error) {
	if s.PhaseLost() {
		return refusedPlan(refuse("no-phase", "the move", "%s", s.noPhase())), nil
	}
	from, err := s.origin()
	if err != nil {
		return nil, err
	}
	if from == nil {
		return refusedPlan(s.byHand()...), nil
	}
	result, err := s.convert(from, keepInUse)
	if err != nil {
		return nil, err
	}
	p := &Plan{
		From: from.names().title, Messages: append(s.obstacles(from), result.Messages...), Services: []PlanService{}, Objects: []string{},
	}
	record := &Record{From: from.names().key}
	if err := s.take(record, result.Documents); err != nil {
		return nil, err
	}
	s.remember(from, record)
	m := &machine{Snapshot: s, Record: record, origin: from}
	p.refuseLosses(m)
	for _, doc := range record.Documents {
		p.Objects = append(p.Objects, RefOf(doc).String())
		if ref := RefOf(doc); s.Objects[ref] != nil {
			p.Messages = append(p.Messages, refuse("exists", ref.String(), "exists already; rename or delete it, since the move would have to change it"))
		}
	}
	slices.SortStableFunc(p.Messages, func(a, b movein.Message) int { return int(a.Level) - int(b.Level) })
	p.Refused = p.failed()
	if !p.Refused {
		p.Record = record
	}
	p.describe(m)
	return p, nil
}

// refusedPlan returns the plan of a move that cannot begin, for these reasons.
func refusedPlan(messages ...movein.Message) *Plan {
	return &Plan{Messages: messages, Services: []PlanService{}, Objects: []string{}, Refused: true}
}

// failed reports whether there is an error among the messages.
func (p *Plan) failed() bool {
	return slices.ContainsFunc(p.Messages, func(m movein.Message) bool { return m.Level == movein.Error })
}

// refuseLosses makes errors of what a conversion warns of and a live move must not do: take an address or the announcer from a Service that is served.
func (p *Plan) refuseLosses(m *machine) {
	known := p.failed()
	for _, lost := range m.wouldLose() {
		if known && lost.Code == "unannounced" {
			continue // What is refused already may be the reason.
		}
		p.Messages = slices.DeleteFunc(p.Messages, func(m movein.Message) bool { return m.Code == lost.Code && m.Object == lost.Object })
		p.Messages = append(p.Messages, lost)
	}
	for i, message := range p.Messages { // A person has to give the Service another address first, or nobody would serve it.
		if message.Code == "node-address" && strings.HasPrefix(message.Object, "Service") {
			p.Messages[i].Level = movein.Error
		}
	}
}

// wouldLose names the Services that would lose an address or their announcer by the move.
func (m *machine) wouldLose() (messages []movein.Message) {
	title := m.names().title
	for _, svc := range m.Objects.of("", "Service") {
		class, ref := text(svc, "spec", "loadBalancerClass"), RefOf(svc).String()
		addresses := addressesOf(svc)
		if text(svc, "spec", "type") != "LoadBalancer" || text(svc, "metadata", "deletionTimestamp") != "" || len(addresses) == 0 {
			continue
		}
		four := slices.DeleteFunc(slices.Clone(addresses), netip.Addr.Is6)
		layer2 := m.by("L2Advertisement", svc)
		switch {
		case class != "" && class != v1alpha1.LoadBalancerClass && (slices.Contains(m.classes(m.Objects), class) || len(m.poolsOf(svc)) > 0):
			messages = append(messages, refuse("class", ref, "it has the class %s, which cannot be changed, and nobody would serve it once %s has stopped: make it "+
				"anew for Tandem first, without a class or with the class %s, or move by the steps of %s", class, title, v1alpha1.LoadBalancerClass, m.names().page))
		case class != "":
		case len(four) > 1 || len(addresses)-len(four) > 1:
			messages = append(messages, refuse("one-per-family", ref, "it has %s, and a Service has one address of each family in Tandem: make a second Service "+
				"for the others first", joined(addresses)))
		case layer2 && !slices.ContainsFunc(m.Objects.of("", "Node"), func(node map[string]any) bool { return m.whyNot(svc, node) == "" }):
			messages = append(messages, refuse("no-node", ref, "Tandem would announce it from no Node: each is labelled node.kubernetes.io/"+
				"exclude-from-external-load-balancers, or left out by the nodeSelectors of the L2Advertisements. Remove the label, or give the speakers "+
				"--ignore-exclude-label"))
		case !layer2 && m.names().whole:
			messages = append(messages, refuse("unannounced", ref, "no L2Advertisement of the move selects it, so that nobody would announce it once %s has stopped: "+
				"put its address into a pool that %s announces on layer 2, or move by the steps of %s", title, title, m.names().page))
		}
	}
	return messages
}

// whyNot says why Tandem announces a Service on layer 2 from no interface of a Node, "" if it may.
func (m *machine) whyNot(svc, node map[string]any) string {
	all := table(node, "metadata", "labels")
	selected := slices.ContainsFunc(m.Record.documents("L2Advertisement"), func(ad map[string]any) bool {
		return m.announces(ad, svc) && matchesAny(list(ad, "spec", "nodeSelectors"), all)
	})
	switch {
	case node == nil:
		return "it is gone"
	case m.excludes(all):
		return "it is labelled as excluded"
	case !selected:
		return "the nodeSelectors leave it out"
	}
	return ""
}

func refuse(code, object, format string, args ...any) movein.Message {
	return movein.Message{Level: movein.Error, Code: code, Object: object, Text: fmt.Sprintf(format, args...)}
}

func warn(code, object, format string, args ...any) movein.Message {
	return movein.Message{Level: movein.Warn, Code: code, Object: object, Text: fmt.Sprintf(format, args...)}
}

// knowsServiceSelectors reports whether MetalLB's L2Advertisements have serviceSelectors, by the schema of their CRD.
func (o Objects) knowsServiceSelectors() bool {
	crd := o[Ref{"apiextensions.k8s.io", "CustomResourceDefinition", "", "l2advertisements.metallb.io"}]
	return slices.ContainsFunc(items(crd, "spec", "versions"), func(v map[string]any) bool {
		return at(v, "schema", "openAPIV3Schema", "properties", "spec", "properties", "serviceSelectors") != nil
	})
}

// byHand says what to do where there is no product that can be moved from while it serves.
func (s *Snapshot) byHand() (messages []movein.Message) {
	for _, d := range s.Objects.of("apps", "DaemonSet") {
		if strings.HasPrefix(text(d, "metadata", "name"), "svclb-") {
			messages = append(messages, refuse("servicelb", RefOf(d).String(), "ServiceLB of k3s gives Services the addresses of nodes, and those cannot become "+
				"Tandem's, so that there is no move by itself: make a second Service with loadBalancerClass tandem-lb.io/tandem for the same Pods, move DNS to its "+
				"address, and then give all k3s servers --disable=servicelb; docs/moving-in/servicelb.md has each step"))
			break
		}
	}
	for _, svc := range s.Objects.of("", "Service") {
		if len(list(svc, "spec", "externalIPs")) > 0 {
			messages = append(messages, refuse("external-ips", RefOf(svc).String(), "it has externalIPs, which kubectl tandem externalips adopts; "+
				"docs/moving-in/externalips.md has each step"))
			break
		}
	}
	return append(messages, refuse("no-product", "the cluster", "there is none of %s that serves, and no other product can be moved from while it serves; "+
		"the steps by hand are in docs/moving-in.md", strings.Join(Origins(), ", ")))
}

// obstacles says what is in the way of a move beside what the conversion says.
func (s *Snapshot) obstacles(from origin) (messages []movein.Message) {
	our := s.Objects.controllerOfOurs(s.System)
	messages = from.obstacles(s)
	if our == nil {
		messages = append(messages, refuse("no-tandem", "namespace "+s.System, "there is no Deployment of Tandem's controller manager; install Tandem first, or "+
			"give --tandem-namespace"))
	}
	if len(s.Missing) > 0 {
		messages = append(messages, refuse("rights", "the person who moves", "%s", missing(s.Missing)))
	}
	if len(s.Unwatched) > 0 {
		messages = append(messages, warn("watch", "the person who moves", "you may not %s, so that the move lists all of that for each step, which takes long with "+
			"many Services; docs/moving-in.md has a ClusterRole with all that it takes", words(s.Unwatched)))
	}
	for _, o := range append(slices.Clone(from.announcers(s.Objects)), from.allocator(s.Objects), our) {
		if by := manager(o); by != "" {
			messages = append(messages, warn("owned", RefOf(o).String(), "%s manages it, and would start again what the move stops; pause that for the time of "+
				"the move", by))
		}
		for _, pod := range s.Objects.podsOf(o) {
			if node := s.Objects[nodeRef(text(pod, "spec", "nodeName"))]; node != nil && !isTrue(node, "Ready") {
				messages = append(messages, warn("not-ready", RefOf(node).String(), "it is not Ready and has Pod %s, whose end the move may wait for in vain: bring the "+
					"Node back, or delete it", nameOf(pod)))
			}
		}
	}
	return append(messages, s.Objects.otherWriters(from)...)
}

// manager returns the GitOps tool that manages an object, "" for none.
func manager(o map[string]any) string {
	all, notes := table(o, "metadata", "labels"), table(o, "metadata", "annotations")
	switch {
	case o == nil:
		return ""
	case all["kustomize.toolkit.fluxcd.io/name"] != "":
		return fmt.Sprintf("Flux's Kustomization %s/%s", all["kustomize.toolkit.fluxcd.io/namespace"], all["kustomize.toolkit.fluxcd.io/name"])
	case all["helm.toolkit.fluxcd.io/name"] != "":
		return fmt.Sprintf("Flux's HelmRelease %s/%s", all["helm.toolkit.fluxcd.io/namespace"], all["helm.toolkit.fluxcd.io/name"])
	case all["argocd.argoproj.io/instance"] != "":
		return "Argo CD's Application " + all["argocd.argoproj.io/instance"]
	case notes["argocd.argoproj.io/tracking-id"] != "":
		name, _, _ := strings.Cut(notes["argocd.argoproj.io/tracking-id"], ":")
		return "Argo CD's Application " + name
	}
	return ""
}

// otherWriters names other controllers that give addresses to Services without a class.
func (o Objects) otherWriters(from origin) (messages []movein.Message) {
	writers := []string{"metallb/controller", "kube-vip-cloud-provider", "purelb/allocator", "purelb/purelb/allocator", "openelb", "klipper-lb"}
	own := []Ref{RefOf(from.allocator(o))}
	for _, d := range from.announcers(o) {
		own = append(own, RefOf(d))
	}
	for _, other := range origins {
		if w := other.writer(o); w != nil && other.names().key != from.names().key {
			messages = append(messages, refuse("two-writers", RefOf(w).String(), "%s serves Services without a class too; two writers of one status write in turn "+
				"without end. Stop it first", other.names().title))
		}
	}
	for _, workload := range slices.Concat(o.of("apps", "Deployment"), o.of("apps", "StatefulSet"), o.of("apps", "DaemonSet")) {
		stopped := number(workload, "spec", "replicas") == 0 && text(workload, "kind") != "DaemonSet"
		if stopped || slices.Contains(own, RefOf(workload)) {
			continue
		}
		for _, image := range images(workload) {
			if slices.ContainsFunc(writers, func(w string) bool { return strings.Contains(image, w) }) {
				messages = append(messages, refuse("two-writers", RefOf(workload).String(), "%s gives addresses to Services too; two writers of one status write in "+
					"turn without end. Stop it first", image))
			}
		}
	}
	return messages
}

// take puts what a conversion has made into the Record.
func (s *Snapshot) take(r *Record, documents []movein.Document) error {
	r.Patches = map[string]map[string]string{}
	for _, document := range documents {
		data, err := json.Marshal(document.Object)
		if err != nil {
			return err
		}
		o := map[string]any{}
		if err := utiljson.Unmarshal(data, &o); err != nil {
			return err
		}
		switch text(o, "kind") {
		case "Service":
			r.Patches[nameOf(o)] = table(o, "metadata", "annotations")
		case "Secret":
			r.Secrets = append(r.Secrets, text(o, "metadata", "name"))
		default:
			r.Documents = append(r.Documents, o)
		}
	}
	return nil
}

// secret returns the Secret of that name which the conversion makes, nil if it makes none.
func (m *machine) secret(name string) (map[string]any, error) {
	s := m.Snapshot
	result, err := s.convert(m.origin, true)
	if err != nil {
		return nil, err
	}
	for _, document := range result.Documents {
		if document.Object["kind"] == "Secret" && document.Object["metadata"].(map[string]any)["name"] == name {
			data, err := json.Marshal(document.Object)
			o := map[string]any{}
			if err == nil {
				err = utiljson.Unmarshal(data, &o)
			}
			set(o, s.System, "metadata", "namespace")
			return o, err
		}
	}
	return nil, nil
}

// remember puts what the move changes into the Record, as it is now.
func (s *Snapshot) remember(from origin, r *Record) {
	their, our := from.allocator(s.Objects), s.Objects.controllerOfOurs(s.System)
	r.Ours, r.Theirs = RefOf(our), RefOf(their)
	keep := func(o map[string]any, paths ...[]string) {
		if o == nil {
			return
		}
		kept := map[string]any{"apiVersion": o["apiVersion"], "kind": o["kind"], "metadata": map[string]any{"name": text(o, "metadata", "name")}}
		set(kept, at(o, "metadata", "namespace"), "metadata", "namespace")
		for _, path := range paths {
			if value := at(o, path...); value != nil {
				set(kept, runtime.DeepCopyJSONValue(value), path...)
			}
		}
		r.Before = append(r.Before, kept)
	}
	keep(our, []string{"spec", "replicas"})
	keep(their, []string{"spec", "replicas"})
	speakers := from.announcers(s.Objects)
	for _, d := range speakers {
		r.Speakers = append(r.Speakers, RefOf(d))
		keep(d, []string{"spec", "updateStrategy"}, []string{"spec", "template", "spec", "affinity"}, []string{"spec", "template", "spec", "nodeSelector"})
	}
	r.Nodes = map[string][]string{}
	for _, d := range speakers {
		key := RefOf(d).String()
		for _, pod := range s.Objects.podsOf(d) {
			if node := text(pod, "spec", "nodeName"); !slices.Contains(r.Nodes[key], node) {
				r.Nodes[key] = append(r.Nodes[key], node)
			}
		}
	}
	from.remember(s, r, keep)
	for _, svc := range s.Objects.of("", "Service") {
		if text(svc, "spec", "type") == "LoadBalancer" {
			keep(svc, []string{"metadata", "uid"}, []string{"metadata", "annotations"}, []string{"metadata", "finalizers"}, []string{"status"})
		}
	}
	for _, o := range slices.Concat(s.Objects.of(ourGroup, "L2Announcement"), s.Objects.of("networking.k8s.io", "IPAddress")) {
		r.Existed = append(r.Existed, RefOf(o))
	}
}

// webhookOfL2 returns which of some webhooks is MetalLB's for L2Advertisements, -1 if none is.
func webhookOfL2(o map[string]any) int {
	return slices.IndexFunc(items(o, "webhooks"), func(hook map[string]any) bool {
		return text(hook, "name") == "l2advertisementvalidationwebhook.metallb.io"
	})
}

// describe says what happens to each Service and Node.
func (p *Plan) describe(m *machine) {
	units, now := m.units(), m.holders(m.Objects)
	p.Smallest = "Service"
	if m.Record.ByPool {
		p.Smallest = "pool"
	}
	for _, u := range units {
		if u.Whole {
			p.Smallest = "all"
		}
		if u.Node != "" {
			p.Nodes = append(p.Nodes, u.Node)
		}
	}
	for _, svc := range m.Objects.moving() {
		ps := PlanService{Service: nameOf(svc), Addresses: addressesOf(svc), Pools: m.poolsOf(svc), Now: now[nameOf(svc)], Units: []string{}}
		routed := m.by("BGPAdvertisement", svc) && len(p.Nodes) > 0
		for _, u := range units {
			if slices.Contains(u.Services, ps.Service) || u.Node != "" && routed {
				ps.Units = append(ps.Units, u.Name)
			}
		}
		ps.Notices = p.notices(m, &ps, svc, routed)
		p.Services = append(p.Services, ps)
	}
}

// notices says what the traffic of a Service will notice.
func (p *Plan) notices(m *machine, ps *PlanService, svc map[string]any, routed bool) string {
	var parts []string
	nodes, layer2 := len(p.Nodes), m.by("L2Advertisement", svc)
	why := m.whyNot(svc, m.Objects[nodeRef(ps.Now)])
	switch {
	case len(ps.Addresses) == 0:
		return "it has no address"
	case !layer2 && !routed:
		return "nothing that is known announces it: it changes hands and no more"
	}
	switch {
	case layer2 && ps.Now == "":
		parts = append(parts, "layer 2: "+p.From+" does not say which node answers; another one may afterwards, and connections end")
	case layer2 && why != "":
		parts = append(parts, "layer 2: Tandem does not announce from "+ps.Now+" ("+why+"); another node answers, with another MAC, and connections end")
	case layer2 && text(svc, "spec", "externalTrafficPolicy") == "Local":
		parts = append(parts, "layer 2: "+ps.Now+" goes on answering, with the same MAC, if it has an endpoint (externalTrafficPolicy Local)")
	case layer2:
		parts = append(parts, "layer 2: "+ps.Now+" goes on answering, with the same MAC")
	}
	wanders := slices.ContainsFunc(m.Record.Speakers, func(ref Ref) bool { return does(podSpec(m.Objects[ref]), kubeVIPPlane) })
	switch {
	case layer2 && p.Smallest == "all" && wanders:
		parts = append(parts, "until all Pods of "+p.From+" have restarted, other nodes may answer too, with other MACs")
	case layer2 && p.Smallest == "all":
		parts = append(parts, "both answer until "+p.From+" has stopped")
	}
	switch {
	case routed && nodes == 1:
		parts = append(parts, "BGP: there is one node, so that the route is away while its session is opened anew")
	case routed && text(svc, "spec", "externalTrafficPolicy") == "Local":
		parts = append(parts, "BGP: while a node moves the others have the traffic; with endpoints on one node alone the route is away meanwhile")
	case routed:
		parts = append(parts, "BGP: while a node moves the others have the traffic")
	}
	return strings.Join(parts, "; ")
}
