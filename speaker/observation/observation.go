// SPDX-License-Identifier: Apache-2.0

// Package observation turns the objects of the API into a [decision.Snapshot].
//
// Speakers and the controller manager's leader both read the API, each by its own client, and hand what they have read to this package, so
// that both see the same Services, endpoints, claims and nodes. For example a Service of type LoadBalancer that publishes 192.0.2.10
// becomes a decision.Service with that address and the pool that the label of the IPAddress names. What gossip and the kernel know is not
// in the API, and the caller adds it.
//
// The package is pure: it knows API types, and no client.
package observation

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/nodeinfo"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Objects is what the API holds, as the cache gave it. Nothing in it may be changed.
type Objects struct {
	Services       corev1.ServiceList
	EndpointSlices discoveryv1.EndpointSliceList
	Nodes          corev1.NodeList
	Claims         networkingv1.IPAddressList // of any manager
	Announcements  v1alpha1.L2AnnouncementList
	Speakers       v1alpha1.SpeakerStatusList
	Secrets        corev1.SecretList
	Config         config.Objects
	// Rules are those of the speaker that observes. They hold for its own node; what others go by is in their SpeakerStatuses.
	Rules ExclusionRules
}

// ExclusionRules are what an administrator decides about nodes that announce nothing.
type ExclusionRules struct {
	// CordonCounts says that a node that is cordoned announces nothing.
	CordonCounts bool
	// IgnoreLabel says that a node announces though the label node.kubernetes.io/exclude-from-external-load-balancers excludes it.
	IgnoreLabel bool
}

// Snapshot returns a Snapshot with everything that the objects say, as the speaker of a node sees it that has these interfaces. The fields
// that come of gossip and of the kernel are left out.
func (o *Objects) Snapshot(node string, own []v1alpha1.InterfaceState) *decision.Snapshot {
	compiled, _ := config.Compile(o.Config)
	s := o.Surroundings(compiled, node, own)
	s.Services = o.observedServices()
	return s
}

// Surroundings returns what Snapshot does but for the Services, which an [Index] keeps. The Config of the objects is handed over as it was
// compiled before.
func (o *Objects) Surroundings(compiled config.Config, node string, own []v1alpha1.InterfaceState) *decision.Snapshot {
	return &decision.Snapshot{Node: node, Config: compiled, Nodes: o.observedNodes(node, own), Probed: o.probed()}
}

// Overview returns the Snapshot of a program that runs on no node, with the Sessions that speakers report and who is alive by a view: a node
// that has a speaker which is alive. Speakers alone know by --drain-on-cordon whether a cordon excludes their node, so that their condition
// Draining counts.
func (o *Objects) Overview(view View) *decision.Snapshot {
	s := o.Snapshot("", nil)
	speakers := make(map[string]bool, len(o.Speakers.Items))
	for i := range o.Speakers.Items {
		name := o.Speakers.Items[i].Name
		speakers[name] = true
		if node, ok := s.Nodes[name]; ok && meta.IsStatusConditionTrue(o.Speakers.Items[i].Status.Conditions, v1alpha1.ConditionDraining) {
			node.Excluded = true
			s.Nodes[name] = node
		}
	}
	s.Alive = func(node string) bool { return speakers[node] && view.Alive(node) }
	s.Sessions = o.Sessions()
	return s
}

