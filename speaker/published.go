// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// A problem is what keeps a peer from having a session, or all that it should, and since when it is known.
type problem struct {
	text string
	at   time.Time
}

// notedAt returns the problems of a decision at a time. One that was there before is as old as it was then. The old ones may be nil.
func notedAt(now time.Time, old *map[string]problem, texts map[string]string) map[string]problem {
	problems := make(map[string]problem, len(texts))
	for peer, text := range texts {
		problems[peer] = problem{text, now}
		if old != nil && (*old)[peer].text == text {
			problems[peer] = (*old)[peer]
		}
	}
	return problems
}

// nextHops returns the next hops of the declared routes, by the peers' names: IPv4 first.
func (s *sessions) nextHops() map[string][]netip.Addr {
	declared := s.declared.Load()
	if declared == nil {
		return nil
	}
	hops := map[string][]netip.Addr{}
	for i := range declared.bgp {
		session := &declared.bgp[i]
		var of []netip.Addr
		for j := range session.Routes {
			if hop := session.Routes[j].NextHop; !slices.Contains(of, hop) {
				of = append(of, hop)
			}
		}
		slices.SortFunc(of, netip.Addr.Compare)
		hops[session.Peer.Name] = of
	}
	return hops
}

// unsent returns the routes of a decision that are not declared for a peer: those that are not due, and those that lack a next hop.
func (s *sessions) unsent(peer string) (routes []bgp.RouteState) {
	if waiting := s.waiting.Load(); waiting != nil {
		for _, r := range (*waiting)[peer] {
			routes = append(routes, bgp.RouteState{Route: r, Withheld: "it is new, or was withdrawn a moment ago, and waits"})
		}
	}
	if missing := s.noNextHop.Load(); missing != nil {
		for _, r := range (*missing)[peer] {
			withheld := fmt.Sprintf("this node has no %s address on the peer's link", r.Family())
			routes = append(routes, bgp.RouteState{Route: r, Withheld: withheld})
		}
	}
	return routes
}

// hold notes which routes of the sessions are not among the timely ones.
func (s *sessions) hold(all, timely []bgp.Session) {
	waiting := map[string][]bgp.Route{}
	for i := range all {
		if len(all[i].Routes) == len(timely[i].Routes) {
			continue
		}
		due := map[netip.Prefix]bool{}
		for _, r := range timely[i].Routes {
			due[r.Prefix] = true
		}
		for _, r := range all[i].Routes {
			if !due[r.Prefix] {
				waiting[all[i].Peer.Name] = append(waiting[all[i].Peer.Name], r)
			}
		}
	}
	s.waiting.Store(&waiting)
}

// published describes every peer of this node for its SpeakerStatus.
func (s *sessions) published() []v1alpha1.BGPSession {
	var published []v1alpha1.BGPSession
	for _, state := range s.states() {
		published = append(published, bgpSession(state))
	}
	return published
}

// bgpSession describes a peer. While prefixes are withheld, LastError says why, rather than why the session once ended.
func bgpSession(s peerState) v1alpha1.BGPSession {
	session := v1alpha1.BGPSession{
		Peer: s.Name, State: cmp.Or(v1alpha1.BGPState(s.bgp.State), v1alpha1.BGPIdle),
		RemoteASN: int64(s.bgp.RemoteASN), GracefulRestart: s.bgp.GracefulRestart,
		AdvertisedIPv4: int32(s.bgp.Advertised[family.IPv4]), AdvertisedIPv6: int32(s.bgp.Advertised[family.IPv6]),
		LastError: s.bgp.LastError, LastErrorTime: seconds(s.bgp.LastErrorAt), Since: seconds(s.bgp.Since),
	}
	if address := s.Peer.Peer.Address; address.IsValid() { // that of an unnumbered peer may have to be found yet
		session.Address = address.String()
	}
	if s.bgp.Local.IsValid() {
		session.LocalAddress = s.bgp.Local.String()
	}
	for _, f := range s.bgp.Families {
		session.Families = append(session.Families, corev1.IPFamily(f))
	}
	for _, hop := range s.nextHops {
		session.NextHops = append(session.NextHops, hop.String())
	}
	if s.bfd.Name != "" {
		session.BFD = v1alpha1.BFDState(s.bfd.State.String())
	}
	for _, n := range s.bgp.Withheld {
		session.Withheld += int32(n)
	}
	if session.Withheld > 0 {
		session.LastErrorTime = session.Since
		session.LastError = fmt.Sprintf("%d prefixes are not announced: the peer has agreed to %v only, "+
			"or to no IPv6 next hops for IPv4 (RFC 8950); "+
			"activate the missing family or capability there", session.Withheld, s.bgp.Families)
	}
	if s.doubt.text != "" && s.bgp.RemoteASN == 0 { // The peer has sent no OPEN yet.
		session.LastError, session.LastErrorTime = s.doubt.text, seconds(s.doubt.at)
	}
	if s.problem.text != "" {
		session.LastError, session.LastErrorTime = s.problem.text, seconds(s.problem.at)
	}
	return session
}

// seconds returns a time as the API has it, nil for the zero Time.
func seconds(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return new(metav1.NewTime(t.Truncate(time.Second)))
}
