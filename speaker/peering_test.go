// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
)

// TestHandOver: when the label of a move goes from the Node, the other load balancer is to have the sessions that go with it, until they are declared again.
func TestHandOver(t *testing.T) {
	const gone = "there is no Node"
	var p peering
	for _, step := range []struct {
		when, label, peers, want string
	}{
		{"before a move", "", "fabric", ""},
		{"MetalLB's speaker leaves", "leaving", "fabric", ""},
		{"the node is handed over", "moving", "fabric tor4 tor6", ""},
		{"it has moved", "moved", "fabric tor4 tor6", ""},
		{"a peer is deleted", "moved", "fabric tor4", ""},
		{"the label goes", "", "fabric", "tor4"},
		{"nothing changes", "", "fabric", "tor4"},
		{"another peer is deleted", "", "", "tor4"},
		{"the move begins again", "moving", "tor4 tor6", ""},
		{"it goes back at once", "", "", "tor4 tor6"},
		{"one selects the node all the same", "", "tor6", "tor4"},
		{"the node is handed over once more", "moved", "tor4 tor6", ""},
		{"the Node is deleted", gone, "", ""},
	} {
		var peers []config.Peer
		for name := range strings.FieldsSeq(step.peers) {
			peers = append(peers, peerNamed(name))
		}
		snapshot := &decision.Snapshot{Node: "node1", Nodes: map[string]decision.Node{"node1": {}}}
		switch step.label {
		case gone:
			delete(snapshot.Nodes, "node1")
		case "":
		default:
			snapshot.Nodes["node1"] = decision.Node{Labels: map[string]string{v1alpha1.LabelMoveIn: step.label}}
		}
		if got := strings.Join(p.handOver(snapshot, peers), " "); got != step.want {
			t.Errorf("%s: %q are handed over, want %q", step.when, got, step.want)
		}
	}
}

// TestPasswordsAreKept: a Secret that is away ends no session, and starts none.
func TestPasswordsAreKept(t *testing.T) {
	key := config.SecretKey{Secret: "tor-auth", Key: "password"}
	gone := errors.New("there is no Secret")
	var p peering
	var password bgp.Password
	var err error
	read := func(config.SecretKey) (bgp.Password, error) { return password, err }
	ask := func(when string, latest decision.Desired, want bgp.Password, wantErr error) {
		t.Helper()
		if got, gotErr := p.passwordsFor(latest, read)(key); string(got) != string(want) || !errors.Is(gotErr, wantErr) {
			t.Errorf("%s: %q, %v; want %q, %v", when, string(got), gotErr, string(want), wantErr)
		}
	}
	running := decision.Desired{
		Peers: []config.Peer{{Name: "tor", PasswordSecret: &key}}, BGP: []bgp.Session{{Peer: bgp.Peer{Name: "tor"}}},
	}
	err = gone
	ask("no Secret at the start", decision.Desired{}, "", gone)
	password, err = "s3cret", nil
	ask("the Secret is there", decision.Desired{}, "s3cret", nil)
	password, err = "", gone
	ask("it is away, and a session runs", running, "s3cret", gone)
	ask("it is still away", running, "s3cret", gone)
	password, err = "other", nil
	ask("it is back with another password", running, "other", nil)
	password, err = "", gone
	ask("it is away, and no session runs", decision.Desired{Peers: running.Peers}, "", gone)
	ask("a session that runs again has another one", running, "", gone)
}

// TestEndsAreKept: a default route or an address that is away for a moment ends no session, and another declaration starts without them.
func TestEndsAreKept(t *testing.T) {
	router, own := netip.MustParseAddr("198.51.100.254"), netip.MustParseAddr("10.1.1.11")
	gone := errors.New("this node has no default route of IPv4 by a gateway")
	asked, found := config.Peer{Name: "tor", Gateway: family.IPv4, SourceInterface: "lo"}, decision.End{Address: router, Source: own}
	kept := decision.End{Address: router, Source: own, Err: gone}
	var p peering
	for _, step := range []struct {
		when        string
		peer        config.Peer
		found, want decision.End
	}{
		{"found", asked, found, found},
		{"away", asked, decision.End{Err: gone}, kept},
		{"still away", asked, decision.End{Err: gone}, kept},
		{"the user asks for IPv6", config.Peer{Name: "tor", Gateway: family.IPv6, SourceInterface: "lo"}, decision.End{Err: gone}, decision.End{Err: gone}},
	} {
		ends := map[string]decision.End{"tor": step.found}
		p.keepEnds([]config.Peer{step.peer}, ends)
		if ends["tor"] != step.want {
			t.Errorf("%s: %+v, want %+v", step.when, ends["tor"], step.want)
		}
	}
}

// TestRouterIDIsKept: the identifier of a process stays, whatever becomes of the addresses of the Node.
func TestRouterIDIsKept(t *testing.T) {
	var p peering
	id := func(addresses ...string) netip.Addr {
		node := decision.Node{InternalIPs: map[family.Family]netip.Addr{}}
		for _, text := range addresses {
			a := netip.MustParseAddr(text)
			if node.InternalIPs[family.Of(a)] = a; a.Is4() {
				node.RouterID = a
			}
		}
		s := &decision.Snapshot{Node: "node1", Nodes: map[string]decision.Node{"node1": node}}
		p.identify(s)
		return s.RouterID
	}
	if got := id(); got.IsValid() {
		t.Errorf("a Node without addresses has %v", got)
	}
	first := id("192.0.2.11")
	if second := id("198.51.100.11", "2001:db8::11"); first != netip.MustParseAddr("192.0.2.11") || second != first {
		t.Errorf("router ID %v, then %v", first, second)
	}
	p = peering{}
	if first, second := id("2001:db8::11"), id("192.0.2.11", "2001:db8::11"); first != bgp.RouterID("node1") || second != first {
		t.Errorf("without IPv4 %v, then %v", first, second)
	}
}

func TestOwnAddresses(t *testing.T) {
	addr := netip.MustParseAddr
	node := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.11"}}}}
	choice := ownAddresses(node, func(ip netip.Addr) bool { return ip == addr("192.0.2.200") }, map[netip.Addr]bool{addr("10.0.2.15"): true})
	for ip, want := range map[string]bool{"192.0.2.200": true, "10.0.2.15": true, "192.0.2.11": false} {
		if got := choice.Excluded(addr(ip)); got != want {
			t.Errorf("%s is excluded: %v", ip, got)
		}
	}
	if len(choice.Preferred) != 1 || choice.Preferred[0] != addr("192.0.2.11") {
		t.Errorf("preferred: %v", choice.Preferred)
	}
}
