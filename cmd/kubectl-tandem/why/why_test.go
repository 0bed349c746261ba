// SPDX-License-Identifier: Apache-2.0

package why

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/internal/fixture"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/reachability"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

const v4, v6 = "198.51.100.200", "2001:db8:51::1000"

var web = types.NamespacedName{Namespace: "default", Name: "web"}

// world are the objects of a cluster in which all is well, until a test changes them: web is announced by layer 2.
type world struct {
	t       *testing.T
	objects []client.Object
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, objects: append(fixture.LAN(), fixture.Service("web", "node1", []string{"node1", "node2"}, v4, v6)...)}
	w.service().Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicyRequireDualStack)
	w.allocated(true, ipamv1alpha1.ServiceReasonAllocated, v4+" from pool lan; "+v6+" from pool lan")
	return w
}

// byBGP has web announced by BGP instead, to the peer tor1 of all nodes.
func (w *world) byBGP() {
	w.remove("lan", &v1alpha1.L2Advertisement{})
	w.remove("default.web", &v1alpha1.L2Announcement{})
	w.objects = append(w.objects,
		&v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "wan"}},
		&v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "tor1"}, Spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "198.51.100.1"}})
	for i := 1; i <= 3; i++ {
		status := fixture.Find[*v1alpha1.SpeakerStatus](w.t, w.objects, fmt.Sprintf("node%d", i))
		status.Status.BGPSessions = []v1alpha1.BGPSession{{
			Peer: "tor1", State: v1alpha1.BGPEstablished, Families: []corev1.IPFamily{"IPv4", "IPv6"}, AdvertisedIPv4: 1, AdvertisedIPv6: 1,
			NextHops: []string{fmt.Sprintf("198.51.100.1%d", i), fmt.Sprintf("2001:db8:51::1%d", i)}, Address: "198.51.100.1",
		}}
	}
}

// sessions changes the session of each node.
func (w *world) sessions(change func(*v1alpha1.BGPSession)) {
	for i := 1; i <= 3; i++ {
		change(&fixture.Find[*v1alpha1.SpeakerStatus](w.t, w.objects, fmt.Sprintf("node%d", i)).Status.BGPSessions[0])
	}
}

// down has the sessions of all nodes lost with an error.
func (w *world) down(failure string) {
	w.byBGP()
	w.sessions(func(s *v1alpha1.BGPSession) {
		s.State, s.LastError, s.Families, s.AdvertisedIPv4, s.AdvertisedIPv6 = v1alpha1.BGPActive, failure, nil, 0, 0
	})
}

func (w *world) service() *corev1.Service {
	return fixture.Find[*corev1.Service](w.t, w.objects, "web")
}

func (w *world) allocated(is bool, reason, message string) {
	w.condition(ipamv1alpha1.ServiceConditionAllocated, is, reason, message)
}

func (w *world) condition(of string, is bool, reason, message string) {
	status := metav1.ConditionFalse
	if is {
		status = metav1.ConditionTrue
	}
	conditions := []metav1.Condition{{Type: of, Status: status, Reason: reason, Message: message}}
	for _, c := range w.service().Status.Conditions {
		if c.Type != of {
			conditions = append(conditions, c)
		}
	}
	w.service().Status.Conditions = conditions
}

// waits has web without addresses, for a reason that the controller manager gives.
func (w *world) waits(message string) {
	w.service().Status.LoadBalancer = corev1.LoadBalancerStatus{}
	w.remove(v4, &networkingv1.IPAddress{})
	w.remove(v6, &networkingv1.IPAddress{})
	w.remove("default.web", &v1alpha1.L2Announcement{})
	w.allocated(false, ipamv1alpha1.ServiceReasonNotAllocated, message)
}

// remove removes the object of the same type that has a name.
func (w *world) remove(name string, like client.Object) {
	kept := w.objects[:0]
	for _, o := range w.objects {
		if o.GetName() != name || fmt.Sprintf("%T", o) != fmt.Sprintf("%T", like) {
			kept = append(kept, o)
		}
	}
	w.objects = kept
}

// unrecord has no node on record.
func (w *world) unrecord() { w.remove("default.web", &v1alpha1.L2Announcement{}) }

func (w *world) engine() *Engine { return New(fixture.State(w.t, w.objects...)) }

// faults returns what is at fault of web, by the family: the hop, its text and its remedy.
func faults(t *testing.T, e *Engine) map[string]*Step {
	t.Helper()
	answer, ok := e.Service(t.Context(), web)
	if !ok {
		t.Fatal("there is no Service")
	}
	found := map[string]*Step{}
	for i := range answer.Chains {
		if fault := answer.Chains[i].Fault(); fault != nil {
			found[string(answer.Chains[i].Family)] = fault
		}
	}
	return found
}

