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
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// claims creates and deletes the IPAddress objects that make allocations true. The caller holds the lock of the
// address.
//
// An address is claimed by an IPAddress of the same name, whose parent is the Service: 192.0.2.1 of Service
// default/web by the IPAddress 192.0.2.1 with the parent services default/web. The API server lets one creation
// through, and refuses those of other leaders and of the ClusterIP allocator. A shared address has one claim, with
// one of its Services as the parent.
type claims struct {
	client networkingv1client.IPAddressInterface
	ledger *ledger // is told of each write
}

// claimedByOther is the error for an address that has a claim of another Service, or a foreign claim.
type claimedByOther struct {
	address netip.Addr
	claim   *networkingv1.IPAddress
}

// Error names the owner, as in "IPAddress 192.0.2.1 exists and belongs to services kube-system/dns, managed by
// ipallocator.k8s.io".
func (c *claimedByOther) Error() string {
	return fmt.Sprintf("IPAddress %s exists and belongs to %s", c.address, parentName(c.claim))
}

// create claims an address for a Service. It accepts a claim that exists where its parent is the Service or one of
// sharers; any other is a *claimedByOther.
//
// A claim of the Service itself may exist because the answer to an earlier creation was lost, or because another
// leader serves the Service too. Both leaders then publish the same address, which is right.
//
// key, if any, is written on the claim: after a restart it says that other Services may have been on the address.
func (c *claims) create(ctx context.Context, as ipam.Assignment, service ipam.Service, key string, sharers []ipam.Service) error {
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
	if key != "" {
		claim.Annotations = map[string]string{v1alpha1.AnnotationAllowSharedIP: key}
	}
	for range 3 {
		c.ledger.wrote(as.Address, "")
		_, err := c.client.Create(ctx, claim, metav1.CreateOptions{})
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
		if existing == nil {
			continue // deleted in between
		}
		if parent, ok := parentOf(existing); ok && (parent == service || slices.Contains(sharers, parent)) {
			if key == "" || existing.Annotations[v1alpha1.AnnotationAllowSharedIP] != "" {
				return nil
			}
			return c.patch(ctx, as.Address, existing.UID, fmt.Sprintf(`"annotations":{%q:%q}`, v1alpha1.AnnotationAllowSharedIP, key))
		}
		return &claimedByOther{as.Address, existing}
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
		for _, claim := range page.Items {
			address, err := netip.ParseAddr(claim.Name)
			if err != nil {
				continue
			}
			all[address] = &claim
			cached, err := c.ledger.claims.Get(claim.Name)
			if err == nil && cached.UID == claim.UID && cached.ResourceVersion == claim.ResourceVersion {
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
	claim, err := c.client.Get(ctx, address.String(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the claim of %s: %w", address, err)
	}
	return claim, nil
}

// delete removes exactly this claim, by a precondition on its UID. gone is false where another IPAddress has taken
// its name since; that one stays.
func (c *claims) delete(ctx context.Context, address netip.Addr, uid types.UID) (gone bool, err error) {
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

// relabel writes another pool on exactly this claim. Speakers match the label with spec.addressPools of an
// advertisement. Where another IPAddress has taken the name since, the UID in the patch keeps it as it is.
func (c *claims) relabel(ctx context.Context, as ipam.Assignment, uid types.UID) error {
	return c.patch(ctx, as.Address, uid, fmt.Sprintf(`"labels":{%q:%q}`, v1alpha1.LabelAddressPool, as.Pool))
}

// patch writes a part of the metadata of exactly this claim.
func (c *claims) patch(ctx context.Context, address netip.Addr, uid types.UID, part string) error {
	patch := fmt.Sprintf(`{"metadata":{"uid":%q,%s}}`, uid, part)
	_, err := c.client.Patch(ctx, address.String(), types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("marking the claim of %s: %w", address, err)
	}
	return nil
}

// parentOf returns the Service that a claim belongs to. ours is false for a foreign claim, and for none.
func parentOf(claim *networkingv1.IPAddress) (parent ipam.Service, ours bool) {
	if claim == nil || claim.Labels[networkingv1.LabelManagedBy] != v1alpha1.ManagedBy || claim.Spec.ParentRef == nil ||
		claim.Spec.ParentRef.Group != "" || claim.Spec.ParentRef.Resource != "services" {
		return ipam.Service{}, false
	}
	return ipam.Service{Namespace: claim.Spec.ParentRef.Namespace, Name: claim.Spec.ParentRef.Name}, true
}

// parentName describes the owner of any IPAddress, for messages: "services kube-system/dns, managed by
// ipallocator.k8s.io".
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
