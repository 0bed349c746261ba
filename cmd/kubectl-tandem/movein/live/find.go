// SPDX-License-Identifier: Apache-2.0

package live

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Snapshot is what a cluster is at a moment.
type Snapshot struct {
	Objects Objects
	// System is the namespace of Tandem.
	System string
	// From is the product that was asked for, "" for the one that there is.
	From string
	// Probes are what has been found out of units since the command began, by the unit's name.
	Probes map[string]Outcome
	// Missing are those of its Rights that the person who moves does not have.
	Missing []Right
	// Unwatched are those of its RightsToWatch that the person does not have.
	Unwatched []Right
	// Memory is what earlier Snapshots of the same command have left, nil for none. It changes nothing but how long Next takes.
	Memory *Memory
}

// Outcome is what a probe of a unit has found.
type Outcome struct {
	// Why says why the unit does not answer, "" if it does.
	Why string
}

// images returns the images of the containers of a workload.
func images(o map[string]any) (list []string) {
	for _, c := range items(o, "spec", "template", "spec", "containers") {
		list = append(list, text(c, "image"))
	}
	return list
}

// component returns what a workload of MetalLB is: "controller", "speaker" or "frr-k8s"; "" for one that is not MetalLB's. The manifests of MetalLB
// have the labels app and component, its chart those of app.kubernetes.io.
func component(o map[string]any) string {
	all := table(o, "spec", "template", "metadata", "labels")
	name, part := all["app"]+all["app.kubernetes.io/name"], all["component"]
	if part == "" {
		part = all["app.kubernetes.io/component"]
	}
	metallb := strings.Contains(name, "metallb") || slices.ContainsFunc(images(o), func(i string) bool { return strings.Contains(i, "metallb") })
	frr := strings.Contains(name, "frr-k8s") && !strings.Contains(part, "webhook") && !strings.Contains(part, "statuscleaner")
	switch {
	case frr && text(o, "kind") == "DaemonSet":
		return "frr-k8s"
	case !metallb:
		return ""
	}
	for _, known := range []string{"controller", "speaker"} {
		if part == known || part == "" && slices.ContainsFunc(images(o), func(i string) bool { return strings.Contains(i, known) }) {
			return known
		}
	}
	return ""
}

// controllerOfOurs returns the Deployment of Tandem's controller manager, nil if there is none.
func (o Objects) controllerOfOurs(system string) map[string]any {
	for _, d := range o.of("apps", "Deployment") {
		all := table(d, "metadata", "labels")
		if text(d, "metadata", "namespace") == system && all["app.kubernetes.io/name"] == "tandem" &&
			all["app.kubernetes.io/component"] == "cloud-controller-manager" {
			return d
		}
	}
	return nil
}

// Namespaces returns those whose Pods a Snapshot has: Tandem's, those of the products, and kube-system, which has the Pods that kubelets run from files.
func (o Objects) Namespaces(system string) []string {
	list := []string{system, "kube-system"}
	for _, from := range origins {
		for _, d := range append(slices.Clone(from.announcers(o)), from.allocator(o), o.ciliumOperator()) {
			if namespace := text(d, "metadata", "namespace"); namespace != "" && !slices.Contains(list, namespace) {
				list = append(list, namespace)
			}
		}
	}
	return list
}

// NamespaceOfLeases returns the namespace in which Cilium keeps the Leases of Services, "" if there is no Cilium.
func (o Objects) NamespaceOfLeases() string { return text(o.ciliumOperator(), "metadata", "namespace") }

// SecretsOfTheirs returns the Secrets that MetalLB's BGPPeers refer to.
func (o Objects) SecretsOfTheirs() (refs []Ref) {
	for _, peer := range o.of(theirGroup, "BGPPeer") {
		if name := text(peer, "spec", "passwordSecret", "name"); name != "" {
			namespace := text(peer, "spec", "passwordSecret", "namespace")
			if namespace == "" {
				namespace = text(peer, "metadata", "namespace")
			}
			refs = append(refs, Ref{Kind: "Secret", Namespace: namespace, Name: name})
		}
	}
	return refs
}

// SecretsOfOurs returns the Secrets in Tandem's namespace that a move makes for passwords in MetalLB's BGPPeers. A person may have made one, or an earlier
// move.
func (o Objects) SecretsOfOurs(system string) (refs []Ref) {
	for _, peer := range o.of(theirGroup, "BGPPeer") {
		if text(peer, "spec", "password") != "" {
			refs = append(refs, Ref{Kind: "Secret", Namespace: system, Name: text(peer, "metadata", "name") + "-password"})
		}
	}
	return refs
}

// ownedBy reports whether a Pod is one of a workload's, and has not ended.
func ownedBy(pod, workload map[string]any) bool {
	phase := text(pod, "status", "phase")
	selector := labels.SelectorFromSet(table(workload, "spec", "selector", "matchLabels"))
	return text(pod, "metadata", "namespace") == text(workload, "metadata", "namespace") && phase != "Succeeded" && phase != "Failed" &&
		!selector.Empty() && selector.Matches(labels.Set(table(pod, "metadata", "labels")))
}

