// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
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

// wanted has the records that a decision wants for some Services, and everything that is needed to compare them with the existing ones: the
// L2Announcements in the cache, and the Services that exist.
type wanted struct {
	// services are all Services of which something is said, nil for one that is gone, or for which nothing is to be written.
	services      map[client.ObjectKey]*corev1.Service
	records       map[types.NamespacedName]decision.Record
	kept          map[types.NamespacedName]bool // for which a record of this node stays
	announcements map[types.NamespacedName]*v1alpha1.L2Announcement
}

func newWanted() wanted {
	return wanted{
		services: map[client.ObjectKey]*corev1.Service{}, records: map[types.NamespacedName]decision.Record{},
		kept: map[types.NamespacedName]bool{}, announcements: map[types.NamespacedName]*v1alpha1.L2Announcement{},
	}
}

// replace has what a newer decision wants take the place of what was wanted for the same Services.
func (w wanted) replace(newer wanted) {
	for name, svc := range newer.services {
		w.drop(name)
		if w.services[name] = svc; svc == nil {
			continue
		}
		if record, ok := newer.records[name]; ok {
			w.records[name] = record
		}
		if newer.kept[name] {
			w.kept[name] = true
		}
		if a := newer.announcements[name]; a != nil {
			w.announcements[name] = a
		}
	}
}

// drop forgets a Service.
func (w wanted) drop(name types.NamespacedName) {
	delete(w.services, name)
	delete(w.records, name)
	delete(w.kept, name)
	delete(w.announcements, name)
}

// recorder writes the L2Announcements of this node. It follows the decisions and never holds them up: an API that is slow or away
// delays the record, not the announcement.
type recorder struct {
	client  client.Client
	node    string
	events  record.EventRecorder
	wake    signal.Signal // raised when something is wanted
	changed signal.Signal // raised when there are fresh records

	refusals map[types.NamespacedName]string // that were told, by the Service; owned by the goroutine in run

	mu sync.Mutex // guards all following fields
	// takeovers are when this node took records over from other nodes, within takeoverInterval.
	takeovers map[types.NamespacedName]time.Time
	// pending is what is wanted and was not begun.
	pending wanted
	// newer has the records that this node has written, or has read past the cache, by name, for as long as the cache may be older.
	newer map[string]v1alpha1.L2Announcement
	// fresh are the names of those that Fresh has not returned.
	fresh map[string]bool
}

func newRecorder(c client.Client, node string, events record.EventRecorder, changed signal.Signal) *recorder {
	return &recorder{
		client: c, node: node, events: events, wake: signal.New(), changed: changed, pending: newWanted(),
		newer: map[string]v1alpha1.L2Announcement{}, fresh: map[string]bool{}, takeovers: map[types.NamespacedName]time.Time{},
		refusals: map[types.NamespacedName]string{},
	}
}

// isOlder reports whether a record is an older version of another.
func isOlder(a, than *v1alpha1.L2Announcement) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, than.ResourceVersion)
	return err == nil && order < 0
}

// Renew replaces, in what the cache has, each record that is older than what this node itself has written, or Learn was told. The cache may
// learn late what was written long ago, as after an outage of the API. For example node1 held web, and died while the API was away. node3
// took over, and when the API was back it wrote its record. Then node1 came back, with a cache that knew of that record. By its own cache,
// which still named node1, node3 would have stopped, and no node would have answered.
func (r *recorder) Renew(cached []*v1alpha1.L2Announcement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	older := make(map[string]v1alpha1.L2Announcement, len(r.newer))
	for i := range cached {
		if own, ok := r.newer[cached[i].Name]; ok && isOlder(cached[i], &own) {
			cached[i], older[own.Name] = own.DeepCopy(), own
		}
	}
	r.newer = older
}

// Newest returns a record as the cache has it now or, if that is older, as Renew would. What the cache has caught up with is forgotten.
func (r *recorder) Newest(cached *v1alpha1.L2Announcement) *v1alpha1.L2Announcement {
	r.mu.Lock()
	defer r.mu.Unlock()
	if newer, ok := r.newer[cached.Name]; ok && isOlder(cached, &newer) {
		return newer.DeepCopy()
	}
	delete(r.newer, cached.Name)
	return cached
}

