// SPDX-License-Identifier: Apache-2.0

// Package config compiles the objects that users write for the speakers into the [Config] that speakers follow, and says of each object
// whether it is in use and, where it is not, what to change.
//
// [Compile] is called by both sides: every speaker takes the Config from it, and the controller manager's leader takes the conditions and
// writes them, so that the conditions say what the speakers do. An object with a mistake is left out, or used without the part at fault. It
// never keeps another object from being used.
//
// The package is pure: it knows API types, and no client. [Read] is handed the function that lists.
package config

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/ipam/selector"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Objects are the objects to compile.
type Objects struct {
	AddressPools            []ipamv1alpha1.AddressPool
	L2Advertisements        []v1alpha1.L2Advertisement
	BGPPeers                []v1alpha1.BGPPeer
	BGPAdvertisements       []v1alpha1.BGPAdvertisement
	BFDProfiles             []v1alpha1.BFDProfile
	Communities             []v1alpha1.Community
	InterfaceAdvertisements []v1alpha1.InterfaceAdvertisement
	// Namespaces need not be there where no advertisement has namespaceSelectors.
	Namespaces []corev1.Namespace
}

// Config is what speakers follow. Each list is ordered by name.
type Config struct {
	L2    []L2Advertisement
	Peers []Peer
	BGP   []BGPAdvertisement
	// Interfaces are the InterfaceAdvertisements.
	Interfaces []InterfaceAdvertisement
	// Pools have the addresses of each AddressPool by its name: its ranges of both families, with what they exclude.
	Pools map[string]*netipx.IPSet
	// Excluded have the addresses that an AddressPool excludes, by its name; a pool that excludes none is left out.
	Excluded map[string]*netipx.IPSet
}

// Selection says which addresses of which Services an advertisement concerns, and on which nodes.
type Selection struct {
	// Pools are the pools by name, nil for every pool.
	Pools map[string]bool
	// Namespaces are the namespaces by name, nil for every namespace.
	Namespaces map[string]bool
	Services   selector.List
	Nodes      selector.List
}

// Selects reports whether an address from the pool, of a Service in a namespace and with these labels, is concerned.
func (s Selection) Selects(pool, namespace string, service labels.Set) bool {
	return s.SelectsPool(pool) && s.SelectsService(namespace, service)
}

// SelectsService reports whether addresses of a Service in a namespace, with these labels, are concerned.
func (s Selection) SelectsService(namespace string, service labels.Set) bool {
	return s.SelectsNamespace(namespace) && s.Services.Matches(service)
}

// SelectsNamespace reports whether addresses of Services in a namespace are concerned.
func (s Selection) SelectsNamespace(namespace string) bool {
	return s.Namespaces == nil || s.Namespaces[namespace]
}

// SelectsPool reports whether addresses from the pool are concerned.
func (s Selection) SelectsPool(pool string) bool { return s.Pools == nil || s.Pools[pool] }

// L2Advertisement is a compiled v1alpha1.L2Advertisement.
type L2Advertisement struct {
	Name string
	Selection
	// Interfaces are patterns of names; none stands for every interface that holds the address's prefix.
	Interfaces []string
	Preferred  []Preference
	// FailbackAfter is how long a preferred node has to be healthy before it takes an address back, zero for never.
	FailbackAfter time.Duration
}

// MatchesInterface reports whether one of the patterns matches the name. It is false where there are none.
func (a L2Advertisement) MatchesInterface(name string) bool {
	return slices.ContainsFunc(a.Interfaces, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return err == nil && ok
	})
}

// Preference adds to the weight of the nodes it matches.
type Preference struct {
	Weight int32
	Nodes  labels.Selector
}

// BGPAdvertisement is a compiled v1alpha1.BGPAdvertisement.
type BGPAdvertisement struct {
	Name string
	Selection
	// Peers are names, nil for every peer.
	Peers map[string]bool
	// Families are those whose addresses are announced, nil for both.
	Families               []family.Family
	LengthIPv4, LengthIPv6 int
	LocalPref, MED         *uint32
	ASPathPrepend          uint8
	Communities            []bgp.Community
}

// InterfaceAdvertisement is a compiled v1alpha1.InterfaceAdvertisement.
type InterfaceAdvertisement struct {
	Name string
	Selection
	// Interface is the name of the interface that gets the addresses, "" if they become routes alone.
	Interface              string
	LengthIPv4, LengthIPv6 int
}

