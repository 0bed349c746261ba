// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// cilium is Cilium since 1.17, with LB IPAM and layer 2 policies. The policies select Services by labels, so that a Service is the smallest unit. Its BGP
// stays: Cilium announces the addresses of Services without a class whoever has given them, and its sessions may carry more than these.
//
// What gives addresses is a part of its operator, which does other work too. So it is not stopped, but told by a setting to give none to Services without
// a class, and restarted to read that.
type cilium struct{}

const (
	ciliumGroup = "cilium.io"
	// ciliumIPAM is the key of Cilium's ConfigMap that says what gives addresses to Services without a class, and ciliumNoIPAM that nothing does.
	ciliumIPAM, ciliumNoIPAM = "default-lb-service-ipam", "none"
)

func (cilium) names() names {
	return names{
		key: "cilium", title: "Cilium", allocator: "Cilium's operator", speakers: "Cilium's agents", page: "docs/moving-in/cilium.md",
	}
}

func (cilium) found(o Objects) bool {
	return len(o.of(ciliumGroup, "CiliumLoadBalancerIPPool")) > 0 && text(o.ciliumConfig(), "data", ciliumIPAM) != ciliumNoIPAM
}

// ciliumConfig returns Cilium's ConfigMap, that of the operator's namespace, nil if there is none.
func (o Objects) ciliumConfig() map[string]any {
	namespace := text(o.ciliumOperator(), "metadata", "namespace")
	for _, m := range o.of("", "ConfigMap") {
		if text(m, "metadata", "name") == "cilium-config" && (namespace == "" || namespace == text(m, "metadata", "namespace")) {
			return m
		}
	}
	return nil
}

// allocator returns nil, since the operator is restarted and not stopped.
func (cilium) allocator(Objects) map[string]any { return nil }

func (cilium) own(*machine, map[string]any) {}

func (cilium) classes(Objects) []string {
	return []string{"io.cilium/l2-announcer", "io.cilium/bgp-control-plane"}
}

// writer: LB IPAM gives addresses of a pool that has no serviceSelector to all Services without a class.
func (p cilium) writer(o Objects) map[string]any {
	for _, pool := range o.of(ciliumGroup, "CiliumLoadBalancerIPPool") {
		if p.found(o) && at(pool, "spec", "serviceSelector") == nil && at(pool, "spec", "disabled") != true {
			return pool
		}
	}
	return nil
}

func (cilium) after(*Record) string {
	return "keep Cilium, the pod network, and write defaultLBServiceIPAM: none into its values; then delete its CiliumLoadBalancerIPPools, and those " +
		"CiliumL2AnnouncementPolicies that announce nothing else"
}

// announcers returns none, since the agents stay.
func (cilium) announcers(Objects) []map[string]any { return nil }

// ciliumOperator returns the Deployment of Cilium's operator, nil if there is none.
func (o Objects) ciliumOperator() map[string]any {
	for _, d := range o.of("apps", "Deployment") {
		if slices.ContainsFunc(images(d), func(i string) bool { return strings.Contains(i, "cilium/operator") }) {
			return d
		}
	}
	return nil
}

func (cilium) configuration(s *Snapshot) []map[string]any {
	return append(s.Objects.of(ciliumGroup, "CiliumLoadBalancerIPPool"), s.Objects.of(ciliumGroup, "CiliumL2AnnouncementPolicy")...)
}

