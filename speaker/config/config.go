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
	"math"
	"path"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tandem-lb/tandem/ipam/selector"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Objects are the objects to compile. Of pools only names and labels matter.
type Objects struct {
	AddressPools            []ipamv1alpha1.AddressPool
	L2Advertisements        []v1alpha1.L2Advertisement
	BGPPeers                []v1alpha1.BGPPeer
	BGPAdvertisements       []v1alpha1.BGPAdvertisement
	BFDProfiles             []v1alpha1.BFDProfile
	Communities             []v1alpha1.Community
	InterfaceAdvertisements []v1alpha1.InterfaceAdvertisement
}

// Config is what speakers follow. Each list is ordered by name.
type Config struct {
	L2    []L2Advertisement
	Peers []Peer
	BGP   []BGPAdvertisement
}

// Selection says which addresses of which Services an advertisement concerns, and on which nodes.
type Selection struct {
	// Pools are the pools by name, nil for every pool.
	Pools    map[string]bool
	Services selector.List
	Nodes    selector.List
}

// Selects reports whether an address from the pool, of a Service with these labels, is concerned.
func (s Selection) Selects(pool string, service labels.Set) bool {
	return s.SelectsPool(pool) && s.Services.Matches(service)
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
	Peers                  map[string]bool
	LengthIPv4, LengthIPv6 int
	LocalPref, MED         *uint32
	ASPathPrepend          uint8
	Communities            []bgp.Community
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

// findings collects what is wrong with one object.
type findings struct {
	invalid, unknown, notBuilt []string
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
	case len(f.notBuilt) > 0:
		c.Reason = v1alpha1.ReasonNotImplemented
	default:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonAccepted
	}
	c.Message = strings.Join(slices.Concat(f.invalid, f.unknown, f.notBuilt), "; ")
	return c, used
}

func (c *compiler) conclude(kind, name string, generation int64, f *findings) bool {
	condition, used := f.condition(generation)
	c.conditions[Key{kind, name}] = condition
	return used
}

func (c *compiler) compile() Config {
	var config Config
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
		if ad.Spec.FailbackAfter != nil {
			f.notBuilt = append(f.notBuilt,
				"spec.failbackAfter: this has no effect in this version; no live node loses an address to a preferred one")
		}
		if c.conclude("L2Advertisement", ad.Name, ad.Generation, &f) {
			config.L2 = append(config.L2, compiled)
		}
	}
	for _, peer := range c.BGPPeers {
		var f findings
		compiled, addressed := c.peer(&f, peer.Name, &peer.Spec)
		if c.conclude("BGPPeer", peer.Name, peer.Generation, &f) && addressed {
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
		if n := ad.Spec.AggregationLength; n != nil {
			compiled.LengthIPv4 = int(*n)
		}
		if n := ad.Spec.AggregationLengthV6; n != nil {
			compiled.LengthIPv6 = int(*n)
		}
		for i, reference := range ad.Spec.Communities {
			value, err := c.community(string(reference))
			if err != nil {
				f.unknown = append(f.unknown, fmt.Sprintf("spec.communities[%d]: %v", i, err))
				continue
			}
			if value == bgp.WellKnownCommunities["llgr-stale"] {
				// GoBGP withdraws such a route from every peer without long-lived graceful restart (RFC 9494 §4.3).
				f.notBuilt = append(f.notBuilt, fmt.Sprintf(
					"spec.communities[%d]: this version sends no routes with llgr-stale and leaves it out; "+
						"use graceful-shutdown to make routes the last choice", i))
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
		if p.Spec.EchoMode {
			f.notBuilt = append(f.notBuilt, "spec.echoMode: this version sends no echo packets; control packets detect a failure by themselves")
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
		f := findings{notBuilt: []string{"this version puts no addresses on interfaces; use an L2Advertisement or a BGPAdvertisement"}}
		if ad.Spec.Interface == "" {
			f.notBuilt = []string{"this version makes no routes of the kernel; use an L2Advertisement or a BGPAdvertisement"}
		}
		c.selection(&f, ad.Spec.Selection)
		c.conclude("InterfaceAdvertisement", ad.Name, ad.Generation, &f)
	}
	slices.SortFunc(config.L2, func(a, b L2Advertisement) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(config.Peers, func(a, b Peer) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(config.BGP, func(a, b BGPAdvertisement) int { return strings.Compare(a.Name, b.Name) })
	return config
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
	return Selection{
		Pools:    pools,
		Services: f.selectors("spec.serviceSelectors", s.ServiceSelectors),
		Nodes:    f.selectors("spec.nodeSelectors", s.NodeSelectors),
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