// Key names one of the objects.
type Key struct {
	Kind, Name string
}

// Compile returns what speakers follow, and the condition Ready of every object.
func Compile(o Objects) (Config, map[Key]metav1.Condition) {
	c := compiler{Objects: o, conditions: map[Key]metav1.Condition{}}
	return c.compile(), c.conditions
}

type compiler struct {
	Objects
	conditions map[Key]metav1.Condition
}

// findings collects what is wrong with one object, and what is to be known of one that is in use as it is.
type findings struct {
	invalid, unknown, notes []string
}

// selectors compiles a list of selectors.
func (f *findings) selectors(field string, list []metav1.LabelSelector) selector.List {
	compiled, errs := selector.Compile(field, list)
	for _, err := range errs {
		f.invalid = append(f.invalid, err.Error())
	}
	return compiled
}

// selector compiles a selector that stands alone.
func (f *findings) selector(field string, s *metav1.LabelSelector) labels.Selector {
	compiled, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		f.invalid = append(f.invalid, fmt.Sprintf("%s: %v", field, err))
		return labels.Nothing()
	}
	return compiled
}

// names checks references to objects by name and returns all of them, nil for an empty list. One that does not exist is reported and
// kept: the addresses of a pool that was deleted stay with their Services, and go on being announced.
func (f *findings) names(field, kind string, names []string, exists func(string) bool) map[string]bool {
	if len(names) == 0 {
		return nil
	}
	named := map[string]bool{}
	for i, name := range names {
		f.reference(fmt.Sprintf("%s[%d]", field, i), kind, name, exists)
		named[name] = true
	}
	return named
}

// reference checks a reference to an object by name.
func (f *findings) reference(field, kind, name string, exists func(string) bool) bool {
	ok := exists(name)
	if !ok {
		f.unknown = append(f.unknown, fmt.Sprintf("%s: there is no %s %q; create it or remove the name", field, kind, name))
	}
	return ok
}

// condition returns the condition Ready of the object, and whether speakers use it.
func (f *findings) condition(generation int64) (metav1.Condition, bool) {
	c := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, ObservedGeneration: generation}
	used := true
	switch {
	case len(f.invalid) > 0:
		c.Reason, used = v1alpha1.ReasonInvalid, false
	case len(f.unknown) > 0:
		c.Reason = v1alpha1.ReasonUnknownReference
	default:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonAccepted
	}
	c.Message = strings.Join(slices.Concat(f.invalid, f.unknown, f.notes), "; ")
	return c, used
}

func (c *compiler) conclude(kind, name string, generation int64, f *findings) bool {
	condition, used := f.condition(generation)
	c.conditions[Key{kind, name}] = condition
	return used
}

