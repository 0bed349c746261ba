// SPDX-License-Identifier: Apache-2.0

package config

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Scheme returns a new scheme with all of Tandem's own kinds and with the kinds of Kubernetes that its programs read: Service, Node and
// Secret, EndpointSlice, Lease, and IPAddress with the rest of their groups.
func Scheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, addToScheme := range []func(*runtime.Scheme) error{
		coordinationv1.AddToScheme, corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme,
		ipamv1alpha1.AddToScheme, v1alpha1.AddToScheme,
	} {
		utilruntime.Must(addToScheme(scheme))
	}
	return scheme
}
