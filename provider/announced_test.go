// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlfake "sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/ipam"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// announcedWorld is a cluster of two nodes on one link, and what diagnoses its Services. Its time passes by second.
type announcedWorld struct {
	*serviceConditions
	t        *testing.T
	now      time.Time
	writes   int // of conditions
	speaking bool
	contest  string // what Server.Contested says
	store    *fake.Clientset
	kinds    client.Client
	shared   informers.SharedInformerFactory
	events   *record.FakeRecorder
}

const (
	lanAddress = "198.51.100.200"
	offLink    = "192.0.2.64"
)

func newAnnouncedWorld(t *testing.T) *announcedWorld {
	t.Helper()
	w := &announcedWorld{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), speaking: true, store: fake.NewClientset()}
	w.shared = informers.NewSharedInformerFactory(w.store, 0)
	w.events = record.NewFakeRecorder(100)
	builder := ctrlfake.NewClientBuilder().WithScheme(config.Scheme()).WithStatusSubresource(&v1alpha1.SpeakerStatus{})
	for i := range 2 {
		name := fmt.Sprintf("node%d", i+1)
		builder = builder.WithObjects(&v1alpha1.SpeakerStatus{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Status: v1alpha1.SpeakerState{Interfaces: []v1alpha1.InterfaceState{
				{Name: "eth0", Usable: true, Addresses: []string{fmt.Sprintf("198.51.100.%d/24", 11+i)}},
			}},
		})
		w.add(w.shared.Core().V1().Nodes().Informer().GetIndexer().Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	w.kinds = builder.Build()
	w.serviceConditions = &serviceConditions{
		client: w.store, services: w.shared.Core().V1().Services(), slices: w.shared.Discovery().V1().EndpointSlices(),
		nodes: w.shared.Core().V1().Nodes(), claims: w.shared.Networking().V1().IPAddresses(), objects: w.kinds, recorder: w.events,
		effective: newEffective(), changed: signal.New(), liveness: newLiveness(w.now), diagnosed: map[types.NamespacedName]*diagnosed{},
	}
	w.failures = newFailures(w.changed)
	w.contested = func(ipam.Service) (string, time.Time) { return w.contest, w.now.Add(time.Minute) }
	w.renew()
	w.now = w.now.Add(time.Second)
	w.renew()
	return w
}

// newAnnounced returns a cluster in which web is announced on layer 2, as one write has said.
func newAnnounced(t *testing.T) *announcedWorld {
	t.Helper()
	w := newAnnouncedWorld(t)
	w.advertise()
	w.service(lanAddress)
	w.record("node1", lanAddress)
	w.pass(6)
	w.expect(onLayer2, 1)
	return w
}

func (w *announcedWorld) add(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *announcedWorld) renew() {
	if w.speaking {
		w.liveness.update(w.now, observation.Report("tandem-system", "node1", nil, nil, w.now), true)
	}
}

// service makes the Service web with an address, its claim and an endpoint, anew if there is one.
func (w *announcedWorld) service(address string) {
	w.t.Helper()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "web"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
		Status: corev1.ServiceStatus{
			Conditions: []metav1.Condition{{Type: "example.com/Other", Status: metav1.ConditionTrue, Reason: "Other"}},
		},
	}
	if address != "" {
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address}}
		w.add(w.shared.Networking().V1().IPAddresses().Informer().GetIndexer().Add(&networkingv1.IPAddress{
			ObjectMeta: metav1.ObjectMeta{Name: address, Labels: map[string]string{
				networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy, ipamv1alpha1.LabelAddressPool: "lan",
			}},
		}))
	}
	w.pods(1)
	_ = w.store.CoreV1().Services("default").Delete(w.t.Context(), "web", metav1.DeleteOptions{})
	w.add(w.store.Tracker().Add(svc))
	w.sync()
}

// sync shows the informer the Service as it is.
func (w *announcedWorld) sync() {
	w.t.Helper()
	svc, err := w.store.CoreV1().Services("default").Get(w.t.Context(), "web", metav1.GetOptions{})
	w.add(err)
	w.add(w.shared.Core().V1().Services().Informer().GetIndexer().Add(svc))
}

// pods sets how many ready endpoints web has.
func (w *announcedWorld) pods(n int) {
	w.t.Helper()
	w.add(w.shared.Discovery().V1().EndpointSlices().Informer().GetIndexer().Update(&discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: make([]discoveryv1.Endpoint, n),
	}))
}

