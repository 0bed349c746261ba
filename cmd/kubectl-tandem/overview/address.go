// SPDX-License-Identifier: Apache-2.0

package overview

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/family"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/claim"
	"github.com/tandem-lb/tandem/loadbalancer/request"
	"github.com/tandem-lb/tandem/speaker/diagnosis"
	"github.com/tandem-lb/tandem/speaker/observation"
)

// Address is what is known of one address: who has it, since when and why, and who had it.
type Address struct {
	Address netip.Addr `json:"address"`
	Family  string     `json:"family"`
	// Pools are those that contain it, and Excluded those that do so and exclude it.
	Pools    []string `json:"pools"`
	Excluded []string `json:"excluded,omitempty"`
	// Reserved says whose it is where it is never given.
	Reserved []string `json:"reserved,omitempty"`
	// Claimed is since when an IPAddress of Tandem stands for it, zero if none does; Pool is that from which it was taken.
	Claimed time.Time `json:"claimed,omitzero"`
	Pool    string    `json:"pool,omitempty"`
	// Foreign describes the owner of an IPAddress that is not Tandem's, as of a cluster IP; "" if there is none.
	Foreign string `json:"foreign,omitempty"`
	// Users are the Services that have it.
	Users []User `json:"users"`
	// Left are the Services that have left it, by the claim.
	Left []Left `json:"left,omitempty"`
	// Free is when an address that waits for reuseAfter can be given to another Service; zero if it does not wait.
	Free time.Time `json:"free,omitzero"`
	// Conflicts are other machines that have it, as speakers have heard.
	Conflicts []string `json:"conflicts,omitempty"`
	// Unanswered says which node does not answer for it on the LAN, though it is to, "" if none is known.
	Unanswered string `json:"unanswered,omitempty"`
}

// User is a Service that has an address.
type User struct {
	Service   string `json:"service"` // as "default/web"
	Why       string `json:"why"`     // it has this address
	Published bool   `json:"published"`
	Announced bool   `json:"announced"`
	// By, Since and Interfaces are the holder on layer 2, or the way alone: BGP or kernel.
	By         string    `json:"by,omitempty"`
	Since      time.Time `json:"since,omitzero"`
	Interfaces []string  `json:"interfaces,omitempty"`
	// Message says how it is announced, or why not.
	Message string `json:"message"`
}

// Left is a Service that has left an address.
type Left struct {
	Service string    `json:"service"`
	At      time.Time `json:"at"`
}

// Problem reports whether an address is not as its users want it.
func (a *Address) Problem() bool {
	return len(a.Conflicts) > 0 || a.Unanswered != "" || slices.ContainsFunc(a.Users, func(u User) bool { return !u.Announced })
}

// AddressOf returns what a State says of an address. Namespaces are the labels of the namespaces, which some pools select.
func AddressOf(s *cluster.State, ip netip.Addr, namespaces map[string]labels.Set) *Address {
	a := &Address{Address: ip, Family: string(family.Of(ip)), Pools: []string{}, Users: []User{}}
	for _, name := range slices.Sorted(maps.Keys(s.Snapshot.Config.Pools)) {
		excluded := s.Snapshot.Config.Excluded[name]
		switch {
		case excluded != nil && excluded.Contains(ip):
			a.Excluded = append(a.Excluded, name)
		case s.Snapshot.Config.Pools[name].Contains(ip):
			a.Pools = append(a.Pools, name)
		}
	}
	a.Reserved = reservedFor(s, ip)
	for i := range s.Claims.Items {
		if s.Claims.Items[i].Name == ip.String() {
			a.claimed(s, &s.Claims.Items[i])
		}
	}
	for i := range s.Speakers.Items {
		for _, c := range s.Speakers.Items[i].Status.Conflicts {
			if c.Address == ip.String() {
				a.Conflicts = append(a.Conflicts, fmt.Sprintf("a machine with the MAC address %s, by what %s hears on %s", c.MAC, s.Speakers.Items[i].Name, c.Interface))
			}
		}
	}
	if u, ok := unanswered(s)[ip.String()]; ok {
		a.Unanswered = unansweredMessage(u)
	}
	pools := knownPools(s)
	for i := range s.Snapshot.Services {
		service := &s.Snapshot.Services[i]
		for _, f := range s.Diagnoser.Service(service.Name, true) {
			if f.Address == ip {
				a.Users = append(a.Users, userOf(s, service.Name, f, a.Pool, pools, namespaces))
			}
		}
	}
	return a
}