// observedServices returns the Services of type LoadBalancer that publish an address, ordered by name.
//
// An address is one of the Service if its status shows it and a claim of ours stands for it. A status that shows other addresses was written
// by another controller (ServiceLB of k3s, say), perhaps a moment ago, perhaps again and again: then the Service keeps the addresses whose
// claims name it, as their parent or among the Services that share the address. The controller manager deletes the claim of an address that
// the Service has given up, or takes the Service off it.
//
//	status                     claims of the Service       Addresses                  Unclaimed
//	192.0.2.1                  192.0.2.1                   192.0.2.1
//	                           192.0.2.1                                                            about to be published
//	192.0.2.1                  192.0.2.1, 192.0.2.2        192.0.2.1                                192.0.2.2 is not needed, or about to be published
//	198.51.100.11              192.0.2.1                   192.0.2.1                  198.51.100.11
//	198.51.100.11              shares 192.0.2.1            192.0.2.1                  198.51.100.11
//	lb.example.com             192.0.2.1                   192.0.2.1
func (o *Objects) observedServices() []decision.Service {
	pools := make(map[netip.Addr]string, len(o.Claims.Items))
	for i := range o.Claims.Items {
		claim := &o.Claims.Items[i]
		if address, err := netip.ParseAddr(claim.Name); err == nil && claim.Labels[networkingv1.LabelManagedBy] == ipamv1alpha1.ManagedBy {
			pools[address] = claim.Labels[ipamv1alpha1.LabelAddressPool]
		}
	}
	owned := sync.OnceValue(func() map[types.NamespacedName][]decision.Address { return claimed(o.Claims.Items) })
	records := recordsOf(o.Announcements.Items)
	endpoints := observedEndpoints(o.EndpointSlices.Items)
	pool := func(ip netip.Addr) (string, bool) { pool, ours := pools[ip]; return pool, ours }
	var services []decision.Service
	for i := range o.Services.Items {
		svc := &o.Services.Items[i]
		name := nameOf(svc)
		owned := func() []decision.Address { return owned()[name] }
		if observed, ok := observedService(svc, pool, owned, endpoints[name], records[name]); ok {
			services = append(services, observed)
		}
	}
	slices.SortFunc(services, func(a, b decision.Service) int {
		return cmp.Or(cmp.Compare(a.Name.Namespace, b.Name.Namespace), cmp.Compare(a.Name.Name, b.Name.Name))
	})
	return services
}

// observedService returns a Service as decisions take it, and whether it is one of type LoadBalancer that publishes an address. Pool returns
// the pool of an address that a claim of ours stands for, and owned the addresses whose claims name the Service, in their order. The record may
// be nil.
func observedService(
	svc *corev1.Service, pool func(netip.Addr) (string, bool), owned func() []decision.Address,
	endpoints map[family.Family]decision.Endpoints, record *v1alpha1.L2Announcement,
) (decision.Service, bool) {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return decision.Service{}, false
	}
	observed := decision.Service{
		Name:      nameOf(svc),
		Labels:    svc.Labels,
		Local:     svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		Endpoints: endpoints,
	}
	if record != nil {
		observed.Holder, observed.Target = record.Status.Node, record.Spec.Target
		observed.Recorded = decision.Record{Addresses: record.Status.Addresses, Interfaces: record.Status.Interfaces}
	}
	if text := svc.Annotations[ipamv1alpha1.AnnotationPreferredNodes]; text != "" {
		observed.Preferred, _ = labels.Parse(text) // The controller manager says what is wrong with it.
	}
	contested := false // the status shows what another controller has written
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		address, err := netip.ParseAddr(ingress.IP)
		if err != nil { // It has a hostname, which Tandem never writes.
			contested = true
			continue
		}
		if pool, ours := pool(address); ours {
			observed.Addresses = append(observed.Addresses, decision.Address{IP: address, Pool: pool})
		} else {
			contested, observed.Unclaimed = true, append(observed.Unclaimed, address)
		}
	}
	if contested && (!OfOtherClass(svc) || svc.Annotations[ipamv1alpha1.AnnotationFinalizer] != "") {
		for _, address := range owned() {
			if !slices.Contains(observed.Addresses, address) {
				observed.Addresses = append(observed.Addresses, address)
			}
		}
	}
	return observed, len(observed.Addresses)+len(observed.Unclaimed) > 0
}

