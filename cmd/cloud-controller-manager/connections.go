// SPDX-License-Identifier: Apache-2.0

package main

import (
	"k8s.io/apiserver/pkg/server"

	"github.com/tandem-lb/tandem/speaker/connections"
)

// maxConnections is many times what two Prometheus servers, the kubelet and a person need.
const maxConnections = 64

// boundConnections bounds the open connections of the port for metrics and health. In mode cloud-provider it is one of the node's, which every host
// on the networks of the node reaches, and the framework closes a connection that asks for nothing after 90 seconds only: 20,000 of them would
// take more memory than the Pod may have. A port that is switched off has no serving.
func boundConnections(serving *server.SecureServingInfo) {
	if serving != nil {
		serving.Listener = connections.Listener{Listener: serving.Listener, Set: &connections.Set{Limit: maxConnections}}
	}
}
