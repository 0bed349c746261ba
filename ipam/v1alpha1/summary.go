// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Listed returns the elements of a list for a column of kubectl: as many of them as fit into a width, and how many there are beside. For
// example "192.0.2.0/24, +3 more". A CRD can show the list itself only as JSON. Of an element that does not fit by itself the beginning is
// shown.
func Listed[T ~string](list []T, width int) string {
	for n := len(list); n > 0; n-- {
		shown := make([]string, n)
		for i := range shown {
			shown[i] = string(list[i])
		}
		text, more := strings.Join(shown, ", "), ""
		if n < len(list) {
			more = fmt.Sprintf(", +%d more", len(list)-n)
		}
		if n == 1 && len(text)+len(more) > width {
			text = text[:max(0, width-len(more)-len("..."))] + "..."
		}
		if len(text)+len(more) <= width || n == 1 {
			return text + more
		}
	}
	return ""
}

// rangesWidth is the width of a column of ranges, of which kubectl shows two in 120 columns. 198.51.100.200-198.51.100.239 fits.
const rangesWidth = 30

// Summarize sets the summary from the spec and the counts.
func (p *AddressPool) Summarize() {
	s := PoolSummary{}
	if p.Spec.IPv4 != nil {
		s.IPv4 = Listed(p.Spec.IPv4.Ranges, rangesWidth)
	}
	if p.Spec.IPv6 != nil {
		s.IPv6 = Listed(p.Spec.IPv6.Ranges, rangesWidth)
	}
	if p.Status.IPv4 != nil {
		s.IPv4Free = p.Status.IPv4.free()
	}
	if p.Status.IPv6 != nil {
		s.IPv6Free = p.Status.IPv6.free()
	}
	p.Status.Summary = &s
}

// free says how many addresses of how many are free, or only how many if that is enough to know.
func (p *PartitionStatus) free() string {
	if p.Available == math.MaxInt64 {
		return ">" + rounded(p.Available) // It is saturated.
	}
	if p.Capacity >= 100_000 {
		return rounded(p.Available)
	}
	return fmt.Sprintf("%d/%d", p.Available, p.Capacity)
}

// rounded writes a large number with two digits: 9.2e18.
func rounded(n int64) string {
	if n < 100_000 {
		return strconv.FormatInt(n, 10)
	}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(float64(n), 'e', 1, 64), "e+")
	return mantissa + "e" + strings.TrimPrefix(exponent, "0")
}
