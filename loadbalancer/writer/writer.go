// SPDX-License-Identifier: Apache-2.0

// Package writer writes claims: the IPAddress objects that make allocations true. Package claim says what they look like.
//
// The API server lets one creation of a name through, and refuses those of other leaders and of the ClusterIP
// allocator. It refuses a change or a deletion of a claim that has been written since it was read. So a leader that
// is wrong about an address finds out before it gives it.
package writer

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
	"github.com/tandem-lb/tandem/loadbalancer/ledger"
	"github.com/tandem-lb/tandem/loadbalancer/repair"
)

// Claims writes claims. The caller holds the lock of the address.
type Claims struct {
	client networkingv1client.IPAddressInterface
	ledger *ledger.Ledger // is told of each write
}

// New returns a writer.
func New(client networkingv1client.IPAddressInterface, ledger *ledger.Ledger) *Claims {
	return &Claims{client, ledger}
}

// ErrStale is the error of a write to a claim that has been written or deleted since it was read.
var ErrStale = errors.New("its claim has changed meanwhile")

// MaxTries bounds how often a claim is read again that somebody else has written at the same time.
const MaxTries = 5

// ClaimedByOther is the error for an address that has a claim of another Service, or a foreign claim.
type ClaimedByOther struct {
	Address netip.Addr
	Owner   string // in words
}

// Unwrap says that the address is in use.
func (c *ClaimedByOther) Unwrap() error { return ipam.ErrInUse }

// Error names the owner, as in "IPAddress 192.0.2.1 exists and belongs to services kube-system/dns, managed by
// ipallocator.k8s.io".
func (c *ClaimedByOther) Error() string {
	return fmt.Sprintf("IPAddress %s exists and belongs to %s", c.Address, c.Owner)
}

// Claimant is a Service that is to have an address.
type Claimant struct {
	Service ipam.Service
	Key     string                       // the sharing key, "" where it shares with nobody
	Sharers map[ipam.Service][]ipam.Port // what is to be written on the claim, beside what is there
	Others  []ipam.Service               // those that have the address already, and admit the Service
}

// Create claims an address for a Service, which shares it with others under a key or has it alone. Where the claim
// exists, the Service joins it (see join). Otherwise the error is a *ClaimedByOther.
//
// For example, two leaders let c and d, both with port 80, join 192.0.2.1 of a. Each writes the claim that it has
// read, with c or with d added to the sharers. The API server refuses the second write, say that of d. That leader
// reads the claim again, finds c, of which it did not know, and decides again what d gets.
func (c *Claims) Create(ctx context.Context, as ipam.Assignment, by Claimant) error {
	by.Others = slices.DeleteFunc(slices.Clone(by.Others), func(other ipam.Service) bool { return other == by.Service })
	object, _ := c.ledger.Claim(as.Address)
	if len(by.Others) == 0 {
		object = nil // A creation is what says whether the address is free.
	}
	for try := range MaxTries {
		if object != nil {
			if err := c.join(ctx, as.Address, object, by, try > 0); !errors.Is(err, ErrStale) {
				return err
			}
		} else {
			c.ledger.Wrote(as.Address, "")
			_, err := c.client.Create(ctx, claim.New(as, by.Service, by.Key, by.Sharers), metav1.CreateOptions{})
			if err == nil {
				return nil
			}
			c.ledger.SeenClaim(as.Address)
			if !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("claiming %s: %w", as.Address, err)
			}
		}
		var err error
		if object, err = c.Read(ctx, as.Address); err != nil {
			return err
		}
	}
	return fmt.Errorf("claiming %s: %w", as.Address, ErrStale)
}

