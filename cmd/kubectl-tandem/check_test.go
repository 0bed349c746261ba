// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestCheckOfNoBalancer: check of a Service that it cannot look at exits with 2, and says what is wrong with the name.
func TestCheckOfNoBalancer(t *testing.T) {
	c := fakeCluster(append(load(t, "healthy.yaml"), client.Object(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "inside"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP},
	})))
	c.Clientset = kubefake.NewClientset()
	for name, want := range map[string]string{
		"typo":   "there is no Service default/typo",
		"inside": "the type of Service default/inside is ClusterIP",
	} {
		out, code := runOn(t.Context(), c, "check", "service/"+name, "--ask-speakers=false")
		if code != 2 || !strings.Contains(out, want) {
			t.Errorf("check service/%s exits with %d, want 2 and %q:\n%s", name, code, want, out)
		}
	}
}

// TestCheckOfUnreadable: check says what to do about a cluster that it cannot read, by the reason, and exits with 2 unless Tandem is not installed.
func TestCheckOfUnreadable(t *testing.T) {
	const role, crds = "use an account with the ClusterRole tandem-view", "install the CRDs"
	for _, tt := range []struct {
		name      string
		err       error
		code      int
		says, not []string
	}{
		{
			name: "no connection", err: &url.Error{Op: "Get", URL: "https://192.0.2.1:6443", Err: errors.New("connection refused")}, code: 2,
			says: []string{"error: ", "connection refused"}, not: []string{role, crds, "FAIL"},
		},
		{
			name: "a token that has expired", err: apierrors.NewUnauthorized("expired"), code: 2,
			says: []string{"error: ", "expired"}, not: []string{role, crds, "FAIL"},
		},
		{
			name: "no rights", err: apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "", errors.New("no")), code: 2,
			says: []string{"FAIL  reading: ", role, "FAIL  controller manager: ", "error: "}, not: []string{crds},
		},
		{
			name: "no CRDs", err: &meta.NoKindMatchError{GroupKind: schema.GroupKind{Kind: "AddressPool"}}, code: 1,
			says: []string{"FAIL  kinds: ", crds}, not: []string{role, "error: "},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := fakeCluster(nil)
			c.Client = interceptor.NewClient(c.Client.(client.WithWatch), interceptor.Funcs{
				List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return tt.err },
			})
			clientset := kubefake.NewClientset()
			kinds := &metav1.APIResourceList{GroupVersion: v1alpha1.GroupVersion.String()}
			for _, resource := range []string{
				"addresspools", "bfdprofiles", "bgpadvertisements", "bgppeers", "communities", "interfaceadvertisements", "l2advertisements", "l2announcements",
				"speakerstatuses",
			} {
				kinds.APIResources = append(kinds.APIResources, metav1.APIResource{Name: resource})
			}
			if !meta.IsNoMatchError(tt.err) {
				clientset.Resources = append(clientset.Resources, kinds)
			}
			c.Clientset = clientset
			out, code := runOn(t.Context(), c, "check")
			if code != tt.code {
				t.Errorf("check exits with %d, want %d", code, tt.code)
			}
			for _, text := range tt.says {
				if !strings.Contains(out, text) {
					t.Errorf("it does not say %q", text)
				}
			}
			for _, text := range tt.not {
				if strings.Contains(out, text) {
					t.Errorf("it says %q", text)
				}
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
}
