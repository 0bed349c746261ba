// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestOneSpeakerOfANodeHasItsTurn(t *testing.T) {
	first, err := takeTurn("node1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := takeTurn("node1"); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a second speaker of the node gets %v, want EADDRINUSE", err)
	}
	other, err := takeTurn("node2")
	if err != nil {
		t.Fatalf("the speaker of another node: %v", err)
	}
	defer other.Close()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := takeTurn("node1")
	if err != nil {
		t.Fatalf("the next speaker of the node: %v", err)
	}
	_ = next.Close()
}

// node1 is on record for web, and node2 for mail. The next speaker of node1 starts while the one before it runs: it answers for web alone, as
// long as node1 is on record for it, is ready then, and goes on when the other one has ended. If web is deleted before the first decision of its
// turn, that decision withdraws the address of web.
func TestTheNextSpeakerStandsBy(t *testing.T) {
	node := nettest.New(t, "speaker-node1")
	lan := nettest.NewSwitch(t, "speaker-switch")
	lan.Plug(t, node, "02:00:00:00:00:0b")
	node.IP(t, "addr add 198.51.100.11/24 dev eth0")
	node.IP(t, "link set eth0 up")
	lan.Await(t, node)
	web, claimWeb, held := published("web", v4), claim(v4, ipamv1alpha1.ManagedBy, "lan"), announcement("web", "node1", v4)
	mail, claimMail, elsewhere := published("mail", other4), claim(other4, ipamv1alpha1.ManagedBy, "lan"), announcement("mail", "node2", other4)
	fresh, claimFresh := published("fresh", "198.51.100.202"), claim("198.51.100.202", ipamv1alpha1.ManagedBy, "lan") // on no record
	store := fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node2"}},
		&web, &claimWeb, &held, &mail, &claimMail, &elsewhere, &fresh, &claimFresh,
		&v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "everything"}},
		&v1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node2"}, Status: v1alpha1.SpeakerState{
			Interfaces: []v1alpha1.InterfaceState{{Name: "eth0", MAC: "02:00:00:00:00:0c", Usable: true, Addresses: []string{"198.51.100.12/24"}}},
		}},
	)
	for _, name := range []string{"web", "mail", "fresh"} {
		slice := endpointSlice(discoveryv1.AddressTypeIPv4, name, endpoint("node3", "+", "+", "-"))
		slice.Name = name
		store.WithObjects(&slice)
	}
	objects := store.Build()
	ctx, cancel := context.WithCancel(t.Context())
	var s *Speaker
	var before turn
	node.Do(t, func() (err error) {
		if before, err = takeTurn("node1"); err != nil {
			return err
		}
		s, err = newSpeaker(Config{
			Node: "node1", HostIP: netip.MustParseAddr("198.51.100.11"), REST: &rest.Config{Host: "http://127.0.0.1:1"},
			Registerer: prometheus.NewRegistry(),
		}, readerCache{reader: objects}, objects)
		return err
	})
	defer waitFor(node.Go(t, func() error { return s.links.Run(ctx) }))()
	defer waitFor(node.Go(t, func() error { return s.layer2.Run(ctx) }))()
	defer cancel()
	turned := node.Go(t, func() error {
		had, err := s.awaitTurn(ctx)
		if err == nil {
			err = had.Close()
		}
		return err
	})
	until := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(turnPeriod) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: it announces %v, ready: %v", what, s.layer2.Announced(), s.Ready())
			}
		}
	}
	announces := func(ips ...string) bool {
		return slices.EqualFunc(s.layer2.Announced(), ips, func(is layer2.Status, ip string) bool { return is.Announced && is.Address.String() == ip })
	}
	until("at first", func() bool { return s.Ready() == nil && announces(v4) })
	moved, back := announcement("web", "node2", v4), announcement("web", "node1", v4)
	moved.ResourceVersion, back.ResourceVersion = "10000", "10001"
	s.feed.put(&moved, true)
	until("web is at node2", func() bool { return announces() })
	s.feed.put(&back, true)
	until("web is at node1 again", func() bool { return announces(v4) })
	select {
	case <-turned:
		t.Fatal("the next speaker has the turn while the one before it has it")
	default:
	}
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	<-turned
	if !announces(v4) {
		t.Errorf("it announces %v when its turn has come, want what it announced before", s.layer2.Announced())
	}
	if s.Ready() == nil {
		t.Error("it is ready before it has met the others")
	}
	s.feed.put(&web, false)
	l := newLoop(s, joined(t, ctx, "node1", 1), newSessions(ctx, s.status), newRoster(time.Now(), 0))
	if err := l.decide(ctx); err != nil {
		t.Fatal(err)
	}
	until("web is deleted", func() bool { return announces() })
}

// A speaker that stands by is ready when layer 2 answers for each address, or says why it never will. What layer 2 answers for as a deputy, or
// listens for, it does not list.
func TestAnswersAll(t *testing.T) {
	address := netip.MustParseAddr(v4)
	active := layer2.Announcement{Address: address, Interfaces: []string{"eth0", "eth1"}}
	passive := layer2.Announcement{
		Address: netip.MustParseAddr(other4), Interfaces: []string{"eth0"}, As: map[string]net.HardwareAddr{"eth0": {2, 0, 0, 0, 0, 0x0b}},
	}
	listens := layer2.Announcement{Address: netip.MustParseAddr("198.51.100.202"), Interfaces: []string{"eth0"}, Listen: true}
	answers := layer2.Status{Address: address, Interface: "eth0", Announced: true}
	for _, tt := range []struct {
		name   string
		told   []layer2.Announcement
		states []layer2.Status
		want   bool
	}{
		{name: "nothing is to be announced", want: true},
		{name: "one interface does not answer", told: []layer2.Announcement{active}, states: []layer2.Status{answers}},
		{
			name: "one interface is probed", told: []layer2.Announcement{active},
			states: []layer2.Status{answers, {Address: address, Interface: "eth1"}},
		},
		{
			name: "one interface has failed", told: []layer2.Announcement{active},
			states: []layer2.Status{answers, {Address: address, Interface: "eth1", Err: layer2.ErrNoInterface}}, want: true,
		},
		{name: "this node is a deputy", told: []layer2.Announcement{passive}, want: true},
		{name: "this node listens", told: []layer2.Announcement{listens}, want: true},
		{
			name: "both, and what it announces is not answered for", told: []layer2.Announcement{active, passive, listens},
			states: []layer2.Status{answers},
		},
	} {
		if got := answersAll(tt.told, tt.states); got != tt.want {
			t.Errorf("%s: answers for all: %t, want %t", tt.name, got, tt.want)
		}
	}
}