// TestFaults makes one fault after another in a cluster in which all is well. Each has its hop, and says what to do.
func TestFaults(t *testing.T) {
	for _, tt := range []struct {
		name         string
		set          func(w *world)
		v4, v6       Hop // "" for no fault
		text, remedy string
	}{
		{name: "all is well on layer 2", set: func(*world) {}},
		{name: "all is well by BGP", set: (*world).byBGP},
		{
			name: "a family that no pool has", set: func(w *world) { w.waits("no pool with IPv6 addresses among lan") },
			v4: Pool, v6: Pool, text: "no pool with IPv6 addresses among lan", remedy: "spec.ipv4 or spec.ipv6",
		},
		{
			name: "a family that is not asked for", set: func(w *world) {
				w.service().Spec.IPFamilies, w.service().Spec.IPFamilyPolicy = []corev1.IPFamily{"IPv4"}, nil
				w.service().Status.LoadBalancer.Ingress = w.service().Status.LoadBalancer.Ingress[:1]
			},
		},
		{
			name: "no advertisement", set: func(w *world) { w.remove("lan", &v1alpha1.L2Advertisement{}); w.unrecord() },
			v4: Advertisement, v6: Advertisement, text: "there is no L2Advertisement and no BGPAdvertisement", remedy: "addressPools of " +
				"an L2Advertisement",
		},
		{
			name: "serviceSelectors of others", set: func(w *world) {
				ad := fixture.Find[*v1alpha1.L2Advertisement](w.t, w.objects, "lan")
				ad.Spec.ServiceSelectors = []metav1.LabelSelector{{MatchLabels: map[string]string{"app": "db"}}}
				w.unrecord()
			},
			v4: Advertisement, v6: Advertisement, text: "serviceSelectors of L2Advertisement lan", remedy: "serviceSelectors",
		},
		{
			name: "namespaceSelectors of others", set: func(w *world) {
				ad := fixture.Find[*v1alpha1.L2Advertisement](w.t, w.objects, "lan")
				ad.Spec.NamespaceSelectors = []metav1.LabelSelector{{MatchLabels: map[string]string{"team": "b"}}}
				w.unrecord()
			},
			v4: Advertisement, v6: Advertisement, text: "namespaceSelectors of L2Advertisement lan", remedy: "namespaceSelectors",
		},
		{
			name: "no endpoint of one family", set: func(w *world) {
				w.remove("web-IPv6", &discoveryv1.EndpointSlice{})
				fixture.Find[*v1alpha1.L2Announcement](w.t, w.objects, "default.web").Status.Addresses = []string{v4}
			},
			v6: Endpoint, text: "no ready IPv6 endpoint", remedy: "endpointslices",
		},
		{
			name: "Local without an endpoint where it could be announced", set: func(w *world) {
				w.service().Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
				ad := fixture.Find[*v1alpha1.L2Advertisement](w.t, w.objects, "lan")
				ad.Spec.NodeSelectors = []metav1.LabelSelector{{MatchLabels: map[string]string{corev1.LabelHostname: "node3"}}}
				w.unrecord()
			},
			v4: Endpoint, v6: Endpoint, text: "externalTrafficPolicy is Local", remedy: "run a Pod on a node that can announce",
		},
		{
			name: "excluded nodes", set: func(w *world) {
				for i := 1; i <= 3; i++ {
					fixture.Find[*corev1.Node](w.t, w.objects, fmt.Sprintf("node%d", i)).Labels[corev1.LabelNodeExcludeBalancers] = ""
				}
				w.unrecord()
			},
			v4: Holder, v6: Holder, text: "excluded", remedy: "exclude-from-external-load-balancers",
		},
		{
			name: "no IPv6 on the link", set: func(w *world) {
				for i := 1; i <= 3; i++ {
					status := fixture.Find[*v1alpha1.SpeakerStatus](w.t, w.objects, fmt.Sprintf("node%d", i))
					status.Status.Interfaces[0].Addresses = status.Status.Interfaces[0].Addresses[:1]
				}
				fixture.Find[*v1alpha1.L2Announcement](w.t, w.objects, "default.web").Status.Addresses = []string{v4}
			},
			v6: Holder, text: "interface in the subnet", remedy: "pool of the nodes' subnet",
		},
		{
			name: "another machine had the address before", set: func(w *world) {
				for i := 1; i <= 3; i++ {
					fixture.Find[*v1alpha1.SpeakerStatus](w.t, w.objects, fmt.Sprintf("node%d", i)).Status.Conflicts = []v1alpha1.AddressConflict{
						{Address: v4, Interface: "eth0", MAC: "02:00:00:00:00:7f"},
					}
				}
				fixture.Find[*v1alpha1.L2Announcement](w.t, w.objects, "default.web").Status.Addresses = []string{v6}
			},
			v4: Holder, text: "02:00:00:00:00:7f", remedy: "find the MAC on the switch",
		},
		{
			name: "the kernel of another node answers", set: func(w *world) {
				status := fixture.Find[*v1alpha1.SpeakerStatus](w.t, w.objects, "node2")
				for i := range status.Status.Conditions {
					if c := &status.Status.Conditions[i]; c.Type == v1alpha1.ConditionKernelAnswers {
						c.Status, c.Message = metav1.ConditionTrue, "the kernel answers for "+v4+" on kube-ipvs0: set ipvs.strictARP"
					}
				}
			},
			v4: Neighbour, text: "two nodes answer: node1, and the kernel of node2", remedy: "strictARP",
		},
		{
			name: "another node asks in vain", set: func(w *world) {
				fixture.Find[*v1alpha1.SpeakerStatus](w.t, w.objects, "node3").Status.Unanswered = []v1alpha1.UnansweredAddress{
					{Address: v6, Node: "node1", Interface: "eth0"},
				}
			},
			v6: Neighbour, text: "node node3 asks for the address on the LAN, and node1 does not answer", remedy: "drops ARP or " +
				"neighbour solicitations",
		},
		{
			name: "the wrong AS", set: func(w *world) {
				w.down("received NOTIFICATION code 2(open) subcode 2(bad peer as): the peer expects another AS number than our 64512")
			},
			v4: Session, v6: Session, text: "BGP session with tor1 is down on all 3 nodes; node1, node2 and node3: received " +
				"NOTIFICATION", remedy: "myASN",
		},
		{
			name: "a wrong password, or none, or the wrong number of hops",
			set: func(w *world) {
				w.down("i/o timeout: no answer from the peer; a different password or TTL security looks the same")
			},
			v4: Session, v6: Session, text: "no answer from the peer", remedy: "MD5 password, or one on one side alone; ttlSecurityHops",
		},
		{
			name: "a peer behind a router", set: func(w *world) {
				w.down("the peer is behind a router: set spec.ebgpMultiHop, and allow several hops on the peer too")
			},
			v4: Session, v6: Session, text: "the peer is behind a router", remedy: "set ebgpMultiHop: true in the BGPPeer, and let the router",
		},
		{
			name: "a Secret that is missing", set: func(w *world) { w.down("spec.passwordSecret: there is no Secret tandem-system/tor1") },
			v4: Session, v6: Session, text: "there is no Secret tandem-system/tor1", remedy: "create the Secret",
		},
		{
			name: "a session that is down", set: func(w *world) { w.down("hold timer expired") },
			v4: Session, v6: Session, text: "hold timer expired", remedy: "look at the link",
		},
		{
			name: "a family that the router has not activated", set: func(w *world) {
				w.byBGP()
				w.sessions(func(s *v1alpha1.BGPSession) { s.Families, s.AdvertisedIPv6 = []corev1.IPFamily{"IPv4"}, 0 })
			},
			v6: Route, text: "carries no IPv6 prefix", remedy: "activate IPv6",
		},
		{
			name: "no peer", set: func(w *world) { w.byBGP(); w.remove("tor1", &v1alpha1.BGPPeer{}) },
			v4: Session, v6: Session, text: "no BGPPeer", remedy: "create a BGPPeer",
		},
		{
			name: "an exhausted pool", set: func(w *world) { w.waits("no free address in pool lan") },
			v4: Pool, v6: Pool, text: "no free address in pool lan", remedy: "add a range",
		},
		{
			name: "a reserved address", set: func(w *world) { w.waits("address is reserved: 198.51.100.11 (Node node1)") },
			v4: Pool, v6: Pool, text: "address is reserved", remedy: "ask for another address",
		},
		{
			name: "another writer of the status", set: func(w *world) {
				w.condition(ipamv1alpha1.ServiceConditionAnnounced, false, ipamv1alpha1.ServiceReasonStatusOverwritten, "k3s writes "+
					"198.51.100.11 over 198.51.100.200")
			},
			v4: Status, v6: Status, text: "k3s writes", remedy: "let one controller serve the Service",
		},
		{
			name: "an address of nobody in the status", set: func(w *world) {
				w.service().Status.LoadBalancer.Ingress[0].IP = "192.0.2.77"
			},
			v4: Status, text: "", remedy: "let one controller serve the Service",
		},
		{
			name: "an address of another load balancer, which stays", set: func(w *world) {
				w.service().Status.LoadBalancer.Ingress[0].IP = "192.0.2.77"
				w.condition(ipamv1alpha1.ServiceConditionAllocated, false, ipamv1alpha1.ServiceReasonAddressInNoPool, "192.0.2.77 is in no pool")
			},
			v4: Status, text: "which Tandem has not given and no pool holds", remedy: "tandem-lb.io/reallocate=true",
		},
		{
			name: "a claim that is gone", set: func(w *world) { w.remove(v4, &networkingv1.IPAddress{}) },
			v4: Claim, text: "no IPAddress of Tandem stands for 198.51.100.200", remedy: "ClaimFailed",
		},
		{
			name: "the class of another provider",
			set:  func(w *world) { w.service().Spec.LoadBalancerClass = new("example.com/lb") },
			v4:   AskedFor, v6: AskedFor, text: "example.com/lb", remedy: "a class cannot be changed",
		},
		{
			name: "the class of another provider that may be gone",
			set:  func(w *world) { w.service().Spec.LoadBalancerClass = new("example.com/lb") },
			v4:   AskedFor, v6: AskedFor, text: "example.com/lb", remedy: "--load-balancer-class=example.com/lb",
		},
		{
			name: "a class of --load-balancer-class, and an exhausted pool", set: func(w *world) {
				w.service().Spec.LoadBalancerClass = new("example.com/lb")
				w.service().Annotations = map[string]string{ipamv1alpha1.AnnotationFinalizer: "true"}
				w.waits("no free address in pool lan")
			},
			v4: Pool, v6: Pool, text: "no free address in pool lan", remedy: "add a range",
		},
		{
			name: "no controller manager has seen it", set: func(w *world) {
				w.waits("")
				w.service().Status.Conditions = nil
			},
			v4: AskedFor, v6: AskedFor, text: "has taken no notice", remedy: "kubectl get pods -n tandem-system",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.set(w)
			found := faults(t, w.engine())
			for family, want := range map[string]Hop{"IPv4": tt.v4, "IPv6": tt.v6} {
				got := found[family]
				switch {
				case got == nil && want != "":
					t.Errorf("%s has no fault, want one at %s", family, want)
				case got == nil:
				case got.Hop != want || !strings.Contains(got.Text, tt.text) || !strings.Contains(got.Remedy, tt.remedy) || got.Remedy == "":
					t.Errorf("%s is at fault at %q: %s\n→ %s\nwant %q, with %q and "+
						"%q", family, got.Hop, got.Text, got.Remedy, want, tt.text, tt.remedy)
				}
			}
		})
	}
}

