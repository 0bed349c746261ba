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
	"k8s.io/apimachinery/pkg/types"
	networkingv1client "k8s.io/client-go/kubernetes/typed/networking/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// claims creates and deletes the IPAddress objects that make allocations true.
//
// An address is claimed by an IPAddress of the same name, whose parent is the Service. The API server lets one creation through
// whoever asks, another leader or the ClusterIP allocator included. A shared address has one claim, with one of its Services as the
// parent; what is done to one address is serialised, so that a Service that joins and one that leaves do not miss each other.
type claims struct {
	client networkingv1client.IPAddressInterface
	seen   networkinglisters.IPAddressLister
	turns  *turns[netip.Addr]
}

func newClaims(client networkingv1client.IPAddressInterface, seen networkinglisters.IPAddressLister) *claims {
	return &claims{client: client, seen: seen, turns: newTurns[netip.Addr]()}
}

// conflict is the error for an address that somebody else has claimed.
type conflict struct {
	address netip.Addr
	claim   *networkingv1.IPAddress
}

func (c *conflict) Error() string {
	return fmt.Sprintf("IPAddress %s exists and belongs to %s", c.address, parentName(c.claim))
}

// create claims an address for a Service, or finds it claimed by one of users, who share it. A claim of anybody else is a *conflict.
func (c *claims) create(ctx context.Context, as ipam.Assignment, service ipam.Service, users func() []ipam.Service) error {
	done, err := c.turns.take(ctx, as.Address)
	if err != nil {
		return err
	}
	defer done()
	return c.createLocked(ctx, as, service, users())
}

func (c *claims) createLocked(ctx context.Context, as ipam.Assignment, service ipam.Service, users []ipam.Service) error {
	claim := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: as.Address.String(),
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(family.Of(as.Address)),
				networkingv1.LabelManagedBy:       v1alpha1.ManagedBy,
				v1alpha1.LabelAddressPool:         as.Pool,
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: "services", Namespace: service.Namespace, Name: service.Name,
		}},
	}
	for range 3 {
		_, err := c.client.Create(ctx, claim, metav1.CreateOptions{})
		if err == nil {
			return nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("claiming %s: %w", as.Address, err)
		}
		existing, err := c.client.Get(ctx, claim.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue // deleted in between
		}
		if err != nil {
			return fmt.Errorf("reading the claim of %s: %w", as.Address, err)
		}
		if parent, ok := parentOf(existing); ok && (parent == service || slices.Contains(users, parent)) {
			return nil
		}
		return &conflict{as.Address, existing}
	}
	return fmt.Errorf("claiming %s: its claim comes and goes", as.Address)
}

// release ends a Service's claim on an address. Where others share it, the claim passes to the first of them. users must not return the
// Service itself. The caller's released runs before anybody else can touch the address.
func (c *claims) release(ctx context.Context, as ipam.Assignment, service ipam.Service, users func() []ipam.Service, released func()) error {
	done, err := c.turns.take(ctx, as.Address)
	if err != nil {
		return err
	}
	defer done()
	// The informer's view is enough where it shows the Service's claim: that claim is deleted and no other. Else the claim is read.
	claim, err := c.seen.Get(as.Address.String())
	deleted, err := c.deleteOf(ctx, service, claim, err)
	if err == nil && !deleted {
		claim, err = c.client.Get(ctx, as.Address.String(), metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("reading the claim of %s: %w", as.Address, err)
		}
		deleted, err = c.deleteOf(ctx, service, claim, err)
	}
	if err != nil {
		return err
	}
	// A claim's parent cannot be changed, so it passes by a new claim.
	if heirs := users(); deleted && len(heirs) > 0 {
		if err := c.createLocked(ctx, as, heirs[0], heirs); err != nil {
			return err
		}
	}
	released()
	return nil
}

// deleteOf deletes a claim that was found and belongs to the Service. deleted is false where another has taken its name since.
func (c *claims) deleteOf(ctx context.Context, service ipam.Service, claim *networkingv1.IPAddress, found error) (deleted bool, err error) {
	if parent, ok := parentOf(claim); found != nil || !ok || parent != service {
		return false, nil
	}
	return c.remove(ctx, claim)
}

// restore claims an address again whose claim is gone, for the first of its heirs. heirs is asked when nobody can release the address any
// more, and not before.
func (c *claims) restore(ctx context.Context, address netip.Addr, heirs func() (pool string, services []ipam.Service)) error {
	done, err := c.turns.take(ctx, address)
	if err != nil {
		return err
	}
	defer done()
	pool, services := heirs()
	if len(services) == 0 {
		return nil
	}
	return c.createLocked(ctx, ipam.Assignment{Address: address, Pool: pool}, services[0], services)
}

// relabel writes another pool on the claim of an address, where there is one.
func (c *claims) relabel(ctx context.Context, as ipam.Assignment) error {
	done, err := c.turns.take(ctx, as.Address)
	if err != nil {
		return err
	}
	defer done()
	claim, err := c.client.Get(ctx, as.Address.String(), metav1.GetOptions{})
	if _, ours := parentOf(claim); apierrors.IsNotFound(err) || err == nil && !ours {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the claim of %s: %w", as.Address, err)
	}
	patch := fmt.Sprintf(`{"metadata":{"uid":%q,"labels":{%q:%q}}}`, claim.UID, v1alpha1.LabelAddressPool, as.Pool)
	_, err = c.client.Patch(ctx, claim.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("labelling the claim of %s: %w", as.Address, err)
	}
	return nil
}

// delete removes exactly this claim: if another has taken its name since, that one stays.
func (c *claims) delete(ctx context.Context, claim *networkingv1.IPAddress) error {
	_, err := c.remove(ctx, claim)
	return err
}

// remove is delete, and reports whether the claim is gone without another in its place.
func (c *claims) remove(ctx context.Context, claim *networkingv1.IPAddress) (gone bool, err error) {
	err = c.client.Delete(ctx, claim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &claim.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return false, fmt.Errorf("releasing %s: %w", claim.Name, err)
	}
	return !apierrors.IsConflict(err), nil
}

// parentOf returns the Service that a claim of ours belongs to.
func parentOf(claim *networkingv1.IPAddress) (ipam.Service, bool) {
	if claim == nil || claim.Labels[networkingv1.LabelManagedBy] != v1alpha1.ManagedBy || claim.Spec.ParentRef == nil ||
		claim.Spec.ParentRef.Group != "" || claim.Spec.ParentRef.Resource != "services" {
		return ipam.Service{}, false
	}
	return ipam.Service{Namespace: claim.Spec.ParentRef.Namespace, Name: claim.Spec.ParentRef.Name}, true
}

// parentName describes the owner of any claim, for messages.
func parentName(claim *networkingv1.IPAddress) string {
	ref := claim.Spec.ParentRef
	if ref == nil {
		return "an unknown owner"
	}
	owner := fmt.Sprintf("%s %s/%s", ref.Resource, ref.Namespace, ref.Name)
	if by := claim.Labels[networkingv1.LabelManagedBy]; by != "" {
		owner += ", managed by " + by
	}
	return owner
}
