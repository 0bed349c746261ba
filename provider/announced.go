// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/request"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/diagnosis"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=get;list;watch
// +kubebuilder:rbac:groups=tandem-lb.io,resources=l2announcements;speakerstatuses,verbs=get;list;watch
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=tandem-system,resources=leases,verbs=list;watch

const (
	// leastBetweenDiagnoses is the time from the end of one diagnosis of all Services to the next. One that took long is followed by a pause
	// of diagnosisRest times its duration, so that diagnoses take a fifth of a processor at most.
	leastBetweenDiagnoses = 500 * time.Millisecond
	diagnosisRest         = 4
	// holdFalse is how long conditions must have been the same before they are written, unless the Service has become announced. A takeover
	// takes less. holdPending is the same for what usually passes: Pods that start, and speakers that are about to announce.
	// holdUnallocated is that for addresses that are being allocated, and nothing has failed. Conditions that change all the time are
	// written after so long too.
	holdFalse       = 2 * time.Second
	holdPending     = 10 * time.Second
	holdUnallocated = 30 * time.Second
	// fewArrivals is how many Services may get their first addresses between two diagnoses while conditions are written at once. Where more
	// do, addresses come before reports: the first conditions of a Service, which say whether it can be reached and do not make it so, wait until
	// fewer arrive, for holdPending at most. The API server then has one write less of five for each Service that arrives.
	fewArrivals = 4
	// notAnnouncedAfter is how long a Service must not have been announced before an event says so.
	notAnnouncedAfter = 10 * time.Second
	// retryWrite and retryWriteMost are how long conditions of a Service that could not be written wait for the next try: the first time, and
	// after each further failure twice as long as before, up to the most. With 10,000 Services that is 170 writes a second at last.
	retryWrite     = time.Second
	retryWriteMost = time.Minute
	// ownWrite is how long conditions that we wrote are taken for those of a Service, however late the informer is.
	ownWrite = 5 * time.Second
	// conditionWorkers write conditions side by side.
	conditionWorkers = 8
)

// serviceConditions says of every Service of ours, by its conditions Allocated and Announced, whether clients can reach it and why not.
// Both are written at once: one write for a Service with which all goes well.
type serviceConditions struct {
	client    kubernetes.Interface
	services  coreinformers.ServiceInformer // as the class view shows them
	slices    discoveryinformers.EndpointSliceInformer
	nodes     coreinformers.NodeInformer
	claims    networkinginformers.IPAddressInformer
	cache     ctrlcache.Informers
	objects   client.Reader // Tandem's kinds
	recorder  record.EventRecorder
	failures  *failures
	contested func(ipam.Service) (message string, until time.Time) // as [loadbalancer.Server.Contested]
	effective *effective
	changed   signal.Signal
	// What follows is owned by run.
	liveness  *liveness
	diagnosed map[types.NamespacedName]*diagnosed
	states    map[string]bool // that Services had, for metrics
}

// diagnosed is what is remembered of a Service from one diagnosis to the next.
type diagnosed struct {
	uid    types.UID
	served bool // it showed an address
	// want are the conditions that are to be, nil if the Service has them; since when they are these, and since when it has others.
	want           []metav1.Condition
	since, differs time.Time
	broken         time.Time          // since when it is not announced, zero if it is
	told           bool               // by an event
	wrote          []metav1.Condition // by us, at a time
	at             time.Time
	// retry is when conditions that could not be written are written again, and wait how long that is after the failure. Both are zero
	// after a success.
	retry time.Time
	wait  time.Duration
}

