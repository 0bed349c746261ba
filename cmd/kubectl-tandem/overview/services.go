// SPDX-License-Identifier: Apache-2.0

package overview

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/diagnosis"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// ServiceState is how a Service is, in one word.
type ServiceState string

// The states of a Service.
const (
	Announced    ServiceState = "Announced"
	Waiting      ServiceState = "Waiting"      // for an address that it requires
	NotAnnounced ServiceState = "NotAnnounced" // at least one of its addresses is not
	Unanswered   ServiceState = "Unanswered"   // announced on layer 2, and the holder does not answer on the LAN, by what another speaker hears
	Deleting     ServiceState = "Deleting"
)

// Service is a Service that Tandem serves.
type Service struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Addresses []string     `json:"addresses"` // that it publishes
	Pools     []string     `json:"pools,omitempty"`
	State     ServiceState `json:"state"`
	// Reason and Message are those of the condition Allocated of a Service that waits, and of Announced for others.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// By says how its addresses are announced: "node1" on layer 2, "BGP", "kernel", or several of them.
	By string `json:"by,omitempty"`
	// Created is when the Service was.
	Created time.Time `json:"created"`
}

// Problem reports whether something is wrong with a Service.
func (s Service) Problem() bool {
	return s.State == Waiting || s.State == NotAnnounced || s.State == Unanswered
}

// settled is after what time a Service that Tandem serves has conditions. The controller manager writes the first ones after 30 seconds at most.
const settled = time.Minute

// Services returns the Services that Tandem serves, by namespace and name.
func Services(s *cluster.State) []Service {
	leads := leaderOf(s).Alive
	records := s.Records()
	pools := map[types.NamespacedName][]string{}
	for i := range s.Snapshot.Services {
		svc := &s.Snapshot.Services[i]
		for _, a := range svc.Addresses {
			if !slices.Contains(pools[svc.Name], a.Pool) {
				pools[svc.Name] = append(pools[svc.Name], a.Pool)
			}
		}
	}
	silent := unanswered(s)
	services := []Service{}
	for i := range s.Services.Items {
		svc := &s.Services.Items[i]
		name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
		if !served(svc, len(pools[name]) > 0, leads, s.Now) {
			continue
		}
		service := Service{
			Namespace: svc.Namespace, Name: svc.Name, Addresses: []string{}, Pools: pools[name], Created: svc.CreationTimestamp.Time,
		}
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			service.Addresses = append(service.Addresses, cmp.Or(ingress.IP, ingress.Hostname))
		}
		service.judge(s, svc, records[name].Node)
		service.listen(silent, records[name].Node)
		services = append(services, service)
	}
	slices.SortFunc(services, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return services
}

// served reports whether Tandem serves a Service of type LoadBalancer. One without a class is another provider's where the controller manager was told
// so by a flag; then it has no trace of Tandem, though a leader has had the time to leave one.
func served(svc *corev1.Service, claims, leads bool, now time.Time) bool {
	switch {
	case svc.Spec.LoadBalancerClass != nil: // Those of --load-balancer-class bear our mark.
		return *svc.Spec.LoadBalancerClass == ipamv1alpha1.LoadBalancerClass || svc.Annotations[ipamv1alpha1.AnnotationFinalizer] != ""
	case claims, svc.Annotations[ipamv1alpha1.AnnotationFinalizer] != "":
		return true
	case condition(svc, ipamv1alpha1.ServiceConditionAllocated) != nil:
		return true
	}
	return len(svc.Status.LoadBalancer.Ingress) == 0 && (!leads || now.Sub(svc.CreationTimestamp.Time) < settled)
}

// condition returns a condition of a Service, nil if it does not have it.
func condition(svc *corev1.Service, name string) *metav1.Condition {
	return meta.FindStatusCondition(svc.Status.Conditions, name)
}

// judge sets the state of a Service, and what follows from it. What an address lacks is worked out from the snapshot. Only the controller manager knows
// why it has given none, and whether another controller overwrites the status: its conditions say that.
func (s *Service) judge(state *cluster.State, svc *corev1.Service, holder string) {
	name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	was := condition(svc, ipamv1alpha1.ServiceConditionAnnounced)
	findings := state.Diagnoser.Service(name, was != nil && was.Status == metav1.ConditionTrue)
	announced, reason, message := diagnosis.Sum(findings)
	s.By = by(findings, holder)
	allocated := condition(svc, ipamv1alpha1.ServiceConditionAllocated)
	switch {
	case svc.DeletionTimestamp != nil:
		s.State = Deleting
		s.Message = "is deleted, and waits for " + strings.Join(svc.Finalizers, ", ")
	case was != nil && was.Reason == ipamv1alpha1.ServiceReasonStatusOverwritten:
		s.State, s.Reason, s.Message = NotAnnounced, was.Reason, was.Message
	case len(findings) == 0:
		s.State, s.Reason = Waiting, ipamv1alpha1.ServiceReasonNotAllocated
		s.Message = fmt.Sprintf("no address yet of %s", joinFamilies(svc))
		if allocated != nil && allocated.Status == metav1.ConditionFalse {
			s.Message = allocated.Message
		}
	case allocated != nil && allocated.Reason == ipamv1alpha1.ServiceReasonNotAllocated && len(findings) < len(svc.Spec.IPFamilies):
		s.State, s.Reason, s.Message = Waiting, allocated.Reason, allocated.Message
	case !announced:
		s.State, s.Reason, s.Message = NotAnnounced, reason, message
	default:
		s.State, s.Reason, s.Message = Announced, reason, message
	}
}

// listen takes in that the holder of a Service that is announced does not answer for one of its addresses.
func (s *Service) listen(silent map[string]v1alpha1.UnansweredAddress, holder string) {
	for _, address := range s.Addresses {
		if u, ok := silent[address]; ok && s.State == Announced && u.Node == holder {
			s.State, s.Reason, s.Message = Unanswered, v1alpha1.ReasonNoAnswer, unansweredMessage(u)
		}
	}
}

// unanswered returns the addresses for which their nodes do not answer, as speakers that are alive hear it.
func unanswered(s *cluster.State) map[string]v1alpha1.UnansweredAddress {
	silent := map[string]v1alpha1.UnansweredAddress{}
	for i := range s.Speakers.Items {
		if s.Snapshot.Alive(s.Speakers.Items[i].Name) {
			for _, u := range s.Speakers.Items[i].Status.Unanswered {
				silent[u.Address] = u
			}
		}
	}
	return silent
}

func unansweredMessage(u v1alpha1.UnansweredAddress) string {
	return fmt.Sprintf("%s does not answer for %s on %s, by what another node hears on the LAN", u.Node, u.Address, u.Interface)
}

// joinFamilies names the families of a Service: "IPv4 and IPv6".
func joinFamilies(svc *corev1.Service) string {
	return strings.Join(texts(svc.Spec.IPFamilies), " and ")
}

// by says how addresses are announced.
func by(findings []diagnosis.Finding, holder string) string {
	var ways []string
	for _, f := range findings {
		way := string(f.Way)
		if f.Way == diagnosis.Layer2 {
			way = holder
		}
		if way != "" && !slices.Contains(ways, way) {
			ways = append(ways, way)
		}
	}
	return strings.Join(ways, ", ")
}

// Has reports whether a Service publishes an address.
func (s Service) Has(ip netip.Addr) bool {
	return slices.ContainsFunc(s.Addresses, func(text string) bool {
		a, err := netip.ParseAddr(text)
		return err == nil && a == ip
	})
}
