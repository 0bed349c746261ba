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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/family"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
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
}

// Snapshot returns a Snapshot with everything that the objects say, as the speaker of a node sees it that has these interfaces. The fields
// that come of gossip and of the kernel are left out.
func (o *Objects) Snapshot(node string, own []v1alpha1.InterfaceState) *decision.Snapshot {
	compiled, _ := config.Compile(o.Config)
	return &decision.Snapshot{
		Node:     node,
		Config:   compiled,
		Services: o.observedServices(),
		Nodes:    o.observedNodes(node, own),
		Probed:   o.probed(),
	}
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
	var services []decision.Service
	for i := range o.Services.Items {
		svc := &o.Services.Items[i]
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		name := nameOf(svc)
		observed := decision.Service{
			Name:      name,
			Labels:    svc.Labels,
			Local:     svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
			Endpoints: endpoints[name],
			Holder:    records[name].Node,
			Recorded:  decision.Record{Addresses: records[name].Addresses, Interfaces: records[name].Interfaces},
		}
		contested := false // the status shows what another controller has written
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			address, err := netip.ParseAddr(ingress.IP)
			if err != nil { // It has a hostname, which Tandem never writes.
				contested = true
				continue
			}
			if pool, claimed := pools[address]; claimed {
				observed.Addresses = append(observed.Addresses, decision.Address{IP: address, Pool: pool})
			} else {
				contested, observed.Unclaimed = true, append(observed.Unclaimed, address)
			}
		}
		if class := svc.Spec.LoadBalancerClass; contested && (class == nil || *class == ipamv1alpha1.LoadBalancerClass) {
			for _, address := range owned()[name] {
				if !slices.Contains(observed.Addresses, address) {
					observed.Addresses = append(observed.Addresses, address)
				}
			}
		}
		if len(observed.Addresses)+len(observed.Unclaimed) > 0 {
			services = append(services, observed)
		}
	}
	slices.SortFunc(services, func(a, b decision.Service) int {
		return cmp.Or(cmp.Compare(a.Name.Namespace, b.Name.Namespace), cmp.Compare(a.Name.Name, b.Name.Name))
	})
	return services
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

// recordsOf returns what each L2Announcement says, by the Service.
func recordsOf(announcements []v1alpha1.L2Announcement) map[types.NamespacedName]v1alpha1.L2AnnouncementStatus {
	records := map[types.NamespacedName]v1alpha1.L2AnnouncementStatus{}
	for i := range announcements {
		a := &announcements[i]
		records[types.NamespacedName{Namespace: a.Service.Namespace, Name: a.Service.Name}] = a.Status
	}
	return records
}

// Holders returns the node that each L2Announcement names, by the Service.
func Holders(announcements []v1alpha1.L2Announcement) map[types.NamespacedName]string {
	holders := map[types.NamespacedName]string{}
	for i := range announcements {
		a := &announcements[i]
		holders[types.NamespacedName{Namespace: a.Service.Namespace, Name: a.Service.Name}] = a.Status.Node
	}
	return holders
}

// observedEndpoints finds the usable endpoints: those that are ready. If a Service has none of a family, they are those that are
// terminating and still serve, to which kube-proxy sends the traffic then.
func observedEndpoints(all []discoveryv1.EndpointSlice) map[types.NamespacedName]map[family.Family]decision.Endpoints {
	type found struct{ ready, serving decision.Endpoints }
	byService := map[types.NamespacedName]map[family.Family]*found{}
	for i := range all {
		slice := &all[i]
		af := family.Family(slice.AddressType)
		service, ok := slice.Labels[discoveryv1.LabelServiceName]
		if !ok || af != family.IPv4 && af != family.IPv6 {
			continue
		}
		name := types.NamespacedName{Namespace: slice.Namespace, Name: service}
		if byService[name] == nil {
			byService[name] = map[family.Family]*found{}
		}
		f := byService[name][af]
		if f == nil {
			f = &found{ready: decision.Endpoints{Nodes: map[string]bool{}}, serving: decision.Endpoints{Nodes: map[string]bool{}}}
			byService[name][af] = f
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
				into.Nodes[*e.NodeName] = true
			}
		}
	}
	endpoints := map[types.NamespacedName]map[family.Family]decision.Endpoints{}
	for name, families := range byService {
		endpoints[name] = map[family.Family]decision.Endpoints{}
		for af, f := range families {
			if f.ready.Any {
				endpoints[name][af] = f.ready
			} else {
				endpoints[name][af] = f.serving
			}
		}
	}
	return endpoints
}

// observedNodes returns all Nodes with the interfaces that their speakers have published. Those of the speaker's own node are newer.
func (o *Objects) observedNodes(self string, own []v1alpha1.InterfaceState) map[string]decision.Node {
	interfaces := map[string][]decision.Interface{}
	for i := range o.Speakers.Items {
		interfaces[o.Speakers.Items[i].Name] = observedInterfaces(o.Speakers.Items[i].Status.Interfaces)
	}
	interfaces[self] = observedInterfaces(own) // newer than its SpeakerStatus
	nodes := map[string]decision.Node{}
	for i := range o.Nodes.Items {
		node := &o.Nodes.Items[i]
		nodes[node.Name] = decision.Node{
			Labels:     node.Labels,
			Excluded:   isExcluded(node),
			Ready:      hasCondition(node, corev1.NodeReady),
			Interfaces: interfaces[node.Name],
			RouterID:   nodeinfo.InternalIP(node, family.IPv4),
		}
	}
	return nodes
}

