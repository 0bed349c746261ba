// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/check"
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

// TestLookUntil looks again while a step fails or nothing can be read, until the wait is over, and not after an error of what was typed.
func TestLookUntil(t *testing.T) {
	failed := &looked{steps: []check.Step{{Name: "speakers run", Result: check.Fail}}}
	warned := &looked{steps: []check.Step{{Name: "speakers run", Result: check.Warn}}}
	unread := &looked{unread: errors.New("connection refused")}
	typed := errors.New("there is no Service default/typo")
	over := make(chan time.Time)
	close(over)
	for _, tt := range []struct {
		name  string
		over  <-chan time.Time
		looks []*looked // of which the last is what is found
		err   error
	}{
		{name: "without a wait", over: over, looks: []*looked{failed}},
		{name: "until it is well", looks: []*looked{failed, unread, warned}},
		{name: "an error of what was typed", looks: []*looked{nil}, err: typed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				got, err := lookUntil(t.Context(), tt.over, func() (*looked, error) { n++; return tt.looks[n-1], tt.err })
				if n != len(tt.looks) || got != tt.looks[n-1] || !errors.Is(err, tt.err) {
					t.Errorf("after %d looks it has found %v, error %v; want %d looks and error %v", n, got, err, len(tt.looks), tt.err)
				}
			})
		})
	}
}

// TestCheckSkips leaves steps out by their names, and says which there are to a name that is none.
func TestCheckSkips(t *testing.T) {
	c := fakeCluster(load(t, "healthy.yaml"))
	c.Clientset = kubefake.NewClientset()
	for _, tt := range []struct {
		skip, want string
		code       int
	}{
		{skip: "controller manager", want: "SKIP  controller manager: left out by --skip", code: 1},
		{skip: "speakers", want: `there is no step "speakers"; the steps are kinds, Kubernetes, `, code: 2},
	} {
		if out, code := runOn(t.Context(), c, "check", "--ask-speakers=false", "--skip", tt.skip); code != tt.code || !strings.Contains(out, tt.want) {
			t.Errorf("check --skip %q exits with %d, want %d and %q:\n%s", tt.skip, code, tt.code, tt.want, out)
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
