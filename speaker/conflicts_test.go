// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestReportConflict(t *testing.T) {
	const speakersMAC = "02:00:00:00:00:02"
	web, other := published("web", "198.51.100.200", "2001:db8::200"), published("other", "198.51.100.201")
	reader := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(&web, &other, &v1alpha1.SpeakerStatus{
		ObjectMeta: metav1.ObjectMeta{Name: "node2"},
		Status:     v1alpha1.SpeakerState{Interfaces: []v1alpha1.InterfaceState{{Name: "eth0", MAC: speakersMAC}}},
	}).Build()
	for _, tt := range []struct {
		name, address, mac string
		probed             bool
		want               []string
	}{
		{
			name: "another machine has the address that is to be announced", probed: true,
			address: "198.51.100.200", mac: "02:00:00:00:00:99",
			want: []string{"Warning AddressConflict 02:00:00:00:00:99 on eth0 of node node1 says that it has 198.51.100.200 already, " +
				"so that it is not announced there until it is free; " +
				"take the address out of the pool with spec.ipv4.exclude or spec.ipv6.exclude, or away from that host"},
		},
		{
			name: "another machine has the address of a Service", address: "2001:db8::200", mac: "02:00:00:00:00:99",
			want: []string{"Warning AddressConflict 02:00:00:00:00:99 on eth0 of node node1 says that it has 2001:db8::200 too; " +
				"take the address out of the pool with spec.ipv4.exclude or spec.ipv6.exclude, or away from that host"},
		},
		{name: "another speaker is no other machine", address: "198.51.100.200", mac: speakersMAC},
		{name: "the address of no Service", address: "198.51.100.202", mac: "02:00:00:00:00:99"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			events := record.NewFakeRecorder(10)
			r := newConflictReporter("node1", reader, events)
			mac, err := net.ParseMAC(tt.mac)
			if err != nil {
				t.Fatal(err)
			}
			r.report(t.Context(), layer2.Conflict{Address: netip.MustParseAddr(tt.address), Interface: "eth0", MAC: mac, Probed: tt.probed})
			if diff := cmp.Diff(tt.want, drain(events)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// A storm of conflicts, which any machine on the link can make, blocks nothing.
func TestConflictsAreDropped(t *testing.T) {
	r := newConflictReporter("node1", nil, nil)
	for range 100 {
		r.Note(layer2.Conflict{})
	}
	if got := len(r.found); got != cap(r.found) {
		t.Errorf("%d conflicts are kept, want %d", got, cap(r.found))
	}
}
