package bgp

import (
	"net/netip"
	"testing"
)

const bothFamilies = `
router bgp 64513
 bgp router-id $R4
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor $S4 remote-as 64512
 address-family ipv4 unicast
  neighbor $S4 activate
 address-family ipv6 unicast
  neighbor $S4 activate
`

// peer returns the declaration that fits bothFamilies.
func (r *frr) peer() Peer {
	return Peer{
		Name: "tor1", LocalASN: 64512, PeerASN: 64513, Address: r.router4,
		RouterID: netip.MustParseAddr("192.0.2.254"),
	}
}

func (r *frr) route(prefix string) Route {
	p := netip.MustParsePrefix(prefix)
	if p.Addr().Is4() {
		return Route{Prefix: p, NextHop: r.speaker4}
	}
	return Route{Prefix: p, NextHop: r.speaker6}
}

// external is a path from AS 64512 with no attribute but the mandatory ones.
func external(via netip.Addr) path {
	p := path{Origin: "IGP", NextHops: []nextHop{{IP: via.String(), Used: true}}}
	if via.Is6() {
		p.NextHops[0].Scope = "global"
	}
	p.ASPath.String = "64512"
	p.Peer.RouterID, p.Peer.Type = "192.0.2.254", "external"
	return p
}

func TestBothFamiliesOverOneSession(t *testing.T) {
	r := newRouter(t, bothFamilies)
	s := newSpeaker(t)
	set(t, s, Session{Peer: r.peer(), Routes: []Route{r.route("198.51.100.200/32"), r.route("2001:db8:51::1000/128")}})
	awaitState(t, s, "tor1", Established)
	r.wantRIB(map[string][]path{
		"198.51.100.200/32":     {external(r.speaker4)},
		"2001:db8:51::1000/128": {external(r.speaker6)},
	})
}
