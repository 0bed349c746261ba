// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// condition waits until the condition Ready of an object has a reason, and all of these texts in its message.
func (s *stage) condition(t *testing.T, obj *unstructured.Unstructured, reason string, texts ...string) {
	t.Helper()
	status := metav1.ConditionFalse
	if reason == speakerv1alpha1.ReasonAccepted || reason == ipamv1alpha1.ReasonAvailable {
		status = metav1.ConditionTrue
	}
	s.conditionOf(t, obj, metav1.Condition{Type: speakerv1alpha1.ConditionReady, Status: status, Reason: reason}, texts...)
}

// conditionOf waits until an object has a condition with the type, status and reason of want, and all of these texts in its message.
func (s *stage) conditionOf(t *testing.T, obj *unstructured.Unstructured, want metav1.Condition, texts ...string) {
	t.Helper()
	what := fmt.Sprintf("%s=%s, %s with %q on %s %s", want.Type, want.Status, want.Reason, texts, obj.GetKind(), obj.GetName())
	s.until(t, patience, what, func(ctx context.Context) (bool, string) {
		if err := s.Client.Get(ctx, client.ObjectKeyFromObject(obj), obj); err != nil {
			return false, err.Error()
		}
		var status struct {
			Status speakerv1alpha1.ConfigStatus `json:"status"`
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, &status); err != nil {
			return false, err.Error()
		}
		got := meta.FindStatusCondition(status.Status.Conditions, want.Type)
		if got == nil {
			return false, "it has none"
		}
		// What is effective depends on other objects as well, and on nodes.
		current := got.ObservedGeneration == obj.GetGeneration() || want.Type == speakerv1alpha1.ConditionEffective
		holds := got.Status == want.Status && got.Reason == want.Reason && current
		for _, text := range texts {
			holds = holds && strings.Contains(got.Message, text)
		}
		return holds, fmt.Sprintf("%+v", *got)
	})
}

// TestEveryObjectOfTheContractIsAccepted creates the objects of the contract as they stand.
func TestEveryObjectOfTheContractIsAccepted(t *testing.T) {
	s := newStage(t, dual)
	text, err := os.ReadFile(filepath.Join("..", "api", "testdata", "accepted.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	objs := s.objects(t, string(text))
	for _, obj := range objs {
		s.add(t, obj)
	}
	for _, obj := range objs {
		name := obj.GetKind() + "/" + obj.GetName()
		t.Run(name, func(t *testing.T) {
			switch obj.GetKind() {
			case "AddressPool":
				s.condition(t, obj, ipamv1alpha1.ReasonAvailable)
			case "Service":
				ips := s.addresses(t, obj.GetName(), 2)
				if want := []string{"2001:db8:1::10", "203.0.113.10"}; ips[0] != want[0] || ips[1] != want[1] {
					t.Errorf("addresses = %v, want %v", ips, want)
				}
			default:
				s.condition(t, obj, speakerv1alpha1.ReasonAccepted)
			}
		})
	}
}

func TestAReferenceToNothingIsReportedUntilThereIsSomething(t *testing.T) {
	s := newStage(t, dual)
	const (
		l2   = `{apiVersion: tandem-lb.io/v1alpha1, kind: L2Advertisement, metadata: {name: $NS}, spec: {addressPools: [$NS]}}`
		bgp  = `{apiVersion: tandem-lb.io/v1alpha1, kind: BGPAdvertisement, metadata: {name: $NS}, spec: {addressPools: [$NS], peers: [$NS]}}`
		peer = `{apiVersion: tandem-lb.io/v1alpha1, kind: BGPPeer, metadata: {name: $NS}, spec: {myASN: 64512, peerASN: 64513, peerAddress: 198.51.100.1}}`
	)
	s.create(t, l2)
	s.create(t, bgp)
	for _, kind := range []string{"L2Advertisement", "BGPAdvertisement"} {
		s.condition(
			t, s.object(t, kind), speakerv1alpha1.ReasonUnknownReference, "spec.addressPools[0]", "AddressPool", s.ns,
			"create it or remove the name",
		)
	}
	pool := s.pool(t, "", lanIPv4, lanIPv6)
	s.condition(t, s.object(t, "L2Advertisement"), speakerv1alpha1.ReasonAccepted)
	s.condition(
		t, s.object(t, "BGPAdvertisement"), speakerv1alpha1.ReasonUnknownReference, "spec.peers[0]", "BGPPeer", s.ns,
		"create it or remove the name",
	)
	s.create(t, peer)
	s.condition(t, s.object(t, "BGPAdvertisement"), speakerv1alpha1.ReasonAccepted)

	s.remove(t, pool)
	s.condition(t, s.object(t, "L2Advertisement"), speakerv1alpha1.ReasonUnknownReference, "spec.addressPools[0]")
}
