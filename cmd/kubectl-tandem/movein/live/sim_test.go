// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const system = "tandem-system"

// sim is a cluster in memory: objects, and what both products' programs make of them after each write.
type sim struct {
	t       testing.TB
	objects Objects
	// deaf are units that do not answer once Tandem announces them.
	deaf map[string]string
	// conflict is a Service that gets another address of Tandem.
	conflict string
	// slow says that Pods that a DaemonSet takes off a Node go on until something is waited for.
	slow bool
	// late is a Service that was made during the move, which nobody announces before it moves, "" for none.
	late string
	// single says that the second replica of a Deployment finds no Node.
	single bool
	writes []string
	did    []*Write
}

// newSim returns a cluster with the objects of YAML documents, in the state that the programs bring it to.
func newSim(t testing.TB, documents ...string) *sim {
	t.Helper()
	s := &sim{t: t, objects: Objects{}, deaf: map[string]string{}}
	for document := range strings.SplitSeq(strings.Join(documents, "\n---\n"), "\n---\n") {
		if o := object(t, document); len(o) > 0 {
			s.objects[RefOf(o)] = o
		}
	}
	s.settle()
	return s
}

// object returns the object of a YAML document, as a client has it.
func object(t testing.TB, document string) map[string]any {
	t.Helper()
	o := map[string]any{}
	if err := yaml.Unmarshal([]byte(document), &o); err != nil {
		t.Fatalf("%v in:\n%s", err, document)
	}
	return normal(o)
}

// normal makes of numbers what a client makes of them.
func normal(o map[string]any) map[string]any {
	for key, value := range o {
		switch v := value.(type) {
		case map[string]any:
			o[key] = normal(v)
		case []any:
			for _, item := range v {
				if m, ok := item.(map[string]any); ok {
					normal(m)
				}
			}
		case float64:
			o[key] = int64(v)
		}
	}
	return o
}

func (s *sim) copy() Objects {
	c := Objects{}
	for ref, o := range s.objects {
		c[ref] = clone(o)
	}
	return c
}

// write does what an API server would.
func (s *sim) write(w *Write) {
	s.t.Helper()
	s.writes = append(s.writes, fmt.Sprintf("%s %s: %s", w.Verb, w.Ref, w.Why))
	s.did = append(s.did, w)
	webhook := w.Ref.Group == theirGroup && w.Verb != Delete
	if webhook && s.replicas("controller") == 0 && !s.open() {
		s.t.Fatalf("%s %s while MetalLB's webhook is away", w.Verb, w.Ref)
	}
	old := s.objects[w.Ref]
	switch {
	case w.Verb == Create && old != nil, w.Verb != Create && old == nil:
		s.t.Fatalf("%s of %s, which is there: %t", w.Verb, w.Ref, old != nil)
	case w.Verb == Create:
		s.objects[w.Ref] = clone(w.Body)
	case w.Verb == Delete:
		delete(s.objects, w.Ref)
	case old["immutable"] == true:
		s.t.Fatalf("%s of %s, which is immutable", w.Verb, w.Ref)
	default:
		s.objects[w.Ref] = merged(old, w.Body)
	}
	s.settle()
}

func merged(o, patch map[string]any) map[string]any {
	o = maps.Clone(o)
	for key, value := range patch {
		inner, isMap := value.(map[string]any)
		old, both := o[key].(map[string]any)
		switch {
		case value == nil:
			delete(o, key)
		case isMap && both:
			o[key] = merged(old, inner)
		case isMap:
			o[key] = merged(map[string]any{}, inner)
		default:
			o[key] = value
		}
	}
	return clone(o)
}

func (s *sim) open() bool {
	for _, o := range s.objects.of("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") {
		return text(items(o, "webhooks")[0], "failurePolicy") == "Ignore"
	}
	return false
}

// deployments returns all that has replicas.
func (s *sim) deployments() []map[string]any {
	return append(s.objects.of("apps", "Deployment"), s.objects.of("apps", "StatefulSet")...)
}

