// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
)

// errAtOnce is that of a request that would exceed a limit together with what another leader gives at the same time.
var errAtOnce = fmt.Errorf("%w: another controller manager has given addresses at the same time", ipam.ErrLimit)

// checkLimits returns an error where the addresses that a request is about to publish for the first time exceed the
// limit of their pool, and these addresses. The allocator has checked the limit before; but another leader that works
// at the same time has an allocator of its own.
//
// A watch shows claims in the order of their writes: when it shows the claim of the request, it has shown all earlier
// ones. So of two leaders that give the last address of a namespace, to web and to mail, at the same moment, the one
// with the later claim sees both, and gives nothing. The other one may see both too; then web and mail both wait
// until the two claims are released, and one of them is served.
//
// What was claimed long before this leader started is not taken away: the limit has been lowered since.
func (s *Server) checkLimits(ctx context.Context, svc *corev1.Service, req ipam.Request, out ipam.Outcome) ([]ipam.Assignment, error) {
	var over []ipam.Assignment
	var errs []error
	shows := s.ledger.Shows(svc)
	for _, as := range out.Assigned {
		af := family.Of(as.Address)
		limit, limited := s.ledger.Cache.Limit(as.Pool, af)
		if !limited || slices.Contains(shows, as.Address) || s.ledger.Settled(s.loaded, req.Service, as.Address) {
			continue
		}
		err := s.ledger.AwaitClaim(ctx, req.Service, as.Address)
		if n := s.ledger.WithOthers(req.Service, as); err == nil && n > limit {
			err = fmt.Errorf("%w: with %s namespace %s would have %d of %d addresses of pool %s; trying again",
				errAtOnce, as.Address, req.Service.Namespace, n, limit, as.Pool)
		}
		if err != nil {
			over, errs = append(over, as), append(errs, &ipam.FamilyError{Family: af, Pools: []string{as.Pool}, Err: err})
		}
	}
	return over, errors.Join(errs...)
}
