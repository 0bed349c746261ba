// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/membership"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=tandem-system,resources=leases,verbs=create;patch

// livenessReport is what this speaker says of the others.
type livenessReport struct {
	reports bool // whether this speaker is one of those that report
	owner   *metav1.OwnerReference
	dead    []string // nodes, sorted
}

// reportOn returns the report of the speaker of a node. Known are the nodes that have a speaker according to the API.
func reportOn(
	node string, shown membership.Snapshot, alive func(string) bool, known map[string][]netip.Addr, objects *observation.Objects,
) livenessReport {
	var r livenessReport
	names := slices.Sorted(maps.Keys(shown.Nodes))
	r.reports = slices.Contains(names[:min(len(names), observation.Reporters)], node)
	for _, other := range slices.Sorted(maps.Keys(known)) {
		if other != node && !alive(other) {
			r.dead = append(r.dead, other)
		}
	}
	for i := range objects.Nodes.Items {
		if n := &objects.Nodes.Items[i]; n.Name == node {
			r.owner = &metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}
		}
	}
	return r
}

// reporter tells the controller manager who is alive, if this speaker is one of those that do.
type reporter struct {
	client          client.Client
	namespace, node string
	latest          signal.Latest[livenessReport]
}

// run renews the Lease, at once when another speaker dies or comes, until the context ends.
func (r *reporter) run(ctx context.Context) error {
	tick := time.NewTicker(observation.ReportPeriod)
	defer tick.Stop()
	var report livenessReport
	for {
		select {
		case <-ctx.Done():
			return nil
		case next := <-r.latest:
			same := next.reports == report.reports && slices.Equal(next.dead, report.dead)
			if report = next; same {
				continue
			}
		case <-tick.C:
		}
		if !report.reports {
			continue
		}
		if err := r.write(ctx, report); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Failed to tell the controller manager which speakers are alive, trying again")
		}
	}
}

// write renews the Lease without reading it: nobody else writes it.
func (r *reporter) write(ctx context.Context, report livenessReport) error {
	ctx, cancel := context.WithTimeout(ctx, observation.ReportPeriod)
	defer cancel()
	lease := observation.Report(r.namespace, r.node, report.owner, report.dead, time.Now())
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": lease.Annotations, "labels": lease.Labels}, "spec": lease.Spec,
	})
	if err != nil {
		return err
	}
	err = r.client.Patch(ctx, lease.DeepCopy(), client.RawPatch(types.MergePatchType, patch))
	if apierrors.IsNotFound(err) {
		err = r.client.Create(ctx, lease)
	}
	if err != nil {
		return fmt.Errorf("lease %s/%s: %w", lease.Namespace, lease.Name, err)
	}
	return nil
}