// fakeProber is a LAN on which node1 answers for web and everything works, until a test changes it.
type fakeProber struct {
	stations  map[string][]reachability.Station // that a node hears, by the node
	kernel    map[string]string                 // what a node's own connection comes to
	tcp       map[string]string                 // what comes back from a node
	here      string
	routes    map[netip.Prefix]RouteState
	router    map[string]reachability.Through // what comes back by the router, by the node that asks
	station   string                          // the MAC that this machine has for the address, "" for none
	failure   error                           // of all questions
	lanReason string
}

func newFakeProber() *fakeProber {
	holder := []reachability.Station{{MAC: "02:00:00:00:01:11", Node: "node1"}}
	return &fakeProber{
		stations: map[string][]reachability.Station{"node2": holder, "node3": holder},
		kernel:   map[string]string{"node1": answers, "node2": answers, "node3": answers},
		tcp:      map[string]string{"node1": answers, "node2": answers, "node3": answers}, here: answers,
		routes: map[netip.Prefix]RouteState{netip.MustParsePrefix(v4 + "/32"): {Sent: true}, netip.MustParsePrefix(v6 + "/128"): {Sent: true}},
		router: map[string]reachability.Through{},
	}
}

// byRouter has the same come back by the router for each node.
func (p *fakeProber) byRouter(address, own string) {
	for _, node := range []string{"node1", "node2", "node3"} {
		p.router[node] = reachability.Through{Node: node, TCP: address, Own: own}
	}
}

