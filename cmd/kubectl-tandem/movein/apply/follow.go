// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/live"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

const (
	// resyncPeriod is how old the last lists may be, so that a watch that has stopped without a word is found out. Where lists take long it is resyncShare
	// times as long as they took.
	resyncPeriod = 30 * time.Second
	resyncShare  = 50
	// showTimeout is how long a watch may take to show a write.
	showTimeout = 5 * time.Second
)

// source is what one list returns: the objects of a kind, in a namespace or in all.
type source struct {
	live.Kind
	namespace string
}

// sources are those that every Snapshot has, in the order in which objects of the same name count.
func (a *API) sources() (list []source) {
	for _, k := range live.Kinds {
		list = append(list, source{Kind: k})
	}
	for _, resource := range []string{"configmaps", "secrets"} {
		list = append(list, source{live.Kind{GroupVersionResource: core(resource), Labels: v1alpha1.LabelMoveIn}, a.System})
	}
	return list
}

// covers reports whether an object of a resource may be one of the source.
func (s *source) covers(resource schema.GroupVersionResource, ref live.Ref) bool {
	return s.GroupVersionResource == resource && (s.namespace == "" || s.namespace == ref.Namespace) && (s.Fields == "" || s.Fields == "metadata.name="+ref.Name)
}

// follower reads the cluster once, and follows it by watches from then on.
type follower struct {
	api *API
	// plain follows nothing: each Snapshot is read by lists.
	plain bool
	// changed has an element when something has changed, or a watch has ended.
	changed chan struct{}
	// kept are the parts of the cluster that have been read, by their sources.
	kept    map[source]*part
	secrets []map[string]any
	// listed is when all was listed last, and took how long that took.
	listed  time.Time
	took    time.Duration
	watches sync.WaitGroup
}

func newFollower(a *API) *follower {
	return &follower{api: a, changed: make(chan struct{}, 1), kept: map[source]*part{}}
}

// close ends the watches, and returns when they have ended.
func (f *follower) close() {
	for _, p := range f.kept {
		p.end()
	}
	f.watches.Wait()
}

// due reports whether the last lists are too old.
func (f *follower) due() bool { return time.Since(f.listed) >= f.resync() }

func (f *follower) resync() time.Duration { return max(resyncPeriod, resyncShare*f.took) }

// polled reports whether parts of the cluster exist that cannot be followed, so that nobody tells when they change.
func (f *follower) polled() bool {
	for _, p := range f.kept {
		if !p.followed() {
			return true
		}
	}
	return false
}

// snapshot returns the cluster as it is now, where fresh is set, and otherwise as the watches have shown it. A part whose watch has ended is listed.
func (f *follower) snapshot(ctx context.Context, fresh bool) (*live.Snapshot, error) {
	a, begin := f.api, time.Now()
	s := &live.Snapshot{Objects: live.Objects{}, System: a.System, From: a.From, Missing: a.Missing, Unwatched: a.Unwatched}
	if err := f.read(ctx, s, a.sources(), fresh); err != nil {
		return nil, err
	}
	var more []source
	for _, namespace := range s.Objects.Namespaces(a.System) {
		more = append(more, source{live.Kind{GroupVersionResource: core("pods")}, namespace})
	}
	if namespace := s.Objects.NamespaceOfLeases(); namespace != "" {
		more = append(more, source{live.Kind{GroupVersionResource: coordinationv1.SchemeGroupVersion.WithResource("leases")}, namespace})
	}
	if err := f.read(ctx, s, more, fresh); err != nil {
		return nil, err
	}
	if fresh {
		var err error
		if f.secrets, err = a.secrets(ctx, s); err != nil {
			return nil, err
		}
		f.listed, f.took = begin, time.Since(begin)
	}
	for _, secret := range f.secrets {
		s.Objects[live.RefOf(secret)] = secret
	}
	return s, nil
}