func (w *announcedWorld) advertise() {
	w.t.Helper()
	w.add(w.kinds.Create(w.t.Context(), &v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "lan"}}))
}

// record puts a node on record.
func (w *announcedWorld) record(node string, addresses ...string) {
	w.t.Helper()
	a := &v1alpha1.L2Announcement{
		ObjectMeta: metav1.ObjectMeta{Name: "default.web"}, Service: v1alpha1.ServiceReference{Namespace: "default", Name: "web"},
		Status: v1alpha1.L2AnnouncementStatus{Node: node, Addresses: addresses},
	}
	_ = w.kinds.Delete(w.t.Context(), a.DeepCopy())
	w.add(w.kinds.Create(w.t.Context(), a))
}

// pass lets seconds pass, with a diagnosis after each.
func (w *announcedWorld) pass(seconds int) {
	w.t.Helper()
	for range seconds {
		w.now = w.now.Add(time.Second)
		w.renew()
		todos, _, err := w.diagnose(w.t.Context(), w.now)
		w.add(err)
		w.writes += len(todos)
		w.add(w.write(w.t.Context(), w.now, todos))
		w.sync()
	}
}

// says returns the condition Announced of web as "True Announced: message", "" where it is absent.
func (w *announcedWorld) says() string {
	w.t.Helper()
	svc, err := w.store.CoreV1().Services("default").Get(w.t.Context(), "web", metav1.GetOptions{})
	w.add(err)
	if find(svc.Status.Conditions, "example.com/Other") == nil {
		w.t.Error("the condition of another controller is gone")
	}
	if len(ours(svc.Status.Conditions)) == 1 {
		w.t.Error("the Service has one of the two conditions")
	}
	condition := find(svc.Status.Conditions, ipamv1alpha1.ServiceConditionAnnounced)
	if condition == nil {
		return ""
	}
	return fmt.Sprintf("%s %s: %s", condition.Status, condition.Reason, condition.Message)
}

func (w *announcedWorld) expect(want string, writes int, events ...string) {
	w.t.Helper()
	if got := w.says(); got != want {
		w.t.Errorf("the condition is %q, want %q", got, want)
	}
	if w.writes != writes {
		w.t.Errorf("%d writes, want %d", w.writes, writes)
	}
	for _, want := range events {
		select {
		case got := <-w.events.Events:
			if got != want {
				w.t.Errorf("event %q, want %q", got, want)
			}
		default:
			w.t.Errorf("no event, want %q", want)
		}
	}
	if len(w.events.Events) > 0 {
		w.t.Errorf("event %q", <-w.events.Events)
	}
}

const onLayer2 = "True Announced: 198.51.100.200 is announced on layer 2"

// A Service with which all goes well costs one write in its life, through takeovers and changes of its endpoints.
func TestAnnouncedIsWrittenOnce(t *testing.T) {
	w := newAnnouncedWorld(t)
	w.advertise()
	w.service(lanAddress)
	w.pass(1)
	w.expect("", 0)
	w.record("node1", lanAddress)
	w.pass(1)
	w.expect(onLayer2, 1)
	w.record("node2", lanAddress)
	w.pass(1)
	w.record("") // between two holders
	w.pass(1)
	w.record("node1", lanAddress)
	w.pass(60)
	w.expect(onLayer2, 1)
	svc, err := w.store.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
	w.add(err)
	allocated := find(svc.Status.Conditions, ipamv1alpha1.ServiceConditionAllocated)
	if allocated == nil || allocated.Status != metav1.ConditionTrue || allocated.Message != "198.51.100.200 from pool lan" {
		t.Errorf("Allocated is %v", allocated)
	}
}

// Nothing is written while what keeps a Service from being announced changes: Pods that start, and then a speaker that is about to record
// itself.
func TestAnnouncedIsWrittenOnceAfterPodsStart(t *testing.T) {
	w := newAnnouncedWorld(t)
	w.advertise()
	w.service(lanAddress)
	w.pods(0)
	w.pass(9)
	w.pods(1)
	w.pass(3)
	w.record("node1", lanAddress)
	w.pass(20)
	w.expect(onLayer2, 1, "Warning NotAnnounced node node2 has not recorded yet that it answers for 198.51.100.200")
}

