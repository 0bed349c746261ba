// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// The API server keeps the conditions of a Service, merges ours with those of others by type, and refuses a patch for another UID. The
// controller manager relies on all three.
func TestConditionsOfServicesMergeByType(t *testing.T) {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "conditions"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	create(t, svc)
	patch := func(uid types.UID, condition string) error {
		return apiClient.Status().Patch(t.Context(), svc.DeepCopy(), client.RawPatch(types.StrategicMergePatchType,
			[]byte(fmt.Sprintf(`{"metadata":{"uid":%q},"status":{"conditions":[%s]}}`, uid, condition))))
	}
	set := func(conditionType, status string) string {
		return fmt.Sprintf(`{"type":%q,"status":%q,"reason":"Test","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}`, conditionType, status)
	}
	expect := func(want map[string]metav1.ConditionStatus) {
		t.Helper()
		var got corev1.Service
		if err := apiClient.Get(t.Context(), client.ObjectKeyFromObject(svc), &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Status.Conditions) != len(want) {
			t.Errorf("conditions %v, want %v", got.Status.Conditions, want)
		}
		for conditionType, status := range want {
			if !meta.IsStatusConditionPresentAndEqual(got.Status.Conditions, conditionType, status) {
				t.Errorf("conditions %v, want %v", got.Status.Conditions, want)
			}
		}
	}
	const other = "example.com/Other"
	for _, condition := range []string{
		set(other, "True"), set(ipamv1alpha1.ServiceConditionAnnounced, "False"), set(ipamv1alpha1.ServiceConditionAnnounced, "True"),
	} {
		if err := patch(svc.UID, condition); err != nil {
			t.Fatal(err)
		}
	}
	expect(map[string]metav1.ConditionStatus{other: metav1.ConditionTrue, ipamv1alpha1.ServiceConditionAnnounced: metav1.ConditionTrue})
	if err := patch("another", set(other, "False")); !apierrors.IsInvalid(err) {
		t.Errorf("a patch for another UID: %v, want a refusal", err)
	}
	if err := patch(svc.UID, `{"$patch":"delete","type":"`+ipamv1alpha1.ServiceConditionAnnounced+`"}`); err != nil {
		t.Fatal(err)
	}
	expect(map[string]metav1.ConditionStatus{other: metav1.ConditionTrue})
}