// read adds the objects of some sources. All that have to be listed are listed at once.
func (f *follower) read(ctx context.Context, s *live.Snapshot, sources []source, fresh bool) error {
	errs := make([]error, len(sources))
	var lists sync.WaitGroup
	for i, src := range sources {
		p := f.kept[src]
		if p == nil {
			p = &part{source: src, objects: live.Objects{}}
			f.kept[src] = p
		}
		if fresh || !p.followed() {
			lists.Go(func() { errs[i] = f.list(ctx, p) })
		}
	}
	lists.Wait()
	for i, src := range sources {
		if errs[i] != nil {
			return errs[i]
		}
		f.kept[src].addTo(s.Objects)
	}
	return nil
}

// list lists a part, and has a watch begin where the list ends.
func (f *follower) list(ctx context.Context, p *part) error {
	client := f.api.Client.Resource(p.GroupVersionResource).Namespace(p.namespace)
	options := metav1.ListOptions{LabelSelector: p.Labels, FieldSelector: p.Fields}
	found, err := client.List(ctx, options)
	switch {
	case apierrors.IsNotFound(err) && p.Optional:
		p.miss()
		return nil
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: is Tandem installed, and all of its CRDs?", err)
	case err != nil:
		return fmt.Errorf("listing %s: %w", p.GroupResource(), err)
	}
	p.replace(found)
	if f.plain || p.watched() {
		return nil
	}
	options.ResourceVersion = found.GetResourceVersion()
	stream, err := client.Watch(ctx, options)
	if err != nil {
		return nil // For want of the right, for example. Then each Snapshot lists it.
	}
	p.begin(stream)
	f.watches.Go(func() {
		for event := range stream.ResultChan() {
			changed, ended := p.take(event)
			if changed {
				f.tell()
			}
			if ended {
				break
			}
		}
		p.ended(stream)
		f.tell()
	})
	return nil
}

func (f *follower) tell() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// shown reports whether the watches have shown a write. What is listed for each Snapshot shows it.
func (f *follower) shown(w *written) bool {
	for _, p := range f.kept {
		if p.covers(w.resource, w.ref) && p.shows(w) {
			return true
		}
	}
	return false
}

// await waits until the watches have shown a write, and reports false where they have not in time: then they are ended, so that all is listed.
func (f *follower) await(ctx context.Context, w *written) bool {
	limit := time.NewTimer(showTimeout)
	defer limit.Stop()
	for !f.shown(w) {
		select {
		case <-ctx.Done():
			return false
		case <-limit.C:
			for _, p := range f.kept {
				if p.covers(w.resource, w.ref) {
					p.end()
				}
			}
			return false
		case <-f.changed:
		}
	}
	f.tell() // What has changed meanwhile is news still.
	return true
}

// wait returns as soon as something has changed after a shortest time, and after a longest time in any case.
func (f *follower) wait(ctx context.Context, shortest, longest time.Duration) error {
	if err := sleep(ctx, min(shortest, longest)); err != nil {
		return err
	}
	limit := time.NewTimer(longest - min(shortest, longest))
	defer limit.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
	case <-f.changed:
	}
	return nil
}

// version returns the resource version of an object as the watches have shown it last, "" for one that is not there.
func (f *follower) version(ref live.Ref) string {
	for _, p := range f.kept {
		if o := p.object(ref); o != nil {
			return (&unstructured.Unstructured{Object: o}).GetResourceVersion()
		}
	}
	return ""
}

// written is a write that the API server has taken.
type written struct {
	resource schema.GroupVersionResource
	ref      live.Ref
	// version is the resource version of the object after it, "" where the object was deleted; uid is that of the object that was deleted.
	version, uid string
}

// part is what a source has. It only ever gets newer: resource versions of one resource can be compared (KEP-5504), and what is older than what the part
// has seen is left out. So a watch that is behind changes nothing after a list, and a list that is behind changes nothing after a watch.
type part struct {
	source

	mu      sync.Mutex // guards all that follows
	objects live.Objects
	version string          // the newest that has been seen
	stream  watch.Interface // nil where there is no watch
	missing bool            // the API server does not have the kind
}

