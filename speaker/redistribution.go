// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/kernelroutes"
	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// redistribution hands what a decision puts into the kernel over to a kernelroutes.Table, and says in a condition what has become of it.
// Where this process has no right to change the kernel, it says that.
type redistribution struct {
	table     *kernelroutes.Table
	permitted bool
	changed   signal.Signal                    // raised when the condition may be another
	desired   atomic.Pointer[decision.Desired] // nil before the first decision; Redistributes and Refusals alone
}

// newRedistribution returns a redistribution that raises changed when its condition may be another.
func newRedistribution(changed signal.Signal) *redistribution {
	return &redistribution{table: kernelroutes.New(changed), permitted: kernelroutes.Permitted(), changed: changed}
}

// run keeps the kernel as it is to be until the context ends, if this process may.
func (r *redistribution) run(ctx context.Context) error {
	if !r.permitted {
		return nil
	}
	return r.table.Run(ctx)
}

// Set makes the entries of a decision those that the kernel is to have.
func (r *redistribution) Set(d decision.Desired) {
	before := r.desired.Swap(&decision.Desired{Redistributes: d.Redistributes, Refusals: d.Refusals})
	if before == nil || before.Redistributes != d.Redistributes || !slices.Equal(before.Refusals, d.Refusals) {
		r.changed.Raise()
	}
	r.table.Set(entriesOf(d))
}

// entriesOf returns what the kernel is to have by a decision.
//
// The prefixes that peers are told by BGP are among them: without a route of its own, a packet to such an address that kube-proxy does not
// serve goes back to the router, which sends it to this node again. One ping made a node receive 32 packets. Instead of an aggregate that
// would keep the node from hosts in it there are the addresses that it is announced for.
func entriesOf(d decision.Desired) []kernelroutes.Entry {
	entries := make([]kernelroutes.Entry, 0, len(d.Kernel))
	for _, e := range d.Kernel {
		entries = append(entries, kernelroutes.Entry(e))
	}
	for i := range d.BGP {
		for _, route := range d.BGP[i].Routes {
			hosts, instead := d.HostRoutes[route.Prefix]
			if !instead {
				hosts = []netip.Prefix{route.Prefix}
			}
			for _, prefix := range hosts {
				entries = append(entries, kernelroutes.Entry{Prefix: prefix})
			}
		}
	}
	return entries
}

// close takes everything out of the kernel if this node is left. A speaker that restarts leaves it there for the one that follows.
func (r *redistribution) close(ctx context.Context, mode bgp.CloseMode) {
	if !r.permitted || mode == bgp.Restart {
		return
	}
	if err := r.table.Clear(ctx); err != nil {
		klog.FromContext(ctx).Error(err, "Failed to take everything out of the kernel; tandem-speaker --cleanup does so too")
	}
}

// mostRefusals is how many addresses the condition names.
const mostRefusals = 3

// condition returns the condition KernelRoutes of a SpeakerStatus, nil where no InterfaceAdvertisement concerns the node.
func (r *redistribution) condition() *metav1.Condition {
	d := r.desired.Load()
	if d == nil || !d.Redistributes {
		return nil
	}
	c := metav1.Condition{Type: v1alpha1.ConditionKernelRoutes, Status: metav1.ConditionFalse}
	state := r.table.State()
	switch {
	case !r.permitted:
		c.Reason = v1alpha1.ReasonNotPermitted
		c.Message = "the speaker has no right to change the kernel's routes (NET_ADMIN): set the value speaker.kernelRoutes of the chart, " +
			"or add the component manifests/kernel-routes"
	case state.Err != nil:
		c.Reason, c.Message = v1alpha1.ReasonKernelRoutesFailed, strings.ReplaceAll(state.Err.Error(), "\n", "; ")
	case len(d.Refusals) > 0:
		c.Reason, c.Message = v1alpha1.ReasonAddressesRefused, describeRefusals(d.Refusals)
	default:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonInTheKernel
		c.Message = "the kernel has all that InterfaceAdvertisements ask for"
	}
	return &c
}

// describeRefusals names the first addresses, with their reasons.
func describeRefusals(refusals []decision.Refusal) string {
	var texts []string
	for _, refusal := range refusals[:min(mostRefusals, len(refusals))] {
		texts = append(texts, fmt.Sprintf("InterfaceAdvertisement %s: %s %s", refusal.Advertisement, refusal.Address, refusal.Reason))
	}
	if more := len(refusals) - mostRefusals; more > 0 {
		texts = append(texts, fmt.Sprintf("%d more addresses", more))
	}
	return strings.Join(texts, "; ")
}
