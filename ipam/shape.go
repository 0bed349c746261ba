// SPDX-License-Identifier: Apache-2.0

package ipam

// shape is what two requests have in common that get the same answer, whichever Service asks. [Allocator.Plan] looks once
// for all requests of a shape if there is nothing for the first of them: after a pool edit, 10,000 Services may wait for
// an address of 1,000 full pools.
type shape struct {
	namespace  string // which may have reached a limit
	families   string
	requireAll bool
	pools      *Candidate // the first of a list that requests have in common
	n          int        // the length of the list
}

// shapeOf returns the shape of a request. plain is false if the answer also depends on the Service itself: on what it holds, shows or has left, on
// an address or a pool that it asks for, or on Services with which it shares.
func (a *Allocator) shapeOf(req Request) (s shape, plain bool) {
	if len(req.Pools) == 0 || len(req.Addresses) > 0 || req.Named || req.Sharing.Key != "" || len(a.byService[req.Service]) > 0 ||
		len(a.leftBy[req.Service]) > 0 || len(req.Inherited) > 0 {
		return shape{}, false
	}
	s = shape{namespace: req.Service.Namespace, requireAll: req.RequireAll, pools: &req.Pools[0], n: len(req.Pools)}
	for _, af := range req.Families {
		s.families += string(af)
	}
	return s, true
}