// watched reports whether a watch runs.
func (p *part) watched() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stream != nil
}

// followed reports whether the part is as it was a moment ago, or of a kind that was not there at the last lists.
func (p *part) followed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stream != nil || p.missing
}

func (p *part) begin(stream watch.Interface) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stream = stream
}

// ended notes that a watch has ended.
func (p *part) ended(stream watch.Interface) {
	stream.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stream == stream {
		p.stream = nil
	}
}

// end ends the watch.
func (p *part) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stream != nil {
		p.stream.Stop()
		p.stream = nil
	}
}

// miss notes that the API server does not have the kind.
func (p *part) miss() {
	p.end()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.objects, p.version, p.missing = live.Objects{}, "", true
}

// replace takes what a list has, unless the watch has shown newer things.
func (p *part) replace(list *unstructured.UnstructuredList) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.missing = false
	if !newerVersion(list.GetResourceVersion(), p.version) {
		return
	}
	p.objects, p.version = live.Objects{}, list.GetResourceVersion()
	for i := range list.Items {
		o := &list.Items[i]
		if o.GetKind() == "" { // Items of a List of the core API may lack it.
			o.SetAPIVersion(list.GetAPIVersion())
			o.SetKind(strings.TrimSuffix(list.GetKind(), "List"))
		}
		strip(o)
		p.objects[live.RefOf(o.Object)] = o.Object
	}
}

// take takes an event of the watch. Changed says that the move may have to do with it, and ended that the watch is over.
func (p *part) take(event watch.Event) (changed, ended bool) {
	o, ok := event.Object.(*unstructured.Unstructured)
	if event.Type == watch.Error || !ok {
		return false, true // Such as: the resource version is too old.
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !newerVersion(o.GetResourceVersion(), p.version) {
		return false, false
	}
	p.version = o.GetResourceVersion()
	strip(o)
	ref := live.RefOf(o.Object)
	before := p.objects[ref]
	switch event.Type {
	case watch.Added, watch.Modified:
		p.objects[ref] = o.Object
		return !alike(before, o.Object), false
	case watch.Deleted:
		delete(p.objects, ref)
		return true, false
	}
	return false, false // A bookmark.
}

func (p *part) object(ref live.Ref) map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.objects[ref]
}

// shows reports whether the part is as new as a write, or is listed before the next decision.
func (p *part) shows(w *written) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stream == nil {
		return true
	}
	if w.version != "" {
		return !newerVersion(w.version, p.version)
	}
	o := unstructured.Unstructured{Object: p.objects[w.ref]}
	return o.Object == nil || string(o.GetUID()) != w.uid || o.GetDeletionTimestamp() != nil
}

// addTo adds the objects. Of two versions of one object the newer version of its API counts.
func (p *part) addTo(objects live.Objects) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ref, o := range p.objects {
		if other := objects[ref]; other == nil || !newer(other["apiVersion"], o["apiVersion"]) {
			objects[ref] = o
		}
	}
}

// newerVersion reports whether a resource version is newer than another one, or whether that cannot be told.
func newerVersion(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err != nil || order > 0
}

// strip takes out what a move does not read: managedFields, for the memory, and when a Lease was renewed, which changes every second.
func strip(o *unstructured.Unstructured) {
	o.SetManagedFields(nil)
	if o.GetKind() == "Lease" {
		unstructured.RemoveNestedField(o.Object, "spec", "renewTime")
	}
}

// alike reports whether two objects differ in their resource versions alone.
func alike(a, b map[string]any) bool {
	if a == nil || b == nil || len(a) != len(b) {
		return false
	}
	for field, value := range a {
		if field != "metadata" && !reflect.DeepEqual(value, b[field]) {
			return false
		}
	}
	before, _ := a["metadata"].(map[string]any)
	after, _ := b["metadata"].(map[string]any)
	if len(before) != len(after) {
		return false
	}
	for field, value := range before {
		if field != "resourceVersion" && !reflect.DeepEqual(value, after[field]) {
			return false
		}
	}
	return true
}
