// SPDX-License-Identifier: Apache-2.0

// Package apply carries out what package live says: it reads the cluster, does the one thing that comes next, and reads it anew.
//
// It decides nothing of the move. What it adds is time: how long a thing is waited for, what is tried again, and how long a unit may take to answer.
package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/dynamic"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/live"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// period is how often the cluster is read while something is waited for.
const period = 300 * time.Millisecond

// mostOfOne is how often one and the same write is made. A Service gets several annotations, one write for each.
const mostOfOne = 10

// Stopped is the error of a move that does not go on. It says why.
type Stopped struct{ Why string }

// Error returns why the move stopped.
func (s Stopped) Error() string { return s.Why }

func isStopped(err error) bool {
	_, ok := errors.AsType[Stopped](err)
	return ok
}

// ErrWrites is the error of a move that has made as many writes as it was to.
var ErrWrites = errors.New("the number of writes is reached")

// API is how a move reads and writes.
type API struct {
	Client dynamic.Interface
	// System is the namespace of Tandem, and From the product that was asked for, "" for the one that there is.
	System, From string
	// Probe says why a unit does not answer, "" if it does. It asks once. With early, the other product still answers too.
	Probe func(ctx context.Context, s *live.Snapshot, unit *live.Unit, early bool) (why string)
	// Told is called with what is done, before it is done.
	Told func(what string)
	// Timeout is how long each thing is waited for, and Writes how many writes are made, 0 for all.
	Timeout time.Duration
	Writes  int
	// Lock keeps other commands away meanwhile; nil for none.
	Lock *Lock
	// Pace is how long to wait between two units, and NodePace between two Nodes.
	Pace, NodePace time.Duration
	// Missing are the rights that Review has found missing: they are in each Snapshot.
	Missing []live.Right
}

// Review asks the API server which rights of a move the person does not have, before anything is written. What it does not answer counts as a right.
func (a *API) Review(ctx context.Context, s *live.Snapshot) {
	reviews := a.Client.Resource(authorizationv1.SchemeGroupVersion.WithResource("selfsubjectaccessreviews"))
	rights := s.Rights()
	refused := make([]bool, len(rights))
	var parts sync.WaitGroup
	for i, r := range rights {
		parts.Go(func() {
			answer, err := reviews.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": authorizationv1.SchemeGroupVersion.String(), "kind": "SelfSubjectAccessReview",
				"spec": map[string]any{"resourceAttributes": map[string]any{
					"verb": r.Verb, "group": r.Group, "resource": r.Resource, "subresource": r.Subresource, "namespace": r.Namespace,
				}},
			}}, metav1.CreateOptions{})
			if err != nil {
				return
			}
			allowed, known, _ := unstructured.NestedBool(answer.Object, "status", "allowed")
			refused[i] = known && !allowed
		})
	}
	parts.Wait()
	a.Missing = nil
	for i, r := range rights {
		if refused[i] {
			a.Missing = append(a.Missing, r)
		}
	}
	s.Missing = a.Missing
}

// Run does what next says until there is nothing left. The error is Stopped, also where another command runs, ErrWrites, or that of a request that cannot
// succeed.
func (a *API) Run(ctx context.Context, next func(*live.Snapshot) (live.Action, error)) error {
	r := &run{API: a, probes: map[string]live.Outcome{}, made: map[string]int{}}
	if a.Lock == nil {
		return r.all(ctx, next)
	}
	if err := r.lock(ctx); err != nil {
		return err
	}
	kept, stop := a.Lock.keep(ctx)
	err := r.all(kept, next)
	if cause := context.Cause(kept); isStopped(cause) {
		err = cause
	}
	stop()
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	a.Lock.release(ending)
	return err
}

// releaseTimeout is how long a command that has ended waits for the API server to take its Lease.
const releaseTimeout = 5 * time.Second

// lock takes the Lease, and tries again where the API server does not answer, or another command was faster: then that one is in the way.
func (r *run) lock(ctx context.Context) error {
	const what = "say by a Lease that this command runs"
	for {
		err := r.Lock.acquire(ctx)
		switch {
		case err == nil:
			r.waiting = ""
			return nil
		case isStopped(err) || ctx.Err() != nil:
			return err
		case apierrors.IsForbidden(err):
			return forbidden(err)
		case !again(err):
			return fmt.Errorf("to %s: %w", what, err)
		}
		if err := r.wait(ctx, what, err); err != nil {
			return err
		}
	}
}

func forbidden(err error) error {
	return fmt.Errorf("%w; docs/moving-in.md lists the rights that a move takes", err)
}