func (p *fakeProber) LAN(
	_ context.Context, asker, node, _ string, ip netip.Addr, port uint16, neighbours bool,
) (reachability.Asked, error) {
	a := reachability.Asked{Node: asker, Interface: "eth0", Address: ip, Error: p.lanReason}
	if neighbours {
		a.Stations = p.stations[asker]
	} else {
		a.Stations = []reachability.Station{{Node: node, TCP: p.tcp[node]}}
	}
	return a, p.failure
}

func (p *fakeProber) Kernel(_ context.Context, node string, _ netip.Addr, _ uint16) (reachability.Dialed, error) {
	return reachability.Dialed{Node: node, TCP: p.kernel[node]}, p.failure
}

func (p *fakeProber) Routes(context.Context, string, string) (map[netip.Prefix]RouteState, error) {
	return p.routes, p.failure
}

func (p *fakeProber) Through(_ context.Context, asker, _, _ string, _ netip.Addr, _ uint16) (reachability.Through, error) {
	return p.router[asker], p.failure
}

func (p *fakeProber) StationHere(netip.Addr) (string, bool) { return p.station, p.station != "" }

func (p *fakeProber) Here(context.Context, netip.Addr, uint16) (string, error) {
	return p.here, p.failure
}

// TestProbes makes faults that no object of the API shows.
func TestProbes(t *testing.T) {
	for _, tt := range []struct {
		name         string
		bgp          bool
		set          func(p *fakeProber)
		hop          Hop // that is at fault
		text, remedy string
		marks        string // of all hops
		others       []corev1.ServicePort
		ranges       []string
		peer         string // by BGP: its address, if it is none of the link
	}{
		{
			name: "all is well", set: func(p *fakeProber) { p.byRouter(answers, "") },
			text: "port 80 answers node2 by the gateway 198.51.100.1", remedy: "curl -v", marks: "✓✓✓✓✓✓✓✓✓✓✓✓–",
		},
		{
			name: "all is well by BGP", bgp: true, set: func(p *fakeProber) { p.byRouter(answers, "") },
			text: "port 80 answers node1 by tor1 (198.51.100.1)", remedy: "curl -v", marks: "✓✓✓✓✓✓✓✓✓✓✓✓–",
		},
		{
			name: "a router that sends nothing back to the link", set: func(p *fakeProber) { p.byRouter(silent, silent) },
			text: "nothing comes back from the gateway 198.51.100.1", remedy: "from behind the router", marks: "✓✓✓✓✓✓✓✓✓✓–✓–",
		},
		{
			name: "an old neighbour entry of the router", set: func(p *fakeProber) { p.byRouter(silent, refused) },
			hop: Router, text: "what node2 sends to node1 itself by the gateway 198.51.100.1 comes back, and what it sends to this address by it does not",
			remedy: "there 198.51.100.200 has to be at 02:00:00:00:01:11 (ip neigh", marks: "✓✓✓✓✓✓✓✓✓✓✗✓",
		},
		{
			name: "an old neighbour entry of this machine", set: func(p *fakeProber) {
				p.byRouter(answers, "")
				p.here, p.station = silent, "02:00:00:00:00:7f"
			},
			hop: Here, text: "has 02:00:00:00:00:7f for the address, while node1, which holds it, has 02:00:00:00:01:11 →",
			remedy: "ip neigh flush to 198.51.100.200", marks: "✓✓✓✓✓✓✓✓✓✓✓✗",
		},
		{
			name: "a neighbour entry of this machine with a MAC of the holder that is on no record", set: func(p *fakeProber) {
				p.byRouter(answers, "")
				p.here, p.station = silent, "02:00:00:00:02:11"
			},
			hop: Here, text: "has 02:00:00:00:02:11 for the address, while node1, which holds it, has 02:00:00:00:01:11 →",
			remedy: "ip neigh flush to 198.51.100.200", marks: "✓✓✓✓✓✓✓✓✓✓✓✗",
		},
		{
			name: "this machine has the right neighbour entry", set: func(p *fakeProber) {
				p.byRouter(answers, "")
				p.here, p.station = silent, "02:00:00:00:01:11"
			},
			text: "this machine gets no answer", remedy: "has this machine a way", marks: "✓✓✓✓✓✓✓✓✓✓✓––",
		},
		{
			name: "a route that the router filters, and the router says so", bgp: true, set: func(p *fakeProber) { p.byRouter(unreachable, refused) },
			hop: Router, text: "by tor1 (198.51.100.1) comes back, and what it sends to this address by it does not: unreachable, it is told",
			remedy: "import filter", marks: "✓✓✓✓✓✓✓✓✗✓✓✓",
		},
		{
			name: "a peer behind a router, whose session is established", bgp: true, peer: "203.0.113.100", set: func(*fakeProber) {},
			text: "tor1 (203.0.113.100) is in no subnet of node1, node2 and node3", remedy: "ebgpMultiHop: true", marks: "✓✓✓✓✓✓✓✓–✓✓✓–",
		},
		{
			name: "a router that may send back to the node that asks", bgp: true, set: func(p *fakeProber) { p.byRouter(silent, refused) },
			text: "what a router does with a route it does not say", marks: "✓✓✓✓✓✓✓✓–✓✓✓–",
		},
		{
			name: "filtered ARP", set: func(p *fakeProber) { clear(p.stations) },
			hop: Neighbour, text: "nobody answers node2 and node3", remedy: "drops ARP", marks: "✓✓✓✓✓✓✓✗",
		},
		{
			name: "ARP filtered for one node", set: func(p *fakeProber) { p.stations["node3"] = nil },
			hop: Neighbour, text: "node2 hears node1, and node3 hears nobody", remedy: "switch ports of node3", marks: "✓✓✓✓✓✓✓✗",
		},
		{
			name: "two answers", set: func(p *fakeProber) {
				p.stations["node2"] = append(p.stations["node2"], reachability.Station{MAC: "02:00:00:00:00:7f"})
			},
			hop: Neighbour, text: "several machines answer: node1 (02:00:00:00:01:11), and 02:00:00:00:00:7f", remedy: "find the " +
				"MAC", marks: "✓✓✓✓✓✓✓✗",
		},
		{
			name: "a machine in the place of the holder", set: func(p *fakeProber) {
				other := []reachability.Station{{MAC: "02:00:00:00:00:7f"}}
				p.stations = map[string][]reachability.Station{"node2": other, "node3": other}
			},
			hop: Neighbour, text: "02:00:00:00:00:7f answers in the place of node1", remedy: "find the MAC", marks: "✓✓✓✓✓✓✓✗",
		},
		{
			name: "kube-proxy stopped", set: func(p *fakeProber) { p.kernel["node1"] = silent },
			hop: KubeProxy, text: "a connection from node1 itself to port 80 gets no answer", remedy: "does kube-proxy " +
				"run", marks: "✓✓✓✓✓✓✓✓✗",
		},
		{
			name: "sources that leave the nodes out", ranges: []string{"192.0.2.0/24"}, set: func(p *fakeProber) {
				p.kernel["node1"], p.tcp["node1"] = silent, silent
			},
			text: "no answer to a connection from node1 itself; loadBalancerSourceRanges are 192.0.2.0/24", remedy: "try from one that is", marks: "✓✓✓✓✓✓✓✓––✓–",
		},
		{
			name: "kube-proxy knows of no endpoint", set: func(p *fakeProber) { p.kernel["node1"] = unreachable },
			hop: KubeProxy, text: "node1 rejects", remedy: "without endpoints", marks: "✓✓✓✓✓✓✓✓✗",
		},
		{
			name: "no program on the targetPort", set: func(p *fakeProber) { p.kernel["node1"] = refused },
			hop: TCP, text: "refused", remedy: "targetPort", marks: "✓✓✓✓✓✓✓✓✗",
		},
		{
			name: "kube-proxy's reject is a refusal too for a program of the node", set: func(p *fakeProber) { p.kernel["node1"] = refused },
			hop: TCP, text: "refused", remedy: "kube-proxy rejects it, since it knows of no endpoint", marks: "✓✓✓✓✓✓✓✓✗",
		},
		{
			name: "rp_filter or a firewall on the node", set: func(p *fakeProber) { p.tcp["node1"] = silent },
			hop: TCP, text: "port 80 does not answer node2 by node1 and node3 by node1", remedy: "rp_filter", marks: "✓✓✓✓✓✓✓✓✓✗",
		},
		{
			name: "a firewall of one node of many by BGP", bgp: true, set: func(p *fakeProber) { p.tcp["node2"] = silent },
			hop: TCP, text: "by node2", remedy: "firewall", marks: "✓✓✓✓✓✓✓✓–✓✗",
		},
		{
			name: "a route that is not sent", bgp: true, set: func(p *fakeProber) {
				p.routes = map[netip.Prefix]RouteState{netip.MustParsePrefix(v4 + "/32"): {Withheld: "the peer has agreed to [IPv6] only"}}
			},
			hop: Route, text: "the peer has agreed to [IPv6] only", remedy: "activate the family", marks: "✓✓✓✓✓✓✓✗",
		},
		{
			name: "ports that were not tried", set: func(p *fakeProber) { p.byRouter(answers, "") }, others: []corev1.ServicePort{
				{Port: 443, Protocol: corev1.ProtocolTCP}, {Port: 53, Protocol: corev1.ProtocolUDP},
			},
			text: "not tried: TCP 443, UDP 53", remedy: "--port", marks: "✓✓✓✓✓✓✓✓✓✓✓✓–",
		},
		{
			name: "a route that the router filters is not known to be at fault", bgp: true, set: func(p *fakeProber) { p.here = silent },
			text: "this machine gets no answer", remedy: "does the router have the route", marks: "✓✓✓✓✓✓✓✓–✓✓––",
		},
		{
			name: "no speaker can be asked", set: func(p *fakeProber) { p.failure = errors.New("pods/portforward is forbidden") },
			text: "pods/portforward is forbidden", marks: "✓✓✓✓✓✓✓–––––",
		},
		{
			name: "no node shares a link with the holder", set: func(p *fakeProber) {
				p.lanReason = "no interface of node node2 is in a " +
					"subnet of node node1"
			},
			text: "could not be asked", marks: "✓✓✓✓✓✓✓–✓–✓–",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, p := newWorld(t), newFakeProber()
			if tt.bgp {
				w.byBGP()
			}
			if tt.peer != "" {
				w.sessions(func(s *v1alpha1.BGPSession) { s.Address = tt.peer })
			}
			tt.set(p)
			w.service().Spec.Ports, w.service().Spec.LoadBalancerSourceRanges = append(w.service().Spec.Ports, tt.others...), tt.ranges
			for i := 1; i <= 3; i++ {
				status := &fixture.Find[*v1alpha1.SpeakerStatus](t, w.objects, fmt.Sprintf("node%d", i)).Status
				status.DefaultGateways = []string{"198.51.100.1"}
				status.Interfaces = append(status.Interfaces, v1alpha1.InterfaceState{
					Name: "cni0", MAC: fmt.Sprintf("02:00:00:00:02:%02d", 10+i), Usable: true, Addresses: []string{fmt.Sprintf("10.244.%d.1/24", i)},
				})
			}
			e := w.engine()
			e.Prober = p
			answer, _ := e.Service(t.Context(), web)
			chain := answer.Chains[0]
			marks, all := "", ""
			for _, s := range chain.Steps {
				marks += s.Mark.Sign()
				all += fmt.Sprintf("%s %s: %s → %s\n", s.Mark.Sign(), s.Hop, s.Text, s.Remedy)
			}
			if marks != tt.marks || !strings.Contains(all, tt.text) || !strings.Contains(all, tt.remedy) {
				t.Errorf("got %s, want %s, with %q and %q:\n%s", marks, tt.marks, tt.text, tt.remedy, all)
			}
			if fault := chain.Fault(); fault != nil && fault.Hop != tt.hop || fault == nil && tt.hop != "" {
				t.Errorf("the fault is %v, want %s", fault, tt.hop)
			}
		})
	}
}

