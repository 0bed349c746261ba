// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// usagePeriod is the least time between two rounds of pool status writes. It bounds them at two a second for each
// pool while thousands of Services are being created, and is short enough for a person who watches kubectl.
const usagePeriod = 500 * time.Millisecond

var (
	// Three gauges and not one with a label for the state, since a sum over capacity, allocated and available addresses means nothing.
	poolCapacity = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "tandem_pool_capacity_addresses", Help: "Addresses that an AddressPool has, by family; huge counts saturate at 2^63-1.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool", "family"})
	poolAllocated = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "tandem_pool_allocated_addresses", Help: "Addresses of an AddressPool that Services hold, by family.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool", "family"})
	poolAvailable = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "tandem_pool_available_addresses", Help: "Addresses of an AddressPool that can still be given, by family; huge counts saturate at 2^63-1.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool", "family"})
	allocationSeconds = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Name: "tandem_allocation_duration_seconds", Help: "Time from a Service's request to the claims of its new addresses, for each of these by pool and family.",
		Buckets: metrics.ExponentialBuckets(0.001, 2, 14), StabilityLevel: metrics.ALPHA,
	}, []string{"pool", "family"})
	failures = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "tandem_allocation_failures_total", Help: "Families of a request that could not be met, by every pool that was asked, and requests that could not be read.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool", "family", "reason"})
)

func init() {
	legacyregistry.MustRegister(poolCapacity, poolAllocated, poolAvailable, allocationSeconds, failures)
}

// recordFailure counts each family that err names, or the request as a whole.
func recordFailure(err error) {
	for _, e := range unjoin(err) {
		if missing, ok := errors.AsType[*ipam.FamilyError](e); ok {
			recordMissing(missing)
		} else {
			failures.WithLabelValues("", "", reason(e)).Inc()
		}
	}
}

// recordMissing counts a family that has no address, once for each pool that was asked: "IPv6 of lan is exhausted"
// is what an alert can say.
func recordMissing(e *ipam.FamilyError) {
	if len(e.Pools) == 0 {
		failures.WithLabelValues("", string(e.Family), reason(e)).Inc()
	}
	for _, pool := range e.Pools {
		failures.WithLabelValues(pool, string(e.Family), reason(e)).Inc()
	}
}

// unjoin returns the errors that errors.Join has joined, or the error itself.
func unjoin(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// Values of the label reason of tandem_allocation_failures_total.
const (
	reasonExhausted  = "exhausted"   // the pools have no free address of the family
	reasonInUse      = "in_use"      // the address asked for belongs to another
	reasonNoPool     = "no_pool"     // no pool with addresses of the family admits the Service
	reasonNotInPool  = "not_in_pool" // the address asked for is in no pool that the Service may use
	reasonAPI        = "api"         // the API server failed, or refused a claim
	reasonBadRequest = "bad_request" // the Service asks for something that cannot be
)

// reason names an error for metrics.
func reason(err error) string {
	var network net.Error
	switch {
	case errors.Is(err, ipam.ErrExhausted):
		return reasonExhausted
	case errors.Is(err, ipam.ErrInUse):
		return reasonInUse
	case errors.Is(err, ipam.ErrNoPool):
		return reasonNoPool
	case errors.Is(err, ipam.ErrNotInPool):
		return reasonNotInPool
	case apierrors.ReasonForError(err) != metav1.StatusReasonUnknown, errors.As(err, &network), errors.Is(err, context.Canceled):
		return reasonAPI
	}
	return reasonBadRequest
}

// usageChanged asks for a round of status writes.
func (s *Server) usageChanged() {
	select {
	case s.usage <- struct{}{}:
	default:
	}
}

// publishUsage writes the pools' statuses and metrics when they may have changed, and not more often than every
// usagePeriod.
func (s *Server) publishUsage(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.usage:
		}
		if err := s.writeUsage(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Failed to write the status of AddressPools, trying again")
			s.usageChanged()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(usagePeriod):
		}
	}
}

// writeUsage writes what has changed: the gauges of all pools, and the statuses that differ from those in the
// cache. One status that cannot be written keeps no other from being written.
func (s *Server) writeUsage(ctx context.Context) error {
	usage := s.ledger.allocator.Usage()
	var list v1alpha1.AddressPoolList
	if err := s.poolClient.List(ctx, &list); err != nil {
		return err
	}
	setGauges(usage)
	var errs []error
	for i := range list.Items {
		old := &list.Items[i]
		u, ok := usage[old.Name]
		if !ok {
			continue // younger than the allocator's view; its event is on the way
		}
		updated := old.DeepCopy()
		setStatus(updated, u)
		if equality.Semantic.DeepEqual(old.Status, updated.Status) {
			continue
		}
		if err := s.poolClient.Status().Patch(ctx, updated, client.MergeFrom(old)); client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("status of AddressPool %s: %w", old.Name, err))
		}
	}
	return errors.Join(errs...)
}