// observedInterfaces returns the interfaces that are usable, each with its subnets.
func observedInterfaces(states []v1alpha1.InterfaceState) []decision.Interface {
	var interfaces []decision.Interface
	for _, state := range states {
		if !state.Usable {
			continue
		}
		observed := decision.Interface{Name: state.Name}
		observed.MAC, _ = net.ParseMAC(state.MAC) // nil where there is none
		for _, text := range state.Addresses {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				observed.Prefixes = append(observed.Prefixes, prefix.Masked())
			}
		}
		interfaces = append(interfaces, observed)
	}
	return interfaces
}

// isExcluded reports whether a node must not announce: it bears the label node.kubernetes.io/exclude-from-external-load-balancers with a
// value that does not mean false, it is shut down for good, or its network is not set up.
func isExcluded(node *corev1.Node) bool {
	if value, ok := node.Labels[corev1.LabelNodeExcludeBalancers]; ok {
		if excludes, err := strconv.ParseBool(value); err != nil || excludes {
			return true
		}
	}
	outOfService := func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }
	return slices.ContainsFunc(node.Spec.Taints, outOfService) || hasCondition(node, corev1.NodeNetworkUnavailable)
}

func hasCondition(node *corev1.Node, condition corev1.NodeConditionType) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == condition && c.Status == corev1.ConditionTrue
	})
}

// Claimed returns whether a claim has an address. Such an address is a Service's, and never a node's own.
func Claimed(claims []networkingv1.IPAddress) func(netip.Addr) bool {
	claimed := map[netip.Addr]bool{}
	for i := range claims {
		if address, err := netip.ParseAddr(claims[i].Name); err == nil {
			claimed[address] = true
		}
	}
	return func(a netip.Addr) bool { return claimed[a] }
}

// SpeakerAddresses returns the nodes that have a speaker, and of each the InternalIP of a family. A node without one is left out.
func (o *Objects) SpeakerAddresses(f family.Family) map[string]netip.Addr {
	nodes := map[string]*corev1.Node{}
	for i := range o.Nodes.Items {
		nodes[o.Nodes.Items[i].Name] = &o.Nodes.Items[i]
	}
	addresses := map[string]netip.Addr{}
	for i := range o.Speakers.Items {
		name := o.Speakers.Items[i].Name
		if node, ok := nodes[name]; ok {
			if address := nodeinfo.InternalIP(node, f); address.IsValid() {
				addresses[name] = address
			}
		}
	}
	return addresses
}

// LoadBalancers returns the Services of type LoadBalancer by name, whether they publish an address or not.
func (o *Objects) LoadBalancers() map[types.NamespacedName]*corev1.Service {
	services := map[types.NamespacedName]*corev1.Service{}
	for i := range o.Services.Items {
		if svc := &o.Services.Items[i]; svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
			services[nameOf(svc)] = svc
		}
	}
	return services
}

// Password returns the password in a key of a Secret in the namespace. The errors name both.
func (o *Objects) Password(namespace string, key config.SecretKey) (bgp.Password, error) {
	for i := range o.Secrets.Items {
		secret := &o.Secrets.Items[i]
		if nameOf(secret) != (types.NamespacedName{Namespace: namespace, Name: key.Secret}) {
			continue
		}
		if password, ok := secret.Data[key.Key]; ok && len(password) == 0 {
			return "", fmt.Errorf("key %q of Secret %s/%s is empty", key.Key, namespace, key.Secret)
		} else if ok {
			return bgp.Password(password), nil
		}
		return "", fmt.Errorf("there is no key %q in Secret %s/%s", key.Key, namespace, key.Secret)
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

// Sessions returns the BGP sessions that the SpeakerStatuses report, also of speakers that have died. Which families a peer has agreed to
// is not in a SpeakerStatus: all are taken to be. Advertised says what the peer has been sent.
func (o *Objects) Sessions() map[decision.NodePeer]bgp.SessionState {
	sessions := map[decision.NodePeer]bgp.SessionState{}
	for i := range o.Speakers.Items {
		speaker := &o.Speakers.Items[i]
		for _, session := range speaker.Status.BGPSessions {
			sessions[decision.NodePeer{Node: speaker.Name, Peer: session.Peer}] = bgp.SessionState{
				Peer: session.Peer, State: bgp.State(session.State), Families: family.All[:], LastError: session.LastError,
				Advertised: map[family.Family]int{family.IPv4: int(session.AdvertisedIPv4), family.IPv6: int(session.AdvertisedIPv6)},
			}
		}
	}
	return sessions
}

func nameOf(obj metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}