// TestMACs: a holder is known by the MACs with which it can answer for an address, on record or not.
func TestMACs(t *testing.T) {
	w := newWorld(t)
	status := &fixture.Find[*v1alpha1.SpeakerStatus](t, w.objects, "node1").Status
	status.Interfaces = append(status.Interfaces,
		v1alpha1.InterfaceState{Name: "cni0", MAC: "02:00:00:00:02:11", Usable: true, Addresses: []string{"10.244.1.1/24"}},
		v1alpha1.InterfaceState{Name: "eth1", MAC: "02:00:00:00:03:11", Usable: true, Addresses: []string{"198.51.100.91/25"}},
		v1alpha1.InterfaceState{Name: "eth2", MAC: "02:00:00:00:04:11", Reason: "down", Addresses: []string{"198.51.100.92/24"}},
	)
	e := w.engine()
	for _, tt := range []struct {
		address, holder string
		interfaces      []string
		want            string
	}{
		{v4, "node1", []string{"eth0"}, "02:00:00:00:01:11"},
		{v4, "node1", []string{"eth0", "eth1"}, "02:00:00:00:01:11 or 02:00:00:00:03:11"}, // by interfaces of the L2Advertisement
		{v4, "node1", nil, "02:00:00:00:01:11"},
		{"198.51.100.2", "node1", nil, "02:00:00:00:01:11 or 02:00:00:00:03:11"},
		{"192.0.2.1", "node1", nil, "the MAC of node1"},
		{v4, "node1", []string{"eth2"}, "02:00:00:00:01:11"}, // It has been set down since.
		{v4, "node9", nil, "the MAC of node9"},
	} {
		if got := e.macOf(netip.MustParseAddr(tt.address), way{nodes: []string{tt.holder}, interfaces: tt.interfaces}); got != tt.want {
			t.Errorf("%s of %s on %v is at %s, want %s", tt.address, tt.holder, tt.interfaces, got, tt.want)
		}
	}
}

