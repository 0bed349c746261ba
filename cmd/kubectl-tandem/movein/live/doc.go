// SPDX-License-Identifier: Apache-2.0

// Package live moves the load balancer Services of a running cluster from another product to Tandem: address by address, without an outage, and back.
//
// It is a state machine. [Start], [Finish] and [Undo] are functions of a Snapshot of the cluster and of what the user asks for, and return what comes next: one
// write to the API, something to wait for, or a question to the LAN. Package apply does it, looks at the cluster again, and asks for the next one. What has been done
// is in the cluster alone: in ConfigMaps tandem-move-in… in Tandem's namespace, in labels, and in the objects themselves. So a command that is killed after
// any write can be typed again, on another machine too, and goes on or goes back.
//
// # Phases
//
// The product is an origin: MetalLB, kube-vip, PureLB or Cilium. What the phases do is told for MetalLB; the origins say what differs.
//
// The ConfigMap tandem-move-in has the phase, and those beside it what undo needs: the product's objects, the Services' metadata and statuses, and
// the numbers of replicas as they were.
//
//   - Preparing. Tandem's controller manager goes to no replica. Tandem's objects are made: its advertisements select Services, and its BGPPeers
//     Nodes, by the label tandem-lb.io/move-in, which none has yet. MetalLB's own are edited while its webhook runs: an L2Advertisement, for
//     example, gets the serviceSelectors "label tandem-lb.io/move-in does not exist". Then MetalLB's controller goes to no replica. Its speakers go on.
//   - Adopting. Tandem's controller manager starts, and claims the addresses that Services have. If a Service gets another address, the move stops.
//   - Announcing. Unit by unit the label is written, which both see: MetalLB stops, and Tandem announces, from the node that MetalLB announced from.
//     The label has the value "moving" until a probe has found that the address answers, then "moved". If nothing answers the label goes.
//   - Finishing, then Finished. MetalLB's speakers go to no node, and what was in the way of the move is removed.
//   - Undoing. Everything is written back, the other way round. At the end there is no ConfigMap.
//
// # Units
//
// On layer 2 a unit is one Service and those that share an address with it, where MetalLB's L2Advertisement has serviceSelectors (0.16). Older ones
// have a pool as the smallest unit: its L2Advertisement is deleted once Tandem announces the Services of the pool. By BGP a unit is a Node, since a
// router takes one session from an address: the label on the Node, "leaving" at first, takes MetalLB's speaker off it, and when that has ended the value
// "moving" gives Tandem's BGPPeers to it. A router with graceful restart keeps the routes meanwhile, and on the way back too, since Tandem's speaker ends
// its sessions as at a restart when the label goes.
//
// Cilium's policies know selectors of Services, so that its unit is a Service too. kube-vip and PureLB serve all Services or none: these are one unit.
// Tandem's advertisements select none of them until all have the label; then one write has it announce all, and both do until the product's Pods have ended.
// From then on they select all Services, with the label or without it, since nobody else announces.
package live