func (s *sim) replicas(part string) int64 {
	for _, d := range s.deployments() {
		if table(d, "spec", "template", "metadata", "labels")["component"] == part {
			return number(d, "spec", "replicas")
		}
	}
	return 0
}

// settle has the programs do their part.
func (s *sim) settle() {
	s.pods()
	s.sessions()
	s.note()
	if s.allocates() && s.replicas("cloud-controller-manager") > 0 && len(s.objects.of(ourGroup, "AddressPool")) > 0 {
		s.t.Fatal("two controllers write statuses")
	}
	for _, svc := range s.objects.of("", "Service") {
		if text(svc, "metadata", "deletionTimestamp") == "" {
			s.adopt(svc)
			s.announce(svc)
		}
	}
}

// pods runs those of Deployments and DaemonSets.
func (s *sim) pods() {
	for ref := range maps.Clone(s.objects) {
		lingers := s.slow && strings.HasPrefix(ref.Name, "speaker-")
		if ref.Kind == "Pod" && !lingers {
			delete(s.objects, ref)
		}
	}
	for _, d := range s.deployments() {
		n := number(d, "spec", "replicas")
		set(d, n, "status", "readyReplicas")
		if n > 0 {
			s.pod(d, "node1")
		}
		if n > 1 && s.single {
			set(s.pod(d, ""), nil, "status", "conditions")
		}
	}
	for _, d := range s.objects.of("apps", "DaemonSet") {
		for _, node := range s.objects.of("", "Node") {
			all := table(node, "metadata", "labels")
			terms := list(d, "spec", "template", "spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
			fits := matchesAny(terms, all)
			for key, value := range table(d, "spec", "template", "spec", "nodeSelector") {
				fits = fits && all[key] == value
			}
			if fits {
				s.pod(d, text(node, "metadata", "name"))
			}
		}
	}
}

func (s *sim) pod(owner map[string]any, node string) map[string]any {
	o := map[string]any{
		"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{
			"namespace": text(owner, "metadata", "namespace"), "name": text(owner, "metadata", "name") + "-" + node,
			"labels": at(owner, "spec", "template", "metadata", "labels"), "annotations": at(owner, "spec", "template", "metadata", "annotations"),
		},
		"spec":   map[string]any{"nodeName": node, "containers": at(owner, "spec", "template", "spec", "containers")},
		"status": map[string]any{"phase": "Running", "conditions": []any{map[string]any{"type": "Ready", "status": "True"}}},
	}
	s.objects[RefOf(o)] = o
	return o
}

// sessions is the router, which takes one session from a Node: MetalLB's speaker and Tandem's must not both want one.
func (s *sim) sessions() {
	if len(s.objects.of(theirGroup, "BGPPeer")) == 0 {
		return
	}
	for _, pod := range s.objects.speakerPods() {
		node := text(pod, "spec", "nodeName")
		if peers := s.snapshot(nil).PeersOf(node); len(peers) > 0 {
			s.t.Fatalf("Tandem opens sessions %v on %s, where MetalLB has some, after:\n%s", peers, node, strings.Join(s.writes, "\n"))
		}
	}
}

// adopt is Tandem's controller manager.
func (s *sim) adopt(svc map[string]any) {
	if s.replicas("cloud-controller-manager") == 0 || len(s.objects.of(ourGroup, "AddressPool")) == 0 || len(addressesOf(svc)) == 0 {
		return
	}
	if nameOf(svc) == s.conflict {
		set(svc, []any{map[string]any{"ip": "192.0.2.9"}}, "status", "loadBalancer", "ingress")
	}
	for _, ingress := range items(svc, "status", "loadBalancer", "ingress") {
		ingress["ipMode"] = "VIP"
		claim := map[string]any{
			"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": map[string]any{"name": text(ingress, "ip")},
			"spec": map[string]any{"parentRef": map[string]any{
				"namespace": text(svc, "metadata", "namespace"), "name": text(svc, "metadata", "name"), "resource": "services",
			}},
		}
		if s.objects[RefOf(claim)] == nil {
			s.objects[RefOf(claim)] = claim
		}
	}
	set(svc, []any{map[string]any{"type": "tandem-lb.io/Allocated", "status": "True"}}, "status", "conditions")
	set(svc, []any{"service.kubernetes.io/load-balancer-cleanup"}, "metadata", "finalizers")
	set(svc, "true", "metadata", "annotations", "tandem-lb.io/finalizer")
}

