// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name, packet string
		want         Packet
		err          error
	}{
		{
			name: "up, with every flag that is allowed", packet: "21f2031800000001000000020004_93e0_000186a0_0000c350",
			want: Packet{
				Diagnostic: DetectionTimeExpired, State: Up, Poll: true, Final: true, Demand: true,
				DetectMultiplier: 3, MyDiscriminator: 1, YourDiscriminator: 2,
				DesiredMinTx: 300 * time.Millisecond, RequiredMinRx: 100 * time.Millisecond, MinEchoRx: 50 * time.Millisecond,
			},
		},
		{
			name: "the first packet of a session, with a byte after its end", packet: "2040031800000001_00000000_000f4240_000f4240_00000000_ff",
			want: Packet{State: Down, DetectMultiplier: 3, MyDiscriminator: 1, DesiredMinTx: time.Second, RequiredMinRx: time.Second},
		},
		{name: "empty", packet: "", err: ErrShort},
		{name: "a byte short", packet: "20c00318000000010000000200000000000000000000_00", err: ErrShort},
		{name: "the length field says less than 24 bytes", packet: "20c00317000000010000000200000000000000000000_0000", err: ErrShort},
		{name: "the length field says more bytes than there are", packet: "20c00319000000010000000200000000000000000000_0000", err: ErrShort},
		{name: "version 0", packet: "00c00318000000010000000200000000000000000000_0000", err: ErrVersion},
		{name: "multiplier 0", packet: "20c00018000000010000000200000000000000000000_0000", err: ErrMultiplier},
		{name: "multipoint", packet: "20c10318000000010000000200000000000000000000_0000", err: ErrMultipoint},
		{name: "no discriminator of the sender", packet: "20c00318000000000000000200000000000000000000_0000", err: ErrDiscriminator},
		{name: "up without our discriminator", packet: "20c00318000000010000000000000000000000000000_0000", err: ErrDiscriminator},
		{name: "authenticated", packet: "20c40318000000010000000200000000000000000000_0000", err: ErrAuthenticated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b []byte
			for _, r := range tt.packet {
				if r != '_' {
					b = append(b, byte(r))
				}
			}
			b = unhex(t, string(b))
			got, err := Parse(b)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error = %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if tt.err == nil {
				if diff := cmp.Diff(b[:minLength], got.Append(nil)); diff != "" {
					t.Errorf("written again (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// FuzzParse checks that what Parse takes is written again as it came, but for the bits that mean nothing here.
func FuzzParse(f *testing.F) {
	f.Add([]byte{})
	f.Add(Packet{State: Up, DetectMultiplier: 3, MyDiscriminator: 1, YourDiscriminator: 2}.Append(nil))
	f.Add(Packet{State: Down, Poll: true, DetectMultiplier: 1, MyDiscriminator: 1}.Append([]byte{0x20}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			if p != (Packet{}) {
				t.Errorf("an error and %+v", p)
			}
			return
		}
		again := p.Append(nil)
		want := append([]byte(nil), b[:minLength]...)
		want[1] &^= flagIndependent
		want[3] = minLength
		if diff := cmp.Diff(want, again); diff != "" {
			t.Errorf("written again (-want +got):\n%s", diff)
		}
	})
}
