// SPDX-License-Identifier: Apache-2.0

// Package crd embeds the CustomResourceDefinitions of Tandem's kinds, which `make generate` writes from the types, for programs that ask them without a
// cluster.
package crd

import "embed"

// Files has one definition in each file, as YAML. The file is called after the API group and the plural of the kind, as tandem-lb.io_bgppeers.yaml.
//
//go:embed *_*.yaml
var Files embed.FS