// all does what next says until there is nothing left.
func (r *run) all(ctx context.Context, next func(*live.Snapshot) (live.Action, error)) error {
	for {
		s, err := r.Read(ctx)
		if err != nil && ctx.Err() == nil && again(err) {
			if err := r.wait(ctx, "read the cluster", err); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		s.Probes = r.probes
		action, err := next(s)
		if err != nil {
			return err
		}
		if action.Done() {
			return nil
		}
		if err := r.do(ctx, s, action); err != nil {
			return err
		}
	}
}

// run is a command under way.
type run struct {
	*API
	probes  map[string]live.Outcome
	unit    string // the last one that was worked on
	writes  int
	made    map[string]int // how often each write was made
	waiting string         // what is waited for
	since   time.Time
}

// do does one thing.
func (r *run) do(ctx context.Context, s *live.Snapshot, a live.Action) error {
	if a.Unit != "" && a.Unit != r.unit {
		if r.unit != "" {
			pace := r.Pace
			if isNode(r.unit) && isNode(a.Unit) {
				pace = max(pace, r.NodePace)
			}
			if err := sleep(ctx, pace); err != nil {
				return err
			}
		}
		r.unit = a.Unit
	}
	switch {
	case a.Stop != "":
		return Stopped{a.Stop}
	case a.Wait != "":
		if r.waiting != a.Wait {
			r.Told("wait for " + a.Wait)
		}
		return r.wait(ctx, a.Wait, nil)
	case a.Probe != nil:
		return r.probe(ctx, s, a)
	}
	if r.Writes > 0 && r.writes == r.Writes {
		return ErrWrites
	}
	same := fmt.Sprintf("%s %s %s %s", a.Write.Verb, a.Write.Ref, a.Write.Subresource, a.Write.Why)
	if r.made[same] == mostOfOne {
		return Stopped{fmt.Sprintf("to %s, %s has been written %d times, and each time it was written back: find the program that does it "+
			"(kubectl get --show-managed-fields), pause it, and start again, or undo", a.Write.Why, a.Write.Ref, mostOfOne)}
	}
	if r.waiting != a.Write.Why {
		r.Told(a.Write.Why)
	}
	var err error
	if r.Lock != nil {
		_, err = r.Lock.own(ctx)
	}
	if err == nil {
		err = r.Write(ctx, a.Write)
	}
	switch {
	case err == nil:
		r.writes++
		r.made[same]++
		r.waiting = ""
		return nil
	case isStopped(err):
		return err
	case again(err) || apierrors.IsNotFound(err):
		return r.wait(ctx, a.Write.Why, err)
	case apierrors.IsForbidden(err):
		return forbidden(err)
	}
	return fmt.Errorf("to %s: %w", a.Write.Why, err)
}

// isNode reports whether a unit is a Node.
func isNode(unit string) bool { return strings.HasPrefix(strings.ToLower(unit), "node ") }

// again reports whether a request that failed may succeed: the object has changed, or a webhook or the API server is not there yet.
func again(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsInternalError(err) ||
		apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) ||
		apierrors.ReasonForError(err) == metav1.StatusReasonUnknown
}

// wait waits for a while, and fails if the same was waited for too long.
func (r *run) wait(ctx context.Context, what string, err error) error {
	if r.waiting != what {
		r.waiting, r.since = what, time.Now()
	}
	if time.Since(r.since) > r.Timeout {
		if err != nil {
			return fmt.Errorf("to %s: %w", what, err)
		}
		return Stopped{fmt.Sprintf("%v is over, and this has not come: %s. Start again to go on waiting, or undo", r.Timeout, what)}
	}
	return sleep(ctx, period)
}

// How long a unit may take to answer, and how much longer for each of its Services: so many are asked about in that time. Nobody answers for a Service that
// fails, while other Nodes have the traffic of one whose session does not come.
const (
	patienceOfService = 10 * time.Second
	patienceForEach   = 200 * time.Millisecond
	patienceOfNode    = 30 * time.Second
)

