// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// kubeVIP is kube-vip with a DaemonSet that announces Services by ARP. It serves all Services or none. Where it holds the address of the API server too,
// its Pods restart one after the other without their Service part, else they go from all nodes at once.
//
// A Service whose status somebody writes without ports loses its address in kube-vip. Tandem leaves a status alone that shows its addresses, so that it
// adopts while kube-vip goes on.
type kubeVIP struct{ whole }

const (
	kubeVIPServices  = "svc_enable"
	kubeVIPPlane     = "cp_enable"
	kubeVIPARP       = "vip_arp"
	kubeVIPBGP       = "bgp_enable"
	kubeVIPPreserve  = "vip_preserve_on_leadership_loss"
	kubeVIPNoStatus  = "disable_service_updates"
	kubeVIPClassOnly = "lb_class_only"
	kubeVIPClass     = "lb_class_name"
	kubeVIPFile      = "config_file"
)

func (kubeVIP) names() names {
	return names{
		key: "kube-vip", title: "kube-vip", allocator: "kube-vip's cloud provider", speakers: "kube-vip", page: "docs/moving-in/kube-vip.md",
		mark: "kube-vip.io/vipHost", whole: true,
	}
}

// arguments are the flags of kube-vip that say the same as a variable.
var arguments = map[string]string{
	kubeVIPServices: "--services", kubeVIPPlane: "--controlplane", kubeVIPARP: "--arp", kubeVIPBGP: "--bgp", kubeVIPPreserve: "--preserveVipOnLeadershipLoss",
	kubeVIPNoStatus: "--disableServiceUpdates", kubeVIPClassOnly: "--lbClassOnly", kubeVIPFile: "--config-file",
}

// kubeVIPContainer returns the container of kube-vip in the spec of a Pod, nil if it has none.
func kubeVIPContainer(spec map[string]any) map[string]any {
	for _, c := range items(spec, "containers") {
		if image := text(c, "image"); strings.Contains(image, "kube-vip") && !strings.Contains(image, "cloud-provider") {
			return c
		}
	}
	return nil
}

// does reports whether a variable of kube-vip's is true in the spec of a Pod. Variables win over arguments.
func does(spec map[string]any, variable string) bool {
	c := kubeVIPContainer(spec)
	if value := variableOf(c, variable); value != "" {
		yes, _ := strconv.ParseBool(strings.TrimSpace(value))
		return yes
	}
	return slices.ContainsFunc(append(texts(c, "args"), texts(c, "command")...), func(arg string) bool {
		name, value, given := strings.Cut(arg, "=")
		yes, _ := strconv.ParseBool(value)
		return name == arguments[variable] && (!given || yes)
	})
}

// settingsElsewhere says where settings of kube-vip are that the spec of its Pods does not show, "" if it shows them all: what it does is not known then.
// For example, envFrom may have svc_enable or cp_enable.
func settingsElsewhere(spec map[string]any) string {
	c := kubeVIPContainer(spec)
	file := slices.ContainsFunc(append(texts(c, "args"), texts(c, "command")...), func(arg string) bool {
		name, _, _ := strings.Cut(arg, "=")
		return name == arguments[kubeVIPFile]
	})
	switch {
	case file || variableOf(c, kubeVIPFile) != "":
		return "a file of settings"
	case len(list(c, "envFrom")) > 0:
		return "envFrom"
	}
	for _, v := range items(c, "env") {
		if arguments[text(v, "name")] != "" && at(v, "valueFrom") != nil {
			return "the source of variable " + text(v, "name")
		}
	}
	return ""
}

// variableOf returns the value of a variable of a container, "" if it has none.
func variableOf(container map[string]any, name string) string {
	for _, v := range items(container, "env") {
		if text(v, "name") == name {
			return text(v, "value")
		}
	}
	return ""
}

// podSpec returns the spec of the Pods of a workload.
func podSpec(workload map[string]any) map[string]any {
	spec, _ := at(workload, "spec", "template", "spec").(map[string]any)
	return spec
}

func (p kubeVIP) found(o Objects) bool {
	return slices.ContainsFunc(p.announcers(o), func(d map[string]any) bool {
		return does(podSpec(d), kubeVIPServices) && text(d, "spec", "template", "spec", "nodeSelector", label) == ""
	}) || len(o.staticKubeVIP()) > 0
}

