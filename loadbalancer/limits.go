// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/loadbalancer/claim"
)

// byTenant is the index of claims by pool, family, and the namespaces of the Services that they name.
const byTenant = "tenant"

// claimWait is how long a request waits until the watch shows a claim of its own, which takes milliseconds.
const claimWait = 10 * time.Second

// errAtOnce is that of a request that would exceed a limit together with what another leader gives at the same time.
var errAtOnce = fmt.Errorf("%w: another controller manager has given addresses at the same time", ipam.ErrLimit)

// checkLimits returns an error where the addresses that a request is about to publish for the first time exceed the limit of their pool, and
// these addresses. The allocator has checked the limit before; but another leader that works at the same time has an allocator of its own.
//
// A watch shows claims in the order of their writes: when it shows the claim of the request, it has shown all earlier ones. So of two leaders
// that give the last address of a namespace, to web and to mail, at the same moment, the one with the later claim sees both, and gives
// nothing. The other one may see both too; then web and mail both wait until the two claims are released, and one of them is served.
func (s *Server) checkLimits(ctx context.Context, svc *corev1.Service, req ipam.Request, out ipam.Outcome) ([]ipam.Assignment, error) {
	var over []ipam.Assignment
	var errs []error
	shows := s.ledger.shows(svc)
	for _, as := range out.Assigned {
		af := family.Of(as.Address)
		limit, limited := s.ledger.allocator.Limit(as.Pool, af)
		if !limited || slices.Contains(shows, as.Address) {
			continue
		}
		err := s.ledger.awaitClaim(ctx, req.Service, as.Address)
		if n := s.ledger.withOthers(req.Service, as); err == nil && n > limit {
			err = fmt.Errorf("%w: with %s namespace %s would have %d of %d addresses of pool %s; trying again",
				errAtOnce, as.Address, req.Service.Namespace, n, limit, as.Pool)
		}
		if err != nil {
			over, errs = append(over, as), append(errs, &ipam.FamilyError{Family: af, Pools: []string{as.Pool}, Err: err})
		}
	}
	return over, errors.Join(errs...)
}

// awaitClaim waits until the informer shows the claim of an address, written for the Service.
func (l *ledger) awaitClaim(ctx context.Context, service ipam.Service, address netip.Addr) error {
	err := wait.PollUntilContextTimeout(ctx, 10*time.Millisecond, claimWait, true, func(context.Context) (bool, error) {
		object, pending := l.claim(address)
		return !pending && claim.Read(object).Names(service), nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the claim of %s in the watch of IPAddresses, to know whether the limit holds: %w", address, err)
	}
	return nil
}

// withOthers returns how many addresses of the pool and family the namespace of a Service has, by the claims that the informer shows, if it
// has this one. What the Service alone has otherwise does not count: it goes on with this address. It is 0 where the namespace had this
// address before.
func (l *ledger) withOthers(service ipam.Service, as ipam.Assignment) int {
	n := 1
	objects, _ := l.claimIndex.ByIndex(byTenant, tenantKey(as.Pool, family.Of(as.Address), service.Namespace)) // fails for an unknown index
	for _, object := range objects {
		switch c := object.(*networkingv1.IPAddress); {
		case !slices.ContainsFunc(claim.Read(c).Named(), func(other ipam.Service) bool {
			return other != service && other.Namespace == service.Namespace
		}):
		case c.Name == as.Address.String():
			return 0
		default:
			n++
		}
	}
	return n
}

// tenants is the index function of byTenant.
func tenants(obj any) (keys []string, err error) {
	object, ok := obj.(*networkingv1.IPAddress)
	if !ok {
		return nil, nil
	}
	address, err := netip.ParseAddr(object.Name)
	if err != nil {
		return nil, nil
	}
	have := claim.Read(object)
	for _, service := range have.Named() {
		if key := tenantKey(have.Pool, family.Of(address), service.Namespace); !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

func tenantKey(pool string, af family.Family, namespace string) string {
	return pool + "/" + string(af) + "/" + namespace
}
