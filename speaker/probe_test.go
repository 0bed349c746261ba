// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/membership"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestAddressesAreRecordedWhenTheyAreFree has a speaker announce a Service whose IPv4 address a machine on its LAN has. The IPv6 address
// goes on record alone, and the IPv4 address after it when the machine gives it up. Nothing changes in the API meanwhile.
func TestAddressesAreRecordedWhenTheyAreFree(t *testing.T) {
	const patience = 20 * time.Second
	const machine = "02:00:00:00:00:42"
	lan := nettest.NewSwitch(t, "speaker-switch")
	node, other := nettest.New(t, "speaker-node1"), nettest.New(t, "speaker-other")
	lan.Plug(t, node, "02:00:00:00:00:0b")
	lan.Plug(t, other, machine)
	node.IP(t, "addr add 198.51.100.11/24 dev eth0")
	node.IP(t, "addr add 2001:db8:51::11/64 dev eth0 nodad")
	node.IP(t, "link set eth0 up")
	other.IP(t, "addr add %s/24 dev eth0", v4)
	other.IP(t, "link set eth0 up")
	lan.Await(t, node, other)

	web, claim4, claim6 := published("web", v4, v6), claim(v4, ipamv1alpha1.ManagedBy, "lan"), claim(v6, ipamv1alpha1.ManagedBy, "lan")
	slice4 := endpointSlice(discoveryv1.AddressTypeIPv4, "web", endpoint("node1", "+", "+", "-"))
	slice6 := endpointSlice(discoveryv1.AddressTypeIPv6, "web", endpoint("node1", "+", "+", "-"))
	slice4.Name, slice6.Name = "web-4", "web-6"
	store := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}, &web, &claim4, &claim6, &slice4, &slice6,
		&v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "everything"}},
	).Build()
	ctx, cancel := context.WithCancel(t.Context())
	records, err := store.Watch(ctx, &v1alpha1.L2AnnouncementList{})
	if err != nil {
		t.Fatal(err)
	}
	events := record.NewFakeRecorder(100)
	var s *Speaker
	var members *membership.Members
	node.Do(t, func() (err error) {
		if s, err = newSpeaker(Config{
			Node: "node1", HostIP: netip.MustParseAddr("198.51.100.11"), REST: &rest.Config{Host: "http://127.0.0.1:1"},
			Registerer: prometheus.NewRegistry(), Recorder: events,
		}, readerCache{reader: store}, store); err != nil {
			return err
		}
		s.kubeProxy.forwards.Store(true)
		members, err = membership.Join(ctx, membership.Config{
			Node: "node1", Bind: s.cfg.HostIP, Port: 7946, Key: []byte("key"), Registerer: prometheus.NewRegistry(),
		})
		return err
	})
	l := newLoop(s, members, newSessions(ctx, s.status), newRoster(time.Now(), 0))
	run := func(f func(context.Context) error) { t.Cleanup(waitFor(node.Go(t, func() error { return f(ctx) }))) }
	run(s.links.Run)
	run(s.layer2.Run)
	run(s.records.run)
	run(s.conflicts.run)
	run(func(ctx context.Context) error { l.run(ctx); return nil })
	t.Cleanup(cancel) // before it is waited for
	t.Cleanup(func() { _ = members.Leave(context.Background()) })

	timeout := time.After(patience)
	next := func(what string) (addresses []string) {
		t.Helper()
		select {
		case e := <-records.ResultChan():
			a := e.Object.(*v1alpha1.L2Announcement)
			if a.Status.Node != "node1" {
				t.Errorf("%s: the holder is %q", what, a.Status.Node)
			}
			return a.Status.Addresses
		case <-timeout:
			t.Fatalf("%s: nothing is recorded; events: %q", what, drain(events))
			return nil
		}
	}
	if diff := cmp.Diff([]string{v6}, next("the first record")); diff != "" {
		t.Errorf("The first record (-want +got):\n%s", diff)
	}
	select {
	case got := <-events.Events:
		if !strings.Contains(got, "AddressConflict "+machine+" on eth0 of node node1 says that it has "+v4+" already") {
			t.Errorf("The first event is %q", got)
		}
	case <-timeout:
		t.Fatal("There is no event of the conflict")
	}
	other.IP(t, "addr del %s/24 dev eth0", v4)
	if diff := cmp.Diff([]string{v4, v6}, next("the second record")); diff != "" {
		t.Errorf("The second record (-want +got):\n%s", diff)
	}
	var a v1alpha1.L2Announcement
	if err := store.Get(ctx, client.ObjectKey{Name: "default.web"}, &a); err != nil || a.Status.Interfaces[0] != "eth0" {
		t.Errorf("The record is %+v, %v", a.Status, err)
	}
}

// waitFor returns a function that waits until a channel is closed.
func waitFor(done <-chan struct{}) func() { return func() { <-done } }