// join claims an address that has a claim already. It accepts
//
//   - one that names the Service: the answer to an earlier creation was lost, or another leader serves the Service too.
//     Both leaders then publish the same address, which is right;
//   - one that names others, which admit the Service, and among whose ports there is none of the Service.
//
// A claim that names no Service, and that others do not have either, has waited for reuseAfter. It is deleted, so
// that a new one can name its Service. For every other claim the error is a *ClaimedByOther. What is not fresh, but
// from the informer, serves only to be written, since a write is refused where it is out of date; anything else is ErrStale.
func (c *Claims) join(ctx context.Context, address netip.Addr, object *networkingv1.IPAddress, by Claimant, fresh bool) error {
	have := claim.Read(object)
	want := map[ipam.Service][]ipam.Port{}
	maps.Copy(want, have.Sharers)
	maps.Copy(want, by.Sharers)
	if !have.Names(by.Service) {
		want[by.Service] = by.Sharers[by.Service]
	}
	if owner := refuses(object, have, by); owner != "" {
		if !fresh {
			return ErrStale
		}
		return &ClaimedByOther{address, owner}
	}
	switch {
	case len(have.Named()) == 0 && len(by.Others) == 0:
		if err := c.Delete(ctx, address, have); err != nil {
			return err
		}
		return ErrStale
	case maps.EqualFunc(want, have.Sharers, slices.Equal) && (by.Key == "" || have.Key != ""):
		if !fresh {
			return ErrStale
		}
		return nil
	}
	return c.Patch(ctx, address, claim.Share(have, by.Key, want))
}

// refuses says in words what keeps the Service from a claim, "" where nothing does.
func refuses(object *networkingv1.IPAddress, have repair.Claim, by Claimant) string {
	if have.State != repair.Ours {
		return claim.Owner(object)
	}
	for _, other := range have.Named() {
		if other != by.Service && !slices.Contains(by.Others, other) {
			return fmt.Sprintf("Service %s too, which may not admit this one", other)
		}
		for _, port := range have.Sharers[other] {
			if _, known := by.Sharers[other]; !known && slices.Contains(by.Sharers[by.Service], port) {
				return fmt.Sprintf("Service %s too, on the same port %s", other, port)
			}
		}
	}
	return ""
}

// listPage is how many claims are read at a time. All at once, 20,000 of them would take 60 MB for a moment.
const listPage = 500

// List returns all our claims as the API has them, by address. Those that the informer shows too are objects of its
// cache, so that there is one of each in memory.
func (c *Claims) List(ctx context.Context) (map[netip.Addr]*networkingv1.IPAddress, error) {
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
			if cached, _ := c.ledger.Claim(address); cached != nil && cached.UID == object.UID && cached.ResourceVersion == object.ResourceVersion {
				all[address] = cached
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return all, nil
		}
	}
}

// Read returns the claim of an address as the API has it, or nil.
func (c *Claims) Read(ctx context.Context, address netip.Addr) (*networkingv1.IPAddress, error) {
	existing, err := c.client.Get(ctx, address.String(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the claim of %s: %w", address, err)
	}
	return existing, nil
}

// Delete removes exactly this claim, as it was read. For example, web was alone on 192.0.2.1 and is deleted, and another leader has just
// let mail join the claim: the deletion is refused with ErrStale, and mail keeps its address.
func (c *Claims) Delete(ctx context.Context, address netip.Addr, have repair.Claim) error {
	uid := types.UID(have.UID)
	c.ledger.Wrote(address, uid)
	err := c.client.Delete(ctx, address.String(), metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &have.Version},
	})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	c.ledger.SeenDeletion(address, uid)
	if apierrors.IsConflict(err) {
		err = ErrStale
	}
	return fmt.Errorf("releasing %s: %w", address, err)
}

// Patch changes the labels or annotations of exactly this claim, as it was read when package claim made the patch.
func (c *Claims) Patch(ctx context.Context, address netip.Addr, patch []byte) error {
	c.ledger.Wrote(address, "")
	_, err := c.client.Patch(ctx, address.String(), types.MergePatchType, patch, metav1.PatchOptions{})
	if err == nil {
		return nil
	}
	c.ledger.SeenClaim(address)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		err = ErrStale
	}
	return fmt.Errorf("changing the claim of %s: %w", address, err)
}
