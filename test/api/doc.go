// SPDX-License-Identifier: Apache-2.0

// Package api tests the kinds of tandem-lb.io against a real API server: what it accepts, what it refuses and with which
// message, what it fills in, and what kubectl get shows. It also ends a controller manager at each of its writes, and looks what is left.
//
// The tests need the build tag e2e, etcd and kube-apiserver. They take these from the folder that $TANDEM_LAB_BIN names,
// or have the lab build them. Both listen on loopback only and end with the tests.
package api
