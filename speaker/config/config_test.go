// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Generation: 3} }

func pool(name string, labels map[string]string) ipamv1alpha1.AddressPool {
	return ipamv1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// impossible is a selector that the API server accepts and that cannot be compiled.
func impossible() metav1.LabelSelector {
	return metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "rack", Operator: "Near"}}}
}

func matching(key, value string) []metav1.LabelSelector {
	return []metav1.LabelSelector{{MatchLabels: map[string]string{key: value}}}
}

// The condition of one object for each mistake, and whether the object is used all the same.
func TestConditions(t *testing.T) {
	const nearIsNoOperator = `: "Near" is not a valid label selector operator`
	pools := []ipamv1alpha1.AddressPool{pool("lan", nil)}
	l2 := func(spec v1alpha1.L2AdvertisementSpec) Objects {
		return Objects{AddressPools: pools, L2Advertisements: []v1alpha1.L2Advertisement{{ObjectMeta: named("x"), Spec: spec}}}
	}
	peer := func(spec v1alpha1.BGPPeerSpec, profiles ...v1alpha1.BFDProfile) Objects {
		spec.MyASN, spec.PeerASN = 64512, 64513
		return Objects{BGPPeers: []v1alpha1.BGPPeer{{ObjectMeta: named("x"), Spec: spec}}, BFDProfiles: profiles}
	}
	bgp := func(spec v1alpha1.BGPAdvertisementSpec) Objects {
		return Objects{
			AddressPools: pools, BGPAdvertisements: []v1alpha1.BGPAdvertisement{{ObjectMeta: named("x"), Spec: spec}},
			BGPPeers: []v1alpha1.BGPPeer{{ObjectMeta: named("tor1"), Spec: v1alpha1.BGPPeerSpec{PeerAddress: "192.0.2.1"}}},
		}
	}
	communities := func(list ...v1alpha1.NamedCommunity) Objects {
		return Objects{Communities: []v1alpha1.Community{{ObjectMeta: named("x"), Spec: v1alpha1.CommunitySpec{Communities: list}}}}
	}
	for _, tt := range []struct {
		name    string
		kind    string
		objects Objects
		reason  string
		message string
		used    bool
	}{
		{
			name: "an empty layer 2 advertisement means everything", kind: "L2Advertisement", objects: l2(v1alpha1.L2AdvertisementSpec{}),
			reason: v1alpha1.ReasonAccepted, used: true,
		},
		{
			name: "a layer 2 advertisement of a pool that exists", kind: "L2Advertisement",
			objects: l2(v1alpha1.L2AdvertisementSpec{Selection: v1alpha1.Selection{AddressPools: []string{"lan"}}}),
			reason:  v1alpha1.ReasonAccepted, used: true,
		},
		{
			name: "a layer 2 advertisement of a pool that does not", kind: "L2Advertisement",
			objects: l2(v1alpha1.L2AdvertisementSpec{Selection: v1alpha1.Selection{AddressPools: []string{"lan", "wan"}}}),
			reason:  v1alpha1.ReasonUnknownReference, used: true,
			message: `spec.addressPools[1]: there is no AddressPool "wan"; create it or remove the name`,
		},
		{
			name: "a selector of pools that cannot be read", kind: "L2Advertisement",
			objects: l2(v1alpha1.L2AdvertisementSpec{Selection: v1alpha1.Selection{AddressPoolSelectors: []metav1.LabelSelector{impossible()}}}),
			reason:  v1alpha1.ReasonInvalid, message: "spec.addressPoolSelectors[0]" + nearIsNoOperator,
		},
		{
			name: "a selector of Services that cannot be read", kind: "L2Advertisement",
			objects: l2(v1alpha1.L2AdvertisementSpec{Selection: v1alpha1.Selection{ServiceSelectors: []metav1.LabelSelector{impossible()}}}),
			reason:  v1alpha1.ReasonInvalid, message: "spec.serviceSelectors[0]" + nearIsNoOperator,
		},
		{
			name: "a selector of nodes that cannot be read", kind: "L2Advertisement",
			objects: l2(v1alpha1.L2AdvertisementSpec{Selection: v1alpha1.Selection{NodeSelectors: []metav1.LabelSelector{impossible()}}}),
			reason:  v1alpha1.ReasonInvalid, message: "spec.nodeSelectors[0]" + nearIsNoOperator,
		},
		{
			name: "the second selector of nodes cannot be read", kind: "L2Advertisement",
			objects: l2(v1alpha1.L2AdvertisementSpec{Selection: v1alpha1.Selection{NodeSelectors: append(matching("rack", "1"), impossible())}}),
			reason:  v1alpha1.ReasonInvalid, message: "spec.nodeSelectors[1]" + nearIsNoOperator,
		},
		{
			name: "a preference that cannot be read", kind: "L2Advertisement",
			objects: l2(v1alpha1.L2AdvertisementSpec{PreferredNodes: []v1alpha1.PreferredNode{{Weight: 1}, {Weight: 1, NodeSelector: impossible()}}}),
			reason:  v1alpha1.ReasonInvalid, message: "spec.preferredNodes[1].nodeSelector" + nearIsNoOperator,
		},
		{
			name: "preferred nodes may take addresses back", kind: "L2Advertisement",
			objects: l2(v1alpha1.L2AdvertisementSpec{FailbackAfter: &metav1.Duration{Duration: time.Minute}}),
			reason:  v1alpha1.ReasonAccepted, used: true,
		},
		{
			name: "an invalid selector beside an unknown pool: both are told, and it is not used", kind: "L2Advertisement",
			objects: l2(v1alpha1.L2AdvertisementSpec{Selection: v1alpha1.Selection{AddressPools: []string{"wan"}, NodeSelectors: []metav1.LabelSelector{impossible()}}}),
			reason:  v1alpha1.ReasonInvalid,
			message: "spec.nodeSelectors[0]" + nearIsNoOperator + `; spec.addressPools[0]: there is no AddressPool "wan"; create it or remove the name`,
		},

		{
			name: "a numbered peer", kind: "BGPPeer", objects: peer(v1alpha1.BGPPeerSpec{PeerAddress: "192.0.2.1"}),
			reason: v1alpha1.ReasonAccepted, used: true,
		},
		{
			name: "an unnumbered peer", kind: "BGPPeer", objects: peer(v1alpha1.BGPPeerSpec{Interface: "eth1"}),
			reason: v1alpha1.ReasonAccepted, used: true,
		},
		{
			name: "a peer that nothing names", kind: "BGPPeer", objects: peer(v1alpha1.BGPPeerSpec{}),
			reason: v1alpha1.ReasonInvalid, message: "spec.peerAddress: required",
		},
		{
			name: "a peer with BFD", kind: "BGPPeer",
			objects: peer(v1alpha1.BGPPeerSpec{PeerAddress: "192.0.2.1", BFDProfile: "fast"}, v1alpha1.BFDProfile{ObjectMeta: named("fast")}),
			reason:  v1alpha1.ReasonAccepted, used: true,
		},
		{
			name: "a peer with a BFD profile that does not exist", kind: "BGPPeer",
			objects: peer(v1alpha1.BGPPeerSpec{PeerAddress: "192.0.2.1", BFDProfile: "fast"}),
			reason:  v1alpha1.ReasonUnknownReference, used: true,
			message: `spec.bfdProfile: there is no BFDProfile "fast"; create it or remove the name`,
		},
		{
			name: "a hold time of zero", kind: "BGPPeer",
			objects: peer(v1alpha1.BGPPeerSpec{PeerAddress: "192.0.2.1", HoldTime: &metav1.Duration{}}),
			reason:  v1alpha1.ReasonAccepted, used: true,
		},
		{
			name: "a hold time of 9s", kind: "BGPPeer",
			objects: peer(v1alpha1.BGPPeerSpec{PeerAddress: "192.0.2.1", HoldTime: &metav1.Duration{Duration: 9 * time.Second}}),
			reason:  v1alpha1.ReasonAccepted, used: true,
		},
		{
			name: "the default gateway", kind: "BGPPeer", objects: peer(v1alpha1.BGPPeerSpec{DefaultGateway: "IPv6", Interface: "eth1"}),
			reason: v1alpha1.ReasonAccepted, used: true,
		},
		{
			name: "a peer from the address of an interface, with a limit, in a VRF", kind: "BGPPeer",
			objects: peer(v1alpha1.BGPPeerSpec{PeerAddress: "192.0.2.1", SourceInterface: "lo", MaxReceivedPrefixes: 1000, VRF: "blue"}),
			reason:  v1alpha1.ReasonAccepted, used: true,
		},
		{
			name: "a peer whose nodes cannot be read", kind: "BGPPeer",
			objects: peer(v1alpha1.BGPPeerSpec{PeerAddress: "192.0.2.1", NodeSelectors: []metav1.LabelSelector{impossible()}}),
			reason:  v1alpha1.ReasonInvalid, message: "spec.nodeSelectors[0]" + nearIsNoOperator,
		},

		{
			name: "an empty BGP advertisement means everything to everybody", kind: "BGPAdvertisement", objects: bgp(v1alpha1.BGPAdvertisementSpec{}),
			reason: v1alpha1.ReasonAccepted, used: true,
		},
		{
			name: "an aggregate that reaches beyond a pool", kind: "BGPAdvertisement",
			objects: func() Objects {
				o := bgp(v1alpha1.BGPAdvertisementSpec{AggregationLength: new(int32(24)), AggregationLengthV6: new(int32(120))})
				o.AddressPools = []ipamv1alpha1.AddressPool{{ObjectMeta: named("lan"), Spec: ipamv1alpha1.AddressPoolSpec{
					IPv4: &ipamv1alpha1.IPv4Partition{Ranges: []ipamv1alpha1.IPv4Range{"192.0.2.0/24", "198.51.100.200-198.51.100.239"}},
					IPv6: &ipamv1alpha1.IPv6Partition{Ranges: []ipamv1alpha1.IPv6Range{"2001:db8:51::/112"}},
				}}}
				return o
			}(),
			reason: v1alpha1.ReasonAccepted, used: true,
			message: "spec.aggregationLength: 198.51.100.0/24 reaches beyond pool lan (198.51.100.200-198.51.100.239), " +
				"so that the addresses in it are announced by routes of their own",
		},
		{
			name: "a BGP advertisement to a peer that does not exist", kind: "BGPAdvertisement",
			objects: bgp(v1alpha1.BGPAdvertisementSpec{Peers: []string{"tor9", "tor1"}}),
			reason:  v1alpha1.ReasonUnknownReference, used: true,
			message: `spec.peers[0]: there is no BGPPeer "tor9"; create it or remove the name`,
		},
		{
			name: "a BGP advertisement of a pool that does not exist", kind: "BGPAdvertisement",
			objects: bgp(v1alpha1.BGPAdvertisementSpec{Selection: v1alpha1.Selection{AddressPools: []string{"wan"}}}),
			reason:  v1alpha1.ReasonUnknownReference, used: true,
			message: `spec.addressPools[0]: there is no AddressPool "wan"; create it or remove the name`,
		},
		{
			name: "a community that nothing defines", kind: "BGPAdvertisement",
			objects: bgp(v1alpha1.BGPAdvertisementSpec{Communities: []v1alpha1.CommunityReference{"no-export", "primary-path"}}),
			reason:  v1alpha1.ReasonUnknownReference, used: true,
			message: `spec.communities[1]: there is no community "primary-path"; define it in a Community object or write its value`,
		},
		{
			name: "a BGP advertisement whose Services cannot be read", kind: "BGPAdvertisement",
			objects: bgp(v1alpha1.BGPAdvertisementSpec{Selection: v1alpha1.Selection{ServiceSelectors: []metav1.LabelSelector{impossible()}}}),
			reason:  v1alpha1.ReasonInvalid, message: "spec.serviceSelectors[0]" + nearIsNoOperator,
		},

		{
			name: "communities of both kinds", kind: "Community", reason: v1alpha1.ReasonAccepted,
			objects: communities(v1alpha1.NamedCommunity{Name: "a", Value: "64512:1"}, v1alpha1.NamedCommunity{Name: "b", Value: "large:64512:1:2"}),
		},
		{
			name: "a value that is no community", kind: "Community", reason: v1alpha1.ReasonInvalid,
			objects: communities(v1alpha1.NamedCommunity{Name: "a", Value: "70000:1"}),
			message: `spec.communities[0].value: "70000:1" is not a community: "70000" is not a number of 16 bits`,
		},
		{
			name: "a name that another object gives the same value", kind: "Community", reason: v1alpha1.ReasonAccepted,
			objects: Objects{Communities: []v1alpha1.Community{
				{ObjectMeta: named("x"), Spec: v1alpha1.CommunitySpec{Communities: []v1alpha1.NamedCommunity{{Name: "a", Value: "64512:1"}}}},
				{ObjectMeta: named("first"), Spec: v1alpha1.CommunitySpec{Communities: []v1alpha1.NamedCommunity{{Name: "a", Value: "64512:1"}}}},
			}},
		},
		{
			name: "a name that another object, the first by name, gives another value", kind: "Community", reason: v1alpha1.ReasonInvalid,
			objects: Objects{Communities: []v1alpha1.Community{
				{ObjectMeta: named("x"), Spec: v1alpha1.CommunitySpec{Communities: []v1alpha1.NamedCommunity{{Name: "a", Value: "64512:2"}}}},
				{ObjectMeta: named("first"), Spec: v1alpha1.CommunitySpec{Communities: []v1alpha1.NamedCommunity{{Name: "a", Value: "64512:1"}}}},
			}},
			message: `spec.communities[0].name: "a" is 64512:1 by Community "first"; choose another name`,
		},

		{
			name: "a BFD profile", kind: "BFDProfile", objects: Objects{BFDProfiles: []v1alpha1.BFDProfile{{ObjectMeta: named("x")}}},
			reason: v1alpha1.ReasonAccepted,
		},
		{
			name: "a BFD profile with echo packets, which the API server took before", kind: "BFDProfile", reason: v1alpha1.ReasonInvalid,
			objects: Objects{BFDProfiles: []v1alpha1.BFDProfile{{ObjectMeta: named("x"), Spec: v1alpha1.BFDProfileSpec{EchoMode: true}}}},
			message: "spec.echoMode: the echo function is not built, and control packets alone detect a failure; remove the field",
		},
		{
			name: "an interface advertisement without an interface", kind: "InterfaceAdvertisement", reason: v1alpha1.ReasonAccepted,
			objects: Objects{InterfaceAdvertisements: []v1alpha1.InterfaceAdvertisement{{ObjectMeta: named("x")}}},
		},
		{
			name: "an interface advertisement", kind: "InterfaceAdvertisement", reason: v1alpha1.ReasonAccepted,
			objects: Objects{InterfaceAdvertisements: []v1alpha1.InterfaceAdvertisement{{
				ObjectMeta: named("x"), Spec: v1alpha1.InterfaceAdvertisementSpec{Interface: "kube-lb0"},
			}}},
		},
		{
			name: "an interface advertisement of an unknown pool", kind: "InterfaceAdvertisement", reason: v1alpha1.ReasonUnknownReference,
			objects: Objects{InterfaceAdvertisements: []v1alpha1.InterfaceAdvertisement{{ObjectMeta: named("x"), Spec: v1alpha1.InterfaceAdvertisementSpec{
				Selection: v1alpha1.Selection{AddressPools: []string{"wan"}}, Interface: "kube-lb0",
			}}}},
			message: `spec.addressPools[0]: there is no AddressPool "wan"; create it or remove the name`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config, conditions := Compile(tt.objects)
			want := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, ObservedGeneration: 3, Reason: tt.reason, Message: tt.message}
			if tt.reason == v1alpha1.ReasonAccepted {
				want.Status = metav1.ConditionTrue
			}
			if diff := cmp.Diff(want, conditions[Key{tt.kind, "x"}]); diff != "" {
				t.Errorf("condition (-want +got):\n%s", diff)
			}
			used := slices.ContainsFunc(config.L2, func(a L2Advertisement) bool { return a.Name == "x" }) ||
				slices.ContainsFunc(config.Peers, func(p Peer) bool { return p.Name == "x" }) ||
				slices.ContainsFunc(config.BGP, func(a BGPAdvertisement) bool { return a.Name == "x" })
			if used != tt.used {
				t.Errorf("used: %v, want %v", used, tt.used)
			}
		})
	}
}