// OfOtherClass reports whether a Service has another class than Tandem's. Another provider serves it, unless it bears
// [ipamv1alpha1.AnnotationFinalizer]: then the controller manager serves its class too, as the argument --load-balancer-class says.
func OfOtherClass(svc *corev1.Service) bool {
	return svc.Spec.LoadBalancerClass != nil && *svc.Spec.LoadBalancerClass != ipamv1alpha1.LoadBalancerClass
}

// claimed returns the addresses that have claims of ours, in their order, by the Services that the claims name.
func claimed(claims []networkingv1.IPAddress) map[types.NamespacedName][]decision.Address {
	owned := map[types.NamespacedName][]decision.Address{}
	for i := range claims {
		claim := &claims[i]
		address, err := netip.ParseAddr(claim.Name)
		if err != nil || claim.Labels[networkingv1.LabelManagedBy] != ipamv1alpha1.ManagedBy {
			continue
		}
		for service := range namedBy(claim) {
			owned[service] = append(owned[service], decision.Address{IP: address, Pool: claim.Labels[ipamv1alpha1.LabelAddressPool]})
		}
	}
	for _, addresses := range owned {
		slices.SortFunc(addresses, func(a, b decision.Address) int { return a.IP.Compare(b.IP) })
	}
	return owned
}

// namedBy returns the Services that have the address of a claim: those that share it, as an annotation says, and the parent, unless another
// annotation says that the parent has left. For example, web and api shared an address, and web was deleted:
//
//	parent web; tandem-lb.io/sharers: {"default/api":["TCP/443"]}; tandem-lb.io/left: {"default/web":"2026-01-02T15:04:05Z"}    api
func namedBy(claim *networkingv1.IPAddress) map[types.NamespacedName]bool {
	named := map[types.NamespacedName]bool{}
	var sharers map[string][]string
	if text, ok := claim.Annotations[ipamv1alpha1.AnnotationSharers]; ok && json.Unmarshal([]byte(text), &sharers) == nil {
		for service := range sharers {
			namespace, name, _ := strings.Cut(service, "/")
			named[types.NamespacedName{Namespace: namespace, Name: name}] = true
		}
	}
	if ref := claim.Spec.ParentRef; ref != nil && ref.Group == "" && ref.Resource == "services" {
		if parent := (types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}); !hasLeft(claim, parent) {
			named[parent] = true
		}
	}
	return named
}

// hasLeft reports whether it is written on a claim that a Service has left the address.
func hasLeft(claim *networkingv1.IPAddress, service types.NamespacedName) bool {
	text, ok := claim.Annotations[ipamv1alpha1.AnnotationLeft]
	var times map[string]time.Time
	return ok && json.Unmarshal([]byte(text), &times) == nil && !times[service.String()].IsZero()
}

// probed finds an address on an interface of a node among the conflicts that the nodes publish. All other addresses are taken to be free.
func (o *Objects) probed() func(node, iface string, ip netip.Addr) decision.Probe {
	type addressOn struct{ node, iface, address string }
	conflicts := map[addressOn]string{}
	for i := range o.Speakers.Items {
		for _, c := range o.Speakers.Items[i].Status.Conflicts {
			conflicts[addressOn{o.Speakers.Items[i].Name, c.Interface, c.Address}] = c.MAC
		}
	}
	return func(node, iface string, ip netip.Addr) decision.Probe {
		mac, inUse := conflicts[addressOn{node, iface, ip.String()}]
		return decision.Probe{Free: !inUse, UsedBy: mac}
	}
}

// recordsOf returns the L2Announcements by the Service.
func recordsOf(announcements []v1alpha1.L2Announcement) map[types.NamespacedName]*v1alpha1.L2Announcement {
	records := make(map[types.NamespacedName]*v1alpha1.L2Announcement, len(announcements))
	for i := range announcements {
		a := &announcements[i]
		records[types.NamespacedName{Namespace: a.Service.Namespace, Name: a.Service.Name}] = a
	}
	return records
}

