// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"slices"
	"strings"
)

// Right is what a person may do to a resource, or may not.
type Right struct {
	Verb, Group, Resource, Subresource string
	// Namespace is the namespace in which that is done, "" for all, and for resources that have none.
	Namespace string
}

// String returns the right in words, as "patch services/status" or "delete configmaps in tandem-system".
func (r Right) String() string {
	name := r.Resource
	if r.Group != "" {
		name += "." + r.Group
	}
	if r.Subresource != "" {
		name += "/" + r.Subresource
	}
	if r.Namespace != "" {
		name += " in " + r.Namespace
	}
	return r.Verb + " " + name
}

// rightsTo returns the rights to do several things to a resource.
func rightsTo(group, resource, namespace string, verbs ...string) (list []Right) {
	for _, verb := range verbs {
		list = append(list, Right{Verb: verb, Group: group, Resource: resource, Namespace: namespace})
	}
	return list
}

// Rights returns those that a move of this cluster needs beside reading, with its undo and its end. A move that lacks one would stop halfway.
func (s *Snapshot) Rights() []Right {
	list := slices.Concat(
		[]Right{{Verb: "patch", Resource: "services"}, {Verb: "patch", Resource: "services", Subresource: "status"}},
		rightsTo("", "configmaps", s.System, "create", "patch", "delete"),
		rightsTo("coordination.k8s.io", "leases", s.System, "get", "create", "update", "delete"),
		rightsTo("apps", "deployments", s.System, "patch"),
		rightsTo("networking.k8s.io", "ipaddresses", "", "delete"),
	)
	for _, k := range Kinds {
		if k.Group == ourGroup {
			list = append(list, rightsTo(k.Group, k.Resource, "", "create", "patch", "delete")...)
		}
	}
	from, err := s.origin()
	if err != nil || from == nil {
		return list
	}
	for _, o := range append(slices.Clone(from.announcers(s.Objects)), from.allocator(s.Objects)) {
		if kind := text(o, "kind"); kind != "" {
			list = append(list, rightsTo("apps", strings.ToLower(kind)+"s", text(o, "metadata", "namespace"), "patch")...)
		}
	}
	list = append(list, from.rights(s)...)
	var unique []Right
	for _, r := range list {
		if !slices.Contains(unique, r) {
			unique = append(unique, r)
		}
	}
	return unique
}

// RightsToWatch returns those by which a move follows the kinds that the cluster has, in place of listing all for each step. Without one of them it takes
// longer, and does the same.
func (s *Snapshot) RightsToWatch() []Right {
	there := map[string]bool{}
	for ref := range s.Objects {
		there[ref.Group+"/"+ref.Kind] = true
	}
	list := slices.Concat(rightsTo("", "configmaps", s.System, "watch"), rightsTo("", "secrets", s.System, "watch"))
	for _, k := range Kinds {
		right := Right{Verb: "watch", Group: k.Group, Resource: k.Resource}
		if (!k.Optional || there[k.Group+"/"+k.Kind]) && !slices.Contains(list, right) {
			list = append(list, right)
		}
	}
	for _, namespace := range s.Objects.Namespaces(s.System) {
		list = append(list, rightsTo("", "pods", namespace, "watch")...)
	}
	if namespace := s.Objects.NamespaceOfLeases(); namespace != "" {
		list = append(list, rightsTo("coordination.k8s.io", "leases", namespace, "watch")...)
	}
	return list
}

func (deployed) rights(*Snapshot) []Right { return nil }

func (metalLB) rights(s *Snapshot) (list []Right) {
	for _, ad := range s.Objects.of(theirGroup, "L2Advertisement") {
		list = append(list, rightsTo(theirGroup, "l2advertisements", text(ad, "metadata", "namespace"), "create", "patch", "delete")...)
	}
	if len(list) > 0 && !s.Objects.knowsServiceSelectors() {
		list = append(list, rightsTo("admissionregistration.k8s.io", "validatingwebhookconfigurations", "", "patch")...)
	}
	if len(s.Objects.of(theirGroup, "BGPPeer")) > 0 {
		list = append(list, rightsTo("", "nodes", "", "patch")...)
	}
	if len(s.Objects.SecretsOfTheirs())+len(s.Objects.SecretsOfOurs(s.System)) > 0 {
		list = append(list, rightsTo("", "secrets", s.System, "create", "patch", "delete")...)
	}
	return list
}

func (cilium) rights(s *Snapshot) []Right {
	namespace := text(s.Objects.ciliumOperator(), "metadata", "namespace")
	return slices.Concat(rightsTo("", "configmaps", namespace, "patch"), rightsTo("apps", "deployments", namespace, "patch"),
		rightsTo(ciliumGroup, "ciliuml2announcementpolicies", "", "create", "patch"))
}

// words lists rights in a sentence.
func words(list []Right) string {
	var words []string
	for _, r := range list {
		words = append(words, r.String())
	}
	return strings.Join(words, ", ")
}

// missing says which rights a person lacks, and what to do.
func missing(list []Right) string {
	return fmt.Sprintf("you may not %s, and the move would stop halfway; docs/moving-in.md has a ClusterRole with all that it takes", words(list))
}

// allowed stops a command that would stop halfway for want of rights.
func (s *Snapshot) allowed() Action {
	if len(s.Missing) == 0 {
		return Action{}
	}
	return stop("nothing is written: %s", missing(s.Missing))
}
