// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// conflictReporter tells the users of an address by an event that another machine answers for it (RFC 5227), or did before it was
// announced.
type conflictReporter struct {
	node   string
	cache  client.Reader
	events record.EventRecorder
	found  chan layer2.Conflict
}

func newConflictReporter(node string, cache client.Reader, events record.EventRecorder) *conflictReporter {
	return &conflictReporter{node: node, cache: cache, events: events, found: make(chan layer2.Conflict, 16)}
}

// Note has a conflict reported. It does not block: of many at once some are dropped, since a conflict that lasts is found again.
func (r *conflictReporter) Note(c layer2.Conflict) {
	select {
	case r.found <- c:
	default:
	}
}

// run reports conflicts until the context ends.
func (r *conflictReporter) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-r.found:
			r.report(ctx, c)
		}
	}
}

// report writes an event for each Service that publishes the address. Another speaker is no other machine: two speakers may both answer for
// a moment when an address moves.
func (r *conflictReporter) report(ctx context.Context, c layer2.Conflict) {
	var services corev1.ServiceList
	var speakers v1alpha1.SpeakerStatusList
	for _, list := range []client.ObjectList{&services, &speakers} {
		if err := r.cache.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return
		}
	}
	for i := range speakers.Items {
		if slices.ContainsFunc(speakers.Items[i].Status.Interfaces, func(i v1alpha1.InterfaceState) bool { return i.MAC == c.MAC.String() }) {
			return
		}
	}
	for i := range services.Items {
		svc := &services.Items[i]
		if slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool { return in.IP == c.Address.String() }) {
			too := "too"
			if c.Probed {
				too = "already, so that it is not announced there until it is free"
			}
			r.events.Eventf(svc, corev1.EventTypeWarning, ipamv1alpha1.EventAddressConflict,
				"%s on %s of node %s says that it has %s %s; "+
					"take the address out of the pool with spec.ipv4.exclude or spec.ipv6.exclude, or away from that host",
				c.MAC, c.Interface, r.node, c.Address, too)
		}
	}
}