// observedEndpoints finds the usable endpoints of each Service.
func observedEndpoints(all []discoveryv1.EndpointSlice) map[types.NamespacedName]map[family.Family]decision.Endpoints {
	byService := map[types.NamespacedName][]*discoveryv1.EndpointSlice{}
	for i := range all {
		if name, ok := serviceOf(&all[i]); ok {
			byService[name] = append(byService[name], &all[i])
		}
	}
	endpoints := make(map[types.NamespacedName]map[family.Family]decision.Endpoints, len(byService))
	for name, of := range byService {
		if found := usableEndpoints(of); len(found) > 0 {
			endpoints[name] = found
		}
	}
	return endpoints
}

// serviceOf returns the Service whose endpoints a slice lists, and false if it names none.
func serviceOf(slice *discoveryv1.EndpointSlice) (types.NamespacedName, bool) {
	service, ok := slice.Labels[discoveryv1.LabelServiceName]
	return types.NamespacedName{Namespace: slice.Namespace, Name: service}, ok
}

// usableEndpoints finds the usable endpoints in the slices of a Service: those that are ready. If it has none of a family, they are those
// that are terminating and still serve, to which kube-proxy sends the traffic then.
func usableEndpoints(all []*discoveryv1.EndpointSlice) map[family.Family]decision.Endpoints {
	type found struct{ ready, serving decision.Endpoints }
	families := map[family.Family]*found{}
	for _, slice := range all {
		af := family.Family(slice.AddressType)
		if af != family.IPv4 && af != family.IPv6 {
			continue
		}
		f := families[af]
		if f == nil {
			f = &found{}
			families[af] = f
		}
		for _, e := range slice.Endpoints {
			c := e.Conditions
			into := &f.ready
			switch {
			case c.Ready == nil || *c.Ready: // nil is to be taken for true
			case c.Serving != nil && *c.Serving && c.Terminating != nil && *c.Terminating:
				into = &f.serving
			default:
				continue
			}
			into.Any = true
			if e.NodeName != nil {
				into.Nodes = append(into.Nodes, *e.NodeName)
			}
		}
	}
	endpoints := map[family.Family]decision.Endpoints{}
	for af, f := range families {
		e := f.serving
		if f.ready.Any {
			e = f.ready
		}
		slices.Sort(e.Nodes)
		e.Nodes = slices.Clip(slices.Compact(e.Nodes))
		endpoints[af] = e
	}
	return endpoints
}

// observedNodes returns all Nodes with the interfaces that their speakers have published. Those of the speaker's own node are newer.
func (o *Objects) observedNodes(self string, own []v1alpha1.InterfaceState) map[string]decision.Node {
	interfaces, down, redistributing := map[string][]decision.Interface{}, map[string][]netip.Prefix{}, map[string]bool{}
	ignoring := o.ignoringLabel()
	for i := range o.Speakers.Items {
		c := meta.FindStatusCondition(o.Speakers.Items[i].Status.Conditions, v1alpha1.ConditionKernelRoutes)
		redistributing[o.Speakers.Items[i].Name] = c != nil && c.Reason != v1alpha1.ReasonNotPermitted
		interfaces[o.Speakers.Items[i].Name], down[o.Speakers.Items[i].Name] = observedInterfaces(o.Speakers.Items[i].Status.Interfaces)
	}
	interfaces[self], down[self] = observedInterfaces(own) // newer than its SpeakerStatus
	having := map[netip.Addr]int{}                         // how many Nodes have an address
	for i := range o.Nodes.Items {
		for _, ip := range nodeinfo.InternalIPs(&o.Nodes.Items[i]) {
			having[ip]++
		}
	}
	nodes := map[string]decision.Node{}
	for i := range o.Nodes.Items {
		node := &o.Nodes.Items[i]
		rules := ExclusionRules{CordonCounts: o.Rules.CordonCounts, IgnoreLabel: ignoring[node.Name]}
		if node.Name == self {
			rules = o.Rules
		}
		reason, gone := Exclusion(node, rules)
		observed := decision.Node{
			Labels:     node.Labels,
			Excluded:   reason != "",
			Gone:       gone,
			Ready:      HasCondition(node, corev1.NodeReady),
			Interfaces: interfaces[node.Name], DownSubnets: down[node.Name], Redistributes: redistributing[node.Name],
			RouterID: nodeinfo.InternalIP(node, family.IPv4),
			BGP:      overrides(node),
		}
		for _, f := range family.All {
			if ip := nodeinfo.InternalIP(node, f); having[ip] == 1 {
				if observed.InternalIPs == nil {
					observed.InternalIPs = map[family.Family]netip.Addr{}
				}
				observed.InternalIPs[f] = ip
			}
		}
		nodes[node.Name] = observed
	}
	return nodes
}

