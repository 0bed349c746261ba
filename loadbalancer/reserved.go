// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// NetworkChanged has the server read the network of the Nodes again, as when a Node joins.
func (s *Server) NetworkChanged() {
	s.plans.AddAfter(item{kind: setNetwork}, networkPeriod)
}

// setReserved gives the allocator what is reserved on the network as it is now. Addresses that are not reserved any
// more may help waiting Services.
//
// For example, node7 with 192.0.2.5 is removed from the cluster: a Service that asked for 192.0.2.5, and was told whose it
// is, is woken.
func (s *Server) setReserved(ctx context.Context) error {
	if s.network == nil {
		return nil
	}
	network, err := s.network(ctx)
	if err != nil {
		return fmt.Errorf("reading the network of the Nodes: %w", err)
	}
	if s.ledger.Cache.SetReserved(ipam.ReservedOf(network)) {
		s.plans.Add(item{kind: wakeWaiting})
	}
	s.reportReserved()
	s.usageChanged()
	return nil
}

// reportReserved tells the user, by events on the Service and on the Node, of each address that a Service holds and
// that has become reserved. For example, web has 192.0.2.5, and node7 joins with that address: nothing is taken away,
// and both get an event.
func (s *Server) reportReserved() {
	held := map[netip.Addr]bool{}
	for _, u := range s.ledger.Cache.Usage() {
		for _, address := range u.Reserved.Held {
			held[address] = true
			if s.reservedHeld[address] {
				continue
			}
			for _, r := range s.ledger.Cache.ReservedAt(address) {
				for _, service := range s.ledger.Cache.Lookup(address).Services {
					s.warnReserved(service, address, r)
				}
			}
		}
	}
	s.reservedHeld = held
}

// warnReserved writes the two events. That of the Service says how to move; that of the Node is for the person who
// has given it the address.
func (s *Server) warnReserved(service ipam.Service, address netip.Addr, r ipam.Reservation) {
	if svc := s.ledger.Service(service); svc != nil {
		s.recorder.Eventf(svc, corev1.EventTypeWarning, v1alpha1.EventReservedAddress,
			"%s is the %s; the Service keeps it until it gives it up, or at once gets another one with the annotation %s: \"true\"",
			address, r.Owner, v1alpha1.AnnotationReallocate)
	}
	if r.Node != "" {
		// Events on a Node are shown under its name as UID, as the kubelet writes them.
		node := &corev1.ObjectReference{Kind: "Node", Name: r.Node, UID: types.UID(r.Node)}
		s.recorder.Eventf(node, corev1.EventTypeWarning, v1alpha1.EventReservedAddress,
			"%s, the %s, is an address of Service %s", address, r.Owner, service)
	}
}
