// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/nodeinfo"
)

// addressPatience is for how long the address by which the other speakers reach this one may be missing, as while the network of the node is
// set up anew.
const addressPatience = 10 * time.Second

// A hostAddress watches whether the other speakers can reach this one at the addresses to which its gossip is bound, one of each family or one
// alone. Nothing but a new start binds others. For example, node1 gets 198.51.100.21 by DHCP in the place of 198.51.100.11: to the others it is
// dead until then.
type hostAddress struct {
	addresses []netip.Addr
	// fixed says that a user has given the addresses, so that the Node may have others.
	fixed bool
	since time.Time // when they were found wrong, the zero Time if they are not
}

// Check returns an error when an address has been on none of the interfaces for long, or not among the InternalIPs of the Node, by which
// the others know it, or when the Node has an address of another family. Node is nil while it is not known.
func (h *hostAddress) Check(now time.Time, links *link.Snapshot, node *corev1.Node) error {
	wrong := h.wrong(links, node)
	if wrong == "" {
		h.since = time.Time{}
		return nil
	}
	if h.since.IsZero() {
		h.since = now
	}
	if now.Sub(h.since) < addressPatience {
		return nil
	}
	return fmt.Errorf("%s; a new start of this speaker takes the address that the node has then", wrong)
}

// wrong returns what is wrong with the addresses, "" if nothing is.
func (h *hostAddress) wrong(links *link.Snapshot, node *corev1.Node) string {
	for _, address := range h.addresses {
		if !address.IsLoopback() && !has(links, address) {
			return fmt.Sprintf("the address %s, by which other speakers reach this one, is on no interface any more", address)
		}
	}
	if h.fixed || node == nil {
		return ""
	}
	for _, f := range family.All {
		known := slices.DeleteFunc(nodeinfo.InternalIPs(node), func(ip netip.Addr) bool { return family.Of(ip) != f })
		bound := slices.IndexFunc(h.addresses, func(ip netip.Addr) bool { return family.Of(ip) == f })
		switch {
		case len(known) == 0 || bound >= 0 && slices.Contains(known, h.addresses[bound]):
		case bound >= 0:
			return fmt.Sprintf("other speakers reach this one at %s, and it uses %s: the Node has another InternalIP now", known[0], h.addresses[bound])
		case has(links, known[0]):
			return fmt.Sprintf("other speakers may reach this one at %s, and it does not use it: the Node has a new InternalIP", known[0])
		}
	}
	return ""
}
