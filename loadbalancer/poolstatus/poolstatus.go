// SPDX-License-Identifier: Apache-2.0

// Package poolstatus says how an AddressPool is: how many addresses of each family it has, has given and can still give, and in
// conditions what is wrong with it. [Set] writes it into the status of the object, [SetGauges] into the metrics.
//
// For example, a pool 192.0.2.0/30 whose four addresses are all given has the counts 4, 4 and 0, the condition Ready=False with the
// reason Exhausted, and tandem_pool_available_addresses{pool="lan",family="IPv4"} is 0.
package poolstatus

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

var (
	// Three gauges and not one with a label for the state, since a sum over capacity, allocated and available addresses means nothing.
	capacity = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "tandem_pool_capacity_addresses", Help: "Addresses that an AddressPool has, by family; huge counts saturate at 2^63-1.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool", "family"})
	allocated = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "tandem_pool_allocated_addresses", Help: "Addresses of an AddressPool that Services hold, by family.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool", "family"})
	available = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name:           "tandem_pool_available_addresses",
		Help:           "Addresses of an AddressPool that can still be given, by family; huge counts saturate at 2^63-1.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool", "family"})
	reserved = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "tandem_pool_reserved_addresses", Help: "Addresses of an AddressPool that are never given, such as those of Nodes, by family.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool", "family"})
	valid = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "tandem_pool_valid", Help: "Whether the spec of an AddressPool can be used; alert on 0, the condition Ready says why.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool"})
	reservedInUse = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "tandem_pool_reserved_in_use_addresses", Help: "Reserved addresses of an AddressPool that Services hold, by family; alert above 0.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool", "family"})
)

func init() {
	legacyregistry.MustRegister(capacity, allocated, available, reserved, reservedInUse, valid)
}

// series names one series of each gauge.
type series struct {
	pool   string
	family family.Family
}

var (
	gaugesMu sync.Mutex
	shown    = map[series]bool{} // series that the gauges of a family have; gaugesMu guards it
	judged   = map[string]bool{} // pools that the gauge valid has; gaugesMu guards it
)

// SetGauges sets the gauges of all pools, before any status is written: the API may take its time, and a scrape meanwhile finds all
// series. Only the series of what no pool has any more go. For example, when lan loses its IPv6 ranges, its five series of IPv6 go, and
// those of IPv4 stay. A pool without usage is younger than the allocator's view, and its validity is not judged yet.
func SetGauges(pools []v1alpha1.AddressPool, usage map[string]ipam.PoolUsage) {
	gaugesMu.Lock()
	defer gaugesMu.Unlock()
	for name := range judged {
		if _, ok := usage[name]; !ok {
			valid.DeleteLabelValues(name)
			delete(judged, name)
		}
	}
	for i := range pools {
		if u, ok := usage[pools[i].Name]; ok {
			value := 1.0
			if invalid(&pools[i], u) != "" {
				value = 0
			}
			valid.WithLabelValues(pools[i].Name).Set(value)
			judged[pools[i].Name] = true
		}
	}
	// Series are deleted one by one. To reset a gauge and to fill it again would leave scrapes in between without any.
	for s := range shown {
		if _, ok := usage[s.pool].Families[s.family]; !ok {
			for _, gauge := range []*metrics.GaugeVec{capacity, allocated, available, reserved, reservedInUse} {
				gauge.DeleteLabelValues(s.pool, string(s.family))
			}
			delete(shown, s)
		}
	}
	for name, u := range usage {
		// Held are the reserved addresses that Services have, of both families: 192.0.2.11 was given to web before node1 came with it. They count
		// as allocated too.
		inUse := map[family.Family]int{}
		for _, address := range u.Reserved.Held {
			inUse[family.Of(address)]++
		}
		for af, f := range u.Families {
			capacity.WithLabelValues(name, string(af)).Set(float64(f.Capacity))
			allocated.WithLabelValues(name, string(af)).Set(float64(f.Allocated))
			available.WithLabelValues(name, string(af)).Set(float64(f.Available))
			reserved.WithLabelValues(name, string(af)).Set(float64(u.Reserved.Addresses[af]))
			reservedInUse.WithLabelValues(name, string(af)).Set(float64(inUse[af]))
			shown[series{name, af}] = true
		}
	}
}