// Nothing announces a Service that gets its address while the speakers stop: it is told the one reason that lasts.
func TestNotAnnouncedIsWrittenOnce(t *testing.T) {
	w := newAnnouncedWorld(t)
	w.advertise()
	w.service("")
	w.pass(3)
	w.service(lanAddress)
	w.pods(0)
	w.pass(5)
	w.pods(1)
	w.speaking = false
	w.pass(30)
	w.expect("False NoLiveSpeaker: no speaker is alive on any node", 1,
		"Warning NotAnnounced node node2 has not recorded yet that it answers for 198.51.100.200")
}

// A reason that changes each second, as of Pods that crash, does not keep the condition from being written, and costs no write each second.
func TestNotAnnouncedWhileReasonsChange(t *testing.T) {
	w := newAnnouncedWorld(t)
	w.advertise()
	w.service(lanAddress)
	for range 30 {
		w.pods(0)
		w.pass(1)
		w.pods(1)
		w.pass(1)
	}
	w.expect("False NoReadyEndpoint: no ready IPv4 endpoint", 1, "Warning NotAnnounced no ready IPv4 endpoint")
}

func TestNotAnnounced(t *testing.T) {
	w := newAnnouncedWorld(t)
	w.service(offLink)
	w.pass(2)
	w.expect("", 0)
	w.pass(1)
	const missing = "there is no L2Advertisement and no BGPAdvertisement"
	w.expect("False NoAdvertisement: "+missing, 1)
	w.pass(7)
	w.expect("False NoAdvertisement: "+missing, 1)
	w.pass(20)
	w.expect("False NoAdvertisement: "+missing, 1, "Warning NotAnnounced "+missing)
	w.advertise()
	w.pass(4)
	const subnet = "no node has an interface in the subnet of 192.0.2.64; set interfaces of the L2Advertisement if routers know the way"
	w.expect("False NoInterface: "+subnet, 2)
	w.record("node1", offLink)
	w.pass(1)
	w.expect("True Announced: 192.0.2.64 is announced on layer 2", 3)
}

// TestNotAnnouncedWhileSpeakersDrain: nodes that are cordoned announce nothing where speakers have --drain-on-cordon, which they say in their status.
func TestNotAnnouncedWhileSpeakersDrain(t *testing.T) {
	w := newAnnounced(t)
	drain := func(status metav1.ConditionStatus) {
		var speakers v1alpha1.SpeakerStatusList
		w.add(w.kinds.List(t.Context(), &speakers))
		for _, s := range speakers.Items {
			s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionDraining, Status: status}}
			w.add(w.kinds.Status().Update(t.Context(), &s))
		}
	}
	drain(metav1.ConditionTrue)
	w.record("")
	w.pass(4)
	w.expect("False NoNode: nodes that are excluded announce nothing: nodes node1 and node2", 2)
	drain(metav1.ConditionFalse)
	w.record("node1", lanAddress)
	w.pass(2)
	w.expect(onLayer2, 3)
}

// arrive lets seconds pass, in each of which so many other Services come that have conditions and no address yet.
func (w *announcedWorld) arrive(services, seconds int, conditions ...metav1.Condition) {
	w.t.Helper()
	others := w.shared.Core().V1().Services().Informer().GetIndexer()
	for second := range seconds {
		var came []*corev1.Service
		for i := range services {
			name := fmt.Sprintf("other-%d-%d", second, i)
			came = append(came, &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
				Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
				Status:     corev1.ServiceStatus{Conditions: conditions},
			})
			w.add(others.Add(came[i]))
		}
		w.pass(1)
		for _, svc := range came {
			w.add(others.Delete(svc))
		}
	}
}

// While many Services get their addresses, the first conditions of a Service wait, for ten seconds at most. Changes of conditions do not.
func TestAddressesComeBeforeReports(t *testing.T) {
	const missing = "there is no L2Advertisement and no BGPAdvertisement"
	announced := func(w *announcedWorld) {
		w.advertise()
		w.record("node1", lanAddress)
	}
	for _, test := range []struct {
		name              string
		prepare           func(*announcedWorld)
		services, seconds int
		want              string
		event             []string
	}{
		{name: "few others come", prepare: announced, services: fewArrivals - 1, seconds: 1, want: onLayer2},
		{name: "many others come", prepare: announced, services: fewArrivals + 1, seconds: 10},
		{name: "many others come for longer", prepare: announced, services: fewArrivals + 1, seconds: 11, want: onLayer2},
		{
			name: "many others come, and nothing announces the Service", services: fewArrivals + 1, seconds: 11,
			want: "False NoAdvertisement: " + missing, event: []string{"Warning NotAnnounced " + missing},
		},
		{
			name: "the speakers stop after the conditions have been written", services: fewArrivals + 1, seconds: 12,
			prepare: func(w *announcedWorld) {
				announced(w)
				w.pass(1)
				w.speaking, w.writes = false, 0
			},
			want: "False NoLiveSpeaker: no speaker is alive on any node",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newAnnouncedWorld(t)
			w.service(lanAddress)
			if test.prepare != nil {
				test.prepare(w)
			}
			before := w.says()
			w.arrive(test.services, test.seconds)
			if test.want == "" {
				w.expect(before, 0)
				w.pass(1)
				test.want = onLayer2
			}
			w.expect(test.want, 1, test.event...)
		})
	}
}