// allocates reports whether the other product gives addresses. Cilium's operator reads its setting when it starts.
func (s *sim) allocates() bool {
	if operator := s.objects.ciliumOperator(); operator != nil {
		return text(s.objects.ciliumConfig(), "data", ciliumIPAM) != ciliumNoIPAM || text(operator, "spec", "template", "metadata", "annotations", label) != "stopped"
	}
	return s.replicas("controller")+s.replicas("provider")+s.replicas("allocator") > 0
}

// canOnlyStopWhole reports whether the product is one that announces all Services or none.
func (s *sim) canOnlyStopWhole() bool {
	return len((kubeVIP{}).announcers(s.objects))+len((pureLB{}).announcers(s.objects)) > 0
}

// whole reports whether a product announces that announces all Services or none.
func (s *sim) whole() bool {
	for _, p := range []origin{kubeVIP{}, pureLB{}} {
		for _, d := range p.announcers(s.objects) {
			for _, pod := range s.objects.podsOf(d) {
				if spec, _ := pod["spec"].(map[string]any); p != (kubeVIP{}) || does(spec, kubeVIPServices) {
					return true
				}
			}
		}
	}
	return false
}

// note has kube-vip and PureLB note on Services which node announces them.
func (s *sim) note() {
	for _, svc := range s.objects.moving() {
		switch {
		case !s.whole() || len(addressesOf(svc)) == 0:
		case len(s.objects.of(pureLBGroup, "ServiceGroup")) > 0:
			set(svc, "node2,eth0,"+addressesOf(svc)[0].String(), "metadata", "annotations", "purelb.io/announcing-IPv4")
		default:
			set(svc, "node2", "metadata", "annotations", "kube-vip.io/vipHost")
		}
	}
}

// both returns who announces a Service on layer 2.
func (s *sim) both(svc map[string]any) (theirs, ours bool) {
	all := table(svc, "metadata", "labels")
	theirs = s.whole()
	for _, policy := range s.objects.of(ciliumGroup, "CiliumL2AnnouncementPolicy") {
		theirs = theirs || at(policy, "spec", "loadBalancerIPs") == true && matchesAny([]any{at(policy, "spec", "serviceSelector")}, all)
	}
	for _, ad := range s.objects.of(theirGroup, "L2Advertisement") {
		for _, pool := range s.objects.of(theirGroup, "IPAddressPool") {
			names := texts(ad, "spec", "ipAddressPools")
			if (len(names) == 0 || slices.Contains(names, text(pool, "metadata", "name"))) && slices.ContainsFunc(addressesOf(svc), poolSet(pool).Contains) {
				theirs = theirs || matchesAny(list(ad, "spec", "serviceSelectors"), all) && len(s.objects.speakerPods()) > 0
			}
		}
	}
	for _, ad := range s.objects.of(ourGroup, "L2Advertisement") {
		ours = ours || matchesAny(list(ad, "spec", "serviceSelectors"), all)
	}
	return theirs, ours
}

func (o Objects) speakerPods() (pods []map[string]any) {
	for _, d := range (metalLB{}).announcers(o) {
		pods = append(pods, o.podsOf(d)...)
	}
	return pods
}

