// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	networkingv1client "k8s.io/client-go/kubernetes/typed/networking/v1"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/claim"
	"github.com/tandem-lb/tandem/loadbalancer/repair"
)

// claims writes the IPAddress objects that make allocations true; package claim says what they look like. The caller
// holds the lock of the address. The API server lets one creation through, and refuses those of other leaders and of
// the ClusterIP allocator.
type claims struct {
	client networkingv1client.IPAddressInterface
	ledger *ledger // is told of each write
}

// claimedByOther is the error for an address that has a claim of another Service, or a foreign claim.
type claimedByOther struct {
	address netip.Addr
	owner   string // in words
}

// Error names the owner, as in "IPAddress 192.0.2.1 exists and belongs to services kube-system/dns, managed by
// ipallocator.k8s.io".
func (c *claimedByOther) Error() string {
	return fmt.Sprintf("IPAddress %s exists and belongs to %s", c.address, c.owner)
}

// create claims an address for a Service, which shares it with others under a key or has it alone. Of the claims that
// may exist, it accepts
//
//   - one of the Service itself: the answer to an earlier creation was lost, or another leader serves the Service too.
//     Both leaders then publish the same address, which is right.
//   - one of another Service that shares the address, or did until it left the address to these others.
//
// A claim that was left and that no other Service shares has waited for reuseAfter. It is replaced, so that it names
// its Service. For every other claim the error is a *claimedByOther.
//
// The key, if any, is written on the claim: after a restart it says that other Services may have been on the address.
func (c *claims) create(ctx context.Context, as ipam.Assignment, service ipam.Service, key string, others []ipam.Service) error {
	others = slices.DeleteFunc(slices.Clone(others), func(other ipam.Service) bool { return other == service })
	for range 3 {
		c.ledger.wrote(as.Address, "")
		_, err := c.client.Create(ctx, claim.New(as, service, key), metav1.CreateOptions{})
		if err == nil {
			return nil
		}
		c.ledger.seenClaim(as.Address)
		if !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("claiming %s: %w", as.Address, err)
		}
		existing, err := c.read(ctx, as.Address)
		if err != nil {
			return err
		}
		switch have := claim.Read(existing); {
		case have.State == repair.NoClaim: // deleted in between
		case have.State == repair.Ours && !have.NamesHolder() && len(others) == 0:
			if _, err := c.delete(ctx, as.Address, have); err != nil {
				return err
			}
		case have.State == repair.Ours && (!have.NamesHolder() || have.Parent == service || slices.Contains(others, have.Parent)):
			if key == "" || have.Key != "" {
				return nil
			}
			return c.patch(ctx, as.Address, claim.Share(have, key))
		default:
			return &claimedByOther{as.Address, claim.Owner(existing)}
		}
	}
	return fmt.Errorf("claiming %s: its claim comes and goes", as.Address)
}

// listPage is how many claims are read at a time. All at once, 20,000 of them would take 60 MB for a moment.
const listPage = 500

// list returns all our claims as the API has them, by address. Those that the informer shows too are objects of its cache, so that there
// is one of each in memory.
func (c *claims) list(ctx context.Context) (map[netip.Addr]*networkingv1.IPAddress, error) {
	all := map[netip.Addr]*networkingv1.IPAddress{}
	options := metav1.ListOptions{LabelSelector: labels.Set{networkingv1.LabelManagedBy: v1alpha1.ManagedBy}.String(), Limit: listPage}
	for {
		page, err := c.client.List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("listing claims: %w", err)
		}
		for _, object := range page.Items {
			address, err := netip.ParseAddr(object.Name)
			if err != nil {
				continue
			}
			all[address] = &object
			cached, err := c.ledger.claims.Get(object.Name)
			if err == nil && cached.UID == object.UID && cached.ResourceVersion == object.ResourceVersion {
				all[address] = cached
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return all, nil
		}
	}
}

// read returns the claim of an address as the API has it, or nil.
func (c *claims) read(ctx context.Context, address netip.Addr) (*networkingv1.IPAddress, error) {
	existing, err := c.client.Get(ctx, address.String(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the claim of %s: %w", address, err)
	}
	return existing, nil
}

// delete removes exactly this claim, by a precondition on its UID. gone is false where another IPAddress has taken
// its name since; that one stays.
func (c *claims) delete(ctx context.Context, address netip.Addr, have repair.Claim) (gone bool, err error) {
	uid := types.UID(have.UID)
	c.ledger.wrote(address, uid)
	err = c.client.Delete(ctx, address.String(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err == nil || apierrors.IsNotFound(err) {
		return true, nil
	}
	c.ledger.seenDeletion(address, uid)
	if apierrors.IsConflict(err) {
		return false, nil
	}
	return false, fmt.Errorf("releasing %s: %w", address, err)
}

// patch changes the labels or annotations of a claim, which package claim has made a patch of. A claim that has gone
// since, or is another one, stays as it is.
func (c *claims) patch(ctx context.Context, address netip.Addr, patch []byte) error {
	c.ledger.wrote(address, "")
	_, err := c.client.Patch(ctx, address.String(), types.MergePatchType, patch, metav1.PatchOptions{})
	if err == nil {
		return nil
	}
	c.ledger.seenClaim(address)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("changing the claim of %s: %w", address, err)
}
