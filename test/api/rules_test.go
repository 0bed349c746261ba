// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/schema"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bgp"
)

// A rule is one object and what the API server shall say to it.
type rule struct {
	name string
	// object is what follows apiVersion and kind.
	object string
	// wantError is the field and a part of the message, as in "spec.med: less than"; empty where the object is fine.
	wantError string
}

func testRules(t *testing.T, kind string, rules []rule) {
	for _, rule := range rules {
		t.Run(rule.name, func(t *testing.T) {
			obj := object(t, kind, rule.object)
			foreseen := foresee(t, obj)
			got := causes(t, tryCreate(t.Context(), obj))
			if diff := cmp.Diff(fieldsOf(got), foreseen); diff != "" {
				t.Errorf("fields that the API server refuses, and that the plugin does without it (-server +plugin):\n%s", diff)
			}
			if rule.wantError == "" {
				if len(got) > 0 {
					t.Fatalf("was refused: %s", got)
				}
				return
			}
			field, message, _ := strings.Cut(rule.wantError, ": ")
			if len(got) != 1 || !strings.HasPrefix(got[0], field+": ") || !strings.Contains(got[0], message) {
				t.Errorf("got refusals %q, want exactly one: %s", got, rule.wantError)
			}
		})
	}
}

// foresee returns the fields of an object that `kubectl tandem convert` would refuse, sorted.
func foresee(t *testing.T, obj *unstructured.Unstructured) []string {
	t.Helper()
	refusals, err := schema.Refusals(obj.Object)
	if err != nil {
		t.Fatal(err)
	}
	var fields []string
	for _, r := range refusals {
		fields = append(fields, r.Path)
	}
	slices.Sort(fields)
	return fields
}

// fieldsOf returns the fields of causes, sorted.
func fieldsOf(causes []string) (fields []string) {
	for _, cause := range causes {
		field, _, _ := strings.Cut(cause, ": ")
		fields = append(fields, field)
	}
	slices.Sort(fields)
	return fields
}

// pool is the object of an AddressPool with one range.
func pool(family, text string) string {
	return fmt.Sprintf("spec: {%s: {ranges: [%q]}}", family, text)
}