func TestPools(t *testing.T) {
	objects := Objects{AddressPools: []ipamv1alpha1.AddressPool{
		pool("lan", map[string]string{"network": "lan"}), pool("lan6", map[string]string{"network": "lan"}), pool("wan", nil),
	}}
	for _, tt := range []struct {
		name      string
		selection v1alpha1.Selection
		want      []string // of lan, lan6, wan and gone, which is a deleted pool with addresses in use
	}{
		{name: "none named and none selected is every pool", want: []string{"lan", "lan6", "wan", "gone"}},
		{name: "named", selection: v1alpha1.Selection{AddressPools: []string{"wan"}}, want: []string{"wan"}},
		{name: "selected", selection: v1alpha1.Selection{AddressPoolSelectors: matching("network", "lan")}, want: []string{"lan", "lan6"}},
		{
			name:      "named or selected",
			selection: v1alpha1.Selection{AddressPools: []string{"wan", "lan"}, AddressPoolSelectors: matching("network", "lan")},
			want:      []string{"lan", "lan6", "wan"},
		},
		{
			name:      "one of two selectors has to match",
			selection: v1alpha1.Selection{AddressPoolSelectors: append(matching("network", "x"), matching("network", "lan")...)}, want: []string{"lan", "lan6"},
		},
		{name: "a selector that matches no pool is none, not every", selection: v1alpha1.Selection{AddressPoolSelectors: matching("network", "x")}},
		{
			name: "a pool that is gone still names the addresses that came from it", selection: v1alpha1.Selection{AddressPools: []string{"gone"}},
			want: []string{"gone"},
		},
		{
			name: "an empty selector is every pool there is", selection: v1alpha1.Selection{AddressPoolSelectors: []metav1.LabelSelector{{}}},
			want: []string{"lan", "lan6", "wan"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			objects := objects
			objects.L2Advertisements = []v1alpha1.L2Advertisement{{Spec: v1alpha1.L2AdvertisementSpec{Selection: tt.selection}}}
			config, _ := Compile(objects)
			var got []string
			for _, pool := range []string{"lan", "lan6", "wan", "gone"} {
				if config.L2[0].Selects(pool, "shop", labels.Set{}) {
					got = append(got, pool)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("pools (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNamespaces: one of the selectors has to match the namespace of the Service, and its labels those of the Service.
func TestNamespaces(t *testing.T) {
	objects := Objects{Namespaces: []corev1.Namespace{
		{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"team": "a"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "blog", Labels: map[string]string{"team": "b"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "home"}},
	}}
	for name, tt := range map[string]struct {
		selection v1alpha1.Selection
		want      []string // of shop, blog, home and gone, for a Service with the label app=web
	}{
		"none selected is every namespace":        {want: []string{"shop", "blog", "home", "gone"}},
		"one":                                     {v1alpha1.Selection{NamespaceSelectors: matching("team", "a")}, []string{"shop"}},
		"one of two selectors has to match":       {v1alpha1.Selection{NamespaceSelectors: append(matching("team", "a"), matching("team", "b")...)}, []string{"shop", "blog"}},
		"an empty selector is all that there are": {v1alpha1.Selection{NamespaceSelectors: []metav1.LabelSelector{{}}}, []string{"shop", "blog", "home"}},
		"a selector that matches none":            {v1alpha1.Selection{NamespaceSelectors: matching("team", "c")}, nil},
		"an empty list is every namespace":        {v1alpha1.Selection{NamespaceSelectors: []metav1.LabelSelector{}}, []string{"shop", "blog", "home", "gone"}},
		"the Service too":                         {v1alpha1.Selection{NamespaceSelectors: matching("team", "a"), ServiceSelectors: matching("app", "web")}, []string{"shop"}},
		"another Service":                         {v1alpha1.Selection{NamespaceSelectors: matching("team", "a"), ServiceSelectors: matching("app", "db")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			objects := objects
			objects.L2Advertisements = []v1alpha1.L2Advertisement{{Spec: v1alpha1.L2AdvertisementSpec{Selection: tt.selection}}}
			config, _ := Compile(objects)
			var got []string
			for _, namespace := range []string{"shop", "blog", "home", "gone"} {
				if config.L2[0].Selects("lan", namespace, labels.Set{"app": "web"}) {
					got = append(got, namespace)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("namespaces (-want +got):\n%s", diff)
			}
		})
	}
}

// What is read is watched: otherwise a change of an InterfaceAdvertisement, say, is found with the next change of something else. Namespaces are read where an
// advertisement of any kind selects them, and nowhere else.
func TestKinds(t *testing.T) {
	selection := v1alpha1.Selection{NamespaceSelectors: matching("team", "a")}
	for name, tt := range map[string]struct {
		fill       func(List)
		namespaces bool
	}{
		"no selectors of namespaces": {fill: func(List) {}},
		"of an L2Advertisement": {func(list List) {
			if l, ok := list.(*v1alpha1.L2AdvertisementList); ok {
				l.Items = []v1alpha1.L2Advertisement{{Spec: v1alpha1.L2AdvertisementSpec{Selection: selection}}}
			}
		}, true},
		"of a BGPAdvertisement": {func(list List) {
			if l, ok := list.(*v1alpha1.BGPAdvertisementList); ok {
				l.Items = []v1alpha1.BGPAdvertisement{{Spec: v1alpha1.BGPAdvertisementSpec{Selection: selection}}}
			}
		}, true},
		"of an InterfaceAdvertisement": {func(list List) {
			if l, ok := list.(*v1alpha1.InterfaceAdvertisementList); ok {
				l.Items = []v1alpha1.InterfaceAdvertisement{{Spec: v1alpha1.InterfaceAdvertisementSpec{Selection: selection}}}
			}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var want, read, atOnce []string
			for _, object := range Kinds() {
				if kind := fmt.Sprintf("%TList", object); kind != "*v1.NamespaceList" || tt.namespaces {
					want = append(want, kind)
				}
			}
			if _, err := Read(func(list List) error {
				tt.fill(list)
				read = append(read, fmt.Sprintf("%T", list))
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			ReadAtOnce(func(list List) {
				mu.Lock()
				defer mu.Unlock()
				tt.fill(list)
				atOnce = append(atOnce, fmt.Sprintf("%T", list))
			})
			slices.Sort(atOnce)
			if diff := cmp.Diff(want, read); diff != "" {
				t.Errorf("kinds (-watched +read):\n%s", diff)
			}
			if diff := cmp.Diff(slices.Sorted(slices.Values(want)), atOnce); diff != "" {
				t.Errorf("kinds (-watched +read at once):\n%s", diff)
			}
		})
	}
}

// The addresses of a pool are its ranges with what it excludes, which is also known apart.
func TestAddressesOfPools(t *testing.T) {
	lan, wan := pool("lan", nil), pool("wan", nil)
	lan.Spec.IPv4 = &ipamv1alpha1.IPv4Partition{
		Ranges: []ipamv1alpha1.IPv4Range{"192.0.2.0/24", "192.0.3.0/24"}, Exclude: []ipamv1alpha1.IPv4Range{"192.0.2.1", "192.0.2.128/25"},
	}
	lan.Spec.IPv6 = &ipamv1alpha1.IPv6Partition{
		Ranges: []ipamv1alpha1.IPv6Range{"2001:db8:c::/64", "no range"}, Exclude: []ipamv1alpha1.IPv6Range{"2001:db8:c::-2001:db8:c::f"},
	}
	wan.Spec.IPv6 = &ipamv1alpha1.IPv6Partition{Ranges: []ipamv1alpha1.IPv6Range{"2001:db8:d::/64"}}
	config, _ := Compile(Objects{AddressPools: []ipamv1alpha1.AddressPool{lan, wan}})
	for _, tt := range []struct {
		name string
		sets map[string]*netipx.IPSet
		want map[string]string
	}{
		{"addresses", config.Pools, map[string]string{"lan": "[192.0.2.0/23 2001:db8:c::/64]", "wan": "[2001:db8:d::/64]"}},
		{"excluded", config.Excluded, map[string]string{"lan": "[192.0.2.1/32 192.0.2.128/25 2001:db8:c::/124]"}},
	} {
		got := map[string]string{}
		for name, set := range tt.sets {
			got[name] = fmt.Sprint(set.Prefixes())
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestMatchesInterface(t *testing.T) {
	for _, tt := range []struct {
		name, iface string
		patterns    []string
		want        bool
	}{
		{name: "no pattern matches none", iface: "eth0"},
		{name: "a name matches itself", iface: "eth0", patterns: []string{"eth0"}, want: true},
		{name: "a name does not match what begins with it", iface: "eth0.100", patterns: []string{"eth0"}},
		{name: "a star matches any characters", iface: "bond0.100", patterns: []string{"eth0", "bond*"}, want: true},
		{name: "a star matches none as well", iface: "bond", patterns: []string{"bond*"}, want: true},
		{name: "a question mark matches one character", iface: "eth1", patterns: []string{"eth?"}, want: true},
		{name: "a question mark does not match two", iface: "eth10", patterns: []string{"eth?"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := (L2Advertisement{Interfaces: tt.patterns}).MatchesInterface(tt.iface); got != tt.want {
				t.Errorf("%q matches %q: %v, want %v", tt.patterns, tt.iface, got, tt.want)
			}
		})
	}
}

func TestCompiledAdvertisement(t *testing.T) {
	config, _ := Compile(Objects{
		BGPAdvertisements: []v1alpha1.BGPAdvertisement{
			{ObjectMeta: named("second")},
			{ObjectMeta: named("first"), Spec: v1alpha1.BGPAdvertisementSpec{
				Peers: []string{"tor9"}, AggregationLength: new(int32(0)), AggregationLengthV6: new(int32(64)),
				LocalPref: new(int64(4294967295)), MED: new(int64(0)), ASPathPrepend: 10,
				Communities: []v1alpha1.CommunityReference{"far", "no-export", "64512:100", "large:1:2:3", "unknown"},
			}},
		},
		Communities: []v1alpha1.Community{
			{ObjectMeta: named("b"), Spec: v1alpha1.CommunitySpec{Communities: []v1alpha1.NamedCommunity{{Name: "far", Value: "64512:2"}}}},
			{ObjectMeta: named("a"), Spec: v1alpha1.CommunitySpec{Communities: []v1alpha1.NamedCommunity{{Name: "far", Value: "large:64512:2:3"}}}},
		},
	})
	want := []BGPAdvertisement{
		{
			Name: "first", Peers: map[string]bool{"tor9": true}, LengthIPv6: 64, LocalPref: new(uint32(4294967295)), MED: new(uint32(0)), ASPathPrepend: 10,
			Communities: []bgp.Community{
				{Large: true, A: 64512, B: 2, C: 3}, {A: 65535, B: 65281}, {A: 64512, B: 100}, {Large: true, A: 1, B: 2, C: 3},
			},
		},
		{Name: "second", LengthIPv4: 32, LengthIPv6: 128},
	}
	for i := range config.BGP {
		config.BGP[i].Selection = Selection{}
	}
	if diff := cmp.Diff(want, config.BGP); diff != "" {
		t.Errorf("advertisements (-want +got):\n%s", diff)
	}
}

// TestContract checks the condition Ready of each object that the API contract promises to accept.
func TestContract(t *testing.T) {
	var o Objects
	for _, document := range documents(t, "../../test/api/testdata/accepted.yaml") {
		var meta metav1.TypeMeta
		decode(t, document, &meta)
		switch meta.Kind {
		case "AddressPool":
			o.AddressPools = append(o.AddressPools, decode(t, document, &ipamv1alpha1.AddressPool{}))
		case "L2Advertisement":
			o.L2Advertisements = append(o.L2Advertisements, decode(t, document, &v1alpha1.L2Advertisement{}))
		case "BGPPeer":
			o.BGPPeers = append(o.BGPPeers, decode(t, document, &v1alpha1.BGPPeer{}))
		case "BGPAdvertisement":
			o.BGPAdvertisements = append(o.BGPAdvertisements, decode(t, document, &v1alpha1.BGPAdvertisement{}))
		case "BFDProfile":
			o.BFDProfiles = append(o.BFDProfiles, decode(t, document, &v1alpha1.BFDProfile{}))
		case "Community":
			o.Communities = append(o.Communities, decode(t, document, &v1alpha1.Community{}))
		case "InterfaceAdvertisement":
			o.InterfaceAdvertisements = append(o.InterfaceAdvertisements, decode(t, document, &v1alpha1.InterfaceAdvertisement{}))
		}
	}
	config, conditions := Compile(o)
	got := map[Key]string{}
	for key, condition := range conditions {
		got[key] = condition.Reason
	}
	if diff := cmp.Diff(map[Key]string{
		{"L2Advertisement", "lan"}:             v1alpha1.ReasonAccepted,
		{"L2Advertisement", "everything"}:      v1alpha1.ReasonAccepted,
		{"BGPPeer", "tor1"}:                    v1alpha1.ReasonAccepted,
		{"BGPPeer", "tor2"}:                    v1alpha1.ReasonAccepted,
		{"BGPPeer", "gateway"}:                 v1alpha1.ReasonAccepted,
		{"BGPPeer", "fabric"}:                  v1alpha1.ReasonAccepted,
		{"BGPAdvertisement", "primary"}:        v1alpha1.ReasonAccepted,
		{"Community", "traffic-engineering"}:   v1alpha1.ReasonAccepted,
		{"BFDProfile", "fast"}:                 v1alpha1.ReasonAccepted,
		{"InterfaceAdvertisement", "kube-lb0"}: v1alpha1.ReasonAccepted,
		{"InterfaceAdvertisement", "routes"}:   v1alpha1.ReasonAccepted,
	}, got); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
	var used []string
	for _, ad := range config.L2 {
		used = append(used, "L2Advertisement "+ad.Name)
	}
	for _, peer := range config.Peers {
		used = append(used, "BGPPeer "+peer.Name)
	}
	for _, ad := range config.BGP {
		used = append(used, "BGPAdvertisement "+ad.Name)
	}
	if diff := cmp.Diff([]string{
		"L2Advertisement everything", "L2Advertisement lan", "BGPPeer fabric", "BGPPeer gateway", "BGPPeer tor1", "BGPPeer tor2",
		"BGPAdvertisement primary",
	}, used); diff != "" {
		t.Errorf("used (-want +got):\n%s", diff)
	}
	everything := config.L2[0]
	if got := slices.Sorted(maps.Keys(everything.Pools)); !slices.Equal(got, []string{"lan"}) ||
		!everything.Selects("lan", "shop", labels.Set{"expose": "yes"}) || everything.Selects("lan", "shop", nil) {
		t.Errorf("L2Advertisement everything selects pools %v and Services by %v", got, everything.Services)
	}
	if diff := cmp.Diff([]bgp.Community{
		{A: 64512, B: 100}, {A: 65535, B: 65281}, {A: 64512, B: 1000}, {Large: true, A: 64512, B: 1, C: 2},
	}, config.BGP[0].Communities); diff != "" {
		t.Errorf("communities of BGPAdvertisement primary (-want +got):\n%s", diff)
	}
}

func documents(t *testing.T, file string) [][]byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(data, []byte("\n---\n"))
}

// decode reads a document and returns it by value.
func decode[T any](t *testing.T, document []byte, into *T) T {
	t.Helper()
	if err := yaml.Unmarshal(document, into); err != nil {
		t.Fatalf("%v in\n%s", err, document)
	}
	return *into
}

func TestFailbackAfter(t *testing.T) {
	var o Objects
	for name, after := range map[string]*metav1.Duration{"a": nil, "b": {Duration: 10 * time.Minute}} {
		ad := v1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.L2AdvertisementSpec{FailbackAfter: after}}
		o.L2Advertisements = append(o.L2Advertisements, ad)
	}
	compiled, _ := Compile(o)
	if got := []time.Duration{compiled.L2[0].FailbackAfter, compiled.L2[1].FailbackAfter}; got[0] != 0 || got[1] != 10*time.Minute {
		t.Errorf("FailbackAfter is %v, want none and 10 minutes", got)
	}
}