// setGauges sets the gauges of all pools, before any status is written: the API may take its time, and a scrape meanwhile finds all series.
func setGauges(usage map[string]ipam.PoolUsage) {
	for _, gauge := range []*metrics.GaugeVec{poolCapacity, poolAllocated, poolAvailable} {
		gauge.Reset()
	}
	for name, u := range usage {
		for af, f := range u.Families {
			poolCapacity.WithLabelValues(name, string(af)).Set(float64(f.Capacity))
			poolAllocated.WithLabelValues(name, string(af)).Set(float64(f.Allocated))
			poolAvailable.WithLabelValues(name, string(af)).Set(float64(f.Available))
		}
	}
}

// setStatus writes a pool's usage into its status.
func setStatus(ap *v1alpha1.AddressPool, u ipam.PoolUsage) {
	partition := func(af family.Family) *v1alpha1.PartitionStatus {
		f, ok := u.Families[af]
		if !ok {
			return nil
		}
		return &v1alpha1.PartitionStatus{Capacity: f.Capacity, Allocated: f.Allocated, Available: f.Available}
	}
	ap.Status.IPv4, ap.Status.IPv6 = partition(family.IPv4), partition(family.IPv6)

	set := func(conditionType string, is bool, reason, message string) {
		state := metav1.ConditionFalse
		if is {
			state = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&ap.Status.Conditions, metav1.Condition{
			Type: conditionType, Status: state, Reason: reason, Message: message, ObservedGeneration: ap.Generation,
		})
	}
	var full, void []string
	for _, af := range family.All {
		switch f, ok := u.Families[af]; {
		case ok && f.Capacity == 0:
			void = append(void, "spec."+strings.ToLower(string(af)))
		case ok && f.Available == 0:
			full = append(full, string(af))
		}
	}
	switch invalid := parsePool(ap).invalid; {
	case invalid != nil:
		set(v1alpha1.ConditionReady, false, v1alpha1.ReasonInvalid, invalid.Error())
	case len(u.Families) == 0:
		set(v1alpha1.ConditionReady, false, v1alpha1.ReasonInvalid, "spec: the pool has no range; add spec.ipv4.ranges or spec.ipv6.ranges")
	case len(void) > 0:
		set(v1alpha1.ConditionReady, false, v1alpha1.ReasonInvalid, strings.Join(void, " and ")+" excludes every address of its ranges; add ranges or exclude fewer")
	case len(full) > 0:
		set(v1alpha1.ConditionReady, false, v1alpha1.ReasonExhausted, "no free "+strings.Join(full, " and no free ")+" address; add ranges or delete Services")
	default:
		set(v1alpha1.ConditionReady, true, v1alpha1.ReasonAvailable, "")
	}
	if len(u.Overlaps) > 0 {
		set(v1alpha1.ConditionOverlapping, true, v1alpha1.ReasonOverlap,
			fmt.Sprintf("AddressPool %s contains some of the same addresses; none is given twice, but counts overlap", strings.Join(u.Overlaps, ", ")))
	} else {
		set(v1alpha1.ConditionOverlapping, false, v1alpha1.ReasonNoOverlap, "")
	}
	if n := len(u.Stranded); n > 0 {
		set(v1alpha1.ConditionStranded, true, v1alpha1.ReasonStranded,
			fmt.Sprintf("%s in use but no longer in the pool; they go with their Services, or at once where a Service has the annotation %s: \"true\"",
				listed(u.Stranded), v1alpha1.AnnotationReallocate))
	} else {
		set(v1alpha1.ConditionStranded, false, v1alpha1.ReasonNoneStranded, "")
	}
	if fields := withoutEffect(&ap.Spec); len(fields) > 0 {
		set(v1alpha1.ConditionNotImplemented, true, v1alpha1.ReasonNotImplemented, "without effect in this version: "+strings.Join(fields, ", "))
	} else {
		meta.RemoveStatusCondition(&ap.Status.Conditions, v1alpha1.ConditionNotImplemented)
	}
}

// withoutEffect names the fields of the spec that this version accepts and that have no effect in it.
func withoutEffect(spec *v1alpha1.AddressPoolSpec) (fields []string) {
	if spec.Limits != nil {
		fields = append(fields, "spec.limits")
	}
	if spec.FixedAddresses == v1alpha1.FixedAddressesDenied {
		fields = append(fields, "spec.fixedAddresses: Denied")
	}
	if spec.ReuseAfter != nil && spec.ReuseAfter.Duration > 0 {
		fields = append(fields, "spec.reuseAfter")
	}
	return fields
}

// listed names the first addresses and counts the rest.
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