// Services that cannot be served keep no conditions back.
func TestServicesThatWaitAreNoArrivals(t *testing.T) {
	w := newAnnouncedWorld(t)
	w.advertise()
	w.service(lanAddress)
	w.record("node1", lanAddress)
	for i := range fewArrivals + 1 {
		w.failures.note(types.UID(fmt.Sprintf("other-0-%d", i)), errors.New("no pool has a free IPv4 address"))
	}
	w.arrive(fewArrivals+1, 1)
	w.expect(onLayer2, 1)
}

// Services that have long been without an address keep no conditions back, whatever the reason.
func TestServicesWithConditionsAreNoArrivals(t *testing.T) {
	w := newAnnouncedWorld(t)
	w.advertise()
	w.service(lanAddress)
	w.record("node1", lanAddress)
	w.arrive(fewArrivals+1, 1, metav1.Condition{Type: ipamv1alpha1.ServiceConditionAllocated, Status: metav1.ConditionFalse})
	w.expect(onLayer2, 1)
}

// A Service that an earlier version served gets the mark of its finalizer with the conditions, in the same write.
func TestConditionsBringTheMark(t *testing.T) {
	for name, test := range map[string]struct {
		finalizers []string
		want       string
	}{
		"a finalizer without a mark":   {finalizers: []string{ipamv1alpha1.Finalizer}, want: "true"},
		"no finalizer":                 {},
		"the finalizer of another one": {finalizers: []string{"example.com/other"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newAnnouncedWorld(t)
			w.advertise()
			w.service(lanAddress)
			svc, err := w.store.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
			w.add(err)
			svc.Finalizers = test.finalizers
			w.add(w.store.Tracker().Update(corev1.SchemeGroupVersion.WithResource("services"), svc, "default"))
			w.sync()
			w.record("node1", lanAddress)
			w.pass(5)
			w.expect(onLayer2, 1)
			svc, err = w.store.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
			w.add(err)
			if got := svc.Annotations[ipamv1alpha1.AnnotationFinalizer]; got != test.want {
				t.Errorf("the mark is %q, want %q", got, test.want)
			}
		})
	}
}

// While another controller and we write the status alternately, the conditions say so and stay.
func TestContested(t *testing.T) {
	w := newAnnounced(t)
	show := func(address string) {
		svc, err := w.store.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
		w.add(err)
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: address}}
		w.add(w.store.Tracker().Update(corev1.SchemeGroupVersion.WithResource("services"), svc, "default"))
		w.sync()
	}
	w.contest = "k3s writes 198.51.100.11 over 198.51.100.200 in the status"
	want := "False StatusOverwritten: " + w.contest
	for range 5 {
		show("198.51.100.11")
		w.pass(10)
		show(lanAddress)
		w.pass(3)
	}
	w.expect(want, 2)
	w.contest = ""
	w.pass(1)
	w.expect(onLayer2, 3)
}

// All speakers stop at once: the condition is false within twelve seconds, though the record still names a holder.
func TestAllSpeakersStop(t *testing.T) {
	w := newAnnounced(t)
	w.speaking = false
	w.pass(7)
	w.expect(onLayer2, 1)
	w.pass(5)
	w.expect("False NoLiveSpeaker: no speaker is alive on any node", 2)
	w.speaking = true
	w.pass(1)
	w.expect(onLayer2, 3)
}