func (p cilium) obstacles(s *Snapshot) (messages []movein.Message) {
	operator, config := s.Objects.ciliumOperator(), s.Objects.ciliumConfig()
	if operator == nil || config == nil {
		return append(messages, refuse("no-cilium", "the cluster", "there is no Deployment of Cilium's operator, or no ConfigMap cilium-config"))
	}
	if by := manager(operator); by != "" {
		messages = append(messages, warn("owned", RefOf(operator).String(), "%s manages it, and would start again what the move stops; pause that for the time of "+
			"the move, and write defaultLBServiceIPAM: none into its values", by))
	}
	if text(config, "data", ciliumIPAM) == "nodeipam" {
		messages = append(messages, refuse("node-ipam", RefOf(config).String(), "Services without a class have the addresses of nodes, and those cannot become Tandem's: "+
			"make second Services with the class %s, and move DNS to their addresses", v1alpha1.LoadBalancerClass))
	}
	switch major, minor, known := versionOf(images(operator)); {
	case !known:
		messages = append(messages, warn("version", RefOf(operator).String(), "its image says no version; the move needs Cilium 1.17 or later"))
	case major == 1 && minor < 17:
		messages = append(messages, refuse("version", RefOf(operator).String(), "Cilium before 1.17 has no setting by which it gives no addresses and leaves "+
			"statuses alone: update it, or move by the steps of %s", p.names().page))
	}
	for _, policy := range s.Objects.of(ciliumGroup, "CiliumL2AnnouncementPolicy") {
		i := slices.IndexFunc(s.Objects.moving(), func(svc map[string]any) bool { return len(list(svc, "spec", "externalIPs")) > 0 })
		if at(policy, "spec", "externalIPs") == true && i >= 0 {
			messages = append(messages, refuse("external-ips", RefOf(policy).String(), "it announces externalIPs too, and Service %s has some, which nobody would "+
				"announce when the Service moves: kubectl tandem externalips adopts those", nameOf(s.Objects.moving()[i])))
		}
	}
	for _, kind := range []string{"CiliumBGPClusterConfig", "CiliumBGPPeeringPolicy"} {
		for _, o := range s.Objects.of(ciliumGroup, kind) {
			messages = append(messages, warn("bgp-stays", RefOf(o).String(), "Cilium's sessions stay, and announce the addresses that Tandem gives to Services without "+
				"a class; to have Tandem announce them, see %s", p.names().page))
		}
	}
	return messages
}

// versionOf returns the version of the first image that has one, such as quay.io/cilium/operator-generic:v1.18.2@sha256:….
func versionOf(images []string) (major, minor int, known bool) {
	for _, image := range images {
		image, _, _ = strings.Cut(image, "@")
		_, tag, _ := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
		parts := strings.SplitN(strings.TrimPrefix(tag, "v"), ".", 3)
		if len(parts) < 2 {
			continue
		}
		a, errA := strconv.Atoi(parts[0])
		b, errB := strconv.Atoi(parts[1])
		if errA == nil && errB == nil {
			return a, b, true
		}
	}
	return 0, 0, false
}

func (cilium) remember(s *Snapshot, _ *Record, keep keeper) {
	keep(s.Objects.ciliumConfig(), []string{"data", ciliumIPAM})
	keep(s.Objects.ciliumOperator(), []string{"spec", "template", "metadata", "annotations"})
	for _, o := range s.Objects.of(ciliumGroup, "CiliumL2AnnouncementPolicy") {
		keep(o, []string{"spec"})
	}
}

// holders: the lease of a Service says which node has it. A Service a/b-c and one a-b/c have leases of one name; then neither is believed.
func (cilium) holders(o Objects) map[string]string {
	lease := func(svc map[string]any) string {
		return "cilium-l2announce-" + text(svc, "metadata", "namespace") + "-" + text(svc, "metadata", "name")
	}
	claims := map[string]int{}
	for _, svc := range o.of("", "Service") {
		claims[lease(svc)]++
	}
	holders := map[string]string{}
	for _, l := range o.of("coordination.k8s.io", "Lease") {
		holders[text(l, "metadata", "name")] = text(l, "spec", "holderIdentity")
	}
	nodes := map[string]string{}
	for _, svc := range o.moving() {
		if claims[lease(svc)] == 1 {
			nodes[nameOf(svc)] = holders[lease(svc)]
		}
	}
	return nodes
}

// narrow leaves Services with the label out of the policies. It changes nothing of what is announced.
func (cilium) narrow(m *machine) Action {
	for _, ref := range m.Record.refsBefore(ciliumGroup, "CiliumL2AnnouncementPolicy") {
		before, _ := at(m.Record.before(ref), "spec", "serviceSelector").(map[string]any)
		var selectors []any
		if before != nil {
			selectors = []any{before}
		}
		if a := m.change(ref, "leave Services with the label out of "+ref.String(), func(o map[string]any) {
			set(o, withSwitch(selectors, "DoesNotExist")[0], "spec", "serviceSelector")
		}); !a.Done() {
			return a
		}
	}
	return Action{}
}

