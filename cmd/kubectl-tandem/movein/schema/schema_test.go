// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, object string
		want         []string
	}{
		{"a pool", "kind: AddressPool\nmetadata: {name: lan}\nspec: {ipv4: {ranges: [192.0.2.0/24]}, ipv6: {ranges: ['2001:db8::1-2001:db8::9']}}", nil},
		{"a peer", "kind: BGPPeer\nmetadata: {name: tor}\nspec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, gracefulRestart: {}}", nil},
		{"a BFD profile without a spec, whose defaults count", "kind: BFDProfile\nmetadata: {name: fast}", nil},
		{"communities", "kind: Community\nmetadata: {name: c}\nspec: {communities: [{name: a, value: '64512:1'}]}", nil},
		{"an advertisement on layer 2", "kind: L2Advertisement\nmetadata: {name: lan}\nspec: {interfaces: ['eth*']}", nil},
		{"an advertisement by BGP", "kind: BGPAdvertisement\nmetadata: {name: lan}", nil},
		{"an advertisement on an interface", "kind: InterfaceAdvertisement\nmetadata: {name: lan}\nspec: {interface: kube-lb0}", nil},
		{
			"a list, a word and a number, of all of which no rule is asked",
			"kind: BGPPeer\nmetadata: {name: tor}\nspec: {myASN: 0, peerASN: 64513, interface: enp129s0f0np0.100, families: [IPv5], nodeSelectors: [" +
				strings.Repeat("{matchLabels: {a: b}},", 65) + "]}",
			[]string{
				"spec.families[0]: \"IPv5\" is not one of the supported values: \"IPv4\", \"IPv6\"",
				"spec.interface: \"enp129s0f0np0.100\" has 17 characters, and the field takes 15 at most; shorten it",
				"spec.myASN: 0 is less than 1; raise it",
				"spec.nodeSelectors: has 65 entries, and takes 64 at most; write several objects, each with a part of them",
			},
		},
		{
			"a rule of a number, and one of a word", "kind: BGPPeer\nmetadata: {name: tor}\nspec: {myASN: 23456, peerASN: 64513, peerAddress: eth0}",
			[]string{
				"spec.myASN: 23456 is AS_TRANS, which stands for numbers of 32 bits (RFC 6793 section 9); use the router's or the nodes' own number",
				"spec.peerAddress: \"eth0\": must be an IPv4 or IPv6 address of one machine",
			},
		},
		{
			"a rule of two fields", "kind: BGPPeer\nmetadata: {name: tor}\nspec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, vrf: red, interface: eth1}",
			[]string{"spec.vrf: \"red\": an interface is in its VRF already; remove vrf or interface"},
		},
		{
			"a rule that wants a field", "kind: BGPPeer\nmetadata: {name: tor}\nspec: {myASN: 64512, peerASN: 64513, peerAddress: 'fe80::1'}",
			[]string{"spec.interface: is missing: a link-local IPv6 peerAddress needs the interface it is on"},
		},
		{"a field that has to be there", "kind: Community\nmetadata: {name: c}\nspec: {}", []string{"spec.communities: is missing"}},
		{"a list without an entry", "kind: Community\nmetadata: {name: c}\nspec: {communities: []}", []string{"spec.communities: has 0 entries, and needs 1 at least"}},
		{
			"an empty name", "kind: BGPAdvertisement\nmetadata: {name: a}\nspec: {peers: ['']}",
			[]string{"spec.peers[0]: \"\" has 0 characters, and the field needs 1 at least"},
		},
		{
			"entries twice", "kind: L2Advertisement\nmetadata: {name: a}\nspec: {interfaces: [eth0, eth1, eth0]}",
			[]string{"spec.interfaces[2]: \"eth0\" is there twice; leave one of them out"},
		},
		{
			"a number of more than 32 bits, which has two errors", "kind: AddressPool\nmetadata: {name: a}\nspec: {ipv4: {ranges: [192.0.2.0/24]}, priority: 3000000000}",
			[]string{"spec.priority: 3000000000 is more than 2147483647; lower it"},
		},
		{
			"fields that there are not", "kind: AddressPool\nmetadata: {name: a}\nspec: {ipv4: {ranges: [192.0.2.0/24], from: [1]}, serviceSelector: {}}",
			[]string{"spec.ipv4.from: there is no such field", "spec.serviceSelector: there is no such field"},
		},
		{
			"a value of another type", "kind: AddressPool\nmetadata: {name: a}\nspec: {ipv4: {ranges: [192.0.2.0/24]}, autoAssign: maybe}",
			[]string{"spec.autoAssign: \"maybe\": spec.autoAssign in body must be of type boolean: \"string\""},
		},
		{
			"a name and a label", "kind: AddressPool\nmetadata: {name: A, labels: {a: b c}}\nspec: {ipv4: {ranges: [192.0.2.0/24]}}",
			[]string{"metadata.labels: a valid label must", "metadata.name: \"A\": a lowercase RFC 1123 subdomain must"},
		},
		{"another kind, of which the metadata counts", "apiVersion: v1\nkind: Secret\nmetadata: {name: a_b, namespace: c}\nspec: {}", []string{"metadata.name: \"a_b\": "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := tt.object
			if !strings.HasPrefix(text, "apiVersion") {
				text = "apiVersion: tandem-lb.io/v1alpha1\n" + text
			}
			var object map[string]any
			if err := yaml.Unmarshal([]byte(text), &object); err != nil {
				t.Fatal(err)
			}
			before := fmt.Sprint(object)
			refusals, err := Refusals(object)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for i, r := range refusals {
				got = append(got, r.String())
				if i < len(tt.want) && strings.HasPrefix(got[i], tt.want[i]) { // The rest is in Kubernetes' own words.
					got[i] = tt.want[i]
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("refusals (-want +got):\n%s", diff)
			}
			if after := fmt.Sprint(object); after != before {
				t.Errorf("the object was %s and is %s", before, after)
			}
		})
	}
}

// TestDefinitions reads all definitions, as no user of the package does, and compiles their rules.
func TestDefinitions(t *testing.T) {
	if len(definitions) != 9 {
		t.Errorf("there are %d definitions, want 9", len(definitions))
	}
	for _, definition := range definitions {
		definition().rules()
	}
}

func TestMaxItems(t *testing.T) {
	for _, tt := range []struct {
		kind, path string
		want       int
	}{
		{"L2Advertisement", "spec.nodeSelectors", 64},
		{"BGPAdvertisement", "spec.peers", 256},
		{"AddressPool", "spec.ipv6.ranges", 64},
		{"AddressPool", "spec.priority", 0},
		{"AddressPool", "spec.peers", 0},
		{"Secret", "spec.peers", 0},
	} {
		if got := MaxItems(tt.kind, tt.path); got != tt.want {
			t.Errorf("%s of %s takes %d, want %d", tt.path, tt.kind, got, tt.want)
		}
	}
}