// ignoringLabel returns the nodes whose speakers say that they ignore the label that excludes nodes. Each speaker is judged by what it does
// itself, so that in a rollout of the flag all agree on who may announce.
func (o *Objects) ignoringLabel() map[string]bool {
	ignoring := map[string]bool{}
	for i := range o.Speakers.Items {
		ignoring[o.Speakers.Items[i].Name] = IgnoresLabel(&o.Speakers.Items[i])
	}
	return ignoring
}

// IgnoresLabel reports whether the speaker of a node says that it ignores the label that excludes nodes. While it drains for another reason it
// does not say so, and the node announces nothing anyway.
func IgnoresLabel(speaker *v1alpha1.SpeakerStatus) bool {
	c := meta.FindStatusCondition(speaker.Status.Conditions, v1alpha1.ConditionDraining)
	return c != nil && c.Reason == v1alpha1.ReasonExcludeLabelIgnored
}

// overrides returns what the annotations of a Node say of BGP. The controller manager says of one that cannot be read what is wrong with it.
func overrides(node *corev1.Node) (o decision.Overrides) {
	o.ASN, _ = ParseASN(node.Annotations[ipamv1alpha1.AnnotationBGPASN])
	o.RouterID, _ = ParseRouterID(node.Annotations[ipamv1alpha1.AnnotationBGPRouterID])
	for f, annotation := range map[family.Family]string{
		family.IPv4: ipamv1alpha1.AnnotationBGPSourceIPv4, family.IPv6: ipamv1alpha1.AnnotationBGPSourceIPv6,
	} {
		if source, err := ParseSource(node.Annotations[annotation], f); err == nil {
			if o.Sources == nil {
				o.Sources = map[family.Family]netip.Addr{}
			}
			o.Sources[f] = source
		}
	}
	return o
}

// ParseASN reads the annotation of a Node with its autonomous system number.
func ParseASN(value string) (uint32, error) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n == 0 || n == asTrans {
		return 0, fmt.Errorf("%q is no autonomous system number from 1 to 4294967295 other than %d", value, asTrans)
	}
	return uint32(n), nil
}

// asTrans stands for numbers of 32 bits and is nobody's (RFC 6793 §9).
const asTrans = 23456

// ParseRouterID reads the annotation of a Node with its BGP identifier.
func ParseRouterID(value string) (netip.Addr, error) {
	id, err := netip.ParseAddr(value)
	if err != nil || !id.Is4() || id.IsUnspecified() || id.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("%q is no IPv4 address such as 10.0.0.1", value)
	}
	return id, nil
}

// ParseSource reads the annotation of a Node with the address of its sessions of a family.
func ParseSource(value string, f family.Family) (netip.Addr, error) {
	source, err := netip.ParseAddr(value)
	if err != nil || family.Of(source) != f || !source.IsGlobalUnicast() || source.Is4In6() {
		return netip.Addr{}, fmt.Errorf("%q is no %s address of the node that a router can send to", value, f)
	}
	return source, nil
}