func TestAddressPool(t *testing.T) {
	const (
		notIPv4  = "spec.ipv4.ranges[0]: must be a CIDR (192.0.2.0/24), a range (192.0.2.10-192.0.2.20) or an address"
		notIPv6  = "spec.ipv6.ranges[0]: must be a CIDR (2001:db8::/112), a range (2001:db8::1-2001:db8::ff) or an address"
		isIPv6   = "spec.ipv4.ranges[0]: is IPv6; put it under spec.ipv6"
		isIPv4   = "spec.ipv6.ranges[0]: is IPv4; put it under spec.ipv4"
		twoOf4   = "spec.ipv4.ranges[0]: the first and the last address are of different families"
		twoOf6   = "spec.ipv6.ranges[0]: the first and the last address are of different families"
		reverse4 = "spec.ipv4.ranges[0]: the last address comes before the first; swap them"
		reverse6 = "spec.ipv6.ranges[0]: the last address comes before the first; swap them"
	)
	testRules(t, "AddressPool", []rule{
		{"IPv4 CIDR", pool("ipv4", "192.0.2.0/24"), ""},
		{"IPv4 CIDR with host bits", pool("ipv4", "192.0.2.7/24"), ""},
		{"every IPv4 address", pool("ipv4", "0.0.0.0/0"), ""},
		{"IPv4 range", pool("ipv4", "192.0.2.10-192.0.2.20"), ""},
		{"IPv4 range of one address", pool("ipv4", "192.0.2.10-192.0.2.10"), ""},
		{"IPv4 range that parts in its first octet", pool("ipv4", "9.255.255.255-10.0.0.0"), ""},
		{"IPv4 range whose octets order otherwise as text", pool("ipv4", "192.0.2.9-192.0.2.10"), ""},
		{"IPv4 address", pool("ipv4", "192.0.2.1"), ""},
		{"IPv6 CIDR", pool("ipv6", "2001:db8::/112"), ""},
		{"IPv6 CIDR with host bits", pool("ipv6", "2001:db8:51::1000/116"), ""},
		{"every IPv6 address", pool("ipv6", "::/0"), ""},
		{"IPv6 range", pool("ipv6", "2001:db8::1-2001:db8::ff"), ""},
		{"IPv6 range whose last bit parts", pool("ipv6", "2001:db8::fe-2001:db8::ff"), ""},
		{"IPv6 range whose first bit parts", pool("ipv6", "7fff::-8000::"), ""},
		{"IPv6 range of one address in two spellings", pool("ipv6", "2001:db8::a-2001:DB8:0::A"), ""},
		{"IPv6 range of the longest spelling", pool("ipv6",
			"2001:0db8:aaaa:bbbb:cccc:dddd:eeee:0000-2001:0db8:aaaa:bbbb:cccc:dddd:eeee:ffff"), ""},
		{"IPv6 address", pool("ipv6", "2001:db8::1"), ""},

		{"IPv6 CIDR in the IPv4 partition", pool("ipv4", "2001:db8::/64"), isIPv6},
		{"IPv6 range in the IPv4 partition", pool("ipv4", "2001:db8::1-2001:db8::2"), isIPv6},
		{"reversed IPv6 range in the IPv4 partition", pool("ipv4", "2001:db8::2-2001:db8::1"), isIPv6},
		{"IPv6 address in the IPv4 partition", pool("ipv4", "2001:db8::1"), isIPv6},
		{"IPv4 CIDR in the IPv6 partition", pool("ipv6", "192.0.2.0/24"), isIPv4},
		{"reversed IPv4 range in the IPv6 partition", pool("ipv6", "192.0.2.2-192.0.2.1"), isIPv4},
		{"IPv4 address in the IPv6 partition", pool("ipv6", "192.0.2.1"), isIPv4},
		{"IPv4 range that ends as IPv6", pool("ipv4", "192.0.2.1-2001:db8::1"), twoOf4},
		{"IPv6 range that begins as IPv4", pool("ipv6", "192.0.2.1-2001:db8::1"), twoOf6},
		{"IPv6 range that ends as IPv4", pool("ipv6", "2001:db8::1-192.0.2.1"), twoOf6},
		{"reversed IPv4 range", pool("ipv4", "192.0.2.20-192.0.2.10"), reverse4},
		{"IPv4 range reversed in its first octet only", pool("ipv4", "10.0.0.0-9.255.255.255"), reverse4},
		{"reversed IPv6 range", pool("ipv6", "2001:db8::ff-2001:db8::1"), reverse6},
		{"IPv6 range reversed in its first bit only", pool("ipv6", "8000::-7fff:ffff::"), reverse6},
		{"IPv6 range reversed in its last bit", pool("ipv6", "2001:db8::ff-2001:db8::fe"), reverse6},

		{"nothing", pool("ipv4", ""), notIPv4},
		{"word", pool("ipv4", "lan"), notIPv4},
		{"prefix length beyond the address", pool("ipv4", "192.0.2.0/33"), notIPv4},
		{"octet of 256", pool("ipv4", "192.0.2.256"), notIPv4},
		{"octet with a leading zero", pool("ipv4", "192.0.2.010"), notIPv4},
		{"three octets", pool("ipv4", "192.0.2"), notIPv4},
		{"netmask instead of a prefix length", pool("ipv4", "192.0.2.0/255.255.255.0"), notIPv4},
		{"range without a last address", pool("ipv4", "192.0.2.1-"), notIPv4},
		{"range without a first address", pool("ipv4", "-192.0.2.1"), notIPv4},
		{"range with its last octet alone", pool("ipv4", "192.0.2.1-20"), notIPv4},
		{"range of three addresses", pool("ipv4", "192.0.2.1-192.0.2.2-192.0.2.3"), notIPv4},
		{"range of CIDRs", pool("ipv4", "192.0.2.0/25-192.0.2.128/25"), notIPv4},
		{"range with spaces", pool("ipv4", "192.0.2.1 - 192.0.2.2"), notIPv4},
		{"several ranges in one", pool("ipv4", "192.0.2.1,192.0.2.2"), notIPv4},
		{"digits that are not ASCII", pool("ipv4", "192.0.2.１"), notIPv4},
		{"prefix length beyond an IPv6 address", pool("ipv6", "2001:db8::/129"), notIPv6},
		{"IPv4-mapped IPv6 address", pool("ipv6", "::ffff:192.0.2.1"), notIPv6},
		{"IPv4-mapped IPv6 CIDR", pool("ipv6", "::ffff:192.0.2.0/120"), notIPv6},
		{"IPv6 address with a zone", pool("ipv6", "fe80::1%eth0"), notIPv6},
		{"IPv6 address in brackets", pool("ipv6", "[2001:db8::1]"), notIPv6},
		{
			"text that is longer than any range", pool("ipv4", strings.Repeat("1", 81)),
			"spec.ipv4.ranges[0]: Too long: may not be more than 80",
		},

		{
			"exclude with an address, a range and a CIDR",
			`spec: {ipv4: {ranges: [192.0.2.0/24], exclude: [192.0.2.1, 192.0.2.8-192.0.2.9, 192.0.2.128/25]}}`, "",
		},
		{
			"exclude of the other family",
			`spec: {ipv4: {ranges: [192.0.2.0/24], exclude: [192.0.2.1, "2001:db8::1"]}}`,
			"spec.ipv4.exclude[1]: is IPv6; put it under spec.ipv6",
		},
		{
			"reversed exclude",
			`spec: {ipv6: {ranges: ["2001:db8::/64"], exclude: ["2001:db8::2-2001:db8::1"]}}`,
			"spec.ipv6.exclude[0]: the last address comes before the first",
		},
		{
			"second range is the bad one",
			`spec: {ipv4: {ranges: [192.0.2.0/24, 192.0.2.0/33]}}`, "spec.ipv4.ranges[1]: must be a CIDR",
		},
		{
			"same range twice",
			`spec: {ipv4: {ranges: [192.0.2.0/24, 192.0.2.0/24]}}`, "spec.ipv4.ranges[1]: Duplicate value",
		},
		{"no partition", `spec: {}`, "spec: the pool is empty; give it spec.ipv4.ranges, spec.ipv6.ranges or both"},
		{"no spec", `{}`, "spec: Required value"},
		{"partition without ranges", `spec: {ipv4: {}}`, "spec.ipv4.ranges: Required value"},
		{"partition with an empty list", `spec: {ipv4: {ranges: []}}`, "spec.ipv4.ranges: should have at least 1 items"},
		{
			"unknown allocation",
			`spec: {ipv4: {ranges: [192.0.2.0/24]}, allocation: Random}`, `spec.allocation: supported values: "Sequential", "Stable"`,
		},
		{"limit of one address", `spec: {ipv4: {ranges: [192.0.2.0/24]}, limits: {perNamespace: {ipv4: 1}}}`, ""},
		{
			"limit of no address",
			`spec: {ipv4: {ranges: [192.0.2.0/24]}, limits: {perNamespace: {ipv6: 0}}}`, "spec.limits.perNamespace.ipv6: greater than or equal to 1",
		},
		{
			"limit beyond 31 bits",
			`spec: {ipv4: {ranges: [192.0.2.0/24]}, limits: {perNamespace: {ipv4: 2147483648}}}`, "spec.limits.perNamespace.ipv4: less than or equal to 2147483647",
		},
		{"limits of nothing", `spec: {ipv4: {ranges: [192.0.2.0/24]}, limits: {}}`, "spec.limits.perNamespace: Required value"},
		{
			"limits of no family",
			`spec: {ipv4: {ranges: [192.0.2.0/24]}, limits: {perNamespace: {}}}`, "spec.limits.perNamespace: should have at least 1 properties",
		},
		{"fixed addresses denied", `spec: {ipv4: {ranges: [192.0.2.0/24]}, fixedAddresses: Denied}`, ""},
		{
			"unknown word for fixed addresses",
			`spec: {ipv4: {ranges: [192.0.2.0/24]}, fixedAddresses: "No"}`, `spec.fixedAddresses: supported values: "Allowed", "Denied"`,
		},
		{"reuse at once", reuse("0s"), ""},
		{"reuse in the longest time", reuse("720h"), ""},
		{"reuse after more than that", reuse("720h1s"), notReuse},
		{"reuse before release", reuse("-1s"), notReuse},
		{"reuse without a unit", reuse("10"), notReuse},
		{"reuse in days", reuse("1d"), notReuse},
		{"selectors", `spec: {ipv4: {ranges: [192.0.2.0/24]}, namespaceSelectors: [{}], serviceSelectors: [{matchLabels: {a: b}}, {matchLabels: {a: c}}]}`, ""},
		{
			"one selector in place of a list",
			`spec: {ipv4: {ranges: [192.0.2.0/24]}, namespaceSelectors: {}}`, `spec.namespaceSelectors: must be of type array: "object"`,
		},
		{"65 selectors", `spec: {ipv4: {ranges: [192.0.2.0/24]}, serviceSelectors: [` + strings.Repeat("{},", 65) + `]}`, "spec.serviceSelectors: must have at most 64 items"},
		{"priority 1", `spec: {ipv4: {ranges: [192.0.2.0/24]}, priority: 1}`, ""},
		{
			"priority 0",
			`spec: {ipv4: {ranges: [192.0.2.0/24]}, priority: 0}`, "spec.priority: should be greater than or equal to 1",
		},
		{
			"priority beyond 31 bits",
			`spec: {ipv4: {ranges: [192.0.2.0/24]}, priority: 2147483648}`, "spec.priority: should be less than or equal to 2147483647",
		},
		{
			"name that fits a label",
			`{metadata: {name: ` + strings.Repeat("a", 63) + `}, spec: {ipv4: {ranges: [192.0.2.0/24]}}}`, "",
		},
		{
			"name that is too long for a label",
			`{metadata: {name: ` + strings.Repeat("a", 64) + `}, spec: {ipv4: {ranges: [192.0.2.0/24]}}}`,
			"metadata: name must have at most 63 characters",
		},
	})
}

