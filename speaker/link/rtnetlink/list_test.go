// SPDX-License-Identifier: Apache-2.0

package rtnetlink

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestIsRelevant(t *testing.T) {
	route := func(dstLen byte, attributes ...uint16) []byte {
		message := append([]byte{unix.AF_INET, dstLen}, make([]byte, unix.SizeofRtMsg-2)...)
		for _, typ := range attributes {
			message = append(message, 8, 0, byte(typ), 0, 0, 0, 0, 0)
		}
		return message
	}
	for _, tt := range []struct {
		name string
		typ  uint16
		data []byte
		want bool
	}{
		{"link", unix.RTM_NEWLINK, nil, true},
		{"address gone", unix.RTM_DELADDR, nil, true},
		{"default route", unix.RTM_NEWROUTE, route(0), true},
		{"default route gone", unix.RTM_DELROUTE, route(0), true},
		{"route of a routing daemon", unix.RTM_NEWROUTE, route(24, unix.RTA_DST, unix.RTA_GATEWAY), false},
		{"route of a subnet on a link", unix.RTM_NEWROUTE, route(24, unix.RTA_DST, unix.RTA_OIF), true},
		{"route of a Pod", unix.RTM_NEWROUTE, route(32, unix.RTA_DST, unix.RTA_OIF), false},
		{"route cut short", unix.RTM_NEWROUTE, []byte{unix.AF_INET, 0}, false},
		{"neighbour", unix.RTM_NEWNEIGH, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := isRelevant(tt.typ, tt.data); got != tt.want {
				t.Errorf("isRelevant() = %t, want %t", got, tt.want)
			}
		})
	}
}
