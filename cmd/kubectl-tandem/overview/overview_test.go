// SPDX-License-Identifier: Apache-2.0

package overview

import (
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/internal/fixture"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

var now = fixture.Now

// leader is the Lease of a leader that was heard of some time ago.
func leader(ago time.Duration) *coordinationv1.Lease {
	return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{
		HolderIdentity: new("ccm-1"), LeaseDurationSeconds: new(int32(15)), RenewTime: new(metav1.NewMicroTime(now.Add(-ago))),
	}}
}

// state returns a State with what is given, after Derive.
func state(leader *coordinationv1.Lease, change func(*cluster.State)) *cluster.State {
	s := &cluster.State{Leader: leader, Now: now}
	change(s)
	s.Derive()
	return s
}

func TestServices(t *testing.T) {
	condition := func(kind, status, reason, message string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: metav1.ConditionStatus(status), Reason: reason, Message: message}
	}
	for _, tt := range []struct {
		name   string
		leader *coordinationv1.Lease
		change func(*corev1.Service)
		want   string // state and message, "" for a Service that is not listed
	}{
		{name: "of our class, just made", want: "Waiting: no address yet of IPv4"},
		{name: "without a class, just made", change: func(s *corev1.Service) { s.Spec.LoadBalancerClass = nil }, want: "Waiting: no address yet of IPv4"},
		{
			name: "without a class or a trace of us, though a leader has had the time",
			change: func(s *corev1.Service) {
				s.Spec.LoadBalancerClass, s.CreationTimestamp = nil, metav1.NewTime(now.Add(-time.Hour))
			},
		},
		{
			name: "without a class or a trace of us, and nobody leads", leader: leader(time.Minute),
			change: func(s *corev1.Service) {
				s.Spec.LoadBalancerClass, s.CreationTimestamp = nil, metav1.NewTime(now.Add(-time.Hour))
			},
			want: "Waiting: no address yet of IPv4",
		},
		{
			name: "without a class, with another provider's address", leader: leader(time.Minute),
			change: func(s *corev1.Service) {
				s.Spec.LoadBalancerClass, s.Status.LoadBalancer.Ingress = nil, []corev1.LoadBalancerIngress{{IP: "192.0.2.9"}}
			},
		},
		{name: "of another class", change: func(s *corev1.Service) { s.Spec.LoadBalancerClass = new("metallb.io/metallb") }},
		{
			name: "the controller manager says why it waits",
			change: func(s *corev1.Service) {
				s.Status.Conditions = []metav1.Condition{
					condition(ipamv1alpha1.ServiceConditionAllocated, "False", ipamv1alpha1.ServiceReasonNotAllocated, "no free address in pool lan"),
				}
			},
			want: "Waiting: no free address in pool lan",
		},
		{
			name: "an address without a claim",
			change: func(s *corev1.Service) {
				s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.9"}}
			},
			want: "NotAnnounced: no IPAddress of Tandem stands for 192.0.2.9",
		},
		{
			name: "another controller overwrites the status",
			change: func(s *corev1.Service) {
				s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.11"}}
				s.Status.Conditions = []metav1.Condition{
					condition(ipamv1alpha1.ServiceConditionAnnounced, "False", ipamv1alpha1.ServiceReasonStatusOverwritten, "servicelb writes the status"),
				}
			},
			want: "NotAnnounced: servicelb writes the status",
		},
		{
			name: "being deleted",
			change: func(s *corev1.Service) {
				s.DeletionTimestamp, s.Finalizers = new(metav1.NewTime(now)), []string{ipamv1alpha1.Finalizer}
			},
			want: "Deleting: is deleted, and waits for " + ipamv1alpha1.Finalizer,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			svc := corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", CreationTimestamp: metav1.NewTime(now)},
				Spec: corev1.ServiceSpec{
					Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: new(ipamv1alpha1.LoadBalancerClass), IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
				},
			}
			if tt.change != nil {
				tt.change(&svc)
			}
			if tt.leader == nil {
				tt.leader = leader(time.Second)
			}
			got := ""
			for _, s := range Services(state(tt.leader, func(s *cluster.State) { s.Services.Items = []corev1.Service{svc} })) {
				got = string(s.State) + ": " + s.Message
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestSpeakers: on the two sides of a partition reports differ; a session of a dead speaker is unknown, and conditions of it count no more.
func TestSpeakers(t *testing.T) {
	s := state(leader(time.Second), func(s *cluster.State) {
		s.Leases = []coordinationv1.Lease{
			*observation.Report("tandem-system", "node1", nil, []string{"node2", "node3"}, now),
			*observation.Report("tandem-system", "node2", nil, []string{"node1", "node3"}, now),
			*observation.Report("tandem-system", "node4", nil, nil, now.Add(-time.Hour)), // left over
		}
		for i := 1; i <= 3; i++ {
			s.Nodes.Items = append(s.Nodes.Items, *fixture.Node(i))
			speaker := fixture.Speaker(i)
			speaker.Status.BGPSessions = []v1alpha1.BGPSession{{Peer: "tor1", State: "Established", AdvertisedIPv4: 3}}
			speaker.Status.Conditions = []metav1.Condition{
				{Type: v1alpha1.ConditionIsolatedFromLAN, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonNothingAnswers, Message: "nothing on eth0"},
			}
			s.Speakers.Items = append(s.Speakers.Items, *speaker)
		}
	})
	var got []string
	for _, s := range Speakers(s) {
		alive := "dead"
		if s.Alive {
			alive = "alive"
		}
		got = append(got, strings.Join([]string{
			s.Node, alive, "seen by " + strings.Join(s.SeenBy, ","), "not by " + strings.Join(s.NotSeenBy, ","), strings.Join(s.Problems, ","),
		}, " "))
	}
	want := []string{
		"node1 alive seen by node1 not by node2 NothingAnswers: nothing on eth0",
		"node2 alive seen by node2 not by node1 NothingAnswers: nothing on eth0",
		"node3 dead seen by  not by node1,node2 ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("speakers (-want +got):\n%s", diff)
	}
	sessions := Sessions(s)
	if len(sessions) != 3 || sessions[0].State != "Established" || sessions[2].State != Unknown || sessions[2].AdvertisedIPv4 != 0 {
		t.Errorf("sessions are %+v", sessions)
	}
}

// TestUnanswered: a Service whose holder does not answer is not well, unless the speaker that says so has died, or another node holds the Service now.
func TestUnanswered(t *testing.T) {
	for _, tt := range []struct {
		name, holder string
		dead         []string
		want         ServiceState
	}{
		{name: "another node hears nothing", holder: "node1", want: Unanswered},
		{name: "another node holds it by now", holder: "node3", want: Announced},
		{name: "the speaker that said so is dead", holder: "node1", dead: []string{"node2"}, want: Announced},
	} {
		t.Run(tt.name, func(t *testing.T) {
			silent := unanswered(state(nil, func(s *cluster.State) {
				s.Leases = []coordinationv1.Lease{*observation.Report("tandem-system", "node1", nil, tt.dead, now)}
				speaker := fixture.Speaker(2)
				speaker.Status.Unanswered = []v1alpha1.UnansweredAddress{{Address: "198.51.100.200", Node: "node1", Interface: "eth0"}}
				s.Speakers.Items = append(s.Speakers.Items, *speaker)
			}))
			service := Service{Addresses: []string{"198.51.100.200"}, State: Announced}
			if service.listen(silent, tt.holder); service.State != tt.want || service.Problem() != (tt.want == Unanswered) {
				t.Errorf("the Service is %s, want %s", service.State, tt.want)
			}
		})
	}
}

func TestPercent(t *testing.T) {
	for _, tt := range []struct {
		pool Pool
		want int
	}{
		{Pool{Capacity: 4096, Available: 4096}, 0},
		{Pool{Capacity: 4096, Allocated: 1, Available: 4095}, 1},
		{Pool{Capacity: 4096, Allocated: 4095, Available: 1}, 99},
		{Pool{Capacity: 40, Allocated: 19, Cooling: 1, Available: 20}, 50},
		{Pool{Capacity: 40, Allocated: 39, Cooling: 1}, 100},
		{Pool{}, 100}, // all of it is reserved
		{Pool{Capacity: math.MaxInt64, Allocated: 7, Available: math.MaxInt64}, 1},
	} {
		if got := tt.pool.Percent(); got != tt.want {
			t.Errorf("%+v is %d %% full, want %d", tt.pool, got, tt.want)
		}
	}
}

// TestAddressOf: an address of a Node, one that another machine has, and one of nobody.
func TestAddressOf(t *testing.T) {
	s := state(leader(time.Second), func(s *cluster.State) {
		s.Nodes.Items = append(s.Nodes.Items, *fixture.Node(1))
		speaker := fixture.Speaker(1)
		speaker.Status.Conflicts = []v1alpha1.AddressConflict{{Address: "198.51.100.200", Interface: "eth0", MAC: "02:00:00:00:00:99"}}
		s.Speakers.Items = append(s.Speakers.Items, *speaker)
	})
	for text, want := range map[string]struct {
		reserved, conflicts string
		problem             bool
	}{
		"198.51.100.11":  {reserved: "address of Node node1"},
		"198.51.100.200": {conflicts: "a machine with the MAC address 02:00:00:00:00:99, by what node1 hears on eth0", problem: true},
		"198.51.100.201": {},
	} {
		a := AddressOf(s, netip.MustParseAddr(text), nil)
		if strings.Join(a.Reserved, ";") != want.reserved || strings.Join(a.Conflicts, ";") != want.conflicts || a.Problem() != want.problem {
			t.Errorf("%s: %+v, want %+v", text, a, want)
		}
	}
}
