// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// +kubebuilder:rbac:groups=tandem-lb.io,resources=addresspools;l2advertisements;bgppeers;bgpadvertisements;bfdprofiles;communities;interfaceadvertisements,verbs=get;list;watch
// +kubebuilder:rbac:groups=tandem-lb.io,resources=l2advertisements/status;bgppeers/status;bgpadvertisements/status;bfdprofiles/status;communities/status;interfaceadvertisements/status,verbs=patch

// leastBetweenConditions is the time from the end of one writing of conditions to the next. A user's `kubectl apply` of a directory makes a
// burst of changes, each of which may be in the conditions of several objects.
const leastBetweenConditions = 100 * time.Millisecond

// A conditionWriter says of every object that users write for the speakers, by its condition Ready, whether the speakers use it, and of
// advertisements, by their condition Effective, whether there is something to announce by.
type conditionWriter struct {
	client    client.Client // reads from cache, and writes statuses
	cache     ctrlcache.Cache
	effective *effective
	// ready and shown have the objects whose conditions Ready and Effective are in the metrics. The goroutine that writes owns them.
	ready, shown map[config.Key]bool
}

func newConditionWriter(c client.Client, cache ctrlcache.Cache, effective *effective) *conditionWriter {
	return &conditionWriter{client: c, cache: cache, effective: effective, ready: map[config.Key]bool{}, shown: map[config.Key]bool{}}
}

// effective has what comes of the diagnosis of Services for other objects: the conditions Effective of advertisements, and on how many nodes the
// sessions of BGPPeers are established.
type effective struct {
	changed    signal.Signal
	conditions atomic.Pointer[map[config.Key]metav1.Condition] // nil before the first diagnosis
	// established says on how many nodes the sessions with each BGPPeer are established, by its name; nil before the first diagnosis.
	established atomic.Pointer[map[string]string]
	// since is when each condition that is held back was found first. The goroutine that diagnoses owns it.
	since map[config.Key]found
}

// establishedOn says of each BGPPeer, by its name, on how many of the nodes that it selects its session is established: 2/3. Sessions of a
// speaker that is not alive have ended, whatever it has reported last.
func establishedOn(s *decision.Snapshot) map[string]string {
	established := make(map[string]string, len(s.Config.Peers))
	for i := range s.Config.Peers {
		peer := &s.Config.Peers[i]
		selected, up := 0, 0
		for name, node := range s.Nodes {
			if !peer.Nodes.Matches(node.Labels) {
				continue
			}
			selected++
			if s.Alive(name) && s.Sessions[decision.NodePeer{Node: name, Peer: peer.Name}].State == bgp.Established {
				up++
			}
		}
		established[peer.Name] = fmt.Sprintf("%d/%d", up, selected)
	}
	return established
}

// count replaces the counts of established sessions, by the names of BGPPeers.
func (e *effective) count(latest map[string]string) {
	if old := e.established.Swap(&latest); old == nil || !maps.Equal(*old, latest) {
		e.changed.Raise()
	}
}

// summarize completes the summary of a BGPPeer.
func (e *effective) summarize(obj client.Object) {
	if peer, ok := obj.(*v1alpha1.BGPPeer); ok {
		if latest := e.established.Load(); latest != nil {
			peer.Status.Summary.Established = (*latest)[peer.Name]
		}
	}
}

// found is a condition and when it was found first.
type found struct {
	metav1.Condition
	at time.Time
}

func newEffective() *effective {
	return &effective{changed: signal.New(), since: map[config.Key]found{}}
}

// Set replaces the conditions, and returns when it is to be called again if nothing changes before, the zero Time for never. As with Services,
// what is wrong has to last: an advertisement whose only session flaps costs no write.
func (e *effective) Set(now time.Time, latest map[config.Key]metav1.Condition) (next time.Time) {
	was := map[config.Key]metav1.Condition{}
	if old := e.conditions.Load(); old != nil {
		was = *old
	}
	is := make(map[config.Key]metav1.Condition, len(latest))
	for key, condition := range latest {
		before, known := was[key]
		if condition == before || condition.Status == metav1.ConditionTrue {
			is[key] = condition
			delete(e.since, key)
			continue
		}
		if e.since[key].Condition != condition {
			e.since[key] = found{condition, now}
		}
		if at := e.since[key].at.Add(holdFalse); !at.After(now) {
			is[key] = condition
			delete(e.since, key)
		} else {
			if next.IsZero() || at.Before(next) {
				next = at
			}
			if known {
				is[key] = before
			}
		}
	}
	maps.DeleteFunc(e.since, func(key config.Key, _ found) bool { _, ok := latest[key]; return !ok })
	if old := e.conditions.Swap(&is); old == nil || !maps.Equal(*old, is) {
		e.changed.Raise()
	}
	return next
}