func (kubeVIP) allocator(o Objects) map[string]any {
	for _, d := range append(o.of("apps", "Deployment"), o.of("apps", "StatefulSet")...) { // A StatefulSet in older manifests.
		if slices.ContainsFunc(images(d), func(i string) bool { return strings.Contains(i, "kube-vip-cloud-provider") }) {
			return d
		}
	}
	return nil
}

func (kubeVIP) announcers(o Objects) (list []map[string]any) {
	for _, d := range o.of("apps", "DaemonSet") {
		if kubeVIPContainer(podSpec(d)) != nil {
			list = append(list, d)
		}
	}
	return list
}

// staticKubeVIP returns the Pods of kube-vip that kubelets run from files, and that serve Services.
func (o Objects) staticKubeVIP() (pods []map[string]any) {
	for _, pod := range o.of("", "Pod") {
		spec, _ := at(pod, "spec").(map[string]any)
		if at(pod, "metadata", "annotations", "kubernetes.io/config.mirror") != nil && does(spec, kubeVIPServices) {
			pods = append(pods, pod)
		}
	}
	return pods
}

func (kubeVIP) configuration(s *Snapshot) (all []map[string]any) {
	for _, o := range s.Objects.of("", "ConfigMap") {
		if text(o, "metadata", "name") == "kubevip" {
			all = append(all, o)
		}
	}
	return all
}

func (p kubeVIP) obstacles(s *Snapshot) (messages []movein.Message) {
	for _, pod := range s.Objects.staticKubeVIP() {
		messages = append(messages, refuse("static-pod", RefOf(pod).String(), "the kubelet of Node %s runs it from a file, which no API changes: set svc_enable to "+
			`"false" in /etc/kubernetes/manifests there, by the steps of %s`, text(pod, "spec", "nodeName"), p.names().page))
	}
	serving := 0
	for _, d := range p.announcers(s.Objects) {
		ref, spec := RefOf(d).String(), podSpec(d)
		elsewhere := settingsElsewhere(spec)
		if !does(spec, kubeVIPServices) && elsewhere == "" {
			continue
		}
		serving++
		plane := does(spec, kubeVIPPlane)
		switch {
		case elsewhere != "":
			messages = append(messages, refuse("settings", ref, "nobody can tell from it what it does, since settings are in %s: write svc_enable, cp_enable, vip_arp "+
				"and what else it has as values into its env", elsewhere))
		case does(spec, kubeVIPBGP):
			messages = append(messages, refuse("bgp", ref, "a router takes one session from an address, so that Tandem's sessions and kube-vip's cannot both be up, "+
				"and kube-vip cannot be stopped for a Service: move node by node, by the steps of %s", p.names().page))
		case !does(spec, kubeVIPARP):
			messages = append(messages, refuse("mode", ref, "it announces neither by ARP nor by BGP, and Tandem has no equal for its mode: the steps are in %s",
				p.names().page))
		case does(spec, kubeVIPPreserve):
			messages = append(messages, refuse("preserve", ref, "it leaves IPv4 addresses on the interfaces of nodes that have lost or given them up, and those answer "+
				"for good: set %s to \"false\", wait until all Pods have restarted, and see that each address is on one node", kubeVIPPreserve))
		case does(spec, kubeVIPNoStatus):
			messages = append(messages, refuse("no-status", ref, "it writes no statuses, so that nobody can tell which addresses it serves: set %s to \"false\" first",
				kubeVIPNoStatus))
		case p.classOnly(spec):
			messages = append(messages, refuse("class", ref, "it serves Services of a class alone, and the class of a Service cannot be changed: make them anew for "+
				"Tandem, one after the other"))
		case plane && text(d, "spec", "updateStrategy", "type") == "OnDelete":
			messages = append(messages, refuse("on-delete", ref, "its updateStrategy is OnDelete, so that no Pod would restart without its Service part: "+
				"set it to RollingUpdate"))
		case plane && rollsOutAtOnce(d):
			messages = append(messages, refuse("roll-out", ref, "it holds the address of the API server too, and its updateStrategy may restart several Pods at once: "+
				"set its maxUnavailable to 1"))
		case plane:
			messages = append(messages, warn("control-plane", ref, "it holds the address of the API server too, and goes on with that; its Pods restart one after "+
				"the other without their Service part, so that this address moves from node to node, and with one such node is away until its Pod is back"))
		}
	}
	if serving == 0 && len(messages) == 0 {
		messages = append(messages, refuse("no-kube-vip", "the cluster", "there is no DaemonSet of kube-vip that serves Services"))
	}
	return append(messages, p.services(s)...)
}