// OfOthers returns the addresses that speakers of other nodes than this one report for their interfaces. Nodes that are not Ready do not
// count: a SpeakerStatus stays as long as its Node. For example node1 was installed anew as node4, with 198.51.100.11 as before, and nobody
// has deleted the Node node1 yet.
func (o *Objects) OfOthers(self string) map[netip.Addr]bool {
	others, ready := map[netip.Addr]bool{}, o.IsReady()
	for i := range o.Speakers.Items {
		if name := o.Speakers.Items[i].Name; name == self || !ready(name) {
			continue
		}
		for _, state := range o.Speakers.Items[i].Status.Interfaces {
			for _, text := range state.Addresses {
				if prefix, err := netip.ParsePrefix(text); err == nil {
					others[prefix.Addr()] = true
				}
			}
		}
	}
	return others
}

// observedInterfaces returns the interfaces that are usable, each with its subnets, and the subnets of those that are not at the moment. An
// interface that never is, a loopback or one without ARP, has no subnet that others share: it may have 192.0.2.1/24 of the pool on a dummy.
func observedInterfaces(states []v1alpha1.InterfaceState) (interfaces []decision.Interface, down []netip.Prefix) {
	for _, state := range states {
		observed := decision.Interface{Name: state.Name}
		observed.MAC, _ = net.ParseMAC(state.MAC) // nil where there is none
		for _, text := range state.Addresses {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				observed.Prefixes = append(observed.Prefixes, prefix.Masked())
			}
		}
		switch reason := link.Reason(state.Reason); {
		case state.Usable:
			interfaces = append(interfaces, observed)
		case reason != link.IsLoopback && reason != link.NoARP:
			down = append(down, observed.Prefixes...)
		}
	}
	return interfaces, down
}

// Exclusion returns why a node must not announce, "" if it may: it is drained by our annotation, it bears the label
// node.kubernetes.io/exclude-from-external-load-balancers with a value that does not mean false, and that is not ignored, it is cordoned and that
// counts, it is being deleted, it is shut down for good, or its network is not set up. In the last two cases it is gone: it has nothing to hand over.
func Exclusion(node *corev1.Node, rules ExclusionRules) (reason string, gone bool) {
	outOfService := func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }
	switch {
	case slices.ContainsFunc(node.Spec.Taints, outOfService):
		return "the taint " + corev1.TaintNodeOutOfService + " says that the node is shut down", true
	case HasCondition(node, corev1.NodeNetworkUnavailable):
		return "the condition " + string(corev1.NodeNetworkUnavailable) + " says that the network of the node does not work", true
	case node.DeletionTimestamp != nil:
		return "the Node is deleted", false
	case isDrained(node):
		return "the annotation " + ipamv1alpha1.AnnotationDrain + " drains the node", false
	case rules.CordonCounts && node.Spec.Unschedulable:
		return "the node is cordoned", false
	}
	if value, ok := node.Labels[corev1.LabelNodeExcludeBalancers]; ok && !rules.IgnoreLabel {
		if excludes, err := strconv.ParseBool(value); err != nil || excludes {
			return "the label " + corev1.LabelNodeExcludeBalancers + " excludes the node", false
		}
	}
	return "", false
}

// isDrained reports whether the annotation of a node says so.
func isDrained(node *corev1.Node) bool {
	drains, err := strconv.ParseBool(node.Annotations[ipamv1alpha1.AnnotationDrain])
	return err == nil && drains
}

// HasCondition reports whether a condition of a Node is True.
func HasCondition(node *corev1.Node, condition corev1.NodeConditionType) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == condition && c.Status == corev1.ConditionTrue
	})
}

