// SPDX-License-Identifier: Apache-2.0

// Package serving serves the metrics of a speaker, its health, and what it does by BGP.
//
// The three have nothing in common but HTTP. Metrics are on a port of the node that everybody on its networks reaches, pods included, so that
// everything about it is bounded: connections, their duration, requests at a time, questions to the API server, and how often the metrics are
// gathered. They are for those whose token may get /metrics, which the API server says. Where another program has the port, the speaker
// announces without metrics, and takes the port when it is free.
//
// Health is on a Unix socket in the container, for the kubelet alone, which asks by running "tandem-speaker health" there. Nothing that happens
// to a port of the node can therefore make the kubelet restart a speaker.
//
// What a speaker does by BGP, its looking glass, is on loopback of the node.
package serving
