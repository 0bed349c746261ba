// SPDX-License-Identifier: Apache-2.0

package live

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

const (
	label = v1alpha1.LabelMoveIn

	// Values of the label: of an object that the move has made, and of a Service or Node that is on its way, or has moved.
	made, moving, moved = "made", "moving", "moved"
)

// Plan is what a move would do, as people and programs read it.
type Plan struct {
	// Smallest is the smallest unit on layer 2: "Service" or "pool".
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
	// Now is the node that MetalLB announces it from on layer 2, "" if that is not known.
	Now string `json:"now,omitempty"`
	// Notices is what its traffic will notice.
	Notices string `json:"notices"`
}

// input returns what [movein.Convert] reads.
func (s *Snapshot) input() (movein.Input, error) {
	var all []any
	for _, ref := range s.Objects.SecretsOfTheirs() {
		if secret := s.Objects[ref]; secret != nil {
			all = append(all, secret)
		}
	}
	for _, kind := range []string{"IPAddressPool", "L2Advertisement", "BGPAdvertisement", "BGPPeer", "BFDProfile", "Community", "MetalLB"} {
		for _, o := range s.Objects.of(theirGroup, kind) {
			all = append(all, o)
		}
	}
	for _, o := range slices.Concat(s.Objects.of("", "Service"), s.Objects.of("", "Node"), s.Objects.speakersOfTheirs()) {
		if kind := text(o, "kind"); kind != "Service" || text(o, "spec", "type") == "LoadBalancer" {
			all = append(all, o)
		}
	}
	data, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": all})
	return movein.Input{Name: "cluster", Data: data}, err
}

// convert returns Tandem's objects for MetalLB's.
func (s *Snapshot) convert(keepInUse bool) (movein.Result, error) {
	input, err := s.input()
	if err != nil {
		return movein.Result{}, err
	}
	return movein.Convert([]movein.Input{input}, movein.Options{From: "metallb", Live: true, KeepInUse: keepInUse}), nil
}