// announce is the speakers of both: the Service must not be without an announcer at any time, and the node must not change.
func (s *sim) announce(svc map[string]any) {
	if text(svc, "spec", "type") != "LoadBalancer" || len(s.objects.of(theirGroup, "BGPPeer")) > 0 && len(s.objects.of(theirGroup, "L2Advertisement")) == 0 &&
		len(s.objects.of(ourGroup, "L2Advertisement")) == 0 {
		return
	}
	theirs, ours := s.both(svc)
	record := s.objects[Ref{ourGroup, "L2Announcement", "", strings.Replace(nameOf(svc), "/", ".", 1)}]
	v6 := slices.ContainsFunc(addressesOf(svc), netip.Addr.Is6)
	switch {
	case !theirs && !ours && v6 && s.canOnlyStopWhole() && (s.snapshot(nil).PhaseOf() == Undoing || len(s.deaf) > 0):
		// On the way back its product has to find the address free.
		set(record, nil, "status", "node")
	case !theirs && !ours && nameOf(svc) == s.late:
	case !theirs && !ours:
		s.t.Fatalf("nobody announces %s after:\n%s", nameOf(svc), strings.Join(s.writes, "\n"))
	case ours && record == nil && nameOf(svc) == s.late: // Its speakers choose a node.
	case ours && record == nil:
		s.t.Fatalf("Tandem announces %s without a seed", nameOf(svc))
	case ours && text(record, "status", "node") == "":
		set(record, text(record, "spec", "target"), "status", "node")
		set(record, nil, "spec", "target")
	case !ours && record != nil:
		set(record, nil, "status", "node")
	}
}

// checkEach is how many decisions there are for each that is looked at whether it has changed the Snapshot: for all of them that would take as long as the rest.
// The thousands of runs of the tests stop and begin anew at different decisions.
const checkEach = 8

// snapshot returns the cluster as a reader of the API has it.
func (s *sim) snapshot(probes map[string]Outcome) *Snapshot {
	return &Snapshot{Objects: maps.Clone(s.objects), System: system, Probes: probes}
}

// run does what next says until there is nothing left, or a number of writes have been made. It returns why it stopped.
func (s *sim) run(next func(*Snapshot) (Action, error), most int) (writes int, stopped string) {
	s.t.Helper()
	probes, memory := map[string]Outcome{}, &Memory{}
	for i := range 2000 {
		snapshot := s.snapshot(probes)
		snapshot.Memory = memory
		var before Objects
		if i%checkEach == 0 {
			before = s.copy()
		}
		a, err := next(snapshot)
		if before != nil && !reflect.DeepEqual(snapshot.Objects, before) {
			s.t.Fatalf("a decision has changed objects that the command keeps for the next one, after:\n%s", strings.Join(s.writes, "\n"))
		}
		switch {
		case err != nil:
			s.t.Fatal(err)
		case a.Stop != "":
			return writes, a.Stop
		case a.Wait != "" && s.slow:
			s.slow = false
			s.settle()
			s.slow = true
		case a.Wait != "":
			s.t.Fatalf("waits for %s, which does not come, after:\n%s", a.Wait, strings.Join(s.writes, "\n"))
		case a.Probe != nil:
			probes[a.ProbeName] = Outcome{s.deaf[a.Probe.Name]}
		case a.Write == nil:
			return writes, ""
		case writes == most:
			return writes, "killed"
		default:
			s.write(a.Write)
			writes++
		}
	}
	s.t.Fatalf("no end after:\n%s", strings.Join(s.writes[len(s.writes)-20:], "\n"))
	return 0, ""
}

// complete does what next says until there is nothing left, and ends the test if it stops before.
func (s *sim) complete(next func(*Snapshot) (Action, error)) {
	s.t.Helper()
	if _, stopped := s.run(next, -1); stopped != "" {
		s.t.Fatal(stopped)
	}
}

// wantAsBefore fails the test if an undo has not brought back what there was before.
func (s *sim) wantAsBefore(before Objects) {
	s.t.Helper()
	if diff := cmp.Diff(before, s.objects); diff != "" {
		s.t.Errorf("undone, the cluster is (-before +after):\n%s", diff)
	}
}
