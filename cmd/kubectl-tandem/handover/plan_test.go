// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/internal/fixture"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

const (
	v4, v6 = "198.51.100.200", "2001:db8:51::1000"
	other4 = "198.51.100.201"
)

// noInterface is what the diagnosis says of an address that is in no subnet of a node that may announce.
func noInterface(address string) string {
	return "no node that nodeSelectors select has an interface in the subnet of " + address +
		"; set interfaces of the L2Advertisement if routers know the way"
}

var everywhere = []string{"node1", "node2", "node3"}

// byBGP adds a peer of all nodes with established sessions, and an advertisement of everything.
func byBGP(objects []client.Object) []client.Object {
	for _, object := range objects {
		if status, ok := object.(*v1alpha1.SpeakerStatus); ok {
			status.Status.BGPSessions = []v1alpha1.BGPSession{{
				Peer: "tor1", State: v1alpha1.BGPEstablished, AdvertisedIPv4: 1, AdvertisedIPv6: 1,
				Families: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
			}}
		}
	}
	return append(objects,
		&v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "tor1"}, Spec: v1alpha1.BGPPeerSpec{MyASN: 64512, PeerASN: 64513, PeerAddress: "198.51.100.1"}},
		&v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "all"}})
}

// sayDrain says in lines what a plan has.
func sayDrain(d *Drain) (lines []string) {
	if d.Already != "" {
		lines = append(lines, "already: "+d.Already)
	}
	if !d.Speaker {
		lines = append(lines, "no speaker")
	}
	for _, m := range d.Moves {
		lines = append(lines, fmt.Sprintf("%s %v %s -> %s", m.Service, m.Addresses, m.From, m.To))
	}
	if d.Routes > 0 {
		lines = append(lines, fmt.Sprintf("withdraws %d from %v", d.Routes, d.Peers))
	}
	for _, l := range d.Left {
		lines = append(lines, strings.TrimSuffix(fmt.Sprintf("left %s %s still=%t: %s", l.Service, l.Address, l.Still, l.Why), ": "))
	}
	return lines
}

