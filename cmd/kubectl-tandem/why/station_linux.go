// SPDX-License-Identifier: Apache-2.0

package why

import (
	"encoding/binary"
	"net"
	"net/netip"
	"syscall"
)

// StationHere returns the MAC that the kernel of this machine has for an address, as Prober.StationHere does. It is false if the kernel has none,
// since it reaches the address by a router for example. It needs no right.
func StationHere(ip netip.Addr) (mac string, found bool) {
	const (
		header      = 12 // of struct ndmsg
		destination = 1  // NDA_DST
		linkLayer   = 2  // NDA_LLADDR
	)
	of := syscall.AF_INET6
	if ip.Is4() {
		of = syscall.AF_INET
	}
	table, err := syscall.NetlinkRIB(syscall.RTM_GETNEIGH, of)
	if err != nil {
		return "", false
	}
	messages, err := syscall.ParseNetlinkMessage(table)
	if err != nil {
		return "", false
	}
	for _, m := range messages {
		if m.Header.Type != syscall.RTM_NEWNEIGH || len(m.Data) < header {
			continue
		}
		attributes := attributesOf(m.Data[header:])
		if a, ok := netip.AddrFromSlice(attributes[destination]); ok && a == ip && len(attributes[linkLayer]) == 6 {
			return net.HardwareAddr(attributes[linkLayer]).String(), true
		}
	}
	return "", false
}

// attributesOf returns the attributes of a netlink message by their types.
func attributesOf(b []byte) map[uint16][]byte {
	const header = 4 // of struct rtattr: the length, the header's included, and the type
	attributes := map[uint16][]byte{}
	for len(b) >= header {
		length, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if length < header || length > len(b) {
			break
		}
		attributes[kind] = b[header:length]
		b = b[min(len(b), (length+header-1)&^(header-1)):]
	}
	return attributes
}