// TestAddress asks for addresses that no Service has.
func TestAddress(t *testing.T) {
	w := newWorld(t)
	w.objects = append(w.objects, &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
		Name: "198.51.100.209", Labels: map[string]string{networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy, ipamv1alpha1.LabelAddressPool: "lan"},
		Annotations: map[string]string{ipamv1alpha1.AnnotationLeft: `{"default/old":"2026-03-01T11:59:00Z"}`},
	}}, &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
		Name: "198.51.100.210", Labels: map[string]string{networkingv1.LabelManagedBy: "ipallocator.k8s.io"},
	}})
	fixture.Find[*v1alpha1.SpeakerStatus](t, w.objects, "node2").Status.Interfaces[0].Addresses = []string{"198.51.100.211/24"}
	e := w.engine()
	for text, want := range map[string]string{
		v4:               "Service default/web ✓✓✓✓✓✓✓––",
		"192.0.2.9":      "Address 192.0.2.9 ✗ in no pool",
		"198.51.100.208": "Address 198.51.100.208 ✓– it is free",
		"198.51.100.209": "Address 198.51.100.209 – default/old left it",
		"198.51.100.210": `Address 198.51.100.210 ✗ managed by "ipallocator.k8s.io"`,
		"198.51.100.211": "Address 198.51.100.211 ✓– an address of node node2, on eth0",
	} {
		answers := e.Address(t.Context(), netip.MustParseAddr(text))
		if len(answers) != 1 || len(answers[0].Chains) != 1 {
			t.Fatalf("%s has %+v", text, answers)
		}
		checkLine(t, answers[0], want)
	}
}