// What a Service waits for is in both conditions, as soon as it is known.
func TestNotAllocated(t *testing.T) {
	w := newAnnouncedWorld(t)
	w.advertise()
	w.service("")
	w.pass(10)
	w.expect("", 0)
	w.failures.note("web", errors.New("no pool has a free IPv4 address"))
	w.pass(3)
	w.expect("False NotAllocated: no address yet", 1)
	svc, err := w.store.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
	w.add(err)
	allocated := find(svc.Status.Conditions, ipamv1alpha1.ServiceConditionAllocated)
	if allocated == nil || allocated.Status != metav1.ConditionFalse || !strings.Contains(allocated.Message, "no pool has") {
		t.Errorf("Allocated is %v", allocated)
	}
	w.pass(60)
	w.expect("False NotAllocated: no address yet", 1)
}

// A Service that shows an address of another load balancer, which no pool holds, is told so by Allocated, with what to do.
func TestAddressInNoPool(t *testing.T) {
	w := newAnnouncedWorld(t)
	w.advertise()
	w.service(lanAddress)
	w.add(w.shared.Networking().V1().IPAddresses().Informer().GetIndexer().Delete(
		&networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: lanAddress}}))
	w.failures.note("web", fmt.Errorf("no change: %w: 198.51.100.200; add it to a pool", ipam.ErrUncovered))
	w.pass(12)
	w.expect("False NoClaim: no IPAddress of Tandem stands for 198.51.100.200", 1)
	svc, err := w.store.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
	w.add(err)
	allocated := find(svc.Status.Conditions, ipamv1alpha1.ServiceConditionAllocated)
	if allocated == nil || allocated.Status != metav1.ConditionFalse || allocated.Reason != ipamv1alpha1.ServiceReasonAddressInNoPool ||
		!strings.Contains(allocated.Message, "198.51.100.200; add it to a pool") {
		t.Errorf("Allocated is %v", allocated)
	}
}

// A Service that stops being ours loses our conditions and keeps those of others.
func TestConditionsEndWithOurs(t *testing.T) {
	w := newAnnounced(t)
	svc, err := w.store.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
	w.add(err)
	svc.Spec.Type = corev1.ServiceTypeClusterIP
	_, err = w.store.CoreV1().Services("default").Update(t.Context(), svc, metav1.UpdateOptions{})
	w.add(err)
	w.sync()
	w.pass(10)
	w.expect("", 2)
}

// Conditions that the API server refuses are tried less and less often, and written soon after it takes them again.
func TestRefusedConditionsAreBraked(t *testing.T) {
	w := newAnnouncedWorld(t)
	w.advertise()
	w.service(lanAddress)
	w.record("node1", lanAddress)
	refuses, tries := true, 0
	w.store.PrependReactor("patch", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
		tries++
		return refuses, nil, errors.New("a webhook refuses")
	})
	pass := func(seconds int) {
		for range seconds {
			w.now = w.now.Add(time.Second)
			w.renew()
			todos, _, err := w.diagnose(t.Context(), w.now)
			w.add(err)
			if err := w.write(t.Context(), w.now, todos); err != nil != (refuses && len(todos) > 0) {
				t.Fatalf("write: %v", err)
			}
			w.sync()
		}
	}
	pass(600)
	if want := 6 + 9; tries != want { // after 0, 1, 3, 7, 15 and 31 seconds, and then each minute
		t.Errorf("%d tries in ten minutes, want %d", tries, want)
	}
	w.expect("", 0)
	refuses = false
	pass(60)
	w.expect(onLayer2, 0)
}

// A leader that has just started knows of no speaker whether it is alive, and writes nothing.
func TestNothingIsWrittenBeforeLivenessIsKnown(t *testing.T) {
	w := newAnnouncedWorld(t)
	w.liveness, w.speaking = newLiveness(w.now), false
	w.advertise()
	w.service(lanAddress)
	w.record("node1", lanAddress)
	w.pass(7)
	w.expect("", 0)
	w.pass(3)
	w.expect("False NoLiveSpeaker: no speaker is alive on any node", 1)
}

func TestAnotherServiceOfTheName(t *testing.T) {
	service := schema.GroupKind{Kind: "Service"}
	uid := field.ErrorList{field.Invalid(field.NewPath("metadata", "uid"), "web", "field is immutable")}
	other := field.ErrorList{field.Invalid(field.NewPath("status", "conditions"), "", "wrong")}
	if !isAnother(apierrors.NewInvalid(service, "web", uid)) {
		t.Error("a refusal of the UID is not recognised")
	}
	if isAnother(apierrors.NewInvalid(service, "web", other)) || isAnother(errors.New("the API is away")) || isAnother(nil) {
		t.Error("another error is taken for a refusal of the UID")
	}
}