// podsOf returns the Pods of a workload, also such as are ending.
func (o Objects) podsOf(workload map[string]any) (pods []map[string]any) {
	for _, pod := range o.of("", "Pod") {
		if ownedBy(pod, workload) {
			pods = append(pods, pod)
		}
	}
	return pods
}

// isTrue reports whether a condition of an object is True.
func isTrue(o map[string]any, condition string) bool {
	return slices.ContainsFunc(items(o, "status", "conditions"), func(c map[string]any) bool {
		return text(c, "type") == condition && text(c, "status") == "True"
	})
}

// matchesAny reports whether any of some label selectors matches. An empty list matches everything.
func matchesAny(list []any, set map[string]string) bool {
	if len(list) == 0 {
		return true
	}
	return slices.ContainsFunc(list, func(value any) bool {
		var s metav1.LabelSelector
		data, err := json.Marshal(value)
		if err == nil {
			err = json.Unmarshal(data, &s)
		}
		if err != nil {
			return false
		}
		selector, err := metav1.LabelSelectorAsSelector(&s)
		return err == nil && selector.Matches(labels.Set(set))
	})
}

// list returns the list at a path.
func list(o map[string]any, path ...string) []any {
	l, _ := at(o, path...).([]any)
	return l
}

// withSwitch returns selectors that also require something of the label of the move: operator is Exists or DoesNotExist, or In, with its values.
func withSwitch(selectors []any, operator string, values ...any) []any {
	if len(selectors) == 0 {
		selectors = []any{map[string]any{}}
	}
	var narrowed []any
	for _, value := range selectors {
		s, _ := value.(map[string]any)
		s = clone(map[string]any{"s": s})["s"].(map[string]any)
		requirements, _ := s["matchExpressions"].([]any)
		requirement := map[string]any{"key": label, "operator": operator}
		if len(values) > 0 {
			requirement["values"] = slices.Clone(values)
		}
		s["matchExpressions"] = append(slices.Clone(requirements), requirement)
		narrowed = append(narrowed, s)
	}
	return narrowed
}

// hasSwitch reports whether a selector requires something of the label of the move.
func hasSwitch(selector any) bool {
	s, _ := selector.(map[string]any)
	return slices.ContainsFunc(items(s, "matchExpressions"), func(r map[string]any) bool { return text(r, "key") == label })
}

// withoutSwitch returns selectors without what withSwitch has added.
func withoutSwitch(selectors []any) []any {
	var wide []any
	for _, value := range selectors {
		s, _ := value.(map[string]any)
		s = clone(map[string]any{"s": s})["s"].(map[string]any)
		var rest []any
		for _, requirement := range list(s, "matchExpressions") {
			if r, ok := requirement.(map[string]any); !ok || text(r, "key") != label {
				rest = append(rest, requirement)
			}
		}
		set(s, rest, "matchExpressions")
		if len(s) == 0 {
			return nil // One that matches everything: the others say no more.
		}
		wide = append(wide, s)
	}
	return wide
}

// poolSet returns the addresses of an AddressPool, or of an IPAddressPool of MetalLB.
func poolSet(o map[string]any) *netipx.IPSet {
	var b netipx.IPSetBuilder
	ranges := append(texts(o, "spec", "ipv4", "ranges"), texts(o, "spec", "ipv6", "ranges")...)
	for _, text := range append(ranges, texts(o, "spec", "addresses")...) {
		text = strings.ReplaceAll(text, " ", "")
		if p, err := netip.ParsePrefix(text); err == nil {
			b.AddPrefix(p.Masked())
		} else if r, err := netipx.ParseIPRange(text); err == nil {
			b.AddRange(r)
		} else if a, err := netip.ParseAddr(text); err == nil {
			b.Add(a)
		}
	}
	set, err := b.IPSet()
	if err != nil {
		return &netipx.IPSet{}
	}
	return set
}

// addressesOf returns the addresses that a Service shows.
func addressesOf(service map[string]any) (list []netip.Addr) {
	for _, ingress := range items(service, "status", "loadBalancer", "ingress") {
		if a, err := netip.ParseAddr(text(ingress, "ip")); err == nil {
			list = append(list, a.Unmap())
		}
	}
	return list
}

func sameAddresses(a, b []netip.Addr) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Addr.Compare)
	slices.SortFunc(b, netip.Addr.Compare)
	return slices.Equal(a, b)
}

func joined(list []netip.Addr) string {
	var texts []string
	for _, a := range list {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ", ")
}

// moving returns the Services that a move is about: load balancers without a class. One that is being deleted is none: nobody gives or claims an address
// for it any more, however long another controller's finalizer keeps it.
func (o Objects) moving() (list []map[string]any) {
	for _, svc := range o.of("", "Service") {
		if text(svc, "spec", "type") == "LoadBalancer" && text(svc, "spec", "loadBalancerClass") == "" && text(svc, "metadata", "deletionTimestamp") == "" {
			list = append(list, svc)
		}
	}
	return list
}

// nameOf returns a Service's name with its namespace.
func nameOf(o map[string]any) string {
	return fmt.Sprintf("%s/%s", text(o, "metadata", "namespace"), text(o, "metadata", "name"))
}