// TestNodeAndPeer asks what nodes announce and why not more, and how peers are.
func TestNodeAndPeer(t *testing.T) {
	w := newWorld(t)
	w.objects = append(w.objects, fixture.Service("db", "node2", []string{"node3"}, "198.51.100.201")...)
	want := func(a *Answer, ok bool, line string) {
		t.Helper()
		if !ok {
			t.Fatal("it does not exist")
		}
		checkLine(t, a, line)
	}
	e := w.engine()
	a, ok := e.Node("node1")
	want(a, ok, "Node node1 ✓✓✓✓– holds 2 addresses: 198.51.100.200, 2001:db8:51::1000")
	want(a, ok, "Node node1 ✓✓✓✓– could hold 1 more, which other nodes hold")
	if _, ok := e.Node("node9"); ok {
		t.Error("node9 exists")
	}
	if _, ok := e.Peer("tor1"); ok {
		t.Error("tor1 exists")
	}
	fixture.Find[*corev1.Node](t, w.objects, "node1").Annotations = map[string]string{ipamv1alpha1.AnnotationDrain: "true"}
	a, ok = w.engine().Node("node1")
	want(a, ok, "Node node1 ✓✗✓✓– the annotation tandem-lb.io/drain drains the node")

	w = newWorld(t)
	w.down("connection refused")
	e = w.engine()
	a, ok = e.Peer("tor1")
	want(a, ok, "BGPPeer tor1 ✓✗✗✗ tor1 on node2: Active, 0 IPv4 and 0 IPv6 prefixes sent: connection refused → no BGP on that address")
	w = newWorld(t)
	w.byBGP()
	a, ok = w.engine().Peer("tor1")
	want(a, ok, "BGPPeer tor1 ✓✓✓✓ tor1 on node2: Established, 1 IPv4 and 1 IPv6 prefixes sent")
}

