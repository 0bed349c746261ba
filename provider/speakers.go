// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// +kubebuilder:rbac:groups=tandem-lb.io,resources=speakerstatuses,verbs=get;list;watch;delete
// +kubebuilder:rbac:groups=apps,namespace=tandem-system,resources=daemonsets,resourceNames=tandem-speaker,verbs=get

const (
	// speakerDaemonSet is the name of the DaemonSet that runs the speakers.
	speakerDaemonSet = "tandem-speaker"
	// statusPeriod is how often SpeakerStatuses are looked at, and statusGrace for how long a node must have had no speaker until its status
	// is deleted.
	statusPeriod = 10 * time.Second
	statusGrace  = time.Minute
)

// statusCollector deletes the SpeakerStatuses of nodes that exist, that the DaemonSet of the speakers does not select any more, and on which
// no speaker runs. A speaker that starts takes one that has a status for alive, as it may be one that gossip does not reach, and so waits for
// a node on which there is no speaker. For example an administrator takes a label off node3: its speaker leaves, and a minute later its
// status is deleted. The status of a Node that is deleted goes with the Node.
//
// Speakers say which of them are dead. A speaker that has started since node3 lost its own does not say it of node3, and a new nodeSelector
// restarts all of them. So it counts as well that the DaemonSet has no Pod on any node that it does not select.
//
// Speakers that fail for any other reason keep their statuses: they may be back.
type statusCollector struct {
	client    client.Client // reads from cache
	cache     ctrlcache.Informers
	api       kubernetes.Interface
	nodes     coreinformers.NodeInformer
	namespace string
	// What follows is owned by run.
	liveness *liveness
	gone     map[string]time.Time // since when nodes that are to have no speaker have none
}

// run collects until the context ends. The caller starts the informers and the cache.
func (c *statusCollector) run(ctx context.Context) error {
	c.liveness, c.gone = newLiveness(time.Now()), map[string]time.Time{}
	leases, err := c.cache.GetInformer(ctx, &coordinationv1.Lease{})
	if err != nil {
		return fmt.Errorf("watching the Leases of speakers: %w", err)
	}
	if _, err := leases.AddEventHandler(c.liveness.handler(signal.New())); err != nil {
		return err
	}
	if !cache.WaitForCacheSync(ctx.Done(), c.nodes.Informer().HasSynced) {
		return nil
	}
	ticks := time.NewTicker(statusPeriod)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticks.C:
			if err := c.collect(ctx, now); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Failed to delete the SpeakerStatuses of nodes without a speaker, trying again")
			}
		}
	}
}

// collect deletes what is to be deleted at a time.
func (c *statusCollector) collect(ctx context.Context, now time.Time) error {
	var statuses v1alpha1.SpeakerStatusList
	if err := c.client.List(ctx, &statuses, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	daemonSet, err := c.api.AppsV1().DaemonSets(c.namespace).Get(ctx, speakerDaemonSet, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		clear(c.gone)
		return nil // It is being made anew, or Tandem is being removed, or the speakers are run in another way.
	} else if err != nil {
		return fmt.Errorf("reading the DaemonSet of the speakers: %w", err)
	}
	view, before := c.liveness.view(now), c.gone
	c.gone = map[string]time.Time{}
	var errs []error
	for i := range statuses.Items {
		status := &statuses.Items[i]
		node, err := c.nodes.Lister().Get(status.Name)
		if err != nil || observation.Removed(daemonSet, node) == "" || !view.Dead(status.Name) && !hasNoOtherPods(daemonSet) {
			continue
		}
		since, known := before[status.Name]
		if !known {
			since = now
		}
		if c.gone[status.Name] = since; now.Sub(since) < statusGrace {
			continue
		}
		err = c.client.Delete(ctx, status, client.Preconditions{UID: &status.UID, ResourceVersion: &status.ResourceVersion})
		switch {
		case err == nil:
			klog.FromContext(ctx).Info("Deleted the SpeakerStatus of a node that is to have no speaker any more", "node", status.Name)
		case !apierrors.IsConflict(err) && !apierrors.IsNotFound(err):
			errs = append(errs, fmt.Errorf("SpeakerStatus %s: %w", status.Name, err))
		}
	}
	return errors.Join(errs...)
}

// hasNoOtherPods reports whether a DaemonSet has no Pod on any node on which it is to have none, as its controller says. A Pod that is
// being deleted counts until the kubelet has ended it.
func hasNoOtherPods(d *appsv1.DaemonSet) bool {
	return d.Status.ObservedGeneration >= max(d.Generation, 1) && d.Status.NumberMisscheduled == 0
}