// Fresh returns the records that were learnt or written since it was called last, and that Newest and Renew have not found in the cache
// since. It leaves them to Newest and Renew: the cache may still be older.
func (r *recorder) Fresh() (fresh []*v1alpha1.L2Announcement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.fresh {
		if a, ok := r.newer[name]; ok {
			fresh = append(fresh, a.DeepCopy())
		}
	}
	r.fresh = map[string]bool{} // A map that was large once costs as much when it is empty.
	return fresh
}

// Learn takes in records that were read past the cache.
func (r *recorder) Learn(live []v1alpha1.L2Announcement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range live {
		if known, ok := r.newer[live[i].Name]; !ok || isOlder(&known, &live[i]) {
			r.newer[live[i].Name], r.fresh[live[i].Name] = live[i], true
		}
	}
	r.changed.Raise()
}

// wrote remembers a record as the API has returned it.
func (r *recorder) wrote(a *v1alpha1.L2Announcement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newer[a.Name], r.fresh[a.Name] = *a.DeepCopy(), true
	r.changed.Raise()
}

const (
	// recordWriters is how many records are written at a time, so that a node that takes over thousands of Services is soon on record for
	// them. The client bounds how many a second.
	recordWriters = 16
	// recordTimeout bounds a write. A connection that a firewall cuts without a word would hold all others up.
	recordTimeout = 10 * time.Second
	// takeoverInterval is the least time between two takeovers of a Service's record from other nodes. Two nodes that each believe the other
	// dead could overwrite each other's record without end.
	takeoverInterval = 10 * time.Second
)

// Want has the records of some Services written as a decision wants them.
func (r *recorder) Want(w wanted) {
	r.mu.Lock()
	r.pending.replace(w)
	r.mu.Unlock()
	r.wake.Raise()
}

// take returns what is wanted since the last take.
func (r *recorder) take() wanted {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.wake:
	default:
	}
	w := r.pending
	r.pending = newWanted()
	return w
}

// errTooSoon says that a record was not taken over since this node did so a moment ago.
var errTooSoon = errors.New("taken over a moment ago")

// run writes the wanted records until the context ends. What a newer decision wants for a Service replaces what an older one did: what is
// under way ends, and what has not begun is not begun.
func (r *recorder) run(ctx context.Context) error {
	latest := newWanted()
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
			latest.replace(r.take())
		case <-retry:
		}
		retry = nil
		if err := r.write(ctx, latest); err != nil && ctx.Err() == nil {
			if !errors.Is(err, errTooSoon) {
				klog.FromContext(ctx).Error(err, "Failed to write the L2Announcements of this node, trying again")
			}
			retry = time.After(time.Second)
		}
		if len(latest.services) == 0 {
			latest = newWanted() // A map that was large once costs as much when it is empty.
		}
	}
}

// write makes the existing records agree with the wanted ones, or with some of them if more is wanted by now. What is done is not wanted any
// more. Records of Services that are gone are deleted by the controller manager. A write that is refused since the record has changed is no
// error: the change brings a new decision. The error is errTooSoon if nothing else has failed.
func (r *recorder) write(ctx context.Context, w wanted) error {
	var writers errgroup.Group
	writers.SetLimit(recordWriters)
	var mu sync.Mutex // guards what follows
	var errs []error
	tooSoon := false
	var done []types.NamespacedName
	try := func(what string, name types.NamespacedName, write func(context.Context) error) {
		writers.Go(func() error {
			if len(r.wake) > 0 {
				return nil
			}
			ctx, cancel := context.WithTimeout(ctx, recordTimeout)
			defer cancel()
			err := write(ctx)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, errTooSoon):
				tooSoon = true
			case harmless(err):
				done = append(done, name)
			default:
				errs = append(errs, fmt.Errorf("%s Service %s: %w", what, name, err))
			}
			return nil
		})
	}
	r.forgetTakeovers()
	for name, svc := range w.services {
		existing := w.announcements[name]
		r.tellRefusal(name, svc, w.records[name].Refusal, existing)
		switch record, held := w.records[name]; {
		case held && !r.isRecorded(record, existing):
			try("recording", name, func(ctx context.Context) error { return r.takeOver(ctx, svc, record, existing) })
		case !held && !w.kept[name] && existing != nil && existing.Status.Node == r.node:
			try("clearing the holder of", name, func(ctx context.Context) error { return r.clearHolder(ctx, existing) })
		default:
			mu.Lock()
			done = append(done, name)
			mu.Unlock()
		}
	}
	_ = writers.Wait() // The errors are in errs.
	for _, name := range done {
		w.drop(name)
	}
	if tooSoon && len(errs) == 0 {
		return errTooSoon
	}
	return joinedErrors(errs)
}

