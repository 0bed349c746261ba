// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/tandem-lb/tandem/speaker/link"
)

func TestHostAddress(t *testing.T) {
	on := func(prefixes ...string) *link.Snapshot {
		i := link.Interface{Name: "eth0"}
		for _, p := range prefixes {
			i.Addresses = append(i.Addresses, link.Address{Prefix: netip.MustParsePrefix(p)})
		}
		return &link.Snapshot{Interfaces: []link.Interface{i}}
	}
	node := func(addresses ...string) *corev1.Node {
		n := &corev1.Node{}
		for _, a := range addresses {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
		}
		return n
	}
	ips := func(texts ...string) (all []netip.Addr) {
		for _, text := range texts {
			all = append(all, netip.MustParseAddr(text))
		}
		return all
	}
	here := on("198.51.100.11/24")
	for _, tt := range []struct {
		name  string
		host  hostAddress // its address is 198.51.100.11 unless it has any
		links *link.Snapshot
		node  *corev1.Node
		want  string // in the error after addressPatience; "" for none
	}{
		{name: "it is on an interface", links: here, node: node("2001:db8:51::11", "198.51.100.11")},
		{name: "the Node is not known", links: here},
		{name: "the Node has no address of the family", links: here, node: node("2001:db8:51::11")},
		{
			name: "the Node has got one of the other family", links: on("198.51.100.11/24", "2001:db8:51::11/64"),
			node: node("2001:db8:51::11", "198.51.100.11"), want: "at 2001:db8:51::11, and it does not use it",
		},
		{
			name: "both are there", host: hostAddress{addresses: ips("198.51.100.11", "2001:db8:51::11")},
			links: on("198.51.100.11/24", "2001:db8:51::11/64"), node: node("2001:db8:51::11", "198.51.100.11"),
		},
		{
			name: "the second is on no interface", host: hostAddress{addresses: ips("198.51.100.11", "2001:db8:51::11")},
			links: here, node: node("2001:db8:51::11", "198.51.100.11"), want: "the address 2001:db8:51::11",
		},
		{name: "it is on no interface", links: on("198.51.100.21/24"), node: node("198.51.100.11"), want: "the address 198.51.100.11"},
		{name: "the Node has another", links: on("198.51.100.11/24", "198.51.100.21/24"), node: node("198.51.100.21"), want: "at 198.51.100.21, and it uses 198.51.100.11"},
		{
			name: "the Node has an IPv4 address only now", host: hostAddress{addresses: ips("2001:db8:51::11")},
			links: on("2001:db8:51::11/64", "198.51.100.11/24"), node: node("2001:db8:51::11", "198.51.100.11"),
			want: "at 198.51.100.11, and it does not use it",
		},
		{
			name: "the node has IPv4 by translation only", host: hostAddress{addresses: ips("2001:db8:51::11")},
			links: on("2001:db8:51::11/64"), node: node("2001:db8:51::11", "192.0.2.11"),
		},
		{name: "the Node has another, and a user wants this one", host: hostAddress{fixed: true}, links: here, node: node("198.51.100.21")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := tt.host
			if h.addresses == nil {
				h.addresses = ips("198.51.100.11")
			}
			if err := h.Check(isolationStart, tt.links, tt.node); err != nil {
				t.Errorf("at first: %v", err)
			}
			err := h.Check(isolationStart.Add(addressPatience), tt.links, tt.node)
			if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("after %v: %v, want an error with %q", addressPatience, err, tt.want)
			}
		})
	}
	h := hostAddress{addresses: ips("198.51.100.11")}
	gone := on()
	for _, links := range []*link.Snapshot{gone, here, gone} { // It was back for a moment.
		if err := h.Check(isolationStart, links, nil); err != nil {
			t.Error(err)
		}
		isolationStart := isolationStart.Add(addressPatience - time.Second)
		if err := h.Check(isolationStart, links, nil); err != nil {
			t.Error(err)
		}
	}
}
