// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

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

// AwaitClaim waits until the informer shows the claim of an address, written for the Service.
func (l *Ledger) AwaitClaim(ctx context.Context, service ipam.Service, address netip.Addr) error {
	err := wait.PollUntilContextTimeout(ctx, 10*time.Millisecond, claimWait, true, func(context.Context) (bool, error) {
		object, pending := l.Claim(address)
		return !pending && claim.Read(object).Names(service), nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the claim of %s in the watch of IPAddresses, to know whether the limit holds: %w", address, err)
	}
	return nil
}

// Settled reports whether a Service had an address at a time for so long that no leader that gave it, nor one that worked
// at the same time, had still to publish it or to give it up. For example, web has 192.0.2.1 for days, another controller
// overwrites its status, and the leader changes: the new one finds the claim and no status, as of an address that was given
// a moment before.
func (l *Ledger) Settled(at time.Time, service ipam.Service, address netip.Addr) bool {
	object, _ := l.Claim(address)
	return claim.Read(object).Names(service) && at.Sub(object.CreationTimestamp.Time) > 2*l.Grace
}

// WithOthers returns how many addresses of the pool and family the namespace of a Service has, by the claims that the
// informer shows, if it has this one. What the Service alone has otherwise does not count: it goes on with this
// address. It is 0 where the namespace had this address before.
//
// For example, in the namespace shop, web has 192.0.2.1 and mail has 192.0.2.2. If api is given 192.0.2.3, there are 3. If it shares
// 192.0.2.1 with web, there is no further one, and the answer is 0.
func (l *Ledger) WithOthers(service ipam.Service, as ipam.Assignment) int {
	n := 1
	objects, _ := l.claims.ByIndex(byTenant, tenantKey(as.Pool, family.Of(as.Address), service.Namespace)) // fails for an unknown index
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

// tenants is the index function of byTenant. For example, the claim of 192.0.2.1 from lan, which shop/web and blog/web share, has the
// keys lan/IPv4/shop and lan/IPv4/blog.
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