// probe asks for a unit until it answers or its time is over.
func (r *run) probe(ctx context.Context, s *live.Snapshot, a live.Action) error {
	patience := patienceOfService + time.Duration(len(a.Probe.Services))*patienceForEach
	if a.Probe.Node != "" {
		patience = patienceOfNode
	}
	limited, cancel := context.WithTimeout(ctx, min(patience, r.Timeout))
	defer cancel()
	why := ""
	for {
		now := r.Probe(limited, s, a.Probe, a.Early)
		if limited.Err() == nil || why == "" {
			why = now
		}
		if now == "" || sleep(limited, period) != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if why == "" && !a.Early {
		r.Told(a.Probe.Name + " answers")
	}
	r.probes[a.ProbeName] = live.Outcome{Why: why}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Read reads the cluster.
func (a *API) Read(ctx context.Context) (*live.Snapshot, error) {
	s := &live.Snapshot{Objects: live.Objects{}, System: a.System, From: a.From, Missing: a.Missing}
	var mu sync.Mutex
	var errs []error
	var parts sync.WaitGroup
	list := func(k live.Kind, namespace string) {
		parts.Go(func() {
			found, err := a.Client.Resource(k.GroupVersionResource).Namespace(namespace).List(ctx, metav1.ListOptions{LabelSelector: k.Labels, FieldSelector: k.Fields})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case apierrors.IsNotFound(err) && k.Optional:
			case apierrors.IsNotFound(err):
				errs = append(errs, fmt.Errorf("%w: is Tandem installed, and all of its CRDs?", err))
			case err != nil:
				errs = append(errs, fmt.Errorf("listing %s: %w", k.GroupResource(), err))
			default:
				add(s.Objects, found)
			}
		})
	}
	for _, k := range live.Kinds {
		list(k, "")
	}
	for _, resource := range []string{"configmaps", "secrets"} {
		list(live.Kind{GroupVersionResource: core(resource), Labels: v1alpha1.LabelMoveIn}, a.System)
	}
	parts.Wait()
	for _, namespace := range s.Objects.Namespaces(a.System) {
		list(live.Kind{GroupVersionResource: core("pods")}, namespace)
	}
	if namespace := s.Objects.NamespaceOfLeases(); namespace != "" {
		list(live.Kind{GroupVersionResource: coordinationv1.SchemeGroupVersion.WithResource("leases")}, namespace)
	}
	parts.Wait()
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return s, a.secrets(ctx, s)
}

func core(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: resource}
}

func add(objects live.Objects, found *unstructured.UnstructuredList) {
	for i := range found.Items {
		o := &found.Items[i]
		o.SetManagedFields(nil)
		if o.GetKind() == "" { // Items of a List of the core API may lack it.
			o.SetAPIVersion(found.GetAPIVersion())
			o.SetKind(strings.TrimSuffix(found.GetKind(), "List"))
		}
		ref := live.RefOf(o.Object)
		if other := objects[ref]; other != nil && newer(other["apiVersion"], o.Object["apiVersion"]) {
			continue
		}
		objects[ref] = o.Object
	}
}

// newer reports whether an apiVersion is of a newer version than another one of the same group.
func newer(a, b any) bool {
	short := func(v any) string { text := fmt.Sprint(v); return text[strings.LastIndex(text, "/")+1:] }
	return version.CompareKubeAwareVersionStrings(short(a), short(b)) > 0
}

// secrets reads the Secrets with passwords of BGP sessions, MetalLB's, and those of the same name in Tandem's namespace, which a person may have made.
func (a *API) secrets(ctx context.Context, s *live.Snapshot) error {
	refs := s.Objects.SecretsOfOurs(a.System)
	for _, ref := range s.Objects.SecretsOfTheirs() {
		refs = append(refs, ref, live.Ref{Kind: "Secret", Namespace: a.System, Name: ref.Name})
	}
	for _, ref := range refs {
		secret, err := a.Client.Resource(core("secrets")).Namespace(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading Secret %s/%s of a BGPPeer: %w", ref.Namespace, ref.Name, err)
		}
		secret.SetManagedFields(nil)
		s.Objects[live.RefOf(secret.Object)] = secret.Object
	}
	return nil
}

// Write makes one write.
func (a *API) Write(ctx context.Context, w *live.Write) error {
	resource, err := resourceOf(w.Ref)
	if err != nil {
		return err
	}
	client := a.Client.Resource(resource).Namespace(w.Ref.Namespace)
	switch w.Verb {
	case live.Create:
		_, err = client.Create(ctx, &unstructured.Unstructured{Object: w.Body}, metav1.CreateOptions{FieldManager: "kubectl-tandem"})
		return err
	case live.Delete:
		return client.Delete(ctx, w.Ref.Name, metav1.DeleteOptions{})
	}
	data, err := json.Marshal(w.Body)
	if err != nil {
		return err
	}
	var subresources []string
	if w.Subresource != "" {
		subresources = []string{w.Subresource}
	}
	_, err = client.Patch(ctx, w.Ref.Name, types.MergePatchType, data, metav1.PatchOptions{FieldManager: "kubectl-tandem"}, subresources...)
	return err
}

func resourceOf(ref live.Ref) (schema.GroupVersionResource, error) {
	for _, k := range live.Kinds {
		if k.Group == ref.Group && k.Kind == ref.Kind {
			return k.GroupVersionResource, nil
		}
	}
	switch ref.Kind {
	case "ConfigMap":
		return core("configmaps"), nil
	case "Secret":
		return core("secrets"), nil
	}
	return schema.GroupVersionResource{}, fmt.Errorf("%s is of no kind that a move writes", ref)
}