// MakePlan plans a move that has not begun.
func MakePlan(s *Snapshot, keepInUse bool) (*Plan, error) {
	result, err := s.convert(keepInUse)
	if err != nil {
		return nil, err
	}
	p := &Plan{Smallest: "Service", Messages: append(s.obstacles(), result.Messages...), Services: []PlanService{}, Objects: []string{}}
	record := &Record{ByPool: !s.Objects.knowsServiceSelectors() && len(s.Objects.of(theirGroup, "L2Advertisement")) > 0}
	if record.ByPool {
		p.Smallest = "pool"
	}
	if err := s.take(record, result.Documents); err != nil {
		return nil, err
	}
	for _, doc := range record.Documents {
		p.Objects = append(p.Objects, RefOf(doc).String())
		if ref := RefOf(doc); s.Objects[ref] != nil {
			p.Messages = append(p.Messages, refuse("exists", ref.String(), "exists already; rename or delete it, since the move would have to change it"))
		}
	}
	slices.SortStableFunc(p.Messages, func(a, b movein.Message) int { return int(a.Level) - int(b.Level) })
	p.Refused = slices.ContainsFunc(p.Messages, func(m movein.Message) bool { return m.Level == movein.Error })
	if !p.Refused {
		p.Record = record
		s.remember(record)
	}
	p.describe(&machine{Snapshot: s, Record: record})
	return p, nil
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

// obstacles says what is in the way of a move beside what the conversion says.
func (s *Snapshot) obstacles() (messages []movein.Message) {
	their, our := s.Objects.controllerOfTheirs(), s.Objects.controllerOfOurs(s.System)
	if their == nil {
		messages = append(messages, refuse("no-metallb", "the cluster", "there is no Deployment of MetalLB's controller; only a MetalLB that runs can be moved. "+
			"For another product, or MetalLB before 0.13, see the steps of its page"))
	}
	if len(s.Objects.speakersOfTheirs()) == 0 {
		messages = append(messages, refuse("no-metallb", "the cluster", "there is no DaemonSet of MetalLB's speakers"))
	}
	if our == nil {
		messages = append(messages, refuse("no-tandem", "namespace "+s.System, "there is no Deployment of Tandem's controller manager; install Tandem first, or "+
			"give --tandem-namespace"))
	}
	if operators := s.Objects.of(theirGroup, "MetalLB"); len(operators) > 0 {
		messages = append(messages, warn("owned", RefOf(operators[0]).String(), "MetalLB's operator would start again what the move stops; scale the operator to "+
			"no replica first"))
	}
	for _, o := range append(s.Objects.speakersOfTheirs(), their) {
		if by := manager(o); by != "" {
			messages = append(messages, warn("owned", RefOf(o).String(), "%s manages it, and would start again what the move stops; pause that for the time of "+
				"the move", by))
		}
	}
	return append(messages, s.Objects.otherWriters()...)
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
func (o Objects) otherWriters() (messages []movein.Message) {
	writers := []string{"kube-vip-cloud-provider", "purelb/allocator", "purelb/purelb/allocator", "openelb", "klipper-lb"}
	for _, workload := range slices.Concat(o.of("apps", "Deployment"), o.of("apps", "DaemonSet")) {
		if component(workload) != "" || number(workload, "spec", "replicas") == 0 && text(workload, "kind") == "Deployment" {
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
func (s *Snapshot) secret(name string) (map[string]any, error) {
	result, err := s.convert(true)
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
func (s *Snapshot) remember(r *Record) {
	their, our := s.Objects.controllerOfTheirs(), s.Objects.controllerOfOurs(s.System)
	r.Ours, r.Theirs = RefOf(our), RefOf(their)
	keep := func(o map[string]any, paths ...[]string) {
		kept := map[string]any{"apiVersion": o["apiVersion"], "kind": o["kind"], "metadata": map[string]any{"name": text(o, "metadata", "name")}}
		set(kept, at(o, "metadata", "namespace"), "metadata", "namespace")
		for _, path := range paths {
			if value := at(o, path...); value != nil {
				set(kept, clone(map[string]any{"v": value})["v"], path...)
			}
		}
		r.Before = append(r.Before, kept)
	}
	keep(our, []string{"spec", "replicas"})
	keep(their, []string{"spec", "replicas"})
	for _, d := range s.Objects.speakersOfTheirs() {
		r.Speakers = append(r.Speakers, RefOf(d))
		keep(d, []string{"spec", "updateStrategy"}, []string{"spec", "template", "spec", "affinity"}, []string{"spec", "template", "spec", "nodeSelector"})
	}
	for _, pod := range s.Objects.of("", "Pod") {
		for _, d := range s.Objects.speakersOfTheirs() {
			if node := text(pod, "spec", "nodeName"); ownedBy(pod, d) && !slices.Contains(r.Nodes, node) {
				r.Nodes = append(r.Nodes, node)
			}
		}
	}
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
	units, now := m.units(), m.Objects.announcers()
	for _, u := range units {
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
		ps.Notices = notices(&ps, svc, m.by("L2Advertisement", svc), routed, len(p.Nodes))
		p.Services = append(p.Services, ps)
	}
}

// notices says what the traffic of a Service will notice.
func notices(ps *PlanService, svc map[string]any, layer2, routed bool, nodes int) string {
	var parts []string
	switch {
	case len(ps.Addresses) == 0:
		return "it has no address"
	case !layer2 && !routed:
		return "nothing that is known announces it: it changes hands and no more"
	}
	if layer2 && ps.Now != "" {
		parts = append(parts, "layer 2: "+ps.Now+" goes on answering, with the same MAC")
	} else if layer2 {
		parts = append(parts, "layer 2: MetalLB does not say which node answers; another one may afterwards, and connections end")
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