// reservedFor says whose an address is that is never given.
func reservedFor(s *cluster.State, ip netip.Addr) (owners []string) {
	nodes := make([]*corev1.Node, len(s.Nodes.Items))
	for i := range s.Nodes.Items {
		nodes[i] = &s.Nodes.Items[i]
	}
	allocator := ipam.New()
	allocator.SetReserved(ipam.ReservedOf(observation.Network(nodes, s.Speakers.Items, s.Config.BGPPeers, s.APIServers)))
	for _, r := range allocator.ReservedAt(ip) {
		owners = append(owners, r.Owner)
	}
	return owners
}

// claimed takes in the IPAddress that stands for the address.
func (a *Address) claimed(s *cluster.State, c *networkingv1.IPAddress) {
	if c.Labels[networkingv1.LabelManagedBy] != ipamv1alpha1.ManagedBy {
		a.Foreign = claim.Owner(c)
		return
	}
	a.Claimed, a.Pool = c.CreationTimestamp.Time, c.Labels[ipamv1alpha1.LabelAddressPool]
	var left map[string]time.Time
	if json.Unmarshal([]byte(c.Annotations[ipamv1alpha1.AnnotationLeft]), &left) != nil {
		return
	}
	for _, service := range slices.Sorted(maps.Keys(left)) {
		a.Left = append(a.Left, Left{service, left[service]})
	}
	parent := c.Spec.ParentRef
	at, hasLeft := left[parent.Namespace+"/"+parent.Name]
	for i := range s.Config.AddressPools {
		p := &s.Config.AddressPools[i]
		if hasLeft && p.Name == a.Pool && p.Spec.ReuseAfter != nil {
			a.Free = at.Add(p.Spec.ReuseAfter.Duration)
		}
	}
}

// knownPools returns the pools as the controller manager tries them.
func knownPools(s *cluster.State) *request.Pools {
	pools := make([]request.Pool, len(s.Config.AddressPools))
	for i := range s.Config.AddressPools {
		pools[i] = request.ParsePool(&s.Config.AddressPools[i])
	}
	return request.NewPools(pools)
}

// userOf describes a Service that has an address, which was taken from a pool.
func userOf(
	s *cluster.State, name types.NamespacedName, f diagnosis.Finding, pool string, pools *request.Pools, namespaces map[string]labels.Set,
) User {
	u := User{Service: name.String(), Announced: f.Announced, By: string(f.Way), Message: f.Message}
	i := slices.IndexFunc(s.Services.Items, func(svc corev1.Service) bool { return svc.Namespace == name.Namespace && svc.Name == name.Name })
	if i >= 0 {
		svc := &s.Services.Items[i]
		shows := request.Published(svc)
		u.Published = slices.Contains(shows, f.Address)
		u.Why = whyOf(svc, f.Address, pool, pools, namespaces[svc.Namespace], shows)
	}
	for i := range s.Announcements.Items {
		r := &s.Announcements.Items[i]
		if f.Way == diagnosis.Layer2 && r.Service.Namespace == name.Namespace && r.Service.Name == name.Name {
			u.By, u.Interfaces = r.Status.Node, r.Status.Interfaces
			if r.Status.Since != nil {
				u.Since = r.Status.Since.Time
			}
		}
	}
	return u
}

// whyOf says by what a Service has come to an address: by its own request, or by a pool.
func whyOf(svc *corev1.Service, ip netip.Addr, pool string, pools *request.Pools, namespace labels.Set, shows []netip.Addr) string {
	rules := request.Rules{Honour: request.AllProducts}
	// As one without addresses, since the annotations of other products count only then.
	asked, err := rules.New(svc, pools, namespace, shows, false)
	var names []string
	for _, c := range asked.Pools {
		if c.Auto {
			names = append(names, c.Pool)
		}
	}
	switch {
	case slices.Contains(asked.Addresses, ip):
		return "it asks for this address"
	case err != nil:
		return err.Error()
	case len(names) == 0:
		return "it keeps what it was given; no pool would give it an address today"
	case pool != "" && !slices.Contains(names, pool):
		return fmt.Sprintf("it keeps what it was given from pool %s; today it would be given an address of %s", pool, strings.Join(names, " or "))
	case asked.Named:
		return "it asks for an address of pool " + strings.Join(names, " or ")
	}
	return "it names no pool, and may have addresses of " + strings.Join(names, ", ")
}
