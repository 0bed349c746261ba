// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

func TestWarnOfAnnotations(t *testing.T) {
	const (
		preferred = "Warning InvalidAnnotation the annotation tandem-lb.io/preferred-nodes has no effect, since \"rack=1=%s\" is no label selector " +
			"such as rack=1: found '=', expected: ',' or 'end of string'"
		drain = "Warning InvalidAnnotation the annotation tandem-lb.io/drain has no effect, since \"yes\" is neither true nor false"
		asn   = "Warning InvalidAnnotation the annotation tandem-lb.io/bgp-asn has no effect, since \"23456\" is no autonomous system number from 1 " +
			"to 4294967295 other than 23456"
		source = "Warning InvalidAnnotation the annotation tandem-lb.io/bgp-source-ipv6 has no effect, since \"192.0.2.1\" is no IPv6 address of the " +
			"node that a router can send to"
	)
	svc := func(class *string, annotations map[string]string) *corev1.Service {
		s := service("web", class)
		s.Annotations = annotations
		return s
	}
	node := func(annotations map[string]string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1", Annotations: annotations}}
	}
	for _, tt := range []struct {
		name    string
		objects []runtime.Object // one object, as it becomes: the first is there at the start
		want    []string
	}{
		{name: "a Service without annotations", objects: []runtime.Object{svc(nil, nil)}},
		{
			name: "a Service with annotations that have an effect",
			objects: []runtime.Object{svc(nil, map[string]string{
				v1alpha1.AnnotationAddressPool: "lan", v1alpha1.AnnotationPreferredNodes: "rack in (1, 2)",
			})},
		},
		{
			name: "a Service with an annotation that has an effect and one that is wrong",
			objects: []runtime.Object{svc(nil, map[string]string{
				v1alpha1.AnnotationShareWithNamespaces: "shop", v1alpha1.AnnotationPreferredNodes: "rack=1=1",
			})},
			want: []string{fmt.Sprintf(preferred, "1")},
		},
		{
			name: "an update of something else warns of nothing",
			objects: []runtime.Object{
				svc(nil, map[string]string{v1alpha1.AnnotationPreferredNodes: "rack=1=1"}),
				svc(nil, map[string]string{v1alpha1.AnnotationPreferredNodes: "rack=1=1", "a": "b"}),
			},
			want: []string{fmt.Sprintf(preferred, "1")},
		},
		{
			name: "another value is warned of again, and a removed annotation is not",
			objects: []runtime.Object{
				svc(nil, nil),
				svc(nil, map[string]string{v1alpha1.AnnotationPreferredNodes: "rack=1=1"}),
				svc(nil, map[string]string{v1alpha1.AnnotationPreferredNodes: "rack=1=2"}),
				svc(nil, nil),
			},
			want: []string{fmt.Sprintf(preferred, "1"), fmt.Sprintf(preferred, "2")},
		},
		{
			name:    "a Service of another class has no event",
			objects: []runtime.Object{svc(new("example.com/other"), map[string]string{v1alpha1.AnnotationPreferredNodes: "rack=1=1"})},
		},
		{
			name: "a Service that becomes ours",
			objects: []runtime.Object{
				svc(new("example.com/other"), map[string]string{v1alpha1.AnnotationPreferredNodes: "rack=1=1"}),
				svc(new(v1alpha1.LoadBalancerClass), map[string]string{v1alpha1.AnnotationPreferredNodes: "rack=1=1"}),
			},
			want: []string{fmt.Sprintf(preferred, "1")},
		},
		{
			name:    "a Node that shall be drained",
			objects: []runtime.Object{node(map[string]string{v1alpha1.AnnotationDrain: "true"})},
		},
		{
			name: "a Node with parameters of BGP",
			objects: []runtime.Object{node(map[string]string{
				v1alpha1.AnnotationBGPASN: "64512", v1alpha1.AnnotationBGPRouterID: "10.0.0.1",
				v1alpha1.AnnotationBGPSourceIPv4: "192.0.2.1", v1alpha1.AnnotationBGPSourceIPv6: "2001:db8::1",
			})},
		},
		{
			name:    "a Node with a number that is nobody's",
			objects: []runtime.Object{node(map[string]string{v1alpha1.AnnotationBGPASN: "23456"})},
			want:    []string{asn},
		},
		{
			name:    "a Node with an address of the other family",
			objects: []runtime.Object{node(map[string]string{v1alpha1.AnnotationBGPSourceIPv6: "192.0.2.1"})},
			want:    []string{source},
		},
		{
			name: "a Node that shall perhaps be drained, and reports itself afterwards",
			objects: []runtime.Object{
				node(map[string]string{v1alpha1.AnnotationDrain: "yes"}),
				&corev1.Node{
					ObjectMeta: metav1.ObjectMeta{Name: "node1", Annotations: map[string]string{v1alpha1.AnnotationDrain: "yes"}},
					Status:     corev1.NodeStatus{Phase: corev1.NodeRunning},
				},
			},
			want: []string{drain},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewClientset(tt.objects[0])
				factory := informers.NewSharedInformerFactory(client, 0)
				if err := factory.Core().V1().Services().Informer().SetTransform(classView{}.transform); err != nil {
					t.Fatal(err)
				}
				recorder := record.NewFakeRecorder(10)
				if err := warnOfAnnotations(factory, recorder); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer factory.Shutdown()
				defer cancel()
				factory.Start(ctx.Done())
				factory.WaitForCacheSync(ctx.Done())
				synctest.Wait()
				for _, obj := range tt.objects[1:] {
					var err error
					switch obj := obj.(type) {
					case *corev1.Service:
						_, err = client.CoreV1().Services(obj.Namespace).Update(t.Context(), obj, metav1.UpdateOptions{})
					case *corev1.Node:
						_, err = client.CoreV1().Nodes().Update(t.Context(), obj, metav1.UpdateOptions{})
					}
					if err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				close(recorder.Events)
				var got []string
				for event := range recorder.Events {
					got = append(got, event)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
			})
		})
	}
}
