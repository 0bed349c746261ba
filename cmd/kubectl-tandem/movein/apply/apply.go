// SPDX-License-Identifier: Apache-2.0

// Package apply carries out what package live says: it looks at the cluster, does the one thing that comes next, and looks again.
//
// It decides nothing of the move. What it adds is time: how long a thing is waited for, what is tried again, and how long a unit may take to answer.
//
// # Lists and watches
//
// A command that moves a thousand Services makes some five thousand decisions. So it lists the cluster once, and follows it by a watch for each kind. A list
// and its watch are its own, and no informers: an informer hides that its watch is broken, and begins it anew in its own time. Here the command looks before
// each decision whether all watches run. A kind whose watch has ended, or may not be begun, is listed for that decision, and a watch begins where the list ends.
//
// A watch may be behind. Therefore:
//
//   - After a write the next decision waits until the watch of that kind has shown it: its resource version or a newer one. If that takes longer than
//     showTimeout, all is listed.
//   - A part of the cluster never becomes older: what a watch or a list shows that is older than what has been seen is left out.
//   - Watches of two kinds may be behind by different times. For example the Pods of a controller may seem to have ended because the watch of Pods is behind,
//     while that of Deployments is not. So what follows from watches counts only within a run of writes to Services and to what Tandem keeps for each of them
//     (L2Announcements and IPAddresses), of which there are many. Every other write, each Stop, the end, and whatever comes after something was waited for,
//     is decided once more from lists, which are read at once as they always were. So is what comes after a write whose outcome is unknown.
//   - All is listed each resyncPeriod in any case, since a watch may end without a word.
package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/dynamic"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/live"
)

const (
	// period is how often a unit is asked, and how often the cluster is read that cannot be followed, while something is waited for.
	period = 300 * time.Millisecond
	// shortest is the shortest time between two decisions while something is waited for, however much changes.
	shortest = 50 * time.Millisecond
)

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
	// Spent is called with how long each thing has taken, nil for nobody: "read", "write", "probe" or "wait".
	Spent func(what string, d time.Duration)
	// Missing are the rights that Review has found missing, and Unwatched those to watch: they are in each Snapshot.
	Missing, Unwatched []live.Right
}

// Review asks the API server which rights of a move the person does not have, before anything is written. What it does not answer counts as a right.
func (a *API) Review(ctx context.Context, s *live.Snapshot) {
	var reviews sync.WaitGroup
	reviews.Go(func() { a.Missing = a.refused(ctx, s.Rights()) })
	reviews.Go(func() { a.Unwatched = a.refused(ctx, s.RightsToWatch()) })
	reviews.Wait()
	s.Missing, s.Unwatched = a.Missing, a.Unwatched
}

