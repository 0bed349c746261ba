// SPDX-License-Identifier: Apache-2.0

// Package loadbalancer gives Services of type LoadBalancer their addresses. [Server] is the
// cloudprovider.LoadBalancer behind the upstream service controller: that controller decides when a Service needs
// attention, this package decides what it gets, and package ipam which address is free.
//
// Three records say which Service has an address, and they are kept in this order of trust:
//
//  1. The claim, a networking.k8s.io/v1 IPAddress named by the address. Creating it is the lock, across leaders, restarts and the
//     ClusterIP allocator.
//     Where several Services share the address, it lists them.
//  2. The allocator in memory, a cache over the claims. A claim found to be another's corrects the cache.
//  3. The Service's status, which the upstream controller writes from what EnsureLoadBalancer returns. A published address
//     without a claim is held, and claimed again, before anything else is given.
//
// # One request
//
// A request (server.go) takes the Service's lock, plans with the allocator, and creates a claim for each new
// address, under the address's lock. What the Service gives up is surplus, and is released when the status does not
// show it any more. A request that cannot be met changes nothing: the error becomes an event on the Service, the
// Service keeps what it has and waits (waiting.go), and the event that could help it (a pool edit, a release, a
// label) wakes it through the service controller's own queue.
//
// # Everything else
//
// Whatever else happens to an address, to its claim, to the status of a Service or to a pool, is an event
// (events.go), and means one thing: look at the address. [repair.Steps] is a pure function from what the
// three records say, a [repair.Entry], to the steps that make them agree; its doc comment is the table of all cases.
// Package ledger makes the Entry from the informers and from what it remembers: the cache, what Services have given up,
// which of our own writes the informers do not show yet. Most events are echoes of our own
// writes, and end there. Steps that need the API are taken by workers (apply.go), which lock the address and look
// again, at the API where the informers may lag. So
//
//   - no handler and no decision in memory waits for the API, and a slow API delays no event;
//   - a claim that cannot be written is tried again with a back-off, is reported by an event on its Service, and stops nothing else;
//   - the start (start.go) is the same as an event of every address, and so is the audit every ten minutes, which
//     repairs what a missed event has left.
//
// # Two leaders
//
// A leader that was paused may go on for a moment beside the next one. Nothing but the API keeps the two apart:
//
//   - Both create a claim of 192.0.2.1. The API server lets one creation through; the other leader learns whose the
//     address is, and takes the next one.
//   - Both let a Service with port 443 join 192.0.2.1. Each writes its Service on the claim as it has read it (package
//     writer). The API server refuses the second write; that leader reads the claim again and decides again.
//   - Both give a namespace its last address. Each waits until the watch shows its claim, and counts (limits.go).
//   - Both write the status of web. The last one stays; what it does not show is released when the other leader can
//     no longer mean to publish it, 20 s later.
//
// # Packages
//
//	request    what a Service asks for                     contest    when to answer another writer of a status
//	ledger     what the server remembers                   keyedlock  a lock for each Service and each address
//	repair     what has to be done about an address        poolstatus the status of an AddressPool
//	claim      what a claim says; writer writes it
//
// Nothing is allocated before pools, Services, namespaces and claims have all been read.
package loadbalancer