// run keeps the conditions true until the context ends. The caller starts the informers and the cache.
func (c *serviceConditions) run(ctx context.Context) error {
	c.liveness = newLiveness(time.Now())
	if err := c.watch(ctx); err != nil {
		return err
	}
	c.changed.Raise()
	timer := time.NewTimer(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.changed:
		case <-timer.C:
		}
		now := time.Now()
		todo, next, err := c.diagnose(ctx, now)
		rest := max(leastBetweenDiagnoses, diagnosisRest*time.Since(now))
		if err == nil {
			err = c.write(ctx, time.Now(), todo)
		}
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Failed to write conditions of Services, trying again")
			next = now.Add(time.Second)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// watch raises changed with every change that a diagnosis may depend on, and waits for the caches to be filled.
func (c *serviceConditions) watch(ctx context.Context) error {
	raise := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { c.changed.Raise() },
		UpdateFunc: func(any, any) { c.changed.Raise() },
		DeleteFunc: func(any) { c.changed.Raise() },
	}
	informers := map[ctrlcache.Informer]cache.ResourceEventHandler{
		c.services.Informer(): raise, c.slices.Informer(): raise, c.nodes.Informer(): raise, c.claims.Informer(): raise,
	}
	kinds := append(config.Kinds(), &v1alpha1.L2Announcement{}, &v1alpha1.SpeakerStatus{}, &coordinationv1.Lease{})
	for _, obj := range kinds {
		informer, err := c.cache.GetInformer(ctx, obj)
		if err != nil {
			return fmt.Errorf("watching %T: %w", obj, err)
		}
		informers[informer] = raise
		if _, ok := obj.(*coordinationv1.Lease); ok {
			informers[informer] = c.liveness.handler(c.changed)
		}
	}
	for informer, handler := range informers {
		registration, err := informer.AddEventHandler(handler)
		if err != nil {
			return err
		}
		if !cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
			return ctx.Err()
		}
	}
	return nil
}

// todo are the conditions that a Service is to get; none for a Service that is not ours any more.
type todo struct {
	service    *corev1.Service
	conditions []metav1.Condition
}

// diagnose returns what is to be written now, and when to look again if nothing changes before.
func (c *serviceConditions) diagnose(ctx context.Context, now time.Time) (todos []todo, next time.Time, err error) {
	view := c.liveness.view(now)
	if !view.Known {
		return nil, view.Until, nil
	}
	o, services, err := c.read(ctx)
	if err != nil {
		return nil, view.Until, err
	}
	snapshot := o.Overview(view)
	pools := map[netip.Addr]string{}
	for i := range snapshot.Services {
		for _, a := range snapshot.Services[i].Addresses {
			pools[a.IP] = a.Pool
		}
	}
	p := &pass{
		serviceConditions: c, now: now, diagnoser: diagnosis.New(snapshot, o.Records()), pools: pools, states: map[string]int{}, next: view.Until,
		arriving: c.arrivals(services) > fewArrivals,
	}
	if p.arriving {
		p.due(now.Add(leastBetweenDiagnoses))
	}
	p.due(c.effective.Set(now, diagnosis.Advertisements(snapshot)))
	c.effective.count(establishedOn(snapshot))
	exist := make(map[types.NamespacedName]bool, len(services))
	for _, svc := range services {
		name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
		exist[name] = true
		p.diagnose(name, svc)
	}
	if c.states == nil {
		c.states = map[string]bool{}
	}
	countServices(p.states, c.states)
	maps.DeleteFunc(c.diagnosed, func(name types.NamespacedName, _ *diagnosed) bool { return !exist[name] })
	return p.todos, p.next, nil
}

// pass is one diagnosis of all Services.
type pass struct {
	*serviceConditions
	now       time.Time
	diagnoser *diagnosis.Diagnoser
	pools     map[netip.Addr]string // of the addresses that claims of ours back
	states    map[string]int        // how many Services have a reason of Announced
	todos     []todo
	next      time.Time // when to look again, zero for never
	arriving  bool      // many Services get their first addresses
}

