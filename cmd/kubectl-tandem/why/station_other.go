// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package why

import "net/netip"

// StationHere returns the MAC that the kernel of this machine has for an address, on Linux. Elsewhere it is not known.
func StationHere(netip.Addr) (mac string, found bool) { return "", false }