// apply sets or removes the condition Effective of an object.
func (e *effective) apply(key config.Key, conditions *[]metav1.Condition) {
	latest := e.conditions.Load()
	if latest == nil {
		return
	}
	if condition, ok := (*latest)[key]; ok {
		meta.SetStatusCondition(conditions, condition)
	} else {
		meta.RemoveStatusCondition(conditions, v1alpha1.ConditionEffective)
	}
}

// run follows the objects until the context ends. The caller starts the cache.
func (w *conditionWriter) run(ctx context.Context) error {
	changed := w.effective.changed
	for _, obj := range config.Kinds() {
		informer, err := w.cache.GetInformer(ctx, obj)
		if err != nil {
			return fmt.Errorf("watching %T: %w", obj, err)
		}
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { changed.Raise() },
			UpdateFunc: func(any, any) { changed.Raise() },
			DeleteFunc: func(any) { changed.Raise() },
		}); err != nil {
			return fmt.Errorf("watching %T: %w", obj, err)
		}
	}
	changed.Raise()
	signal.Every(ctx, changed, leastBetweenConditions, time.Second, func(ctx context.Context) error {
		err := w.write(ctx)
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Failed to write the conditions of the objects that configure the speakers, trying again")
		}
		return err
	})
	return nil
}

// write writes the conditions that differ from those of the objects. One that cannot be written does not keep it from writing others.
func (w *conditionWriter) write(ctx context.Context) error {
	objects, err := config.Read(func(list config.List) error { return w.client.List(ctx, list, client.UnsafeDisableDeepCopy) })
	if err != nil {
		return err
	}
	_, conditions := config.Compile(objects)
	showConditions(conditions, v1alpha1.ConditionReady, w.ready)
	if latest := w.effective.conditions.Load(); latest != nil {
		showConditions(*latest, v1alpha1.ConditionEffective, w.shown)
	}
	return errors.Join(
		writeKind(ctx, w, conditions, "L2Advertisement", objects.L2Advertisements,
			func(o *v1alpha1.L2Advertisement) *v1alpha1.ConfigStatus { return &o.Status }),
		writeKind(ctx, w, conditions, "BGPPeer", objects.BGPPeers,
			func(o *v1alpha1.BGPPeer) *v1alpha1.ConfigStatus { return &o.Status }),
		writeKind(ctx, w, conditions, "BGPAdvertisement", objects.BGPAdvertisements,
			func(o *v1alpha1.BGPAdvertisement) *v1alpha1.ConfigStatus { return &o.Status }),
		writeKind(ctx, w, conditions, "BFDProfile", objects.BFDProfiles,
			func(o *v1alpha1.BFDProfile) *v1alpha1.ConfigStatus { return &o.Status }),
		writeKind(ctx, w, conditions, "Community", objects.Communities,
			func(o *v1alpha1.Community) *v1alpha1.ConfigStatus { return &o.Status }),
		writeKind(ctx, w, conditions, "InterfaceAdvertisement", objects.InterfaceAdvertisements,
			func(o *v1alpha1.InterfaceAdvertisement) *v1alpha1.ConfigStatus { return &o.Status }),
	)
}

// writeKind writes the conditions of the objects of one kind. An object that has been deleted meanwhile is no error.
func writeKind[T any, P interface {
	*T
	client.Object
	Summarize()
}](
	ctx context.Context, w *conditionWriter, conditions map[config.Key]metav1.Condition, kind string, objects []T,
	status func(P) *v1alpha1.ConfigStatus,
) error {
	var errs []error
	for i := range objects {
		obj := P(&objects[i])
		updated := obj.DeepCopyObject().(P)
		key := config.Key{Kind: kind, Name: obj.GetName()}
		meta.SetStatusCondition(&status(updated).Conditions, conditions[key])
		w.effective.apply(key, &status(updated).Conditions)
		updated.Summarize()
		w.effective.summarize(updated)
		if equality.Semantic.DeepEqual(status(obj), status(updated)) {
			continue
		}
		if err := w.client.Status().Patch(ctx, updated, client.MergeFrom(obj)); client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("condition of %s %s: %w", kind, obj.GetName(), err))
		}
	}
	return errors.Join(errs...)
}
