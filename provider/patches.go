// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"
)

// patchMerger makes one patch out of each two that the service controller sends.
//
// The controller first adds its finalizer to a Service and then, when there are addresses, writes the status. Here the finalizer is added
// with the status: a Service without addresses has nothing to be cleaned up, and a Service that is deleted in between reaches the
// controller by [onDelete]. At the end the controller removes the finalizer, and then clears the status of a Service that is gone.
type patchMerger struct {
	typedcorev1.ServiceInterface
	services corelisters.ServiceNamespaceLister
}

// Patch sends a patch of the service controller, which changes either the finalizers or the status, merged with the other or not at all.
func (m patchMerger) Patch(
	ctx context.Context, name string, kind types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string,
) (*corev1.Service, error) {
	svc, err := m.services.Get(name)
	if err != nil {
		return nil, err // not found, which the controller expects of a Service whose finalizer it has removed
	}
	var patch struct {
		Metadata json.RawMessage `json:"metadata,omitempty"`
		Status   json.RawMessage `json:"status,omitempty"`
	}
	if err := json.Unmarshal(data, &patch); err != nil {
		return nil, err
	}
	switch deleted := svc.DeletionTimestamp != nil; {
	case !deleted && patch.Status == nil && !servicehelper.HasLBFinalizer(svc) && len(svc.Status.LoadBalancer.Ingress) == 0:
		return svc, nil
	case !deleted && patch.Status != nil && !servicehelper.HasLBFinalizer(svc) && svc.Spec.Type == corev1.ServiceTypeLoadBalancer:
		// In a strategic merge patch these finalizers are added to those of the Service. The controller's own metadata holds their order at most.
		patch.Metadata = json.RawMessage(`{"finalizers":["` + servicehelper.LoadBalancerCleanupFinalizer + `"]}`)
		if data, err = json.Marshal(patch); err != nil {
			return nil, err
		}
	case deleted && patch.Status != nil && slices.Equal(svc.Finalizers, []string{servicehelper.LoadBalancerCleanupFinalizer}):
		return svc, nil
	}
	return m.ServiceInterface.Patch(ctx, name, kind, data, opts, subresources...)
}