// rollsOutAtOnce reports whether a DaemonSet may restart more than one Pod at a time.
func rollsOutAtOnce(d map[string]any) bool {
	path := []string{"spec", "updateStrategy", "rollingUpdate", "maxUnavailable"}
	return text(d, path...) != "" || number(d, path...) > 1 // A text is a share of all nodes, such as 50%.
}

// services says which Services cannot move: what they are announced by ends with kube-vip.
func (kubeVIP) services(s *Snapshot) (messages []movein.Message) {
	for _, svc := range s.Objects.moving() {
		notes := table(svc, "metadata", "annotations")
		for wish := range strings.SplitSeq(notes["kube-vip.io/loadbalancerIPs"]+","+text(svc, "spec", "loadBalancerIP"), ",") {
			if a, err := netip.ParseAddr(strings.TrimSpace(wish)); err == nil && a.IsUnspecified() {
				messages = append(messages, refuse("dhcp", RefOf(svc).String(), "kube-vip leases its address from DHCP, and nobody renews the lease after the "+
					"move: reserve the address, and ask for it by annotation kube-vip.io/loadbalancerIPs in place of %s", a))
				break
			}
		}
		if vlan := notes["kube-vip.io/serviceVLAN"]; vlan != "" {
			messages = append(messages, refuse("vlan", RefOf(svc).String(), "its address is on the VLAN interface %s, which kube-vip makes, and takes away when it "+
				"ends: make that interface on the nodes by other means, and name it by annotation kube-vip.io/serviceInterface", vlan))
		}
	}
	return messages
}

// own: its cloud provider leaves an address alone that the annotation asks for, and gives another one where there is no annotation.
func (kubeVIP) own(m *machine, svc map[string]any) {
	if table(svc, "metadata", "annotations")["kube-vip.io/loadbalancerIPs"] != "" || text(svc, "spec", "loadBalancerIP") != "" {
		return
	}
	set(svc, strings.ReplaceAll(joined(addressesOf(svc)), " ", ""), "metadata", "annotations", "kube-vip.io/loadbalancerIPs")
	if m.Record.Theirs.Name != "" {
		set(svc, "kube-vip", "metadata", "labels", "implementation")
	}
}

// classOnly reports whether kube-vip serves no Service without a class.
func (kubeVIP) classOnly(spec map[string]any) bool {
	legacy, err := strconv.ParseBool(strings.TrimSpace(variableOf(kubeVIPContainer(spec), "lb_class_legacy_handling")))
	return does(spec, kubeVIPClassOnly) || err == nil && !legacy
}

func (p kubeVIP) classes(o Objects) []string {
	list := []string{"kube-vip.io/kube-vip-class"}
	for _, d := range p.announcers(o) {
		list = append(list, variableOf(kubeVIPContainer(podSpec(d)), kubeVIPClass))
	}
	return slices.DeleteFunc(list, func(class string) bool { return class == "" })
}

// writer: kube-vip itself writes the status of what it announces, also without its cloud provider.
func (p kubeVIP) writer(o Objects) map[string]any {
	for _, d := range p.announcers(o) {
		spec := podSpec(d)
		if does(spec, kubeVIPServices) && !p.classOnly(spec) && text(spec, "nodeSelector", label) == "" {
			return d
		}
	}
	if pods := o.staticKubeVIP(); len(pods) > 0 {
		return pods[0]
	}
	return nil
}

// after names what may be deleted: DaemonSets that hold the API server's address may not.
func (kubeVIP) after(r *Record) string {
	var steps []string
	gone := []string{}
	for _, ref := range r.Speakers {
		if does(podSpec(r.before(ref)), kubeVIPPlane) {
			steps = append(steps, fmt.Sprintf("keep %s, which holds the address of the API server, and write %s: \"false\" into what made it", ref, kubeVIPServices))
		} else {
			gone = append(gone, ref.String())
		}
	}
	if r.Theirs.Name != "" {
		gone = append(gone, r.Theirs.String())
	}
	if len(gone) > 0 {
		steps = append(steps, "delete "+strings.Join(gone, " and ")+" as you installed them")
	}
	return strings.Join(steps, "; ")
}