func (c *compiler) compile() Config {
	var config Config
	config.Pools, config.Excluded = c.pools()
	// A cache has no order, and of two definitions of one name every speaker must take the same.
	c.Communities = slices.SortedFunc(slices.Values(c.Communities), func(a, b v1alpha1.Community) int {
		return strings.Compare(a.Name, b.Name)
	})
	for _, ad := range c.L2Advertisements {
		var f findings
		compiled := L2Advertisement{Name: ad.Name, Selection: c.selection(&f, ad.Spec.Selection)}
		for _, pattern := range ad.Spec.Interfaces {
			compiled.Interfaces = append(compiled.Interfaces, string(pattern))
		}
		for i, p := range ad.Spec.PreferredNodes {
			nodes := f.selector(fmt.Sprintf("spec.preferredNodes[%d].nodeSelector", i), &p.NodeSelector)
			compiled.Preferred = append(compiled.Preferred, Preference{p.Weight, nodes})
		}
		if after := ad.Spec.FailbackAfter; after != nil {
			compiled.FailbackAfter = after.Duration
		}
		if c.conclude("L2Advertisement", ad.Name, ad.Generation, &f) {
			config.L2 = append(config.L2, compiled)
		}
	}
	for _, peer := range c.BGPPeers {
		var f findings
		compiled := c.peer(&f, peer.Name, &peer.Spec)
		if c.conclude("BGPPeer", peer.Name, peer.Generation, &f) {
			config.Peers = append(config.Peers, compiled)
		}
	}
	for _, ad := range c.BGPAdvertisements {
		var f findings
		compiled := BGPAdvertisement{
			Name: ad.Name, Selection: c.selection(&f, ad.Spec.Selection),
			Peers:      f.names("spec.peers", "BGPPeer", ad.Spec.Peers, exists(c.BGPPeers, func(p v1alpha1.BGPPeer) string { return p.Name })),
			LengthIPv4: 32, LengthIPv6: 128,
			LocalPref: number(ad.Spec.LocalPref), MED: number(ad.Spec.MED),
			ASPathPrepend: uint8(min(ad.Spec.ASPathPrepend, math.MaxUint8)),
		}
		for _, f := range ad.Spec.Families {
			compiled.Families = append(compiled.Families, family.Family(f))
		}
		if n := ad.Spec.AggregationLength; n != nil {
			compiled.LengthIPv4 = int(*n)
		}
		if n := ad.Spec.AggregationLengthV6; n != nil {
			compiled.LengthIPv6 = int(*n)
		}
		f.aggregates(compiled.Selection, config.Pools, compiled.LengthIPv4, compiled.LengthIPv6)
		for i, reference := range ad.Spec.Communities {
			value, err := c.community(string(reference))
			if err != nil {
				f.unknown = append(f.unknown, fmt.Sprintf("spec.communities[%d]: %v", i, err))
				continue
			}
			compiled.Communities = append(compiled.Communities, value)
		}
		if c.conclude("BGPAdvertisement", ad.Name, ad.Generation, &f) {
			config.BGP = append(config.BGP, compiled)
		}
	}
	for _, p := range c.BFDProfiles {
		var f findings
		if p.Spec.EchoMode { // The API server refuses it, and took it before.
			f.invalid = append(f.invalid, "spec.echoMode: the echo function is not built, and control packets alone detect a failure; remove the field")
		}
		c.conclude("BFDProfile", p.Name, p.Generation, &f)
	}
	for _, obj := range c.Communities {
		var f findings
		for i, named := range obj.Spec.Communities {
			if _, err := bgp.ParseCommunity(named.Value); err != nil {
				f.invalid = append(f.invalid, fmt.Sprintf("spec.communities[%d].value: %v", i, err))
			}
			if by, first, _ := c.definition(named.Name); first.Value != named.Value {
				f.invalid = append(f.invalid, fmt.Sprintf("spec.communities[%d].name: %q is %s by Community %q; choose another name",
					i, named.Name, first.Value, by))
			}
		}
		c.conclude("Community", obj.Name, obj.Generation, &f)
	}
	for _, ad := range c.InterfaceAdvertisements {
		var f findings
		compiled := InterfaceAdvertisement{
			Name: ad.Name, Selection: c.selection(&f, ad.Spec.Selection), Interface: ad.Spec.Interface, LengthIPv4: 32, LengthIPv6: 128,
		}
		if n := ad.Spec.AggregationLength; n != nil {
			compiled.LengthIPv4 = int(*n)
		}
		if n := ad.Spec.AggregationLengthV6; n != nil {
			compiled.LengthIPv6 = int(*n)
		}
		f.aggregates(compiled.Selection, config.Pools, compiled.LengthIPv4, compiled.LengthIPv6)
		if c.conclude("InterfaceAdvertisement", ad.Name, ad.Generation, &f) {
			config.Interfaces = append(config.Interfaces, compiled)
		}
	}
	slices.SortFunc(config.L2, func(a, b L2Advertisement) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(config.Peers, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(config.Interfaces, func(a, b InterfaceAdvertisement) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(config.BGP, func(a, b BGPAdvertisement) int { return strings.Compare(a.Name, b.Name) })
	return config
}

// pools returns the addresses of each pool, and those of them that it excludes. A range that cannot be read has none.
func (c *compiler) pools() (all, excluded map[string]*netipx.IPSet) {
	all, excluded = make(map[string]*netipx.IPSet, len(c.AddressPools)), map[string]*netipx.IPSet{}
	for i := range c.AddressPools {
		pool := &c.AddressPools[i]
		var ranges, exclude netipx.IPSetBuilder
		if p := pool.Spec.IPv4; p != nil {
			addRanges(&ranges, p.Ranges)
			addRanges(&exclude, p.Exclude)
		}
		if p := pool.Spec.IPv6; p != nil {
			addRanges(&ranges, p.Ranges)
			addRanges(&exclude, p.Exclude)
		}
		if set, err := ranges.IPSet(); err == nil {
			all[pool.Name] = set
		}
		if set, err := exclude.IPSet(); err == nil && len(set.Ranges()) > 0 {
			excluded[pool.Name] = set
		}
	}
	return all, excluded
}

// addRanges adds the addresses of ranges of one family.
func addRanges[T ~string](set *netipx.IPSetBuilder, ranges []T) {
	for _, text := range ranges {
		if r, err := ipam.ParseRange(string(text)); err == nil {
			set.AddRange(netipx.IPRangeFrom(r.First, r.Last))
		}
	}
}

// aggregates notes the first prefix of these lengths that reaches beyond each pool that is selected: its addresses are announced one by
// one. For example a pool has 198.51.100.200-198.51.100.239 and the length is 28: 198.51.100.192/28 has addresses that are not the pool's.
func (f *findings) aggregates(s Selection, pools map[string]*netipx.IPSet, lengthIPv4, lengthIPv6 int) {
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		if !s.SelectsPool(name) {
			continue
		}
		for _, run := range pools[name].Ranges() {
			field, length := "spec.aggregationLength", lengthIPv4
			if run.From().Is6() {
				field, length = "spec.aggregationLengthV6", lengthIPv6
			}
			first, last := netip.PrefixFrom(run.From(), length).Masked(), netip.PrefixFrom(run.To(), length).Masked()
			if pools[name].ContainsPrefix(first) {
				first = last
			}
			if !pools[name].ContainsPrefix(first) {
				f.notes = append(f.notes, fmt.Sprintf("%s: %s reaches beyond pool %s (%s), so that the addresses in it are announced by routes of their own",
					field, first, name, run))
				break
			}
		}
	}
}

func (c *compiler) selection(f *findings, s v1alpha1.Selection) Selection {
	pools := f.names("spec.addressPools", "AddressPool", s.AddressPools,
		exists(c.AddressPools, func(p ipamv1alpha1.AddressPool) string { return p.Name }))
	if len(s.AddressPoolSelectors) > 0 {
		selectors := f.selectors("spec.addressPoolSelectors", s.AddressPoolSelectors)
		if pools == nil {
			pools = map[string]bool{}
		}
		for _, p := range c.AddressPools {
			if selectors.Matches(labels.Set(p.Labels)) {
				pools[p.Name] = true
			}
		}
	}
	var namespaces map[string]bool
	if len(s.NamespaceSelectors) > 0 {
		selectors := f.selectors("spec.namespaceSelectors", s.NamespaceSelectors)
		namespaces = map[string]bool{}
		for i := range c.Namespaces {
			if selectors.Matches(labels.Set(c.Namespaces[i].Labels)) {
				namespaces[c.Namespaces[i].Name] = true
			}
		}
	}
	return Selection{
		Pools:      pools,
		Namespaces: namespaces,
		Services:   f.selectors("spec.serviceSelectors", s.ServiceSelectors),
		Nodes:      f.selectors("spec.nodeSelectors", s.NodeSelectors),
	}
}

// community resolves a reference: a name that a Community object defines, or else a value or a well-known name.
func (c *compiler) community(reference string) (bgp.Community, error) {
	if _, named, ok := c.definition(reference); ok {
		return bgp.ParseCommunity(named.Value)
	}
	value, err := bgp.ParseCommunity(reference)
	if err != nil && !strings.Contains(reference, ":") {
		return value, fmt.Errorf("there is no community %q; define it in a Community object or write its value", reference)
	}
	return value, err
}

// definition returns what a name stands for and the Community object that says so: of several the first by name.
func (c *compiler) definition(name string) (object string, definition v1alpha1.NamedCommunity, ok bool) {
	for _, obj := range c.Communities {
		for _, named := range obj.Spec.Communities {
			if named.Name == name {
				return obj.Name, named, true
			}
		}
	}
	return "", definition, false
}

func exists[T any](objects []T, name func(T) string) func(string) bool {
	return func(wanted string) bool {
		return slices.ContainsFunc(objects, func(o T) bool { return name(o) == wanted })
	}
}

func number(n *int64) *uint32 {
	if n == nil {
		return nil
	}
	v := uint32(*n)
	return &v
}
