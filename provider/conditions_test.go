// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// conditionWriterOf returns a conditionWriter on a store of objects whose statuses are patched through patch.
func conditionWriterOf(t *testing.T, patch func(name string) error, objects ...client.Object) *conditionWriter {
	t.Helper()
	builder := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(objects...).WithStatusSubresource(objects...)
	store := builder.WithInterceptorFuncs(interceptor.Funcs{
		SubResourcePatch: func(
			ctx context.Context, c client.Client, sub string, obj client.Object, p client.Patch, opts ...client.SubResourcePatchOption,
		) error {
			if err := patch(obj.GetName()); err != nil {
				return err
			}
			return c.SubResource(sub).Patch(ctx, obj, p, opts...)
		},
	}).Build()
	return newConditionWriter(store, nil, newEffective())
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Generation: 3} }

// oneOfEach returns an object of every kind, all with the kind as its name.
func oneOfEach() []client.Object {
	return []client.Object{
		&v1alpha1.L2Advertisement{
			ObjectMeta: named("l2"), Spec: v1alpha1.L2AdvertisementSpec{Selection: v1alpha1.Selection{AddressPools: []string{"lan"}}},
		},
		&v1alpha1.BGPPeer{ObjectMeta: named("peer"), Spec: v1alpha1.BGPPeerSpec{PeerAddress: "192.0.2.1"}},
		&v1alpha1.BGPAdvertisement{ObjectMeta: named("bgp")},
		&v1alpha1.BFDProfile{ObjectMeta: named("bfd")},
		&v1alpha1.Community{ObjectMeta: named("community")},
		&v1alpha1.InterfaceAdvertisement{ObjectMeta: named("interface"), Spec: v1alpha1.InterfaceAdvertisementSpec{Interface: "kube-lb0"}},
	}
}

func TestConditionsAreWrittenOnChange(t *testing.T) {
	var patched []string
	w := conditionWriterOf(t, func(name string) error { patched = append(patched, name); return nil }, oneOfEach()...)
	pass := func(when string, want ...string) {
		t.Helper()
		patched = nil
		if err := w.write(t.Context()); err != nil {
			t.Fatal(err)
		}
		slices.Sort(patched)
		if diff := cmp.Diff(want, patched); diff != "" {
			t.Errorf("written %s (-want +got):\n%s", when, diff)
		}
	}
	condition := func() *metav1.Condition {
		t.Helper()
		var ad v1alpha1.L2Advertisement
		if err := w.client.Get(t.Context(), client.ObjectKey{Name: "l2"}, &ad); err != nil {
			t.Fatal(err)
		}
		return meta.FindStatusCondition(ad.Status.Conditions, v1alpha1.ConditionReady)
	}

	pass("at first", "bfd", "bgp", "community", "interface", "l2", "peer")
	if got := condition(); got == nil || got.Reason != v1alpha1.ReasonUnknownReference || !strings.Contains(got.Message, `"lan"`) ||
		got.ObservedGeneration != 3 || got.LastTransitionTime.IsZero() {
		t.Errorf("condition of an advertisement whose pool is missing: %+v", got)
	}
	pass("when nothing has changed")
	if err := w.client.Create(t.Context(), &ipamv1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: "lan"}}); err != nil {
		t.Fatal(err)
	}
	pass("when the missing pool appears", "l2")
	if got := condition(); got.Status != metav1.ConditionTrue || got.Reason != v1alpha1.ReasonAccepted || got.Message != "" {
		t.Errorf("condition of an advertisement whose pool exists: %+v", got)
	}
	pass("when nothing has changed again")
}

// One status that cannot be written costs no other, and an object deleted meanwhile is no error.
func TestConditionsOfTheOthersAreWritten(t *testing.T) {
	resource := schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "things"}
	patched := map[string]bool{}
	w := conditionWriterOf(t, func(name string) error {
		switch name {
		case "l2":
			return apierrors.NewForbidden(resource, name, nil)
		case "peer":
			return apierrors.NewNotFound(resource, name)
		}
		patched[name] = true
		return nil
	}, oneOfEach()...)
	err := w.write(t.Context())
	if err == nil || !strings.Contains(err.Error(), "condition of L2Advertisement l2") || strings.Contains(err.Error(), "peer") {
		t.Errorf("error %v, want one about L2Advertisement l2 alone", err)
	}
	if diff := cmp.Diff([]string{"bfd", "bgp", "community", "interface"}, slices.Sorted(maps.Keys(patched))); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
}