// joinedErrors joins the errors of many writes. While the API is away thousands fail, and the first few say as much.
func joinedErrors(errs []error) error {
	const few = 5
	err := errors.Join(errs[:min(len(errs), few)]...)
	if more := len(errs) - few; more > 0 {
		return fmt.Errorf("%w\nand %d more", err, more)
	}
	return err
}

// forgetTakeovers drops the takeovers that are longer ago than takeoverInterval.
func (r *recorder) forgetTakeovers() {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.takeovers, func(_ types.NamespacedName, at time.Time) bool { return time.Since(at) >= takeoverInterval })
}

// takeOver puts this node on record. It returns errTooSoon if the record names another node, this one took it over a moment ago, and nobody has named it
// as the target since.
func (r *recorder) takeOver(ctx context.Context, svc *corev1.Service, record decision.Record, existing *v1alpha1.L2Announcement) error {
	if existing == nil || existing.Status.Node == "" || existing.Status.Node == r.node {
		return r.record(ctx, svc, record, existing)
	}
	name := client.ObjectKeyFromObject(svc)
	r.mu.Lock()
	at, known := r.takeovers[name]
	r.mu.Unlock()
	if known && time.Since(at) < takeoverInterval && existing.Spec.Target != r.node { // A move by hand is done once: the write removes the target.
		return errTooSoon
	}
	if err := r.record(ctx, svc, record, existing); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.takeovers[name] = time.Now()
	return nil
}

// tellRefusal writes an event if the target of a record cannot take the addresses of a Service over, once for each target and cause.
func (r *recorder) tellRefusal(name types.NamespacedName, svc *corev1.Service, refusal string, a *v1alpha1.L2Announcement) {
	message := ""
	if a != nil && refusal != "" {
		message = fmt.Sprintf("spec.target of L2Announcement %s: node %s does not take the addresses over: %s", a.Name, a.Spec.Target, refusal)
	}
	switch {
	case message == "":
		delete(r.refusals, name)
	case message != r.refusals[name]:
		r.refusals[name] = message
		r.events.Event(svc, corev1.EventTypeWarning, ipamv1alpha1.EventTargetRefused, message)
	}
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

// isRecorded reports whether the existing record says that this node holds the addresses of a Service, and is not asked to take them any more.
func (r *recorder) isRecorded(record decision.Record, existing *v1alpha1.L2Announcement) bool {
	return existing != nil && existing.Status.Node == r.node && existing.Spec.Target != r.node &&
		slices.Equal(existing.Status.Addresses, record.Addresses) && slices.Equal(existing.Status.Interfaces, record.Interfaces)
}

// record puts this node on record as the holder of a Service's addresses.
func (r *recorder) record(ctx context.Context, svc *corev1.Service, record decision.Record, existing *v1alpha1.L2Announcement) error {
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
		r.wrote(a)
	} else {
		a.ObjectMeta = *existing.ObjectMeta.DeepCopy() // its resource version decides between two nodes that take over at once
		if existing.Spec.Target != r.node {            // Else this node has done what it was asked for.
			a.Spec = existing.Spec
		}
		if from = existing.Status.Node; from == r.node {
			a.Status.Since = existing.Status.Since
		}
		if err := r.update(ctx, a); err != nil {
			return err
		}
	}
	if isNew := from != r.node || len(existing.Status.Addresses) == 0; isNew && len(record.Addresses) > 0 {
		after := ""
		if from != "" && from != r.node {
			after = ", after node " + from
		}
		r.events.Eventf(svc, corev1.EventTypeNormal, ipamv1alpha1.EventAnnouncingLayer2, "Node %s answers for %s on %s%s",
			r.node, strings.Join(record.Addresses, " and "), strings.Join(record.Interfaces, " and "), after)
	}
	return nil
}
