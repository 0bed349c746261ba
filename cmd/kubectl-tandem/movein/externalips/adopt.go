// SPDX-License-Identifier: Apache-2.0

package externalips

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Read reads the objects of a cluster.
func Read(ctx context.Context, c client.Client) (*Objects, error) {
	var services corev1.ServiceList
	var nodes corev1.NodeList
	var namespaces corev1.NamespaceList
	var claims networkingv1.IPAddressList
	var pools v1alpha1.AddressPoolList
	var speakers speakerv1alpha1.SpeakerStatusList
	for _, list := range []client.ObjectList{&services, &nodes, &namespaces, &claims, &pools, &speakers} {
		if err := c.List(ctx, list); err != nil {
			return nil, err
		}
	}
	return &Objects{services.Items, nodes.Items, namespaces.Items, claims.Items, pools.Items, speakers.Items}, nil
}

// Adopt makes a load balancer of a Service, waits until it shows the addresses, and then takes them out of spec.externalIPs. At any moment
// between, nodes take traffic for them by the one field or the other, so that a caller that is interrupted can call it again. If the
// addresses do not show in time, both fields stay, and the error says so.
func Adopt(ctx context.Context, c client.Client, key client.ObjectKey, addresses []string) error {
	svc := &corev1.Service{}
	if err := c.Get(ctx, key, svc); err != nil {
		return err
	}
	before := svc.DeepCopy()
	svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	if svc.Annotations == nil {
		svc.Annotations = map[string]string{}
	}
	svc.Annotations[v1alpha1.AnnotationLoadBalancerIPs] = strings.Join(addresses, ",")
	if err := c.Patch(ctx, svc, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("making a load balancer of %s: %w", key, err)
	}
	err := wait.PollUntilContextCancel(ctx, 500*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		if err := c.Get(ctx, key, svc); err != nil {
			return false, err
		}
		return shows(svc, addresses), nil
	})
	if err != nil {
		return fmt.Errorf("%s does not show %s yet (%w); it is a load balancer now, and keeps its externalIPs: look at its condition "+
			"tandem-lb.io/Allocated, and call this again, or set spec.type back", key, strings.Join(addresses, ", "), err)
	}
	before = svc.DeepCopy()
	svc.Spec.ExternalIPs = slices.DeleteFunc(svc.Spec.ExternalIPs, func(ip string) bool { return slices.Contains(addresses, ip) })
	if err := c.Patch(ctx, svc, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("removing externalIPs of %s, which has the addresses as a load balancer: %w", key, err)
	}
	return nil
}

// shows reports whether the status has all of the addresses.
func shows(svc *corev1.Service, addresses []string) bool {
	for _, text := range addresses {
		a, err := netip.ParseAddr(text)
		if err != nil || !slices.ContainsFunc(svc.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool {
			return same(i.IP,
				a.Unmap())
		}) {
			return false
		}
	}
	return true
}