// arrivals counts the Services that have got their first addresses since the last pass, or are about to. A Service that cannot be served
// does not count, nor one that has conditions: it waits for its address for long, or the program has just started.
func (c *serviceConditions) arrivals(services []*corev1.Service) (n int) {
	for _, svc := range services {
		d := c.diagnosed[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}]
		if (d == nil || d.uid != svc.UID || !d.served) && isOurs(svc) && svc.DeletionTimestamp == nil && c.failures.of(svc.UID) == "" &&
			len(ours(svc.Status.Conditions)) == 0 {
			n++
		}
	}
	return n
}

// diagnose adds to the pass what is to be done about one Service.
func (p *pass) diagnose(name types.NamespacedName, svc *corev1.Service) {
	d := p.diagnosed[name]
	if d == nil || d.uid != svc.UID {
		d = &diagnosed{uid: svc.UID}
		p.diagnosed[name] = d
	}
	d.served = len(svc.Status.LoadBalancer.Ingress) > 0
	have := ours(svc.Status.Conditions)
	if p.now.Sub(d.at) < ownWrite {
		have = d.wrote
	} else {
		d.wrote = nil
	}
	if svc.DeletionTimestamp != nil || !isOurs(svc) {
		if len(have) > 0 && svc.DeletionTimestamp == nil && p.due(d.braked(p.now, time.Time{})) {
			p.todos = append(p.todos, todo{service: svc})
		}
		return
	}
	was := find(have, ipamv1alpha1.ServiceConditionAnnounced)
	announced, reason, message := diagnosis.Sum(p.diagnoser.Service(name, was != nil && was.Status == metav1.ConditionTrue))
	want := []metav1.Condition{
		p.allocated(svc, p.pools),
		{Type: ipamv1alpha1.ServiceConditionAnnounced, Status: statusOf(announced), Reason: reason, Message: message},
	}
	if contest, until := p.contested(ipam.Service{Namespace: svc.Namespace, Name: svc.Name}); contest != "" {
		// What the status shows changes with each of the two writers. These conditions do not.
		announced, reason = false, ipamv1alpha1.ServiceReasonStatusOverwritten
		for i := range want {
			want[i].Status, want[i].Reason, want[i].Message = metav1.ConditionFalse, reason, contest
		}
		p.due(until)
	}
	p.states[reason]++
	if p.due(d.braked(p.now, d.due(p.now, have, want, p.failures.of(svc.UID) != "", p.arriving))) {
		p.todos = append(p.todos, todo{svc, transition(p.now, have, want)})
	}
	// Other events tell of a Service that lacks an address, or shows one that no pool holds, and of one whose status others write.
	told := reason == ipamv1alpha1.ServiceReasonNotAllocated || reason == ipamv1alpha1.ServiceReasonStatusOverwritten ||
		want[0].Reason == ipamv1alpha1.ServiceReasonAddressInNoPool
	if p.due(d.event(p.now, was, announced || told)) {
		p.recorder.Event(svc, corev1.EventTypeWarning, ipamv1alpha1.EventNotAnnounced, message)
	}
}

// due reports whether something is to be done now that is due at a time, the zero Time for now, and has the next pass made in time if not.
func (p *pass) due(at time.Time) bool {
	if at.After(p.now) && (p.next.IsZero() || at.Before(p.next)) {
		p.next = at
	}
	return at.IsZero()
}

// never is a time that is not awaited.
var never = time.Unix(0, 0)