// The condition Effective comes and goes with the diagnosis, beside Ready.
func TestEffectiveIsWrittenBesideReady(t *testing.T) {
	writes := 0
	w := conditionWriterOf(t, func(string) error { writes++; return nil }, oneOfEach()...)
	pass := func(want ...string) {
		t.Helper()
		if err := w.write(t.Context()); err != nil {
			t.Fatal(err)
		}
		var ad v1alpha1.L2Advertisement
		if err := w.client.Get(t.Context(), client.ObjectKey{Name: "l2"}, &ad); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range ad.Status.Conditions {
			got = append(got, c.Type+"="+string(c.Status)+" "+c.Reason)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("conditions (-want +got):\n%s", diff)
		}
	}
	key := config.Key{Kind: "L2Advertisement", Name: "l2"}
	pass("Ready=False UnknownReference")
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	condition := func(status metav1.ConditionStatus, reason string) map[config.Key]metav1.Condition {
		return map[config.Key]metav1.Condition{key: {Type: v1alpha1.ConditionEffective, Status: status, Reason: reason}}
	}
	if next := w.effective.Set(now, condition(metav1.ConditionFalse, v1alpha1.ReasonNoPool)); !next.Equal(now.Add(holdFalse)) {
		t.Errorf("the condition is to be set at %v", next)
	}
	<-w.effective.changed // by the first diagnosis
	pass("Ready=False UnknownReference")
	w.effective.Set(now.Add(holdFalse), condition(metav1.ConditionFalse, v1alpha1.ReasonNoPool))
	<-w.effective.changed
	before := writes
	pass("Ready=False UnknownReference", "Effective=False NoPool")
	pass("Ready=False UnknownReference", "Effective=False NoPool")
	if writes != before+1 {
		t.Errorf("%d writes of one object, want 1", writes-before)
	}
	// A session that flaps costs no write, and one that comes up turns the condition at once.
	now = now.Add(time.Minute)
	w.effective.Set(now, condition(metav1.ConditionTrue, v1alpha1.ReasonEffective))
	<-w.effective.changed
	pass("Ready=False UnknownReference", "Effective=True Effective")
	before = writes
	for range 10 {
		now = now.Add(time.Second)
		w.effective.Set(now, condition(metav1.ConditionFalse, v1alpha1.ReasonSessionDown))
		w.effective.Set(now.Add(time.Second/2), condition(metav1.ConditionTrue, v1alpha1.ReasonEffective))
	}
	pass("Ready=False UnknownReference", "Effective=True Effective")
	if writes != before || len(w.effective.changed) != 0 {
		t.Errorf("%d writes of a session that flaps", writes-before)
	}
	w.effective.Set(now, nil)
	<-w.effective.changed
	pass("Ready=False UnknownReference")
}

// TestEstablishedOn: a BGPPeer says on how many nodes its session is established, and a node whose speaker is dead has none.
func TestEstablishedOn(t *testing.T) {
	established, active := bgp.SessionState{State: bgp.Established}, bgp.SessionState{State: bgp.Active}
	s := &decision.Snapshot{
		Config: config.Config{Peers: []config.Peer{{Name: "tor1"}, {Name: "tor2"}}},
		Nodes:  map[string]decision.Node{"node1": {}, "node2": {}, "node3": {}},
		Alive:  func(node string) bool { return node != "node3" },
		Sessions: map[decision.NodePeer]bgp.SessionState{
			{Node: "node1", Peer: "tor1"}: established, {Node: "node2", Peer: "tor1"}: active, {Node: "node3", Peer: "tor1"}: established,
		},
	}
	want := map[string]string{"tor1": "1/3", "tor2": "0/3"}
	counts := establishedOn(s)
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("established (-want +got):\n%s", diff)
	}
	w := conditionWriterOf(t, func(string) error { return nil }, &v1alpha1.BGPPeer{ObjectMeta: named("tor1")})
	for _, want := range []string{"1/3", "2/3"} {
		counts["tor1"] = want
		w.effective.count(maps.Clone(counts))
		if len(w.effective.changed) != 1 {
			t.Error("nobody is told of new counts")
		}
		<-w.effective.changed
		if err := w.write(t.Context()); err != nil {
			t.Fatal(err)
		}
		var peer v1alpha1.BGPPeer
		if err := w.client.Get(t.Context(), client.ObjectKey{Name: "tor1"}, &peer); err != nil || peer.Status.Summary.Established != want {
			t.Errorf("established %+v, want %s (%v)", peer.Status.Summary, want, err)
		}
	}
	w.effective.count(maps.Clone(counts))
	if len(w.effective.changed) != 0 {
		t.Error("counts that are the same are written again")
	}
}