// Set writes a pool's usage into its status, and sums it up. The first of these lines that fits a pool is the reason of its condition
// Ready:
//
//	pool                                             Ready   reason
//	a range that is none, such as 192.0.2.300        False   Invalid, with what request.ParsePool says
//	no range, or exclude has all of the ranges       False   Invalid
//	192.0.2.11 alone, which is the address of node1  False   Exhausted: there will be an address when node1 gives it up
//	192.0.2.0/30, three given and one cooling        False   Exhausted, with the number that waits for reuseAfter
//	192.0.2.0/30, all given; IPv6 addresses free     False   Exhausted: a dual-stack Service cannot be served
//	192.0.2.0/30, one free                           True    Available
func Set(ap *v1alpha1.AddressPool, u ipam.PoolUsage) {
	partition := func(af family.Family) *v1alpha1.PartitionStatus {
		f, ok := u.Families[af]
		if !ok {
			return nil
		}
		return &v1alpha1.PartitionStatus{Capacity: f.Capacity, Allocated: f.Allocated, Cooling: f.Cooling, Available: f.Available}
	}
	ap.Status.IPv4, ap.Status.IPv6 = partition(family.IPv4), partition(family.IPv6)
	ap.Summarize()

	set := func(conditionType string, is bool, reason, message string) {
		state := metav1.ConditionFalse
		if is {
			state = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&ap.Status.Conditions, metav1.Condition{
			Type: conditionType, Status: state, Reason: reason, Message: message, ObservedGeneration: ap.Generation,
		})
	}
	// full are the families without a free address, and cooling is how many addresses of them wait for reuseAfter: the message says that
	// some will be free without anybody's doing.
	var full []string
	var cooling int64
	for _, af := range family.All {
		switch f, ok := u.Families[af]; {
		case ok && f.Capacity == 0 && u.Reserved.Addresses[af] > 0:
			full = append(full, string(af)) // A reservation may end.
		case ok && f.Capacity > 0 && f.Available == 0:
			full = append(full, string(af))
			cooling += f.Cooling
		}
	}
	switch why := invalid(ap, u); {
	case why != "":
		set(v1alpha1.ConditionReady, false, v1alpha1.ReasonInvalid, why)
	case len(full) > 0:
		message := "no free " + strings.Join(full, " and no free ") + " address; add ranges or delete Services"
		if cooling > 0 {
			message += fmt.Sprintf("; %d addresses wait as spec.reuseAfter says", cooling)
		}
		set(v1alpha1.ConditionReady, false, v1alpha1.ReasonExhausted, message)
	default:
		set(v1alpha1.ConditionReady, true, v1alpha1.ReasonAvailable, "")
	}
	setOverlaps(u, set)
	setReserved(u.Reserved, set)
	setAtLimit(ap, u, set)
}

// invalid says why a pool's spec cannot be used, and what to write; it returns nothing where the spec is good. A pool that is merely full, or
// whose last addresses Nodes have, is good. For example, ranges [192.0.2.0/30] with exclude [192.0.2.0/29] is not: "spec.ipv4 excludes every
// address of its ranges; add ranges or exclude fewer". One bad family makes the pool invalid, and Services of the other go on.
func invalid(ap *v1alpha1.AddressPool, u ipam.PoolUsage) string {
	if err := request.ParsePool(ap).Invalid; err != nil {
		return err.Error()
	}
	if len(u.Families) == 0 {
		return "spec: the pool has no range; add spec.ipv4.ranges or spec.ipv6.ranges"
	}
	var void []string
	for _, af := range family.All {
		if f, ok := u.Families[af]; ok && f.Capacity == 0 && u.Reserved.Addresses[af] == 0 {
			void = append(void, "spec."+strings.ToLower(string(af)))
		}
	}
	if len(void) == 0 {
		return ""
	}
	return strings.Join(void, " and ") + " excludes every address of its ranges; add ranges or exclude fewer"
}

// setOverlaps sets the conditions Overlapping and Stranded. For example, lan is 192.0.2.0/24 and all is 192.0.0.0/16: both are
// Overlapping, and each names the other. When lan is cut to 192.0.2.0/25, the address 192.0.2.200 that web took from it is Stranded.
func setOverlaps(u ipam.PoolUsage, set func(conditionType string, is bool, reason, message string)) {
	if len(u.Overlaps) > 0 {
		set(v1alpha1.ConditionOverlapping, true, v1alpha1.ReasonOverlap,
			fmt.Sprintf("AddressPool %s contains some of the same addresses; none is given twice, but counts overlap",
				strings.Join(u.Overlaps, ", ")))
	} else {
		set(v1alpha1.ConditionOverlapping, false, v1alpha1.ReasonNoOverlap, "")
	}
	if n := len(u.Stranded); n > 0 {
		set(v1alpha1.ConditionStranded, true, v1alpha1.ReasonStranded,
			fmt.Sprintf("%s in use but no longer in the pool; they go with their Services, "+
				"or at once where a Service has the annotation %s: \"true\"", listed(u.Stranded), v1alpha1.AnnotationReallocate))
	} else {
		set(v1alpha1.ConditionStranded, false, v1alpha1.ReasonNoneStranded, "")
	}
}

// setReserved sets the condition Reserved. For example, lan contains 192.0.2.11, and a Node joins that has it. The reason is Reserved, or
// ReservedInUse if a Service has the address already: then there are two stations with one address, and somebody has to act.
func setReserved(r ipam.ReservedUsage, set func(conditionType string, is bool, reason, message string)) {
	var counts, first []string
	for _, af := range family.All {
		if n := r.Addresses[af]; n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, af))
		}
	}
	for _, reservation := range r.First {
		first = append(first, reservation.String())
	}
	message := strings.Join(counts, " and ") + " addresses are never given, the first of them: " + strings.Join(first, ", ")
	switch {
	case len(r.Held) > 0:
		set(v1alpha1.ConditionReserved, true, v1alpha1.ReasonReservedInUse, fmt.Sprintf(
			"%s reserved and in use; they go with their Services, or at once where a Service has the annotation %s: \"true\"; %s",
			listed(r.Held), v1alpha1.AnnotationReallocate, message))
	case len(counts) > 0:
		set(v1alpha1.ConditionReserved, true, v1alpha1.ReasonReserved, message)
	default:
		set(v1alpha1.ConditionReserved, false, v1alpha1.ReasonNoneReserved, "")
	}
}

// listed names the first addresses and counts the rest, as in "192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4, 192.0.2.5, 12 more".
func listed(addresses []netip.Addr) string {
	const most = 5
	var names []string
	for _, a := range addresses[:min(len(addresses), most)] {
		names = append(names, a.String())
	}
	if more := len(addresses) - most; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}
