// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"strings"
	"testing"
)

func TestParseCommunity(t *testing.T) {
	for _, tt := range []struct {
		name, in, want string
		wantError      string
	}{
		{name: "two numbers", in: "64512:100", want: "64512:100"},
		{name: "the largest of both halves", in: "65535:65535", want: "65535:65535"},
		{name: "a large community", in: "large:64512:1:2", want: "large:64512:1:2"},
		{name: "the largest large community", in: "large:4294967295:4294967295:4294967295", want: "large:4294967295:4294967295:4294967295"},
		{name: "RFC 1997 no-export", in: "no-export", want: "65535:65281"},
		{name: "RFC 1997 no-advertise", in: "no-advertise", want: "65535:65282"},
		{name: "RFC 1997 no-export-subconfed", in: "no-export-subconfed", want: "65535:65283"},
		{name: "RFC 3765 no-peer", in: "no-peer", want: "65535:65284"},
		{name: "RFC 7999 blackhole", in: "blackhole", want: "65535:666"},
		{name: "RFC 8326 graceful-shutdown", in: "graceful-shutdown", want: "65535:0"},
		{name: "RFC 8326 graceful-shutdown as routers call it", in: "planned-shut", want: "65535:0"},
		{name: "RFC 9026 standby-pe", in: "standby-pe", want: "65535:9"},
		{name: "a decimal number", in: "4227858532", want: "64512:100"},
		{name: "the largest decimal number", in: "4294967295", want: "65535:65535"},
		{name: "the least decimal number", in: "65536", want: "1:0"},
		{name: "a decimal number beyond 32 bits", in: "4294967296", wantError: "is not a community"},
		{name: "one number", in: "64512", wantError: "is not a community"},
		{name: "a large community of one decimal number", in: "large:4227858532", wantError: "is not a community"},
		{name: "nothing", in: "", wantError: "is not a community"},
		{name: "an unknown name", in: "no-way", wantError: "is not a community"},
		{name: "a four-octet AS in a standard community", in: "70000:1", wantError: `"70000" is not a number of 16 bits`},
		{name: "three numbers without large", in: "1:2:3", wantError: "is not a community"},
		{name: "a large community of two numbers", in: "large:1:2", wantError: "is not a community"},
		{name: "a large community beyond 32 bits", in: "large:1:2:4294967296", wantError: "is not a number of 32 bits"},
		{name: "a negative number", in: "64512:-1", wantError: `"-1" is not a number`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseCommunity(tt.in)
			if tt.wantError != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantError) {
					t.Fatalf("ParseCommunity(%q) = %v, %v; want an error with %q", tt.in, got, err, tt.wantError)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != tt.want {
				t.Errorf("ParseCommunity(%q) = %v, want %v", tt.in, got, tt.want)
			}
			if again, err := ParseCommunity(got.String()); err != nil || again != got {
				t.Errorf("%v does not survive being written and read: %v, %v", got, again, err)
			}
		})
	}
}
