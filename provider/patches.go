// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// patchMerger makes one patch out of each two that the service controller sends.
//
// The controller first adds its finalizer to a Service and then, when there are addresses, writes the status. Here the finalizer is added
// with the status: a Service without addresses has nothing to be cleaned up, and a Service that is deleted in between reaches the
// controller by [controllerHandler]. At the end the controller removes the finalizer, and then clears the status. Here the status is cleared
// with the finalizer, so that nothing is left if the program ends between the two.
//
// The finalizer comes and goes with the mark by which we know it for ours. One that an earlier version wrote is marked when the status is
// next written.
type patchMerger struct {
	typedcorev1.ServiceInterface
	services corelisters.ServiceNamespaceLister
}

// servicePatch is a strategic merge patch of the service controller, which changes either the finalizers or the status.
type servicePatch struct {
	Metadata map[string]any  `json:"metadata,omitempty"`
	Status   json.RawMessage `json:"status,omitempty"`
}

// removesFinalizer reports whether a patch takes finalizers away.
func (p servicePatch) removesFinalizer() bool {
	finalizers, named := p.Metadata["finalizers"]
	return named && finalizers == nil || p.Metadata["$deleteFromPrimitiveList/finalizers"] != nil
}

// Patch sends a patch of the service controller, merged with the other one of the two or not at all.
func (m patchMerger) Patch(
	ctx context.Context, name string, kind types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string,
) (*corev1.Service, error) {
	svc, err := m.services.Get(name)
	if err != nil {
		return nil, err // not found, which the controller expects of a Service whose finalizer it has removed
	}
	var patch servicePatch
	if err := json.Unmarshal(data, &patch); err != nil {
		return nil, err
	}
	if !merge(svc, &patch) {
		return svc, nil
	}
	if data, err = json.Marshal(patch); err != nil {
		return nil, err
	}
	return m.ServiceInterface.Patch(ctx, name, kind, data, opts, subresources...)
}

// merge completes a patch of a Service. It returns false for a patch that is not to be sent.
func merge(svc *corev1.Service, patch *servicePatch) bool {
	others := svc.Spec.Type == corev1.ServiceTypeLoadBalancer && !isOurs(svc)
	served, has, shows := isOurs(svc) && svc.DeletionTimestamp == nil, servicehelper.HasLBFinalizer(svc), len(svc.Status.LoadBalancer.Ingress) > 0
	marked := svc.Annotations[v1alpha1.AnnotationFinalizer] != ""
	switch {
	case patch.removesFinalizer():
		// The finalizer of a Service that was handed over is ours if it bears our mark. The other provider, if it relies on the same one, runs
		// the service controller, which looks at the Service when the annotation goes, and adds the finalizer again.
		if others && !marked {
			return false
		}
		if marked {
			patch.Metadata["annotations"] = map[string]any{v1alpha1.AnnotationFinalizer: nil}
		}
		if shows && !others {
			patch.Status = json.RawMessage(`{"loadBalancer":{"ingress":null}}`)
		}
	case others:
		return false // the status is the other provider's
	case patch.Status == nil:
		if len(patch.Metadata) == 0 || served && !has && !shows {
			return false
		}
		if served {
			patch.Metadata["annotations"] = map[string]any{v1alpha1.AnnotationFinalizer: "true"}
		}
	case served && (!has || !marked):
		// In a strategic merge patch these finalizers are added to those of the Service. The controller's own metadata holds their order at most.
		patch.Metadata = map[string]any{
			"annotations": map[string]any{v1alpha1.AnnotationFinalizer: "true"}, "finalizers": []string{v1alpha1.Finalizer},
		}
	case !served && has:
		return false // the patch that removed the finalizer has cleared it
	}
	return true
}
