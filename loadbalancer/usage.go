// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/poolstatus"
)

// usagePeriod is the least time between two rounds of pool status writes. It bounds them at two a second for each
// pool while thousands of Services are being created, and is short enough for a person who watches kubectl.
const usagePeriod = 500 * time.Millisecond

var (
	allocationSeconds = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Name:    "tandem_allocation_duration_seconds",
		Help:    "Time from a Service's request to the claims of its new addresses, for each of these by pool and family.",
		Buckets: metrics.ExponentialBuckets(0.001, 2, 14), StabilityLevel: metrics.ALPHA,
	}, []string{"pool", "family"})
	failures = metrics.NewCounterVec(&metrics.CounterOpts{
		Name:           "tandem_allocation_failures_total",
		Help:           "Families of a request that could not be met, by every pool that was asked, and requests that could not be read.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"pool", "family", "reason"})
)

func init() {
	legacyregistry.MustRegister(allocationSeconds, failures)
}

// recordFailure counts each family that err names, or the request as a whole: a Service that asks for a pair and finds
// lan full of IPv4 and without IPv6 counts twice, as exhausted and as no_pool.
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
	reasonReserved   = "reserved"    // the address asked for is that of a Node, a router or the like
	reasonLimit      = "limit"       // the namespace of the Service has as many addresses as its limit
	reasonUncovered  = "uncovered"   // the status shows an address of another load balancer that is in no pool
	reasonReleased   = "released"    // the address asked for was released by another Service less than reuseAfter ago
	reasonFixed      = "fixed"       // the pool with the address asked for denies fixed addresses
	reasonAPI        = "api"         // the API server failed, or refused a claim
	reasonBadRequest = "bad_request" // the Service asks for something that cannot be
)

// reason names an error for metrics. What wraps no error of package ipam and does not come from the API server is the
// fault of the Service, such as an annotation that names two addresses of one family.
//
//	error                                                     reason
//	192.0.2.1 belongs to Service shop/web                     in_use
//	the API server does not answer, or forbids a claim        api
//	annotation ...: "192.0.2.300" is not an IP address        bad_request
func reason(err error) string {
	for _, known := range []struct {
		err    error
		reason string
	}{
		{ipam.ErrExhausted, reasonExhausted},
		{ipam.ErrInUse, reasonInUse},
		{ipam.ErrNoPool, reasonNoPool},
		{ipam.ErrNotInPool, reasonNotInPool},
		{ipam.ErrReserved, reasonReserved},
		{ipam.ErrLimit, reasonLimit},
		{ipam.ErrFixedDenied, reasonFixed},
		{ipam.ErrReleased, reasonReleased},
		{ipam.ErrUncovered, reasonUncovered},
	} {
		if errors.Is(err, known.err) {
			return known.reason
		}
	}
	var network net.Error
	if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown || errors.As(err, &network) || errors.Is(err, context.Canceled) {
		return reasonAPI
	}
	return reasonBadRequest
}

// usageChanged has the pools' statuses and metrics written, once where it is called several times within usagePeriod: the time counts
// from the first call, so that calls that never cease do not put it off.
func (s *Server) usageChanged() { s.repairs.AddAfter(item{kind: writeUsage}, usagePeriod) }

// writeUsage writes what has changed: the gauges of all pools, and the statuses that differ from those in the
// cache. One status that cannot be written keeps no other from being written.
//
// The counts are those of the pool that the allocator knows. For example, lan grows from 192.0.2.0/25 to 192.0.2.0/24, and the cache of
// objects shows it a moment before the allocator is told: a status written then would say of the new generation that it has 128
// addresses.
func (s *Server) writeUsage(ctx context.Context) error {
	generations, usage := s.generations.Load(), s.ledger.Cache.Usage()
	var list v1alpha1.AddressPoolList
	if err := s.poolClient.List(ctx, &list); err != nil {
		return err
	}
	poolstatus.SetGauges(list.Items, usage)
	var errs []error
	for i := range list.Items {
		old := &list.Items[i]
		u, ok := usage[old.Name]
		if !ok || generations == nil || (*generations)[old.Name] != old.Generation {
			continue // younger than the allocator's view; its event is on the way
		}
		updated := old.DeepCopy()
		poolstatus.Set(updated, u)
		if equality.Semantic.DeepEqual(old.Status, updated.Status) {
			continue
		}
		if err := s.poolClient.Status().Patch(ctx, updated, client.MergeFrom(old)); client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("status of AddressPool %s: %w", old.Name, err))
		}
	}
	return errors.Join(errs...)
}
