// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// wanted has the records that a decision wants, and everything that is needed to compare them with the existing ones: the L2Announcements
// in the cache, and the Services that exist.
type wanted struct {
	records       map[types.NamespacedName]decision.Record
	kept          map[types.NamespacedName]bool // for which a record of this node stays
	announcements []v1alpha1.L2Announcement
	services      map[client.ObjectKey]*corev1.Service
}

// recorder writes the L2Announcements of this node. It follows the decisions and never holds them up: an API that is slow or away
// delays the record, not the announcement.
type recorder struct {
	client  client.Client
	node    string
	events  record.EventRecorder
	wanted  signal.Latest[wanted]
	changed signal.Signal // raised when written has changed

	mu sync.Mutex // guards written
	// written has what this node has written, by name, for as long as the cache may be older.
	written map[string]v1alpha1.L2Announcement
}

func newRecorder(c client.Client, node string, events record.EventRecorder, changed signal.Signal) *recorder {
	return &recorder{
		client: c, node: node, events: events, wanted: signal.NewLatest[wanted](), changed: changed, written: map[string]v1alpha1.L2Announcement{},
	}
}

// Renew replaces, in what the cache has, each record that is older than what this node itself has written. After an outage of the API the
// cache may take a minute to learn what was written long ago. For example node1 held web, and died while the API was away. node3 took
// over, and when the API was back it wrote its record. Then node1 came back, with a cache that knew of that record. By its own cache,
// which still named node1, node3 would have stopped, and no node would have answered.
func (r *recorder) Renew(cached []v1alpha1.L2Announcement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	older := make(map[string]v1alpha1.L2Announcement, len(r.written))
	for i := range cached {
		own, ok := r.written[cached[i].Name]
		if !ok {
			continue
		}
		if order, err := resourceversion.CompareResourceVersion(cached[i].ResourceVersion, own.ResourceVersion); err == nil && order < 0 {
			cached[i], older[own.Name] = *own.DeepCopy(), own
		}
	}
	r.written = older
}

// wrote remembers a record as the API has returned it.
func (r *recorder) wrote(a *v1alpha1.L2Announcement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written[a.Name] = *a.DeepCopy()
	r.changed.Raise()
}

// run writes the records of the latest decision until the context ends.
func (r *recorder) run(ctx context.Context) error {
	var latest wanted
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case latest = <-r.wanted:
		case <-retry:
		}
		retry = nil
		if err := r.write(ctx, latest); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Failed to write the L2Announcements of this node, trying again")
			retry = time.After(time.Second)
		}
	}
}

// write makes the existing records agree with the wanted ones. Those of Services that are gone are deleted by the controller manager. A
// write that is refused since the record has changed is no error: the change brings a new decision.
func (r *recorder) write(ctx context.Context, w wanted) error {
	existing := map[types.NamespacedName]*v1alpha1.L2Announcement{}
	var errs []error
	for i := range w.announcements {
		a := &w.announcements[i]
		name := types.NamespacedName{Namespace: a.Service.Namespace, Name: a.Service.Name}
		existing[name] = a
		_, exists := w.services[name]
		_, held := w.records[name]
		if exists && !held && !w.kept[name] && a.Status.Node == r.node {
			if err := r.clearHolder(ctx, a); !harmless(err) {
				errs = append(errs, fmt.Errorf("clearing the holder of Service %s: %w", name, err))
			}
		}
	}
	for name, record := range w.records {
		svc, exists := w.services[name]
		if !exists {
			continue
		}
		if err := r.record(ctx, svc, record, existing[name]); !harmless(err) {
			errs = append(errs, fmt.Errorf("recording Service %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// harmless reports whether a write succeeded, or failed only because another speaker had changed the record first.
func harmless(err error) bool {
	return err == nil || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
}

// clearHolder takes this node off the record of a Service that it no longer answers for. The addresses stay on record, so that the next
// holder knows that they have been announced before. A node that has taken the Service over by then has changed the resource version, so
// that its record stays.
func (r *recorder) clearHolder(ctx context.Context, a *v1alpha1.L2Announcement) error {
	cleared := a.DeepCopy()
	cleared.Status = v1alpha1.L2AnnouncementStatus{Addresses: a.Status.Addresses}
	return r.update(ctx, cleared)
}

// update writes a record, unless it has changed since it was read.
func (r *recorder) update(ctx context.Context, a *v1alpha1.L2Announcement) error {
	if err := r.client.Update(ctx, a); err != nil {
		return err
	}
	r.wrote(a)
	return nil
}

// record puts this node on record as the holder of a Service's addresses. It writes nothing if the existing record says so already.
func (r *recorder) record(ctx context.Context, svc *corev1.Service, record decision.Record, existing *v1alpha1.L2Announcement) error {
	if existing != nil && existing.Status.Node == r.node &&
		slices.Equal(existing.Status.Addresses, record.Addresses) && slices.Equal(existing.Status.Interfaces, record.Interfaces) {
		return nil
	}
	now := metav1.NowMicro()
	a := &v1alpha1.L2Announcement{
		ObjectMeta: metav1.ObjectMeta{Name: svc.Namespace + "." + svc.Name},
		Service:    v1alpha1.ServiceReference{Namespace: svc.Namespace, Name: svc.Name},
		Status:     v1alpha1.L2AnnouncementStatus{Node: r.node, Addresses: record.Addresses, Interfaces: record.Interfaces, Since: &now},
	}
	from := ""
	if existing == nil {
		if err := r.client.Create(ctx, a); err != nil {
			return err
		}
	} else {
		a.ObjectMeta = *existing.ObjectMeta.DeepCopy() // its resource version decides between two nodes that take over at once
		if from = existing.Status.Node; from == r.node {
			a.Status.Since = existing.Status.Since
		}
		if err := r.update(ctx, a); err != nil {
			return err
		}
	}
	if from != r.node && len(record.Addresses) > 0 {
		after := ""
		if from != "" {
			after = ", after node " + from
		}
		r.events.Eventf(svc, corev1.EventTypeNormal, ipamv1alpha1.EventAnnouncingLayer2, "Node %s answers for %s on %s%s",
			r.node, strings.Join(record.Addresses, " and "), strings.Join(record.Interfaces, " and "), after)
	}
	return nil
}
