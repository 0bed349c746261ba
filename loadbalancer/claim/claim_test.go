// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/repair"
)

type ports = map[ipam.Service][]ipam.Port

// patched returns what the API server makes of a merge patch.
func patched(t *testing.T, object *networkingv1.IPAddress, patch []byte) *networkingv1.IPAddress {
	t.Helper()
	client := fake.NewClientset(object).NetworkingV1().IPAddresses()
	got, err := client.Patch(t.Context(), object.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestClaim(t *testing.T) {
	web, api := ipam.Service{Namespace: "default", Name: "web"}, ipam.Service{Namespace: "shop", Name: "api"}
	object := New(ipam.Assignment{Address: netip.MustParseAddr("192.0.2.1"), Pool: "lan"}, web, "k", ports{web: {{Protocol: "TCP", Number: 80}}})
	object.UID, object.ResourceVersion = "7", "12"
	want := repair.Claim{
		State: repair.Ours, UID: "7", Version: "12", Parent: web, Pool: "lan", Key: "k", Sharers: ports{web: {{Protocol: "TCP", Number: 80}}},
	}
	step := func(what string) {
		t.Helper()
		if diff := cmp.Diff(want, Read(object)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
		if got := Read(object).Names(web); got != want.Left[web].IsZero() {
			t.Errorf("%s: names its parent is %v", what, got)
		}
	}
	step("a new claim")
	object = patched(t, object, Relabel(want, "office"))
	want.Pool = "office"
	step("another pool")
	both := ports{web: want.Sharers[web], api: {{Protocol: "TCP", Number: 443}, {Protocol: "UDP", Number: 443}}}
	object = patched(t, object, Share(want, "j", both))
	want.Key, want.Sharers = "j", both
	step("another key and another Service")
	at := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	object = patched(t, object, Leave(want, web, at.Add(300*time.Millisecond)))
	want.Left, want.Sharers = map[ipam.Service]time.Time{web: at}, ports{api: both[api]}
	step("its parent has left")
	if diff := cmp.Diff([]ipam.Service{api}, want.Named()); diff != "" {
		t.Errorf("named (-want +got):\n%s", diff)
	}
	if got, want := object.Annotations[v1alpha1.AnnotationSharers], `{"shop/api":["TCP/443","UDP/443"]}`; got != want {
		t.Errorf("sharers are %s, want %s", got, want)
	}
	object = patched(t, object, Leave(want, api, time.Time{}))
	want.Sharers = nil
	step("the last sharer is taken off")
	object = patched(t, object, Leave(want, api, at.Add(time.Minute)))
	want.Left = map[ipam.Service]time.Time{web: at, api: at.Add(time.Minute)}
	step("another Service has left")
	if diff := cmp.Diff(map[string]string{
		v1alpha1.AnnotationAllowSharedIP: "j",
		v1alpha1.AnnotationLeft:          `{"default/web":"2026-01-02T15:04:05Z","shop/api":"2026-01-02T15:05:05Z"}`,
	}, object.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	object.Annotations[v1alpha1.AnnotationLeft] = "yesterday"
	object.Annotations[v1alpha1.AnnotationSharers] = `{"shop/api":["443"]}`
	want.Left = nil
	step("an annotation that we did not write")
	object.Annotations[v1alpha1.AnnotationSharers] = `{"shop/api":["TCP/443"],"api":["TCP/80"],"/api":[],"shop/":[],"shop/api/v2":[],"shop/..":[]}`
	want.Sharers = ports{api: {{Protocol: "TCP", Number: 443}}}
	step("names that no Service can have")

	object.Labels[networkingv1.LabelManagedBy] = "ipallocator.k8s.io"
	want = repair.Claim{State: repair.Foreign, Owner: "services default/web, managed by ipallocator.k8s.io"}
	if diff := cmp.Diff(want, Read(object)); diff != "" {
		t.Errorf("a foreign claim (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(repair.Claim{}, Read(nil)); diff != "" {
		t.Errorf("no claim (-want +got):\n%s", diff)
	}
}