// due returns when conditions are to be written: the zero Time for now, and never for conditions that are right. For example a Service that
// nothing announces is told so two seconds after the last change of what keeps it from being announced, in one write; or ten seconds after,
// where a hundred others are getting their addresses.
func (d *diagnosed) due(now time.Time, have, want []metav1.Condition, failed, arriving bool) time.Time {
	if same(have, want) {
		d.want = nil
		return never
	}
	if d.want == nil {
		d.differs = now
	}
	if !same(d.want, want) {
		d.want, d.since = want, now
	}
	hold := holdFalse
	was, is := find(have, ipamv1alpha1.ServiceConditionAnnounced), find(want, ipamv1alpha1.ServiceConditionAnnounced)
	switch is.Reason {
	case ipamv1alpha1.ServiceReasonAnnounced:
		if was == nil || was.Status != is.Status {
			hold = 0
		}
	case ipamv1alpha1.ServiceReasonPending, ipamv1alpha1.ServiceReasonNoReadyEndpoint, ipamv1alpha1.ServiceReasonNoLocalEndpoint:
		hold = holdPending
	case ipamv1alpha1.ServiceReasonNotAllocated:
		if !failed {
			hold = holdUnallocated
		}
	}
	if was == nil && arriving {
		hold = max(hold, holdPending)
	}
	at := d.since.Add(hold)
	if latest := d.differs.Add(holdUnallocated); latest.Before(at) {
		at = latest
	}
	if at.After(now) {
		return at
	}
	return time.Time{}
}

// braked puts a write that is due now off while the last one that failed is too recent.
func (d *diagnosed) braked(now, due time.Time) time.Time {
	if due.IsZero() && d.retry.After(now) {
		return d.retry
	}
	return due
}

// event returns when an event is to say that the Service is not announced: the zero Time for now, and never if there is nothing to say, or
// the events of allocation say it. A Service of which the condition has been false for long was told of before this leader started.
func (d *diagnosed) event(now time.Time, was *metav1.Condition, well bool) time.Time {
	if well {
		d.broken, d.told = time.Time{}, false
		return never
	}
	if d.broken.IsZero() {
		d.broken = now
		d.told = was != nil && was.Status == metav1.ConditionFalse && now.Sub(was.LastTransitionTime.Time) > notAnnouncedAfter
	}
	at := d.broken.Add(notAnnouncedAfter)
	switch {
	case d.told:
		return never
	case at.After(now):
		return at
	}
	d.told = true
	return time.Time{}
}

// read returns what a diagnosis depends on, and all Services that are load balancers of anybody or have conditions of ours.
func (c *serviceConditions) read(ctx context.Context) (*observation.Objects, []*corev1.Service, error) {
	list := func(list config.List) error { return c.objects.List(ctx, list, client.UnsafeDisableDeepCopy) }
	configuration, err := config.Read(list)
	if err != nil {
		return nil, nil, err
	}
	o := &observation.Objects{Config: configuration}
	for _, kind := range []client.ObjectList{&o.Announcements, &o.Speakers} {
		if err := list(kind); err != nil {
			return nil, nil, fmt.Errorf("reading %T: %w", kind, err)
		}
	}
	services, err := c.services.Lister().List(labels.Everything())
	if err != nil {
		return nil, nil, err
	}
	balancers := make(map[types.NamespacedName]bool, len(services))
	balanced := 0
	for _, svc := range services {
		if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
			balanced++
		}
	}
	o.Services.Items = make([]corev1.Service, 0, balanced)
	services = slices.DeleteFunc(services, func(svc *corev1.Service) bool {
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			return len(ours(svc.Status.Conditions)) == 0
		}
		balancers[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}] = true
		o.Services.Items = append(o.Services.Items, *svc)
		return false
	})
	endpoints, err := c.slices.Lister().List(labels.Everything())
	if err != nil {
		return nil, nil, err
	}
	o.EndpointSlices.Items = make([]discoveryv1.EndpointSlice, 0, min(len(endpoints), 2*balanced))
	for _, slice := range endpoints {
		if balancers[types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}] {
			o.EndpointSlices.Items = append(o.EndpointSlices.Items, *slice)
		}
	}
	nodes, err := c.nodes.Lister().List(labels.Everything())
	if err != nil {
		return nil, nil, err
	}
	for _, node := range nodes {
		o.Nodes.Items = append(o.Nodes.Items, *node)
	}
	claims, err := c.claims.Lister().List(labels.Everything())
	if err != nil {
		return nil, nil, err
	}
	o.Claims.Items = make([]networkingv1.IPAddress, 0, len(claims))
	for _, claim := range claims {
		o.Claims.Items = append(o.Claims.Items, *claim)
	}
	return o, services, nil
}