// holders: kube-vip notes on a Service which node has its address.
func (p kubeVIP) holders(o Objects) map[string]string {
	nodes := map[string]string{}
	for _, svc := range o.moving() {
		nodes[nameOf(svc)] = table(svc, "metadata", "annotations")[p.names().mark]
	}
	return nodes
}

// remember leaves DaemonSets alone that serve no Services, such as one for the control plane beside one for Services.
func (p kubeVIP) remember(s *Snapshot, r *Record, _ keeper) {
	for _, d := range p.announcers(s.Objects) {
		if !does(podSpec(d), kubeVIPServices) {
			r.Speakers = slices.DeleteFunc(r.Speakers, func(ref Ref) bool { return ref == RefOf(d) })
			continue
		}
		if kept := r.before(RefOf(d)); kept != nil && does(podSpec(d), kubeVIPPlane) {
			set(kept, runtime.DeepCopyJSONValue(list(d, "spec", "template", "spec", "containers")), "spec", "template", "spec", "containers")
		}
	}
}

// widen has nothing to do where kube-vip has not been stopped, and starts it otherwise: no unit may have had Services.
func (kubeVIP) widen(m *machine) Action { return first(m.servicePartBack, m.speakersBack) }

// silence takes kube-vip off all nodes, or its Service part alone where it holds the address of the API server.
func (p kubeVIP) silence(m *machine, u *Unit) Action {
	return first(func() Action { return p.end(m) }, func() Action { return m.unmark(u) })
}

func (kubeVIP) speak(m *machine, u *Unit) Action {
	return first(func() Action { return m.yieldIPv6(u) }, m.servicePartBack, m.speakersBack, m.speakersReady, func() Action { return m.marked(u) })
}

func (kubeVIP) end(m *machine) Action {
	var gone []Ref
	for _, ref := range m.Record.Speakers {
		if !does(podSpec(m.Objects[ref]), kubeVIPPlane) {
			gone = append(gone, ref)
			continue
		}
		if a := m.servicePart(ref, "false", "have "+ref.String()+" announce no Services"); !a.Done() {
			return a
		}
	}
	return m.offNodes(gone)
}

// servicePart sets svc_enable of a DaemonSet, and waits until its Pods have it.
func (m *machine) servicePart(ref Ref, value, why string) Action {
	a := m.change(ref, why, func(o map[string]any) { setVariable(kubeVIPContainer(podSpec(o)), kubeVIPServices, value) })
	if !a.Done() || m.Objects[ref] == nil {
		return a
	}
	want := does(podSpec(m.Objects[ref]), kubeVIPServices)
	for _, pod := range m.Objects.podsOf(m.Objects[ref]) {
		if spec, _ := at(pod, "spec").(map[string]any); does(spec, kubeVIPServices) != want || !isTrue(pod, "Ready") {
			return Action{Wait: fmt.Sprintf("the Pod of %s on Node %s to restart with %s %t%s", ref, text(pod, "spec", "nodeName"), kubeVIPServices, want,
				m.ifLost(pod))}
		}
	}
	return Action{}
}

// setVariable sets a variable of a container, or removes it where the value is "".
func setVariable(container map[string]any, name, value string) {
	var env []any
	found := false
	for _, item := range list(container, "env") {
		v, _ := item.(map[string]any)
		if text(v, "name") == name {
			found = true
			if value == "" {
				continue
			}
			item = map[string]any{"name": name, "value": value}
		}
		env = append(env, item)
	}
	if !found && value != "" {
		env = append(env, map[string]any{"name": name, "value": value})
	}
	set(container, env, "env")
}

// servicePartBack gives kube-vip its Service part again, one Pod after the other.
func (m *machine) servicePartBack() Action {
	for _, ref := range m.Record.Speakers {
		before := kubeVIPContainer(podSpec(m.Record.before(ref)))
		if before == nil {
			continue // It went as a whole.
		}
		if a := m.servicePart(ref, variableOf(before, kubeVIPServices), "have "+ref.String()+" announce Services again"); !a.Done() {
			return a
		}
	}
	return Action{}
}

func (p kubeVIP) tidy(svc map[string]any) {
	set(svc, nil, "metadata", "annotations", p.names().mark)
	if text(svc, "metadata", "labels", "implementation") == "kube-vip" {
		set(svc, nil, "metadata", "labels", "implementation")
		set(svc, nil, "metadata", "labels", "ipam-address")
		set(svc, at(svc, "metadata", "labels"), "metadata", "labels") // An empty mapping goes.
	}
}