// reuse is the object of an AddressPool with reuseAfter.
func reuse(after string) string {
	return fmt.Sprintf("spec: {ipv4: {ranges: [192.0.2.0/24]}, reuseAfter: %q}", after)
}

const notReuse = "spec.reuseAfter: must be a duration from 0s to 720h such as 10m"

// TestReservedRanges tries ranges of addresses that no Service can have. What merely contains some of these is accepted, and so is what
// only excludes them.
func TestReservedRanges(t *testing.T) {
	const (
		no4 = "spec.ipv4.ranges[0]: no Service can have such an address"
		no6 = "spec.ipv6.ranges[0]: no Service can have such an address"
	)
	testRules(t, "AddressPool", []rule{
		{"loopback", pool("ipv4", "127.0.0.0/8"), no4},
		{"one loopback address", pool("ipv4", "127.0.0.1"), no4},
		{"one loopback address as a CIDR", pool("ipv4", "127.0.0.1/32"), no4},
		{"first and last loopback address", pool("ipv4", "127.0.0.0-127.255.255.255"), no4},
		{"loopback and the address before", pool("ipv4", "126.255.255.255-127.255.255.255"), ""},
		{"loopback and the address after", pool("ipv4", "127.0.0.0-128.0.0.0"), ""},
		{"CIDR around loopback", pool("ipv4", "127.0.0.1/7"), ""},
		{"unspecified address", pool("ipv4", "0.0.0.0"), no4},
		{"unspecified address as a CIDR", pool("ipv4", "0.0.0.0/32"), no4},
		{"unspecified address as a range", pool("ipv4", "0.0.0.0-0.0.0.0"), no4},
		{"unspecified address and the next", pool("ipv4", "0.0.0.0-0.0.0.1"), ""},
		{"CIDR of the unspecified address and the next", pool("ipv4", "0.0.0.0/31"), ""},
		{"link-local", pool("ipv4", "169.254.0.0/16"), no4},
		{"link-local range", pool("ipv4", "169.254.0.0-169.254.255.255"), no4},
		{"link-local and the address before", pool("ipv4", "169.253.255.255-169.254.0.0"), ""},
		{"link-local and the address after", pool("ipv4", "169.254.255.255-169.255.0.0"), ""},
		{"CIDR around link-local", pool("ipv4", "169.254.0.0/15"), ""},
		{"multicast", pool("ipv4", "224.0.0.0/4"), no4},
		{"multicast range", pool("ipv4", "224.0.0.0-224.0.0.9"), no4},
		{"multicast and the address before", pool("ipv4", "223.255.255.255-224.0.0.0"), ""},
		{"class E", pool("ipv4", "240.0.0.0/4"), no4},
		{"multicast and class E", pool("ipv4", "239.255.255.255-240.0.0.0"), no4},
		{"limited broadcast", pool("ipv4", "255.255.255.255"), no4},
		{"CIDR around multicast and class E", pool("ipv4", "224.0.0.0/2"), ""},
		{"every IPv4 address", pool("ipv4", "0.0.0.0/0"), ""},
		{"first to last IPv4 address", pool("ipv4", "0.0.0.0-255.255.255.255"), ""},
		{"one IPv4 address", pool("ipv4", "192.0.2.1/32"), ""},
		{"second range is the reserved one", `spec: {ipv4: {ranges: [192.0.2.0/24, 127.0.0.1]}}`, "spec.ipv4.ranges[1]: no Service can have"},
		{"reserved addresses excluded", `spec: {ipv4: {ranges: [0.0.0.0/0], exclude: [127.0.0.0/8, 224.0.0.0/3]}}`, ""},

		{"IPv6 loopback", pool("ipv6", "::1"), no6},
		{"IPv6 loopback as a CIDR", pool("ipv6", "::1/128"), no6},
		{"IPv6 unspecified address", pool("ipv6", "::"), no6},
		{"IPv6 unspecified address and loopback", pool("ipv6", "::-::1"), no6},
		{"CIDR of both", pool("ipv6", "::/127"), no6},
		{"both and the next address", pool("ipv6", "::-::2"), ""},
		{"CIDR around both", pool("ipv6", "::/126"), ""},
		{"IPv6 link-local", pool("ipv6", "fe80::/64"), no6},
		{"all of IPv6 link-local", pool("ipv6", "fe80::-febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), no6},
		{"IPv6 link-local and the address before", pool("ipv6", "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff-fe80::"), ""},
		{"IPv6 link-local and the address after", pool("ipv6", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff-fec0::"), ""},
		{"CIDR around IPv6 link-local", pool("ipv6", "fe80::/9"), ""},
		{"IPv6 multicast", pool("ipv6", "ff00::/8"), no6},
		{"IPv6 multicast range", pool("ipv6", "ff02::1-ff02::2"), no6},
		{"IPv6 multicast and the address before", pool("ipv6", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff-ff00::"), ""},
		{"CIDR around IPv6 multicast", pool("ipv6", "ff00::/7"), ""},
		{"IPv4-mapped range", pool("ipv6", "::ffff:192.0.2.1-::ffff:192.0.2.9"), "spec.ipv6.ranges[0]: must be a CIDR"},
		{"IPv4-mapped range in hexadecimal", pool("ipv6", "::ffff:c000:201-::ffff:c000:209"), "spec.ipv6.ranges[0]: must be a CIDR"},
		{"IPv4-mapped CIDR in hexadecimal", pool("ipv6", "::ffff:0:0/96"), "spec.ipv6.ranges[0]: must be a CIDR"},
		{"range around IPv4-mapped addresses", pool("ipv6", "::fffe:ffff:ffff-::1:0:0:0"), ""},
		{"every IPv6 address", pool("ipv6", "::/0"), ""},
		{"one IPv6 address", pool("ipv6", "2001:db8::1/128"), ""},
		{"unique local addresses", pool("ipv6", "fd00::/8"), ""},
	})
}

// TestOddNotation tries ranges and peers as users of other load balancers have typed them.
func TestOddNotation(t *testing.T) {
	const notRange = "spec.ipv4.ranges[0]: must be a CIDR (192.0.2.0/24), a range (192.0.2.10-192.0.2.20) or an address"
	testRules(t, "AddressPool", []rule{
		{"block scalar with a line feed", "spec:\n  ipv4:\n    ranges:\n    - |\n      4.4.4.100 - 4.4.4.101\n", notRange},
		{"range of one address", pool("ipv4", "192.168.1.210-192.168.1.210"), ""},
		{"dot for dash", pool("ipv4", "192.168.1.240.192.168.1.250"), notRange},
		{"octet beyond 255", pool("ipv4", "10.1.0.251-10.1.0.259"), notRange},
		{"two in one text", pool("ipv4", "10.129.0.29,10.129.0.34"), notRange},
		{"two CIDRs in one text", pool("ipv4", "192.168.1.240/28, 10.0.0.0/28"), notRange},
		{"leading zeros in a group", pool("ipv6", "fdd2:337d:e558:13ca:10::020-fdd2:337d:e558:13ca:10::02f"), ""},
		{"leading zeros in the first groups", pool("ipv6", "2001:0db8:a:f104::/64"), ""},
		{"upper case", `spec: {ipv6: {ranges: ["2001:DB8:A::FFFF", "FD00::1-FD00::F"]}}`, ""},
		{"both families in one list", `spec: {ipv4: {ranges: [192.168.10.0/24, "fc00:f853:0ccd:e799::/124"]}}`, "spec.ipv4.ranges[1]: is IPv6; put it under spec.ipv6"},
		{"host bits, /31 and /32", `spec: {ipv4: {ranges: [192.168.20.7/24, 192.168.21.0/31, 192.168.21.9/32]}}`, ""},
	})
	testRules(t, "BGPPeer", []rule{
		{
			"hold time and keepalive time 0s",
			`spec: {myASN: 64500, peerASN: 64500, peerAddress: 10.46.186.88, holdTime: 0s, keepaliveTime: 0s, nodeSelectors: [{matchLabels: {nowhere: "true"}}]}`, "",
		},
		{"empty reference to a Secret", peer("passwordSecret: {}"), "spec.passwordSecret.name: Required value"},
		{
			"zone in the peer address",
			`spec: {myASN: 64512, peerASN: 64513, peerAddress: "fe80::1%enp1s0"}`, "spec.peerAddress: has a zone; write the address here and what follows % in spec.interface",
		},
	})
}

// TestAddressPoolOrder compares the CEL rules, which cannot compare addresses, with netip, which can.
func TestAddressPoolOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 6))
	for _, family := range []struct {
		name string
		size int
	}{{"ipv4", 4}, {"ipv6", 16}} {
		t.Run(family.name, func(t *testing.T) {
			var ranges, want []string
			for i := range 64 {
				first, last := make([]byte, family.size), make([]byte, family.size)
				for b := range first {
					first[b], last[b] = byte(random.Uint32()), byte(random.Uint32())
				}
				first[0], last[0] = first[0]|0x20, last[0]|0x20 // keeps clear of IPv4-mapped addresses
				copy(last, first[:random.IntN(family.size)])
				a, _ := netip.AddrFromSlice(first)
				b, _ := netip.AddrFromSlice(last)
				ranges = append(ranges, a.String()+"-"+b.String())
				if b.Less(a) {
					want = append(want, fmt.Sprintf("spec.%s.ranges[%d]", family.name, i))
				}
			}
			text, err := json.Marshal(ranges)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			spec := fmt.Sprintf("spec: {%s: {ranges: %s}}", family.name, text)
			for _, cause := range causes(t, tryCreate(t.Context(), object(t, "AddressPool", spec))) {
				if field, message, _ := strings.Cut(cause, ": "); strings.Contains(message, "comes before the first") {
					got = append(got, field)
				}
			}
			slices.Sort(want)
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("ranges refused as reversed (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAddressPoolBudget fills every list with what costs the CEL rules most: long texts that part in their last bit.
func TestAddressPoolBudget(t *testing.T) {
	var spec ipamv1alpha1.AddressPoolSpec
	spec.IPv4, spec.IPv6 = &ipamv1alpha1.IPv4Partition{}, &ipamv1alpha1.IPv6Partition{}
	for i := range 64 {
		v4 := ipamv1alpha1.IPv4Range(fmt.Sprintf("198.151.100.%d-198.151.100.%d", 2*i+100, 2*i+101))
		v6 := fmt.Sprintf("2001:0db8:aaaa:bbbb:cccc:dddd:eeee:%02x", i)
		spec.IPv4.Ranges, spec.IPv4.Exclude = append(spec.IPv4.Ranges, v4), append(spec.IPv4.Exclude, v4)
		r := ipamv1alpha1.IPv6Range(v6 + "fe-" + v6 + "ff")
		spec.IPv6.Ranges, spec.IPv6.Exclude = append(spec.IPv6.Ranges, r), append(spec.IPv6.Exclude, r)
	}
	pool := &ipamv1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: "full"}, Spec: spec}
	if err := tryCreate(t.Context(), pool); err != nil {
		t.Errorf("was refused: %v", err)
	}
}

// peer is the object of a BGPPeer: a good one, and more.
func peer(more string) string {
	return "spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, " + more + "}"
}

func TestBGPPeer(t *testing.T) {
	const (
		hold      = "spec.holdTime: must be 0s, or whole seconds from 3s to 65535s"
		keepalive = "spec.keepaliveTime: must be at least 1s and at most a third of holdTime, or 0s where holdTime is 0s"
	)
	testRules(t, "BGPPeer", []rule{
		{"peer with the least there can be", peer(""), ""},
		{"peer of the largest numbers", `spec: {myASN: 4294967295, peerASN: 4294967295, peerAddress: "2001:db8::1"}`, ""},
		{"default gateway", `spec: {myASN: 64512, dynamicASN: External, defaultGateway: IPv4, sourceInterface: lo, ebgpMultiHop: true}`, ""},
		{"default gateway on one link", `spec: {myASN: 64512, dynamicASN: External, defaultGateway: IPv6, interface: eth1}`, ""},
		{"default gateway with a source", `spec: {myASN: 64512, peerASN: 64513, defaultGateway: IPv6, sourceAddress: "2001:db8::1"}`, ""},
		{
			"default gateway with a source of the other family",
			`spec: {myASN: 64512, peerASN: 64513, defaultGateway: IPv6, sourceAddress: 192.0.2.11}`, "spec.sourceAddress: must be of the family that defaultGateway names",
		},
		{"default gateway of no family", `spec: {myASN: 64512, peerASN: 64513, defaultGateway: "yes"}`, `spec.defaultGateway: supported values: "IPv4", "IPv6"`},
		{"peer address and default gateway", peer("defaultGateway: IPv4"), "spec.defaultGateway: peerAddress and defaultGateway exclude each other"},
		{"source interface", peer("sourceInterface: lo"), ""},
		{
			"source interface and source address",
			peer("sourceInterface: lo, sourceAddress: 192.0.2.11"), "spec.sourceInterface: sourceAddress and sourceInterface exclude each other",
		},
		{
			"source interface of an unnumbered session",
			`spec: {myASN: 64512, peerASN: 64513, interface: eth1, sourceInterface: lo}`, "spec.sourceInterface: an unnumbered session has its source",
		},
		{"source interface with a slash", peer("sourceInterface: eth0/1"), "spec.sourceInterface: must be the name of a network interface"},
		{"one received prefix", peer("maxReceivedPrefixes: 1"), ""},
		{"no received prefix", peer("maxReceivedPrefixes: 0"), "spec.maxReceivedPrefixes: greater than or equal to 1"},
		{"a million received prefixes", peer("maxReceivedPrefixes: 1000000"), ""},
		{"a received prefix more", peer("maxReceivedPrefixes: 1000001"), "spec.maxReceivedPrefixes: less than or equal to 1000000"},
		{"nodes of two racks", peer(`nodeSelectors: [{matchLabels: {rack: "2"}}, {matchLabels: {rack: "3"}}]`), ""},
		{
			"router on the node",
			`spec: {myASN: 64512, peerASN: 64513, peerAddress: 127.0.0.1}`, "spec.peerAddress: have it redistribute an InterfaceAdvertisement",
		},
		{
			"last loopback address",
			`spec: {myASN: 64512, peerASN: 64513, peerAddress: 127.255.255.255}`, "spec.peerAddress: have it redistribute an InterfaceAdvertisement",
		},
		{"address before loopback", `spec: {myASN: 64512, peerASN: 64513, peerAddress: 126.255.255.255}`, ""},
		{"address after loopback", `spec: {myASN: 64512, peerASN: 64513, peerAddress: 128.0.0.0}`, ""},
		{
			"router on the node over IPv6",
			`spec: {myASN: 64512, peerASN: 64513, peerAddress: "::1"}`, "spec.peerAddress: have it redistribute an InterfaceAdvertisement",
		},
		{"loopback source address", peer("sourceAddress: 127.0.0.1"), "spec.sourceAddress: must be an IPv4 or IPv6 address of one machine, and no loopback"},
		{"unnumbered peer", `spec: {myASN: 64512, dynamicASN: External, interface: eth1}`, ""},
		{"peer on a link-local address", `spec: {myASN: 64512, dynamicASN: Internal, peerAddress: "fe80::1", interface: eth1}`, ""},
		{"no number of our own", `spec: {peerASN: 64513, peerAddress: 192.0.2.1}`, "spec.myASN: Required value"},
		{"number 0 of our own", `spec: {myASN: 0, peerASN: 64513, peerAddress: 192.0.2.1}`, "spec.myASN: greater than or equal to 1"},
		{
			"number beyond 32 bits",
			`spec: {myASN: 4294967296, peerASN: 64513, peerAddress: 192.0.2.1}`, "spec.myASN: less than or equal to 4294967295",
		},
		{"number 0 of the peer", `spec: {myASN: 64512, peerASN: 0, peerAddress: 192.0.2.1}`, "spec.peerASN: greater than or equal to 1"},
		{
			"peer's number beyond 32 bits",
			`spec: {myASN: 64512, peerASN: 4294967296, peerAddress: 192.0.2.1}`, "spec.peerASN: less than or equal to 4294967295",
		},
		{"neither peerASN nor dynamicASN", `spec: {myASN: 64512, peerAddress: 192.0.2.1}`, "spec.peerASN: set peerASN or dynamicASN"},
		{"peerASN and dynamicASN", peer("dynamicASN: External"), "spec.dynamicASN: peerASN and dynamicASN exclude each other"},
		{
			"unknown dynamicASN",
			`spec: {myASN: 64512, dynamicASN: Any, peerAddress: 192.0.2.1}`, `spec.dynamicASN: supported values: "External", "Internal"`,
		},
		{
			"neither peerAddress, defaultGateway nor interface",
			`spec: {myASN: 64512, peerASN: 64513}`, "spec.peerAddress: set peerAddress, or defaultGateway, or interface for an unnumbered session",
		},
		{
			"peer address with a prefix length",
			`spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1/24}`, "spec.peerAddress: must be an IPv4 or IPv6 address",
		},
		{
			"peer by host name",
			`spec: {myASN: 64512, peerASN: 64513, peerAddress: tor1.example.org}`, "spec.peerAddress: must be an IPv4 or IPv6 address",
		},
		{
			"empty peer address",
			`spec: {myASN: 64512, peerASN: 64513, peerAddress: ""}`, "spec.peerAddress: must be an IPv4 or IPv6 address",
		},
		{
			"unspecified peer address",
			`spec: {myASN: 64512, peerASN: 64513, peerAddress: "::"}`, "spec.peerAddress: must be an IPv4 or IPv6 address",
		},
		{
			"link-local peer address without its interface",
			`spec: {myASN: 64512, peerASN: 64513, peerAddress: "fe80::1"}`, "spec.interface: a link-local IPv6 peerAddress needs the interface",
		},
		{
			"interface with a slash",
			`spec: {myASN: 64512, peerASN: 64513, interface: eth0/1}`, "spec.interface: must be the name of a network interface",
		},
		{
			"interface with a space",
			`spec: {myASN: 64512, peerASN: 64513, interface: "eth 0"}`, "spec.interface: must be the name of a network interface",
		},
		{
			"interface without a name",
			`spec: {myASN: 64512, peerASN: 64513, interface: ""}`, "spec.interface: must be the name of a network interface",
		},
		{
			"interface with a name the kernel does not take",
			`spec: {myASN: 64512, peerASN: 64513, interface: abcdefghijklmnop}`, "spec.interface: may not be more than 15",
		},
		{
			"multicast peer address",
			`spec: {myASN: 64512, peerASN: 64513, peerAddress: 224.0.0.5}`, "spec.peerAddress: must be an IPv4 or IPv6 address of one machine",
		},
		{
			"multicast peer address of IPv6",
			`spec: {myASN: 64512, peerASN: 64513, peerAddress: "ff0e::1"}`, "spec.peerAddress: must be an IPv4 or IPv6 address of one machine",
		},
		{"AS_TRANS of our own", `spec: {myASN: 23456, peerASN: 64513, peerAddress: 192.0.2.1}`, "spec.myASN: is AS_TRANS"},
		{"AS_TRANS of the peer", `spec: {myASN: 64512, peerASN: 23456, peerAddress: 192.0.2.1}`, "spec.peerASN: is AS_TRANS"},
		{
			"link-local source address without its interface",
			`spec: {myASN: 64512, peerASN: 64513, peerAddress: "2001:db8::1", sourceAddress: "fe80::2"}`,
			"spec.interface: a link-local sourceAddress needs the interface",
		},
		{"multicast source address", peer("sourceAddress: 224.0.0.5"), "spec.sourceAddress: must be an IPv4 or IPv6 address of one machine"},
		{"multicast router ID", peer("routerID: 224.0.0.5"), "spec.routerID: must be an IPv4 address other than 0.0.0.0"},
		{"link-local IPv4 peer, which needs no interface", `spec: {myASN: 64512, peerASN: 64513, peerAddress: 169.254.0.1}`, ""},
		{"link-local IPv4 peer on one of two links", `spec: {myASN: 64512, peerASN: 64513, peerAddress: 169.254.0.1, interface: eth1}`, ""},
		{"peer in a VRF", peer("vrf: blue"), ""},
		{"VRF with a slash", peer("vrf: a/b"), "spec.vrf: must be the name of a network interface"},
		{"VRF with BFD", peer("vrf: blue, bfdProfile: fast"), "spec.bfdProfile: BFD sessions run in the main table only"},
		{"VRF of an interface", peer("vrf: blue, interface: eth1"), "spec.vrf: an interface is in its VRF already"},
		{
			"default gateway of a VRF",
			`spec: {myASN: 64512, peerASN: 64513, defaultGateway: IPv4, vrf: blue}`, "spec.vrf: the default gateway is looked for in the main table",
		},
		{"port 65535", peer("peerPort: 65535"), ""},
		{"port 0", peer("peerPort: 0"), "spec.peerPort: greater than or equal to 1"},
		{"port 65536", peer("peerPort: 65536"), "spec.peerPort: less than or equal to 65535"},

		{"source address of the peer's family", peer("sourceAddress: 192.0.2.11"), ""},
		{"source address of the other family", peer(`sourceAddress: "2001:db8::11"`), "spec.sourceAddress: must be of the same family as peerAddress"},
		{"source address that is none", peer("sourceAddress: eth0"), "spec.sourceAddress: must be an IPv4 or IPv6 address"},
		{
			"source address of an unnumbered session",
			`spec: {myASN: 64512, peerASN: 64513, interface: eth1, sourceAddress: "fe80::2"}`, "spec.sourceAddress: an unnumbered session has",
		},
		{"router ID", peer("routerID: 10.0.0.1"), ""},
		{"IPv6 router ID", peer(`routerID: "2001:db8::1"`), "spec.routerID: must be an IPv4 address other than 0.0.0.0"},
		{"router ID 0.0.0.0", peer("routerID: 0.0.0.0"), "spec.routerID: must be an IPv4 address other than 0.0.0.0"},
		{"router ID as a number", peer(`routerID: "1"`), "spec.routerID: must be an IPv4 address other than 0.0.0.0"},

		{"hold time 0s", peer("holdTime: 0s"), ""},
		{"hold time 3s", peer("holdTime: 3s"), ""},
		{"hold time of minutes and seconds", peer("holdTime: 1m30s"), ""},
		{"hold time 65535s", peer("holdTime: 65535s"), ""},
		{"hold time 1s", peer("holdTime: 1s"), hold},
		{"hold time 2s", peer("holdTime: 2s"), hold},
		{"hold time 65536s", peer("holdTime: 65536s"), hold},
		{"hold time with a fraction", peer("holdTime: 9500ms"), hold},
		{"hold time below 0", peer("holdTime: -9s"), hold},
		{"hold time without a unit", peer(`holdTime: "9"`), hold},
		{"hold time in days", peer("holdTime: 1d"), hold},
		{"hold time as a number", peer("holdTime: 9"), `spec.holdTime: must be of type string: "integer"`},
		{"hold time that is none, with a keepalive time", peer("holdTime: soon, keepaliveTime: 3s"), hold},
		{"keepalive time of a third", peer("holdTime: 9s, keepaliveTime: 3s"), ""},
		{"keepalive time of more than a third", peer("holdTime: 9s, keepaliveTime: 4s"), keepalive},
		{"keepalive time of a third of the default", peer("keepaliveTime: 30s"), ""},
		{"keepalive time of more than a third of the default", peer("keepaliveTime: 31s"), keepalive},
		{"keepalive time 0s", peer("keepaliveTime: 0s"), keepalive},
		{"keepalive time without a hold time", peer("holdTime: 0s, keepaliveTime: 3s"), keepalive},
		{"keepalive time and hold time 0s", peer("holdTime: 0s, keepaliveTime: 0s"), ""},
		{"keepalive time that is none", peer("keepaliveTime: often"), "spec.keepaliveTime: must be whole seconds"},
		{"connect time 1s", peer("connectTime: 1s"), ""},
		{"connect time 0s", peer("connectTime: 0s"), "spec.connectTime: must be whole seconds from 1s to 65535s"},
		{"restart time 4095s", peer("gracefulRestart: {restartTime: 4095s}"), ""},
		{"restart time beyond 12 bits", peer("gracefulRestart: {restartTime: 4096s}"), "spec.gracefulRestart.restartTime: must be whole seconds from 1s to 4095s"},

		{"multihop", peer("ebgpMultiHop: true"), ""},
		{"GTSM of one hop", peer("ttlSecurityHops: 1"), ""},
		{"GTSM of 254 hops, multihop declined", peer("ttlSecurityHops: 254, ebgpMultiHop: false"), ""},
		{"GTSM of no hop", peer("ttlSecurityHops: 0"), "spec.ttlSecurityHops: greater than or equal to 1"},
		{"GTSM of 255 hops", peer("ttlSecurityHops: 255"), "spec.ttlSecurityHops: less than or equal to 254"},
		{"multihop and GTSM", peer("ebgpMultiHop: true, ttlSecurityHops: 1"), "spec.ttlSecurityHops: ttlSecurityHops and ebgpMultiHop exclude each other"},
		{
			"unnumbered multihop",
			`spec: {myASN: 64512, peerASN: 64513, interface: eth1, ebgpMultiHop: true}`, "spec.ebgpMultiHop: an unnumbered session is one hop long",
		},
		{"password without a Secret's name", peer("passwordSecret: {key: x}"), "spec.passwordSecret.name: Required value"},
		{"password of an unnamed Secret", peer(`passwordSecret: {name: ""}`), "spec.passwordSecret.name: at least 1 chars long"},
		{"BFD profile without a name", peer(`bfdProfile: ""`), "spec.bfdProfile: at least 1 chars long"},
		{"one family", peer("families: [IPv6]"), ""},
		{"no family", peer("families: []"), "spec.families: should have at least 1 items"},
		{"unknown family", peer("families: [ipv6]"), `spec.families[0]: supported values: "IPv4", "IPv6"`},
		{"one family twice", peer("families: [IPv6, IPv6]"), "spec.families[1]: Duplicate value"},
	})
}

func TestBGPAdvertisement(t *testing.T) {
	const notCommunity = "spec.communities[0]: must be two numbers up to 65535 (64512:100), one from 65536 to 4294967295"
	testRules(t, "BGPAdvertisement", []rule{
		{"no spec, which announces all to all", `{}`, ""},
		{"aggregation lengths 1", `spec: {aggregationLength: 1, aggregationLengthV6: 1}`, ""},
		{"IPv4 default route", `spec: {aggregationLength: 0}`, "spec.aggregationLength: is a default route"},
		{"IPv6 default route", `spec: {aggregationLengthV6: 0}`, "spec.aggregationLengthV6: is a default route"},
		{"IPv4 aggregation length 33", `spec: {aggregationLength: 33}`, "spec.aggregationLength: less than or equal to 32"},
		{"IPv4 aggregation length 32", `spec: {aggregationLength: 32}`, ""},
		{"IPv6 aggregation length 128", `spec: {aggregationLengthV6: 128}`, ""},
		{"IPv4 aggregation length below 0", `spec: {aggregationLength: -1}`, "spec.aggregationLength: greater than or equal to 0"},
		{"IPv6 aggregation length 129", `spec: {aggregationLengthV6: 129}`, "spec.aggregationLengthV6: less than or equal to 128"},
		{"local preference of 32 bits", `spec: {localPref: 4294967295}`, ""},
		{"local preference of more", `spec: {localPref: 4294967296}`, "spec.localPref: less than or equal to 4294967295"},
		{"discriminator below 0", `spec: {med: -1}`, "spec.med: greater than or equal to 0"},
		{"discriminator beyond 32 bits", `spec: {med: 4294967296}`, "spec.med: less than or equal to 4294967295"},
		{"11 prepended numbers", `spec: {asPathPrepend: 11}`, "spec.asPathPrepend: less than or equal to 10"},
		{"community", `spec: {communities: ["0:0", "65535:65535"]}`, ""},
		{"large community", `spec: {communities: ["large:4294967295:0:4294967295"]}`, ""},
		{"communities by name", `spec: {communities: [no-export, primary-path, NO_EXPORT, vpn.1]}`, ""},
		{"community in decimal", `spec: {communities: ["65536", "4227858532", "4294967295"]}`, ""},
		{"community of one number", `spec: {communities: ["64512"]}`, notCommunity},
		{"community of AS 0 in decimal", `spec: {communities: ["65535"]}`, notCommunity},
		{"community beyond 32 bits in decimal", `spec: {communities: ["4294967296"]}`, notCommunity},
		{"community beyond 16 bits", `spec: {communities: ["65536:1"]}`, notCommunity},
		{"community of three numbers without large:", `spec: {communities: ["64512:1:2"]}`, notCommunity},
		{"large community of two numbers", `spec: {communities: ["large:64512:1"]}`, notCommunity},
		{"large community beyond 32 bits", `spec: {communities: ["large:4294967296:1:2"]}`, notCommunity},
		{"community with a space", `spec: {communities: ["64512: 1"]}`, notCommunity},
		{"community without a name", `spec: {communities: [""]}`, notCommunity},
		{"same community twice", `spec: {communities: ["1:2", "1:2"]}`, "spec.communities[1]: Duplicate value"},
		{"one family", `spec: {families: [IPv6]}`, ""},
		{"no family", `spec: {families: []}`, "spec.families: should have at least 1 items"},
		{"unknown family", `spec: {families: [ipv6]}`, `spec.families[0]: supported values: "IPv4", "IPv6"`},
		{"pool without a name", `spec: {addressPools: [""]}`, "spec.addressPools[0]: at least 1 chars long"},
		{"peer without a name", `spec: {peers: [""]}`, "spec.peers[0]: at least 1 chars long"},
		{"same peer twice", `spec: {peers: [a, a]}`, "spec.peers[1]: Duplicate value"},
	})
}

func TestCommunity(t *testing.T) {
	const notValue = "spec.communities[0].value: must be two numbers up to 65535 (64512:100), one from 65536 to 4294967295"
	testRules(t, "Community", []rule{
		{"both kinds of value", `spec: {communities: [{name: a, value: "64512:1"}, {name: b, value: "large:64512:2:3"}]}`, ""},
		{"value in decimal", `spec: {communities: [{name: a, value: "4227858532"}]}`, ""},
		{"value of one number", `spec: {communities: [{name: a, value: "64512"}]}`, notValue},
		{"value beyond 32 bits in decimal", `spec: {communities: [{name: a, value: "4294967296"}]}`, notValue},
		{"value beyond 16 bits", `spec: {communities: [{name: a, value: "64512:65536"}]}`, notValue},
		{"value that is a name", `spec: {communities: [{name: a, value: no-export}]}`, notValue},
		{"large value of two numbers", `spec: {communities: [{name: a, value: "large:1:2"}]}`, notValue},
		{"name that is a value", `spec: {communities: [{name: "1:2", value: "1:2"}]}`, "spec.communities[0].name: must begin with a letter"},
		{"empty name", `spec: {communities: [{name: "", value: "1:2"}]}`, "spec.communities[0].name: must begin with a letter"},
		{
			"name that is used twice",
			`spec: {communities: [{name: a, value: "1:2"}, {name: a, value: "1:3"}]}`, `spec.communities[1]: Duplicate value: {"name":"a"}`,
		},
		{"no names", `spec: {communities: []}`, "spec.communities: should have at least 1 items"},
		{"no value", `spec: {communities: [{name: a}]}`, "spec.communities[0].value: Required value"},
		{"beginning of a well-known name", `spec: {communities: [{name: "no", value: "64512:1"}]}`, ""},
	})
}

// TestWellKnownCommunities holds the API server's list of well-known names against the one that the code uses.
func TestWellKnownCommunities(t *testing.T) {
	for name, value := range bgp.WellKnownCommunities {
		testRules(t, "Community", []rule{
			{name + " with its value", fmt.Sprintf(`spec: {communities: [{name: %s, value: %q}]}`, name, value.String()), ""},
			{
				name + " with another value",
				fmt.Sprintf(`spec: {communities: [{name: %s, value: "64512:1"}]}`, name),
				"spec.communities[0].name: is a well-known community with another value",
			},
		})
	}
}

func TestBFDProfile(t *testing.T) {
	const interval = "must be a duration from 10ms to 60s such as 300ms"
	testRules(t, "BFDProfile", []rule{
		{"no spec, which is the default", `{}`, ""},
		{"shortest and longest interval", `spec: {receiveInterval: 10ms, transmitInterval: 60s, echoInterval: 1m}`, ""},
		{"interval with a fraction", `spec: {transmitInterval: 1.5s}`, ""},
		{"receive interval below 10ms", `spec: {receiveInterval: 9ms}`, "spec.receiveInterval: " + interval},
		{"transmit interval beyond 60s", `spec: {transmitInterval: 61s}`, "spec.transmitInterval: " + interval},
		{"echo interval without a unit", `spec: {echoInterval: "50"}`, "spec.echoInterval: " + interval},
		{"interval as a number", `spec: {echoInterval: 50}`, `spec.echoInterval: must be of type string: "integer"`},
		{"interval in microseconds", `spec: {echoInterval: 50000us}`, "spec.echoInterval: " + interval},
		{"multiplier 255", `spec: {detectMultiplier: 255}`, ""},
		{"multiplier 1", `spec: {detectMultiplier: 1}`, "spec.detectMultiplier: greater than or equal to 2"},
		{"multiplier beyond 8 bits", `spec: {detectMultiplier: 256}`, "spec.detectMultiplier: less than or equal to 255"},
		{"echo packets", `spec: {echoMode: true}`, "spec.echoMode: the echo function is not built"},
		{"no echo packets", `spec: {echoMode: false}`, ""},
		{"TTL 0", `spec: {minimumTTL: 0}`, "spec.minimumTTL: greater than or equal to 1"},
		{"TTL 255", `spec: {minimumTTL: 255}`, "spec.minimumTTL: less than or equal to 254"},
	})
}

func TestL2Advertisement(t *testing.T) {
	const failback = "spec.failbackAfter: must be a duration from 1s to 720h such as 10m"
	const notInterface = "spec.interfaces[0]: must be the name of a network interface, in which * and ? may stand for other"
	testRules(t, "L2Advertisement", []rule{
		{"no spec, which announces all everywhere", `{}`, ""},
		{"interfaces by name and pattern", `spec: {interfaces: [eth0, "bond*", "eth0.10?", "*"]}`, ""},
		{"interface with a slash", `spec: {interfaces: [eth0/1]}`, notInterface},
		{"interface with a set of characters", `spec: {interfaces: ["eth[01]"]}`, notInterface},
		{"interface with a backslash", `spec: {interfaces: ['eth\']}`, notInterface},
		{"interface with a space", `spec: {interfaces: ["eth0 eth1"]}`, notInterface},
		{"interface without a name", `spec: {interfaces: [""]}`, notInterface},
		{"weight 100", `spec: {preferredNodes: [{weight: 100, nodeSelector: {}}]}`, ""},
		{"weight 0", `spec: {preferredNodes: [{weight: 0, nodeSelector: {}}]}`, "spec.preferredNodes[0].weight: greater than or equal to 1"},
		{"weight 101", `spec: {preferredNodes: [{weight: 101, nodeSelector: {}}]}`, "spec.preferredNodes[0].weight: less than or equal to 100"},
		{"no weight", `spec: {preferredNodes: [{nodeSelector: {}}]}`, "spec.preferredNodes[0].weight: Required value"},
		{"preference for no nodes", `spec: {preferredNodes: [{weight: 1}]}`, "spec.preferredNodes[0].nodeSelector: Required value"},
		{"same pool twice", `spec: {addressPools: [lan, lan]}`, "spec.addressPools[1]: Duplicate value"},
		{
			"lists of selectors",
			`spec: {addressPoolSelectors: [{matchLabels: {a: b}}, {}], serviceSelectors: [{matchLabels: {a: b}}], namespaceSelectors: [{matchLabels: {a: b}}, {}], ` +
				`nodeSelectors: [{matchLabels: {a: b}}]}`, "",
		},
		{"empty lists of selectors", `spec: {addressPoolSelectors: [], serviceSelectors: [], namespaceSelectors: [], nodeSelectors: []}`, ""},
		{"65 namespaceSelectors", `spec: {namespaceSelectors: [` + strings.Repeat("{},", 65) + `]}`, "spec.namespaceSelectors: must have at most 64 items"},
		{"one selector in place of a list", `spec: {nodeSelectors: {}}`, `spec.nodeSelectors: must be of type array: "object"`},
		{"64 selectors", `spec: {nodeSelectors: [` + strings.Repeat("{},", 64) + `]}`, ""},
		{"65 selectors", `spec: {nodeSelectors: [` + strings.Repeat("{},", 65) + `]}`, "spec.nodeSelectors: must have at most 64 items"},
		{"shortest time before a failback", `spec: {failbackAfter: 1s}`, ""},
		{"longest time before a failback", `spec: {failbackAfter: 720h}`, ""},
		{"no time before a failback", `spec: {failbackAfter: 0s}`, failback},
		{"less than a second before a failback", `spec: {failbackAfter: 999ms}`, failback},
		{"more than a month before a failback", `spec: {failbackAfter: 720h1s}`, failback},
		{"failback without a unit", `spec: {failbackAfter: "10"}`, failback},
		{"failback as a number", `spec: {failbackAfter: 10}`, `spec.failbackAfter: must be of type string: "integer"`},
	})
}

func TestInterfaceAdvertisement(t *testing.T) {
	testRules(t, "InterfaceAdvertisement", []rule{
		{"interface", `spec: {interface: kube-lb0}`, ""},
		{"no interface, which makes routes of the kernel", `spec: {addressPools: [lan], nodeSelectors: [{matchLabels: {router: frr}}]}`, ""},
		{"no spec, which makes routes for all everywhere", `{}`, ""},
		{"interface with a name the kernel does not take", `spec: {interface: abcdefghijklmnop}`, "spec.interface: may not be more than 15"},
		{"interface without a name", `spec: {interface: ""}`, "spec.interface: must be the name of a network interface"},
		{"IPv4 default route", `spec: {aggregationLength: 0}`, "spec.aggregationLength: is a default route"},
		{"IPv6 default route", `spec: {interface: a, aggregationLengthV6: 0}`, "spec.aggregationLengthV6: is a default route"},
		{"shortest prefixes", `spec: {aggregationLength: 1, aggregationLengthV6: 1}`, ""},
		{"interface with a colon", `spec: {interface: "eth0:1"}`, "spec.interface: must be the name of a network interface"},
		{"interface ..", `spec: {interface: ".."}`, "spec.interface: must be the name of a network interface"},
		{"IPv4 aggregation length 33", `spec: {interface: a, aggregationLength: 33}`, "spec.aggregationLength: less than or equal to 32"},
		{"IPv6 aggregation length 129", `spec: {interface: a, aggregationLengthV6: 129}`, "spec.aggregationLengthV6: less than or equal to 128"},
	})
}

func TestL2Announcement(t *testing.T) {
	testRules(t, "L2Announcement", []rule{
		{"holder of two addresses", `{metadata: {name: default.web}, service: {namespace: default, name: web}, status: {node: node1, addresses: [192.0.2.1, "2001:db8::1"]}}`, ""},
		{"addresses that are to move", `{metadata: {name: default.web}, service: {namespace: default, name: web}, spec: {target: node2}, status: {node: node1}}`, ""},
		{"nobody's addresses", `{metadata: {name: default.web}, service: {namespace: default, name: web}}`, ""},
		{"name of another Service", `{metadata: {name: default.db}, service: {namespace: default, name: web}}`, "metadata: name must be that of the Service"},
		{"no Service", `{status: {node: node1}}`, "service: Required value"},
		{"Service without a namespace", `{service: {name: web}}`, "service.namespace: Required value"},
	})
}