func TestPlanDrain(t *testing.T) {
	for _, tt := range []struct {
		name     string
		services []client.Object
		change   func(*testing.T, []client.Object) []client.Object
		want     []string
	}{
		{
			name: "both addresses of a Service move to one node, and those of other nodes stay",
			services: slices.Concat(
				fixture.Service("web", "node1", everywhere, v4, v6), fixture.Service("mail", "node2", everywhere, other4)),
			want: []string{"default/web [" + v4 + " " + v6 + "] node1 -> node3"},
		},
		{name: "a node that holds nothing", services: fixture.Service("web", "node2", everywhere, v4)},
		{
			name: "a local Service has its endpoints on the node alone", services: fixture.Service("web", "node1", []string{"node1"}, v4),
			change: func(t *testing.T, objects []client.Object) []client.Object {
				fixture.Find[*corev1.Service](t, objects, "web").Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
				return objects
			},
			want: []string{"left default/web " + v4 + " still=false: externalTrafficPolicy is Local, and no node that could announce " + v4 + " has a ready endpoint"},
		},
		{
			name: "the only node on the link", services: fixture.Service("web", "node1", everywhere, v4),
			change: func(t *testing.T, objects []client.Object) []client.Object {
				for _, name := range []string{"node2", "node3"} {
					fixture.Find[*v1alpha1.SpeakerStatus](t, objects, name).Status.Interfaces = nil
				}
				return objects
			},
			want: []string{"left default/web " + v4 + " still=false: " + noInterface(v4)},
		},
		{
			name: "the only node with IPv6 on the link keeps one address of two from moving", services: fixture.Service("web", "node1", everywhere, v4, v6),
			change: func(t *testing.T, objects []client.Object) []client.Object {
				for _, name := range []string{"node2", "node3"} {
					i := &fixture.Find[*v1alpha1.SpeakerStatus](t, objects, name).Status.Interfaces[0]
					i.Addresses = i.Addresses[:1]
				}
				return objects
			},
			want: []string{
				"default/web [" + v4 + "] node1 -> node3", "left default/web " + v6 + " still=false: " + noInterface(v6),
			},
		},
		{
			name: "by BGP all nodes announce, and one less afterwards", services: fixture.Service("web", "node1", everywhere, v4),
			change: func(_ *testing.T, objects []client.Object) []client.Object { return byBGP(objects) },
			want:   []string{"default/web [" + v4 + "] node1 -> node3", "withdraws 1 from [tor1]"},
		},
		{
			name: "by BGP the sessions of the other nodes are down", services: fixture.Service("web", "", everywhere, v4),
			change: func(t *testing.T, objects []client.Object) []client.Object {
				objects = slices.DeleteFunc(byBGP(objects), func(o client.Object) bool { _, l2 := o.(*v1alpha1.L2Advertisement); return l2 })
				for _, name := range []string{"node2", "node3"} {
					fixture.Find[*v1alpha1.SpeakerStatus](t, objects, name).Status.BGPSessions[0].State = v1alpha1.BGPActive
				}
				return objects
			},
			want: []string{"withdraws 1 from [tor1]", "left default/web " + v4 + " still=false: BGP session with tor1 is down on all 2 nodes"},
		},
		{
			name: "layer 2 has no other node, and BGP goes on", services: fixture.Service("web", "node1", everywhere, v4),
			change: func(t *testing.T, objects []client.Object) []client.Object {
				for _, name := range []string{"node2", "node3"} {
					fixture.Find[*v1alpha1.SpeakerStatus](t, objects, name).Status.Interfaces = nil
				}
				return byBGP(objects)
			},
			want: []string{"withdraws 1 from [tor1]", "left default/web " + v4 + " still=true"},
		},
		{
			name: "a node that is drained already", services: fixture.Service("web", "node2", everywhere, v4),
			change: func(t *testing.T, objects []client.Object) []client.Object {
				fixture.Find[*corev1.Node](t, objects, "node1").Annotations = map[string]string{ipamv1alpha1.AnnotationDrain: "true"}
				return objects
			},
			want: []string{"already: the annotation tandem-lb.io/drain drains the node"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			objects := append(fixture.LAN(), tt.services...)
			if tt.change != nil {
				objects = tt.change(t, objects)
			}
			plan, err := PlanDrain(fixture.State(t, objects...), "node1")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, sayDrain(plan)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, err := PlanDrain(fixture.State(t, fixture.LAN()...), "node9"); err == nil {
		t.Error("a Node that does not exist can be drained")
	}
}

func TestPlanMove(t *testing.T) {
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	for _, tt := range []struct {
		name     string
		services []client.Object
		change   func(*testing.T, []client.Object)
		to       string
		want     *Transfer
		err      string
	}{
		{
			name: "a node of the LAN", services: fixture.Service("web", "node1", everywhere, v4), to: "node2",
			want: &Transfer{Moves: []Move{{"default/web", []netip.Addr{netip.MustParseAddr(v4)}, "node1", "node2"}}},
		},
		{name: "the node that has it", services: fixture.Service("web", "node2", everywhere, v4), to: "node2", want: &Transfer{}},
		{name: "a Node that does not exist", services: fixture.Service("web", "node1", everywhere, v4), to: "node9", err: `there is no Node "node9"`},
		{
			name: "a node that is drained", services: fixture.Service("web", "node1", everywhere, v4), to: "node2", err: "it is drained or excluded",
			change: func(t *testing.T, objects []client.Object) {
				fixture.Find[*corev1.Node](t, objects, "node2").Annotations = map[string]string{ipamv1alpha1.AnnotationDrain: "true"}
			},
		},
		{
			name: "a node on another link", services: fixture.Service("web", "node1", everywhere, v4), to: "node2", err: "198.51.100.200: NoInterface",
			change: func(t *testing.T, objects []client.Object) {
				fixture.Find[*v1alpha1.SpeakerStatus](t, objects, "node2").Status.Interfaces = nil
			},
		},
		{name: "a Service without an address", services: nil, to: "node2", err: "there is no Service default/web"},
		{name: "a Service that no node has had", services: fixture.Service("web", "", everywhere, v4), to: "node2", err: "there is no L2Announcement"},
		{
			name: "a preferred node takes it back", services: fixture.Service("web", "node1", everywhere, v4), to: "node2",
			change: func(t *testing.T, objects []client.Object) {
				spec := &fixture.Find[*v1alpha1.L2Advertisement](t, objects, "lan").Spec
				spec.FailbackAfter = &metav1.Duration{Duration: 600e9}
				spec.PreferredNodes = []v1alpha1.PreferredNode{{
					Weight: 10, NodeSelector: metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelHostname: "node1"}},
				}}
			},
			want: &Transfer{Moves: []Move{{"default/web", []netip.Addr{netip.MustParseAddr(v4)}, "node1", "node2"}}, Back: "node1"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			objects := append(fixture.LAN(), tt.services...)
			if tt.change != nil {
				tt.change(t, objects)
			}
			plan, err := PlanMove(fixture.State(t, objects...), web, tt.to)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, plan, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// BenchmarkPlans are what a user waits for after the reading, with 10,000 Services of both families on 100 nodes with BGP. node1 has been away, and the
// others have what it had.
func BenchmarkPlans(b *testing.B) {
	objects := fixture.LAN()
	for i := 4; i <= 100; i++ {
		objects = append(objects, fixture.Node(i), fixture.Speaker(i))
	}
	for i := range 10_000 {
		v4, v6 := fmt.Sprintf("198.51.%d.%d", 100+i/200, 1+i%200), fmt.Sprintf("2001:db8:51::1:%x", i)
		objects = append(objects, fixture.Service(fmt.Sprintf("web%d", i), fmt.Sprintf("node%d", 2+i%99), everywhere, v4, v6)...)
	}
	for _, object := range objects {
		if status, ok := object.(*v1alpha1.SpeakerStatus); ok {
			status.Status.Interfaces[0].Addresses[0] = strings.Replace(status.Status.Interfaces[0].Addresses[0], "/24", "/16", 1)
		}
	}
	state := fixture.State(b, byBGP(objects)...)
	b.Run("drain", func(b *testing.B) {
		for b.Loop() {
			if plan, err := PlanDrain(state, "node2"); err != nil || len(plan.Moves) < 90 {
				b.Fatal(plan, err)
			}
		}
	})
	b.Run("move", func(b *testing.B) {
		for b.Loop() {
			if _, err := PlanMove(state, types.NamespacedName{Namespace: "default", Name: "web0"}, "node1"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("rebalance", func(b *testing.B) {
		for b.Loop() {
			decision.Rebalance(state.Snapshot)
		}
	})
}
