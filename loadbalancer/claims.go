// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// errStale is the error of a write to a claim that has been written or deleted since it was read.
var errStale = errors.New("its claim has changed meanwhile")

// maxTries bounds how often a claim is read again that somebody else has written at the same time.
const maxTries = 5

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

// create claims an address for a Service, which shares it with others under a key or has it alone. Sharers are written on the claim, with
// their ports. Where the claim exists, the Service joins it (see join). Otherwise its error is a *claimedByOther.
//
// For example, two leaders let c and d, both with port 80, join 192.0.2.1 of a. Each writes the claim that it has read, with c or with d
// added to the sharers. The API server refuses the second write, say that of d. That leader reads the claim again, finds c, of which it did
// not know, and decides again what d gets.
func (c *claims) create(
	ctx context.Context, as ipam.Assignment, service ipam.Service, key string, sharers map[ipam.Service][]ipam.Port, others []ipam.Service,
) error {
	others = slices.DeleteFunc(slices.Clone(others), func(other ipam.Service) bool { return other == service })
	object, _ := c.ledger.claim(as.Address)
	if len(others) == 0 {
		object = nil // A creation is what says whether the address is free.
	}
	for try := range maxTries {
		if object != nil {
			if err := c.join(ctx, as.Address, object, service, key, sharers, others, try > 0); !errors.Is(err, errStale) {
				return err
			}
		} else {
			c.ledger.wrote(as.Address, "")
			_, err := c.client.Create(ctx, claim.New(as, service, key, sharers), metav1.CreateOptions{})
			if err == nil {
				return nil
			}
			c.ledger.seenClaim(as.Address)
			if !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("claiming %s: %w", as.Address, err)
			}
		}
		var err error
		if object, err = c.read(ctx, as.Address); err != nil {
			return err
		}
	}
	return fmt.Errorf("claiming %s: %w", as.Address, errStale)
}

// join claims an address that has a claim already. It accepts
//
//   - one that names the Service: the answer to an earlier creation was lost, or another leader serves the Service too.
//     Both leaders then publish the same address, which is right;
//   - one that names others, which admit the Service, and among whose ports there is none of the Service.
//
// A claim that names no Service, and that others do not have either, has waited for reuseAfter. It is deleted, so that a new one can name its
// Service. For every other claim the error is a *claimedByOther. What is not fresh, but from the informer, serves only to be written, since a
// write is refused where it is out of date.
func (c *claims) join(
	ctx context.Context, address netip.Addr, object *networkingv1.IPAddress, service ipam.Service, key string,
	sharers map[ipam.Service][]ipam.Port, others []ipam.Service, fresh bool,
) error {
	have := claim.Read(object)
	named := slices.DeleteFunc(have.Named(), func(other ipam.Service) bool { return other == service })
	for _, other := range named {
		for _, port := range have.Sharers[other] {
			if _, ours := sharers[other]; !ours && slices.Contains(sharers[service], port) && slices.Contains(others, other) {
				return fmt.Errorf("claiming %s: its claim says that Service %s is there on port %s; trying again", address, other, port)
			}
		}
	}
	want := map[ipam.Service][]ipam.Port{}
	maps.Copy(want, have.Sharers)
	maps.Copy(want, sharers)
	if !have.Names(service) {
		want[service] = sharers[service]
	}
	switch {
	case have.State != repair.Ours:
		return &claimedByOther{address, claim.Owner(object)}
	case slices.ContainsFunc(named, func(other ipam.Service) bool { return !slices.Contains(others, other) }):
		return &claimedByOther{address, "Services that do not all admit this one"}
	case len(have.Named()) == 0 && len(others) == 0:
		if err := c.delete(ctx, address, have); err != nil {
			return err
		}
		return errStale
	case maps.EqualFunc(want, have.Sharers, slices.Equal) && (key == "" || have.Key != ""):
		if !fresh {
			return errStale
		}
		return nil
	}
	return c.patch(ctx, address, claim.Share(have, key, want))
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

// delete removes exactly this claim, as it was read.
func (c *claims) delete(ctx context.Context, address netip.Addr, have repair.Claim) error {
	uid := types.UID(have.UID)
	c.ledger.wrote(address, uid)
	err := c.client.Delete(ctx, address.String(), metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &have.Version},
	})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	c.ledger.seenDeletion(address, uid)
	if apierrors.IsConflict(err) {
		err = errStale
	}
	return fmt.Errorf("releasing %s: %w", address, err)
}

// patch changes the labels or annotations of exactly this claim, as it was read when package claim made the patch.
func (c *claims) patch(ctx context.Context, address netip.Addr, patch []byte) error {
	c.ledger.wrote(address, "")
	_, err := c.client.Patch(ctx, address.String(), types.MergePatchType, patch, metav1.PatchOptions{})
	if err == nil {
		return nil
	}
	c.ledger.seenClaim(address)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		err = errStale
	}
	return fmt.Errorf("changing the claim of %s: %w", address, err)
}
