// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"net/netip"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// The API hands out claims in pages. What the informer shows as it is in the API is taken from there, and what it shows otherwise is not.
func TestClaimsAreListedInPages(t *testing.T) {
	claim := func(name, version string) *networkingv1.IPAddress {
		return &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: "1", ResourceVersion: version, Labels: map[string]string{networkingv1.LabelManagedBy: v1alpha1.ManagedBy},
		}}
	}
	same, older := claim("192.0.2.1", "5"), claim("192.0.2.2", "6")
	known := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for _, c := range []*networkingv1.IPAddress{same, older} {
		if err := known.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	client := fake.NewClientset()
	client.PrependReactor("list", "ipaddresses", func(action clienttesting.Action) (bool, runtime.Object, error) {
		options := action.(clienttesting.ListActionImpl).GetListOptions()
		if options.Limit == 0 {
			t.Error("all claims are asked for at once")
		}
		if options.Continue == "" {
			return true, &networkingv1.IPAddressList{
				ListMeta: metav1.ListMeta{Continue: "more"}, Items: []networkingv1.IPAddress{*claim("192.0.2.1", "5"), *claim("192.0.2.2", "7")},
			}, nil
		}
		return true, &networkingv1.IPAddressList{Items: []networkingv1.IPAddress{*claim("2001:db8::1", "8")}}, nil
	})
	c := &claims{client.NetworkingV1().IPAddresses(), &ledger{claims: networkinglisters.NewIPAddressLister(known)}}
	got, err := c.list(t.Context())
	if err != nil || len(got) != 3 {
		t.Fatalf("%d claims are listed, want 3: %v", len(got), err)
	}
	if got[netip.MustParseAddr("192.0.2.1")] != same {
		t.Error("a claim that the informer shows is in memory twice")
	}
	if version := got[netip.MustParseAddr("192.0.2.2")].ResourceVersion; version != "7" {
		t.Errorf("the claim has version %s, want that of the API", version)
	}
}