// SpeakerAddresses returns the nodes that have a speaker, and of each the first InternalIP of each family, IPv4 first. A node without any is
// left out.
func (o *Objects) SpeakerAddresses() map[string][]netip.Addr {
	nodes := map[string]*corev1.Node{}
	for i := range o.Nodes.Items {
		nodes[o.Nodes.Items[i].Name] = &o.Nodes.Items[i]
	}
	addresses := map[string][]netip.Addr{}
	for i := range o.Speakers.Items {
		name := o.Speakers.Items[i].Name
		node, ok := nodes[name]
		if !ok {
			continue
		}
		for _, f := range family.All {
			if address := nodeinfo.InternalIP(node, f); address.IsValid() {
				addresses[name] = append(addresses[name], address)
			}
		}
	}
	return addresses
}

// IsReady finds whether a Node exists and is Ready.
func (o *Objects) IsReady() func(node string) bool {
	ready := make(map[string]bool, len(o.Nodes.Items))
	for i := range o.Nodes.Items {
		ready[o.Nodes.Items[i].Name] = HasCondition(&o.Nodes.Items[i], corev1.NodeReady)
	}
	return func(node string) bool { return ready[node] }
}

// Password returns the password in a key of a Secret in the namespace. The errors name both, and say of one that is empty or too long that it
// is: a session that runs keeps the one before then.
func (o *Objects) Password(namespace string, key config.SecretKey) (bgp.Password, error) {
	for i := range o.Secrets.Items {
		secret := &o.Secrets.Items[i]
		if nameOf(secret) != (types.NamespacedName{Namespace: namespace, Name: key.Secret}) {
			continue
		}
		password, ok := secret.Data[key.Key]
		switch {
		case !ok:
			return "", fmt.Errorf("there is no key %q in Secret %s/%s", key.Key, namespace, key.Secret)
		case len(password) == 0:
			return "", fmt.Errorf("key %q of Secret %s/%s is empty", key.Key, namespace, key.Secret)
		case len(password) > bgp.MaxPasswordBytes:
			return "", fmt.Errorf("key %q of Secret %s/%s has %d bytes, more than the %d of a TCP MD5 key",
				key.Key, namespace, key.Secret, len(password), bgp.MaxPasswordBytes)
		}
		return bgp.Password(password), nil
	}
	return "", fmt.Errorf("there is no Secret %s/%s", namespace, key.Secret)
}

// Record is what an L2Announcement says of a Service: the node that answers, "" for none, and for which addresses.
type Record struct {
	Node      string
	Addresses []netip.Addr
}

// Records returns what the L2Announcements say, by the Service.
func (o *Objects) Records() map[types.NamespacedName]Record {
	records := make(map[types.NamespacedName]Record, len(o.Announcements.Items))
	for i := range o.Announcements.Items {
		a := &o.Announcements.Items[i]
		record := Record{Node: a.Status.Node}
		for _, text := range a.Status.Addresses {
			if ip, err := netip.ParseAddr(text); err == nil {
				record.Addresses = append(record.Addresses, ip)
			}
		}
		records[types.NamespacedName{Namespace: a.Service.Namespace, Name: a.Service.Name}] = record
	}
	return records
}

// Sessions returns the BGP sessions that the SpeakerStatuses report, also of speakers that have died. A session that says nothing of its
// families is of a release before, and has all that the peer's are.
func (o *Objects) Sessions() map[decision.NodePeer]bgp.SessionState {
	sessions := map[decision.NodePeer]bgp.SessionState{}
	for i := range o.Speakers.Items {
		speaker := &o.Speakers.Items[i]
		for _, session := range speaker.Status.BGPSessions {
			families := family.All[:]
			if len(session.Families) > 0 {
				families = nil
				for _, f := range session.Families {
					families = append(families, family.Family(f))
				}
			}
			sessions[decision.NodePeer{Node: speaker.Name, Peer: session.Peer}] = bgp.SessionState{
				Peer: session.Peer, State: bgp.State(session.State), Families: families, LastError: session.LastError,
				Advertised: map[family.Family]int{family.IPv4: int(session.AdvertisedIPv4), family.IPv6: int(session.AdvertisedIPv6)},
			}
		}
	}
	return sessions
}

func nameOf(obj metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}