// allocated returns the condition Allocated of a Service. Pools has those of the addresses that claims of ours back.
func (c *serviceConditions) allocated(svc *corev1.Service, pools map[netip.Addr]string) metav1.Condition {
	condition := metav1.Condition{
		Type: ipamv1alpha1.ServiceConditionAllocated, Status: metav1.ConditionTrue, Reason: ipamv1alpha1.ServiceReasonAllocated,
	}
	var messages []string
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		address, err := netip.ParseAddr(ingress.IP)
		if err != nil {
			continue
		}
		if pool, claimed := pools[address]; claimed {
			messages = append(messages, fmt.Sprintf("%s from pool %s", address, pool))
		} else {
			condition.Status, condition.Reason = metav1.ConditionFalse, ipamv1alpha1.ServiceReasonNoClaim
			messages = append(messages, fmt.Sprintf("no IPAddress of Tandem stands for %s", address))
		}
	}
	failure := c.failures.of(svc.UID)
	if condition.Status == metav1.ConditionFalse && c.failures.uncovered(svc.UID) {
		condition.Reason = ipamv1alpha1.ServiceReasonAddressInNoPool
		messages = []string{failure}
	} else if missing := len(svc.Spec.IPFamilies) - len(messages); missing > 0 {
		preferred := svc.Spec.IPFamilyPolicy != nil && *svc.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyPreferDualStack
		if len(messages) == 0 || !preferred {
			condition.Status, condition.Reason = metav1.ConditionFalse, ipamv1alpha1.ServiceReasonNotAllocated
		}
		messages = append(messages, cmp.Or(failure, "no address yet of "+missingFamilies(svc)))
	}
	condition.Message = strings.Join(messages, "; ")
	return condition
}

// missingFamilies names the families of which a Service wants an address and publishes none.
func missingFamilies(svc *corev1.Service) string {
	var missing []string
	for _, f := range svc.Spec.IPFamilies {
		if !slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool {
			a, err := netip.ParseAddr(i.IP)
			return err == nil && a.Is4() == (f == corev1.IPv4Protocol)
		}) {
			missing = append(missing, string(f))
		}
	}
	return strings.Join(missing, " and ")
}

// write writes conditions. One that cannot be written does not keep it from writing others.
func (c *serviceConditions) write(ctx context.Context, now time.Time, todos []todo) error {
	errs := make([]error, len(todos))
	workqueue.ParallelizeUntil(ctx, conditionWorkers, len(todos), func(i int) { errs[i] = c.patch(ctx, todos[i]) })
	for i, t := range todos {
		d := c.diagnosed[types.NamespacedName{Namespace: t.service.Namespace, Name: t.service.Name}]
		if errs[i] == nil {
			d.wrote, d.at, d.want, d.retry, d.wait = t.conditions, now, nil, time.Time{}, 0
		} else {
			d.wait = min(max(2*d.wait, retryWrite), retryWriteMost)
			d.retry = now.Add(d.wait)
		}
	}
	return errors.Join(errs...)
}