// refused returns those of some rights that the person does not have.
func (a *API) refused(ctx context.Context, rights []live.Right) (list []live.Right) {
	reviews := a.Client.Resource(authorizationv1.SchemeGroupVersion.WithResource("selfsubjectaccessreviews"))
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
	for i, r := range rights {
		if refused[i] {
			list = append(list, r)
		}
	}
	return list
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
	r.follower = newFollower(r.API)
	defer r.follower.close()
	r.fresh = true
	for {
		fresh := r.fresh || r.follower.due()
		begin := time.Now()
		s, err := r.follower.snapshot(ctx, fresh)
		r.spend("read", begin)
		if err != nil && ctx.Err() == nil && again(err) {
			r.fresh = true
			if err := r.wait(ctx, "read the cluster", err); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		s.Probes, s.Memory = r.probes, &r.memory
		begin = time.Now()
		action, err := next(s)
		r.spend("next", begin)
		if r.fresh = !fresh && (err != nil || r.grave(action)); r.fresh {
			continue
		}
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

// grave reports whether an action is decided from lists: the comment of the package says why.
func (r *run) grave(a live.Action) bool {
	switch {
	case a.Wait != "":
		return false
	case a.Write != nil:
		return r.waited || !ofService(a.Write.Ref)
	}
	return r.waited || a.Probe == nil
}

// ofService reports whether an object is a Service, or one that Tandem keeps for a Service.
func ofService(ref live.Ref) bool {
	return slices.Contains([]string{"Service", "L2Announcement", "IPAddress"}, ref.Kind)
}

// spend tells how long something has taken that began at a time.
func (a *API) spend(what string, begin time.Time) {
	if a.Spent != nil {
		a.Spent(what, time.Since(begin))
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

	memory   live.Memory
	follower *follower
	fresh    bool // the next decision is from lists
	waited   bool // the last action was to wait
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
	r.waited = a.Wait != ""
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
	return r.write(ctx, s, a)
}

// write makes the write of an action.
func (r *run) write(ctx context.Context, s *live.Snapshot, a live.Action) error {
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
	var done *written
	begin := time.Now()
	if r.Lock != nil {
		_, err = r.Lock.own(ctx)
	}
	if err == nil {
		done, err = r.API.write(ctx, a.Write)
	}
	r.spend("write", begin)
	unknown := err != nil || done.version == "" && a.Write.Verb != live.Delete
	r.fresh = unknown || !ofService(a.Write.Ref)
	switch {
	case err == nil:
		r.writes++
		r.made[same]++
		r.waiting = ""
		if !r.fresh {
			defer r.spend("show", time.Now())
			done.uid = uidOf(s.Objects[a.Write.Ref])
			r.fresh = !r.follower.await(ctx, done)
		}
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
	defer r.spend("wait", time.Now())
	if err != nil {
		return sleep(ctx, period)
	}
	longest := min(r.follower.resync(), r.Timeout-time.Since(r.since)+shortest)
	if r.follower.polled() {
		longest = min(longest, period)
	}
	return r.follower.wait(ctx, shortest, longest)
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
	defer r.spend("probe", time.Now())
	for {
		now := r.Probe(limited, s, a.Probe, a.Early)
		if limited.Err() == nil || why == "" {
			why = now
		}
		if now == "" || r.untilRecord(limited, a.Probe) != nil {
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

// untilRecord waits before a unit is asked again: a while, but no longer than until Tandem has written another record of one of its Services.
func (r *run) untilRecord(ctx context.Context, unit *live.Unit) error {
	versions := func() (list []string) {
		for _, ref := range unit.Records() {
			list = append(list, r.follower.version(ref))
		}
		return list
	}
	before, end := versions(), time.Now().Add(period)
	for time.Now().Before(end) && slices.Equal(before, versions()) {
		if err := r.follower.wait(ctx, shortest, time.Until(end)); err != nil {
			return err
		}
	}
	return ctx.Err()
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

// Read reads the cluster by lists.
func (a *API) Read(ctx context.Context) (*live.Snapshot, error) {
	f := newFollower(a)
	f.plain = true
	return f.snapshot(ctx, true)
}

func core(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: resource}
}

// newer reports whether an apiVersion is of a newer version than another one of the same group.
func newer(a, b any) bool {
	short := func(v any) string { text := fmt.Sprint(v); return text[strings.LastIndex(text, "/")+1:] }
	return version.CompareKubeAwareVersionStrings(short(a), short(b)) > 0
}

// secrets returns the Secrets with passwords of BGP sessions, MetalLB's, and those of the same name in Tandem's namespace, which a person may have made.
func (a *API) secrets(ctx context.Context, s *live.Snapshot) (found []map[string]any, err error) {
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
			return nil, fmt.Errorf("reading Secret %s/%s of a BGPPeer: %w", ref.Namespace, ref.Name, err)
		}
		strip(secret)
		found = append(found, secret.Object)
	}
	return found, nil
}

// Write makes one write.
func (a *API) Write(ctx context.Context, w *live.Write) error {
	_, err := a.write(ctx, w)
	return err
}

func (a *API) write(ctx context.Context, w *live.Write) (*written, error) {
	resource, err := resourceOf(w.Ref)
	if err != nil {
		return nil, err
	}
	client, done := a.Client.Resource(resource).Namespace(w.Ref.Namespace), &written{resource: resource, ref: w.Ref}
	var after *unstructured.Unstructured
	switch w.Verb {
	case live.Create:
		after, err = client.Create(ctx, &unstructured.Unstructured{Object: w.Body}, metav1.CreateOptions{FieldManager: "kubectl-tandem"})
	case live.Delete:
		return done, client.Delete(ctx, w.Ref.Name, metav1.DeleteOptions{})
	default:
		data, err := json.Marshal(w.Body)
		if err != nil {
			return nil, err
		}
		var subresources []string
		if w.Subresource != "" {
			subresources = []string{w.Subresource}
		}
		after, err = client.Patch(ctx, w.Ref.Name, types.MergePatchType, data, metav1.PatchOptions{FieldManager: "kubectl-tandem"}, subresources...)
		if err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	done.version = after.GetResourceVersion()
	return done, nil
}

// uidOf returns the UID of an object, "" for one that is not there.
func uidOf(o map[string]any) string { return string((&unstructured.Unstructured{Object: o}).GetUID()) }

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