func (cilium) widen(m *machine) Action {
	for _, ref := range m.Record.refsBefore(ciliumGroup, "CiliumL2AnnouncementPolicy") {
		before := m.Record.before(ref)
		if a := m.change(ref, "write "+ref.String()+" as it was", func(o map[string]any) {
			for _, field := range []string{"serviceSelector", "loadBalancerIPs"} {
				spec, _ := o["spec"].(map[string]any)
				if value := at(before, "spec", field); value != nil && spec != nil {
					spec[field] = runtime.DeepCopyJSONValue(value)
				} else {
					delete(spec, field)
				}
			}
		}); !a.Done() {
			return a
		}
	}
	return Action{}
}

func (cilium) stop(m *machine) Action {
	return m.ciliumIPAM(ciliumNoIPAM, "stopped", "have Cilium give no addresses to Services without a class")
}

// ciliumIPAM writes the setting, and restarts the operator, which reads it at its start alone: its Pods get an annotation with a value, or none for "".
func (m *machine) ciliumIPAM(value any, mark, why string) Action {
	config, operator := m.Objects.ciliumConfig(), m.Objects.ciliumOperator()
	return first(func() Action {
		return m.change(RefOf(config), why, func(o map[string]any) { set(o, value, "data", ciliumIPAM) })
	}, func() Action {
		return m.change(RefOf(operator), "restart Cilium's operator, which reads this when it starts", func(o map[string]any) {
			path := []string{"spec", "template", "metadata", "annotations"}
			var annotation any
			if mark != "" {
				annotation = mark
			}
			set(o, annotation, append(slices.Clone(path), label)...)
			if mark == "" {
				set(o, at(o, path...), path...) // An empty mapping goes.
			}
		})
	}, func() Action {
		// One Pod that is ready is enough: of two replicas on a single node one is never scheduled.
		ready := number(operator, "spec", "replicas") == 0
		for _, pod := range m.Objects.podsOf(operator) {
			if text(pod, "metadata", "annotations", label) != mark {
				return Action{Wait: fmt.Sprintf("Cilium's operator to restart on Node %s%s", text(pod, "spec", "nodeName"), m.ifLost(pod))}
			}
			ready = ready || isTrue(pod, "Ready")
		}
		if !ready {
			return Action{Wait: "Cilium's operator"}
		}
		return Action{}
	})
}

func (cilium) stopped(m *machine) Action {
	if config := m.Objects.ciliumConfig(); text(config, "data", ciliumIPAM) != ciliumNoIPAM {
		return stop("%s says %s: %q again, and Cilium writes over what Tandem writes: pause what has written it (Flux, Argo CD, Helm), and set it to %q; "+
			"or go back by kubectl tandem move-in undo", RefOf(config), ciliumIPAM, text(config, "data", ciliumIPAM), ciliumNoIPAM)
	}
	for _, policy := range m.Objects.of(ciliumGroup, "CiliumL2AnnouncementPolicy") {
		if at(policy, "spec", "loadBalancerIPs") == true && !hasSwitch(at(policy, "spec", "serviceSelector")) {
			return stop("%s has been written back, so that Cilium announces what has moved, too: pause what has done it (Flux, Argo CD, Helm), and go back by "+
				"kubectl tandem move-in undo", RefOf(policy))
		}
	}
	return Action{}
}

func (cilium) start(m *machine) Action {
	before := at(m.Record.before(RefOf(m.Objects.ciliumConfig())), "data", ciliumIPAM)
	return m.ciliumIPAM(before, "", "have Cilium give addresses again")
}

func (cilium) units(_ *machine, services []map[string]any) []*Unit { return sharingUnits(services) }

func (cilium) silence(*machine, *Unit) Action { return Action{} }

func (cilium) speak(*machine, *Unit) Action { return Action{} }

// end has the policies announce nothing: without the label they would select the Services again.
func (cilium) end(m *machine) Action {
	for _, ref := range m.Record.refsBefore(ciliumGroup, "CiliumL2AnnouncementPolicy") {
		if a := m.change(ref, "have "+ref.String()+" announce no load balancer addresses", func(o map[string]any) {
			set(o, false, "spec", "loadBalancerIPs")
		}); !a.Done() {
			return a
		}
	}
	return Action{}
}

func (cilium) tidy(map[string]any) {}