// checkLine compares kind, name and marks of an answer, and looks for a text in it.
func checkLine(t *testing.T, a *Answer, want string) {
	t.Helper()
	fields := strings.SplitN(want, " ", 4)
	marks, all := "", ""
	for _, s := range a.Chains[0].Steps {
		marks += s.Mark.Sign()
		all += s.Text + " → " + s.Remedy + "\n"
	}
	text := ""
	if len(fields) == 4 {
		text = fields[3]
	}
	if a.Kind != fields[0] || a.Name != fields[1] || marks != fields[2] || !strings.Contains(all, text) {
		t.Errorf("%s %s %s\n%swant %s", a.Kind, a.Name, marks, all, want)
	}
}

// BenchmarkService explains one Service among 10,000 of three nodes, from what a reading of the cluster has found.
func BenchmarkService(b *testing.B) {
	state := &cluster.State{System: "tandem-system", Now: fixture.Now}
	objects := append(fixture.LAN(), fixture.Service("web", "node1", []string{"node2"}, v4, v6)...)
	for i := range 10_000 {
		objects = append(objects, fixture.Service(fmt.Sprint("s", i), "node1", []string{"node2"}, netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}).String())...)
	}
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Service:
			state.Services.Items = append(state.Services.Items, *o)
		case *discoveryv1.EndpointSlice:
			state.EndpointSlices.Items = append(state.EndpointSlices.Items, *o)
		case *corev1.Node:
			state.Nodes.Items = append(state.Nodes.Items, *o)
		case *networkingv1.IPAddress:
			state.Claims.Items = append(state.Claims.Items, *o)
		case *v1alpha1.L2Announcement:
			state.Announcements.Items = append(state.Announcements.Items, *o)
		case *v1alpha1.SpeakerStatus:
			state.Speakers.Items = append(state.Speakers.Items, *o)
		case *v1alpha1.L2Advertisement:
			state.Config.L2Advertisements = append(state.Config.L2Advertisements, *o)
		}
	}
	for b.Loop() {
		state.Derive()
		if _, ok := New(state).Service(b.Context(), web); !ok {
			b.Fatal("there is no Service")
		}
	}
}
