// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/tandem-lb/tandem/ipam/family"
)

// span is an entry of a pool.
type span struct {
	text  string // as an AddressPool takes it
	addrs netipx.IPRange
	cidr  netip.Prefix // where it is one
}

// family returns the family of all addresses of the span.
func (s span) family() family.Family { return family.Of(s.addrs.From()) }

// parseSpan reads a CIDR, a range or an address, as the products write them: with blanks, with line feeds, with host bits. notes are codes
// and texts of what is written otherwise.
func parseSpan(text string) (s span, notes []note, problem *note) {
	compact := strings.Join(strings.Fields(text), "")
	if compact != strings.TrimSpace(text) {
		notes = append(notes, note{"blanks", `blanks around "-" left out (an AddressPool takes none)`})
	}
	if prefix, err := netip.ParsePrefix(compact); err == nil {
		s = span{text: compact, cidr: prefix.Masked(), addrs: netipx.RangeOfPrefix(prefix.Masked())}
		if prefix != prefix.Masked() {
			s.text = prefix.Masked().String()
			notes = append(notes, note{"host-bits", fmt.Sprintf("%s is %s", compact, s.text)})
		}
		return s, notes, nil
	}
	first, last, isRange := strings.Cut(compact, "-")
	if !isRange {
		last = first
	}
	from, err1 := netip.ParseAddr(first)
	to, err2 := netip.ParseAddr(last)
	switch {
	case err1 != nil || err2 != nil || from.Zone() != "" || to.Zone() != "" || from.Is4() != to.Is4():
		return s, nil, &note{"bad-address", fmt.Sprintf("%q is none of CIDR, range, address", text)}
	case to.Less(from):
		return s, nil, &note{"backwards", fmt.Sprintf("%q ends before it begins", text)}
	}
	return span{text: compact, addrs: netipx.IPRangeFrom(from, to)}, notes, nil
}

type note struct{ code, text string }

// regrouped returns the fewest entries that have the addresses of some others, but for those that are excluded. For example, a hundred single addresses
// 192.0.2.1/32, 192.0.2.2/32 and so on become 192.0.2.1-192.0.2.100.
func regrouped(spans []span, exclude []netip.Addr) (entries []span) {
	var all netipx.IPSetBuilder
	for _, s := range spans {
		all.AddRange(s.addrs)
	}
	for _, a := range exclude {
		all.Remove(a)
	}
	set, err := all.IPSet()
	if err != nil {
		return nil
	}
	for _, r := range set.Ranges() {
		s := span{text: r.String(), addrs: r}
		if prefix, ok := r.Prefix(); ok {
			s.text, s.cidr = prefix.String(), prefix
		}
		entries = append(entries, s)
	}
	return entries
}

// never are the addresses that no Service can have, as CIDRs.
var never = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/32"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"), netip.MustParsePrefix("::/127"), netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

// impossible reports whether all addresses of a span are such.
func impossible(s span) bool {
	return slices.ContainsFunc(never, func(p netip.Prefix) bool { return p.Contains(s.addrs.From()) && p.Contains(s.addrs.To()) })
}

// ends returns the first and the last address of a CIDR, which many networks keep for the network itself and for broadcasts. Prefixes of
// one or two addresses have none.
func ends(p netip.Prefix) []netip.Addr {
	if p.Addr().BitLen()-p.Bits() < 2 {
		return nil
	}
	return []netip.Addr{p.Masked().Addr(), netipx.RangeOfPrefix(p).To()}
}

// addresses reads addresses separated by commas, blanks or line feeds.
func addresses(text string) (list []netip.Addr, bad []string) {
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }) {
		a, err := netip.ParseAddr(part)
		if err != nil {
			bad = append(bad, part)
			continue
		}
		list = append(list, a.Unmap())
	}
	return list, bad
}

// onePerFamily keeps the first address of each family. rest are the others.
func onePerFamily(list []netip.Addr) (kept, rest []netip.Addr) {
	for _, a := range list {
		if slices.Contains(kept, a) {
			continue
		}
		if slices.ContainsFunc(kept, func(k netip.Addr) bool { return k.Is4() == a.Is4() }) {
			rest = append(rest, a)
			continue
		}
		kept = append(kept, a)
	}
	return kept, rest
}

// join writes addresses with commas, as annotations take them.
func join(list []netip.Addr) string {
	var texts []string
	for _, a := range list {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ",")
}
