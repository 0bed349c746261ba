// SPDX-License-Identifier: Apache-2.0

package writer

import (
	"net/netip"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/ledger"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

// The API hands out claims in pages. What the informer shows as it is in the API is taken from there, and what it shows otherwise is not.
func TestClaimsAreListedInPages(t *testing.T) {
	claim := func(name, version string) *networkingv1.IPAddress {
		return &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: "1", ResourceVersion: version, Labels: map[string]string{networkingv1.LabelManagedBy: v1alpha1.ManagedBy},
		}}
	}
	same, older := claim("192.0.2.1", "5"), claim("192.0.2.2", "6")
	client := fake.NewClientset()
	shared := informers.NewSharedInformerFactory(client, 0)
	known, err := ledger.New(shared.Core().V1().Services(), shared.Networking().V1().IPAddresses(), request.Rules{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*networkingv1.IPAddress{same, older} {
		if err := shared.Networking().V1().IPAddresses().Informer().GetIndexer().Add(c); err != nil {
			t.Fatal(err)
		}
	}
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
	got, err := New(client.NetworkingV1().IPAddresses(), known).List(t.Context())
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
