// SPDX-License-Identifier: Apache-2.0

package unnumbered

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/mdlayher/ndp"
)

func marshal(t testing.TB, m ndp.Message) []byte {
	t.Helper()
	b, err := ndp.MarshalMessage(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParse(t *testing.T) {
	linkLocal, global := netip.MustParseAddr("fe80::1"), netip.MustParseAddr("2001:db8::1")
	advertisement, solicitation := marshal(t, &ndp.RouterAdvertisement{}), marshal(t, &ndp.RouterSolicitation{})
	withCode := func(b []byte) []byte {
		b = append([]byte(nil), b...)
		b[1] = 1
		return b
	}
	for _, tt := range []struct {
		name     string
		message  []byte
		source   netip.Addr
		hopLimit int
		want     string // the error, "" for none
	}{
		{"an advertisement", advertisement, linkLocal, 255, ""},
		{"a solicitation", solicitation, linkLocal, 255, ""},
		{"a solicitation of a host without an address", solicitation, netip.IPv6Unspecified(), 255, ""},
		{"an advertisement from beyond the link", advertisement, linkLocal, 254, "it is not of this link"},
		{"a solicitation from beyond the link", solicitation, linkLocal, 64, "it is not of this link"},
		{"an advertisement from a global address", advertisement, global, 255, "is not link-local"},
		{"an advertisement with a code", withCode(advertisement), linkLocal, 255, "with code 1"},
		{"an advertisement that is cut short", advertisement[:15], linkLocal, 255, "failed to unmarshal"},
		{"an option without a length", append(append([]byte(nil), advertisement...), 1, 0), linkLocal, 255, "failed to unmarshal"},
		{"nothing", nil, linkLocal, 255, "too short"},
		{"a neighbour solicitation", marshal(t, &ndp.NeighborSolicitation{TargetAddress: global}), linkLocal, 255, "type 135"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := parse(tt.message, tt.source, tt.hopLimit)
			switch {
			case tt.want == "" && (err != nil || m == nil), tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("parse() = %v, %v; want %q", m, err, tt.want)
			case tt.want != "" && m != nil:
				t.Errorf("parse() = %v beside an error", m)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(marshal(f, &ndp.RouterAdvertisement{Options: []ndp.Option{ndp.NewMTU(1500)}}), []byte(netip.MustParseAddr("fe80::1").AsSlice()), 255)
	f.Add(marshal(f, &ndp.RouterSolicitation{}), []byte(netip.IPv6Unspecified().AsSlice()), 255)
	f.Add([]byte{134}, []byte{}, 0)
	f.Fuzz(func(t *testing.T, b, from []byte, hopLimit int) {
		source, _ := netip.AddrFromSlice(from)
		m, err := parse(b, source, hopLimit)
		if err != nil {
			return
		}
		if _, ok := m.(*ndp.RouterAdvertisement); ok && (hopLimit != 255 || !source.IsLinkLocalUnicast() || b[1] != 0) {
			t.Errorf("an advertisement from %v with hop limit %d and code %d is valid", source, hopLimit, b[1])
		}
	})
}
