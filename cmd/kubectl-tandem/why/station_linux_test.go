// SPDX-License-Identifier: Apache-2.0

package why

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// attribute returns a netlink attribute, padded to four bytes.
func attribute(kind uint16, value ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, (4-len(b)%4)%4)...)
}

func TestAttributes(t *testing.T) {
	address, mac := []byte{198, 51, 100, 200}, []byte{2, 0, 0, 0, 0, 0x7f}
	both := append(attribute(1, address...), attribute(2, mac...)...)
	for name, tt := range map[string]struct {
		from []byte
		want map[uint16][]byte
	}{
		"none":                              {nil, map[uint16][]byte{}},
		"an address and a MAC":              {both, map[uint16][]byte{1: address, 2: mac}},
		"the second one is cut off":         {both[:12], map[uint16][]byte{1: address}},
		"a length below that of the header": {[]byte{0, 0, 1, 0, 8, 0, 2, 0}, map[uint16][]byte{}},
	} {
		if diff := cmp.Diff(tt.want, attributesOf(tt.from)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestStationHere asks the kernel of this machine for an address that no machine has.
func TestStationHere(t *testing.T) {
	for _, ip := range []string{"192.0.2.254", "2001:db8::ffff"} {
		if mac, found := StationHere(netip.MustParseAddr(ip)); found {
			t.Errorf("%s is at %s", ip, mac)
		}
	}
}
