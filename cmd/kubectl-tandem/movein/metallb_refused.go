// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"slices"

	"github.com/tandem-lb/tandem/ipam/family"
)

// metallbRefused warns of what MetalLB refuses together with the whole configuration, and Tandem does not: the cluster need not run what the
// file says.
func (d *draft) metallbRefused(m *metalLB) {
	d.overlaps("metallb", "was-refused", "MetalLB refuses %s beside %s of AddressPool %s, which overlap, so that the cluster need not run what the file "+
		"says; take the common addresses out of one of them")
	d.metallbEntries()
	d.metallbAggregation()
	d.metallbPreferences()
	d.metallbTwins(m)
	if m.native {
		d.metallbNativeSix()
	}
}

// metallbEntries warns of two entries of one pool that share addresses.
func (d *draft) metallbEntries() {
	for _, p := range d.pools {
		for i, s := range p.spans {
			at := slices.IndexFunc(p.spans[:i], func(other span) bool { return s.addrs.Overlaps(other.addrs) })
			if at >= 0 && p.product == "metallb" {
				d.add(Warn, "was-refused", p.about(), "MetalLB refuses %s beside %s, which overlap; Tandem gives each address once", s.text, p.spans[at].text)
			}
		}
	}
}

// metallbAggregation warns of prefixes that are wider than an entry of their pool. In Tandem they attract traffic for addresses that the pool does not
// have.
func (d *draft) metallbAggregation() {
	for _, a := range d.advertisements {
		if len(a.services) > 0 && (orDefault(a.length, 32) < 32 || orDefault(a.lengthV6, 128) < 128) {
			d.add(Warn, "was-refused", a.about(), "MetalLB refuses serviceSelectors with an aggregation; Tandem announces the prefix while it has an address "+
				"of a Service that is selected")
		}
		for _, p := range d.pools {
			for _, s := range p.spans {
				length := a.length
				if s.family() == family.IPv6 {
					length = a.lengthV6
				}
				if a.kind == bgpKind && p.product == "metallb" && length > 0 && int(length) < s.bits() && d.selects(a, p) {
					d.add(Warn, "was-refused", a.about(), "MetalLB refuses an aggregation to /%d, since %s of AddressPool %s is smaller; "+
						"Tandem announces the whole prefix", length, s.text, p.name)
				}
			}
		}
	}
}

// bits returns the length of the widest prefix within a span. For example, that of 192.0.2.10-192.0.2.20 is 30, of 192.0.2.12/30.
func (s span) bits() int {
	widest := s.addrs.From().BitLen()
	for _, prefix := range s.addrs.Prefixes() {
		widest = min(widest, prefix.Bits())
	}
	return widest
}

// metallbPreferences warns of two local preferences for one prefix, once for each advertisement. Tandem takes that of the advertisement that is the first
// by name.
func (d *draft) metallbPreferences() {
	preference := func(a *advertisement) (n int64) {
		if a.localPref != nil {
			n = *a.localPref
		}
		return n
	}
	for i, a := range d.advertisements {
		for _, other := range d.advertisements[:i] {
			if a.kind != bgpKind || other.kind != bgpKind || preference(a) == preference(other) || len(a.services)+len(other.services) > 0 ||
				apart(a.nodes, other.nodes) || disjoint(a.peers, other.peers) {
				continue
			}
			at := slices.IndexFunc(d.pools, func(p *pool) bool { return d.selects(a, p) && d.selects(other, p) && samePrefix(p, a, other) })
			if at >= 0 {
				d.add(Warn, "was-refused", a.about(), "MetalLB refuses its localPref %d beside %d of BGPAdvertisement %s, since both are for the prefixes of "+
					"AddressPool %s; Tandem takes that of the first by name", preference(a), preference(other), other.name, d.pools[at].name)
				break
			}
		}
	}
}

// disjoint reports whether two lists of peers have none in common; an empty one means all.
func disjoint(a, b []string) bool {
	return len(a) > 0 && len(b) > 0 && !slices.ContainsFunc(a, func(name string) bool { return slices.Contains(b, name) })
}

// samePrefix reports whether two advertisements announce an address of the pool by the same prefix.
func samePrefix(p *pool, a, b *advertisement) bool {
	return p.hasFamily(family.IPv4) && orDefault(a.length, 32) == orDefault(b.length, 32) ||
		p.hasFamily(family.IPv6) && orDefault(a.lengthV6, 128) == orDefault(b.lengthV6, 128)
}

// metallbTwins warns of two peers with one address, once for each peer. MetalLB refuses them in FRR mode; since 0.16 only where a node may have both.
func (d *draft) metallbTwins(m *metalLB) {
	for i, p := range d.peers {
		for _, other := range d.peers[:i] {
			same := p.address == other.address && (p.address != "" || p.iface == other.iface) && p.vrf == other.vrf
			if m.frr && same && (!apart(p.nodes, other.nodes) || m.before(0, 16) || !m.versioned()) {
				d.add(Warn, "was-refused", p.about(), "MetalLB with FRR before 0.16 refuses it beside BGPPeer %s, which has the same address; Tandem takes both, as long "+
					"as no node has both", other.name)
				break
			}
		}
	}
}

// metallbNativeSix warns of IPv6 addresses that are announced by BGP, which MetalLB refuses in native mode.
func (d *draft) metallbNativeSix() {
	for _, p := range d.pools {
		bgp := func(a *advertisement) bool { return a.kind == bgpKind && d.selects(a, p) }
		if p.product == "metallb" && p.hasFamily(family.IPv6) && slices.ContainsFunc(d.advertisements, bgp) {
			d.add(Warn, "was-refused", p.about(), "native MetalLB refuses IPv6 addresses that are announced by BGP; give the BGPPeers both families, by leaving "+
				"families out, or take the addresses out")
		}
	}
}
