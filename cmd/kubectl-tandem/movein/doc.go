// SPDX-License-Identifier: Apache-2.0

// Package movein reads the configuration of other load balancers and converts it to objects of Tandem, and patches for Services. It is
// pure: bytes go in, documents and messages come out.
//
// [Convert], in convert.go, is where to begin to read. Each product has files of its own; what they have in common is in read.go, nodes.go and fields.go
// (reading YAML), ranges.go, names.go, selectors.go, draft.go (the objects on their way, and what is checked when all are there), fit.go and refuse.go (what
// the API server takes). For example, the MetalLB pool
//
//	kind: IPAddressPool
//	metadata: {name: lan, namespace: metallb-system}
//	spec: {addresses: ["192.0.2.10 - 192.0.2.20"]}
//
// becomes the AddressPool lan with the range 192.0.2.10-192.0.2.20 and the message "info [blanks] IPAddressPool lan: ...". Whatever a
// product means otherwise than Tandem has a message, and so has every field that no code has asked for: nothing is dropped without a word.
package movein
