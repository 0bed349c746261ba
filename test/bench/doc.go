// SPDX-License-Identifier: Apache-2.0

// Command bench measures how fast Services get their addresses and give them back, on a lab of its own: `make bench`.
//
// Three contestants do the same work on the same API server, one after the other:
//
//   - limit, the API server's own limit: what an ideal allocator has to write for a dual-stack Service and nothing else, from this
//     process and without a rate limit. That is two IPAddresses, the finalizer and the status; for its deletion two
//     IPAddresses and the finalizer.
//   - tandem, the tandem-cloud-controller-manager of this tree with its own defaults.
//   - metallb, MetalLB's controller with its own defaults and without its webhook. It keeps no claims and sets no finalizer.
//
// The controllers are processes in the network namespace of the control plane and use the administrator's credentials, so that the
// API server's priority and fairness holds none of them back. Each works twice for every number of Services: once they arrive,
// created by many workers at full speed while the controller runs; once they wait, all created before the controller
// starts. In the first figure a contestant shares the machine with the workers that create Services. The second counts from the first
// Service that has both addresses to the last, without the controller's start.
//
// The Services have neither selector nor node ports, so that nothing but the contestant writes for them. There is one node, cut
// from power before the start: its kubelet and kube-proxy would only take time from the others, and without any Node the upstream service
// controller warns of every Service.
//
// The API server lists all IPAddresses whenever it gives a Service a ClusterIP or takes one back, for a metric. Creating and deleting
// Services therefore takes time with the square of their number: with 5,000 of them the API server's own limit is about half of what it is
// with 1,000, for all contestants. The figure of waiting Services is free of it. A run of all takes twenty minutes.
//
// Requests are counted by the API server (apiserver_request_total), without those that create and delete the Services themselves. Tandem's
// include the one that writes the conditions of a Service, and not the event by which it says that there is no speaker here.
//
// `make bench-peers` measures the speakers of Tandem and MetalLB instead: with -speakers their processor time and memory, with -gaps what clients
// notice when something happens to the node that answers on layer 2, and with -latency how soon a router has the route of a Service whose endpoint is
// ready. With -memory it measures the memory of the controller manager.
package main