// patch writes our two conditions of one Service, and leaves those of others alone. The UID keeps a new Service of the same name from
// getting them.
func (c *serviceConditions) patch(ctx context.Context, t todo) error {
	conditions := []any{}
	for _, condition := range t.conditions {
		conditions = append(conditions, condition)
	}
	if len(conditions) == 0 {
		for _, condition := range ours(t.service.Status.Conditions) {
			conditions = append(conditions, map[string]string{"$patch": "delete", "type": condition.Type})
		}
	}
	if len(conditions) == 0 {
		return nil // The informer has not shown them yet.
	}
	metadata := map[string]any{"uid": t.service.UID}
	if len(t.conditions) > 0 && slices.Contains(t.service.Finalizers, ipamv1alpha1.Finalizer) && !request.FinalizerIsOurs(t.service) {
		// An earlier version wrote the finalizer without our mark. The mark must not come back where both have gone meanwhile.
		metadata["annotations"] = map[string]string{ipamv1alpha1.AnnotationFinalizer: "true"}
		metadata["resourceVersion"] = t.service.ResourceVersion
	}
	data, err := json.Marshal(map[string]any{"metadata": metadata, "status": map[string]any{"conditions": conditions}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Services(t.service.Namespace).Patch(
		ctx, t.service.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !isAnother(err) {
		return fmt.Errorf("conditions of Service %s/%s: %w", t.service.Namespace, t.service.Name, err)
	}
	return nil
}

// isAnother reports whether the API server refused a patch since a new Service has taken the name.
func isAnother(err error) bool {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	return ok && status.ErrStatus.Details != nil && slices.ContainsFunc(status.ErrStatus.Details.Causes, func(c metav1.StatusCause) bool {
		return c.Field == "metadata.uid"
	})
}

// ours returns our conditions of a Service.
func ours(conditions []metav1.Condition) []metav1.Condition {
	var found []metav1.Condition
	for _, t := range []string{ipamv1alpha1.ServiceConditionAllocated, ipamv1alpha1.ServiceConditionAnnounced} {
		if condition := find(conditions, t); condition != nil {
			found = append(found, *condition)
		}
	}
	return found
}

func find(conditions []metav1.Condition, conditionType string) *metav1.Condition {
	if i := slices.IndexFunc(conditions, func(c metav1.Condition) bool { return c.Type == conditionType }); i >= 0 {
		return &conditions[i]
	}
	return nil
}

// same reports whether conditions say what they are to say.
func same(have, want []metav1.Condition) bool {
	return slices.EqualFunc(have, want, func(a, b metav1.Condition) bool {
		return a.Type == b.Type && a.Status == b.Status && a.Reason == b.Reason && a.Message == b.Message
	})
}

// transition gives conditions the times of their last transitions.
func transition(now time.Time, have, want []metav1.Condition) []metav1.Condition {
	for i := range want {
		want[i].LastTransitionTime = metav1.NewTime(now)
		if was := find(have, want[i].Type); was != nil && was.Status == want[i].Status {
			want[i].LastTransitionTime = was.LastTransitionTime
		}
	}
	return want
}

func statusOf(ok bool) metav1.ConditionStatus {
	if ok {
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}

// liveness knows which speakers are alive, from the Leases that some of them renew.
type liveness struct {
	mu sync.Mutex
	// mu guards all following fields.
	state  *observation.Liveness
	leases map[string]*coordinationv1.Lease
	last   observation.View
}

func newLiveness(now time.Time) *liveness {
	return &liveness{state: observation.NewLiveness(now), leases: map[string]*coordinationv1.Lease{}}
}

// handler follows the Leases. It raises changed when one says something new, and not at each renewal.
func (l *liveness) handler(changed signal.Signal) cache.ResourceEventHandler {
	update := func(obj any, exists bool) {
		lease, ok := lastSeen(obj).(*coordinationv1.Lease)
		if !ok {
			return
		}
		if l.update(time.Now(), lease, exists) {
			changed.Raise()
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { update(obj, true) },
		UpdateFunc: func(_, obj any) { update(obj, true) },
		DeleteFunc: func(obj any) { update(obj, false) },
	}
}

// update takes in a Lease, and reports whether it changed the view.
func (l *liveness) update(now time.Time, lease *coordinationv1.Lease, exists bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if exists {
		l.leases[lease.Name] = lease
	} else {
		delete(l.leases, lease.Name)
	}
	last := l.last
	l.last = l.state.Update(now, slices.Collect(maps.Values(l.leases)))
	return !l.last.Equal(last)
}

// view returns which speakers are alive at a time.
func (l *liveness) view(now time.Time) observation.View {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = l.state.Update(now, slices.Collect(maps.Values(l.leases)))
	return l.last
}
