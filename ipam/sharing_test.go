// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/ipam/family"
)

// onPorts is how a Service of no namespace with the key "web" shares.
func onPorts(numbers ...int32) Sharing {
	s := Sharing{Key: "web"}
	for _, n := range numbers {
		s.Ports = append(s.Ports, Port{"TCP", n})
	}
	return s
}

// of is how a Service of a namespace with the key "web" and a port shares, with what consents names.
func of(namespace string, port int32, consents ...string) Sharing {
	s := onPorts(port)
	s.Namespace, s.Consents = namespace, consents
	return s
}

func TestConsent(t *testing.T) {
	deny := func(s Sharing) Sharing { s.OwnNamespaceOnly = true; return s }
	tests := []struct {
		name  string
		a, b  Sharing
		admit bool
		says  string // to b, of a
	}{
		{name: "one namespace", a: of("shop", 80), b: of("shop", 81), admit: true},
		{name: "one namespace, whatever else is named", a: of("shop", 80, "blog"), b: deny(of("shop", 81)), admit: true},
		{name: "both name the other", a: of("shop", 80, "front", "blog"), b: of("blog", 81, "shop"), admit: true},
		{name: "both name all", a: of("shop", 80, "*"), b: of("blog", 81, "*"), admit: true},
		{name: "one names the other and one all", a: of("shop", 80, "*"), b: of("blog", 81, "shop"), admit: true},
		{
			name: "neither names the other", a: of("shop", 80), b: of("blog", 81),
			says: "in another namespace; to share, write the annotation tandem-lb.io/share-with-namespaces: blog on it and " +
				"tandem-lb.io/share-with-namespaces: shop on this Service",
		},
		{
			name: "only the first names the other", a: of("shop", 80, "blog"), b: of("blog", 81, "front"),
			says: "in another namespace; to share, write the annotation tandem-lb.io/share-with-namespaces: shop on this Service",
		},
		{
			name: "only the second names the other", a: of("shop", 80), b: of("blog", 81, "shop"),
			says: "in another namespace; to share, write the annotation tandem-lb.io/share-with-namespaces: blog on it",
		},
		{
			name: "one shares with its own namespace only", a: deny(of("shop", 80, "*")), b: of("blog", 81, "*"),
			says: "in another namespace, and with --cross-namespace-sharing=Deny these share no address",
		},
		{name: "another reason comes before consent", a: of("shop", 80), b: of("blog", 80), says: "on the same port TCP/80"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			why := tt.b.Admits(tt.a)
			if (why == nil) != tt.admit || why != nil && why.Error() != tt.says {
				t.Errorf("b admits a: %v, want %v, %q", why, tt.admit, tt.says)
			}
			if back := tt.a.Admits(tt.b); (back == nil) != tt.admit {
				t.Errorf("a admits b: %v, want %v", back, tt.admit)
			}
		})
	}
}

func TestSharingAcrossNamespaces(t *testing.T) {
	shop, blog, wiki := Service{"shop", "web"}, Service{"blog", "web"}, Service{"wiki", "web"}
	lan := makePool("lan", "192.0.2.0/28")
	hold := func(service Service, address string, sharing Sharing) func(*Allocator) {
		return func(a *Allocator) { a.Hold(service, addr(address), "lan", sharing) }
	}
	tests := []struct {
		name    string
		pool    Pool
		prepare []func(*Allocator)
		sharing Sharing // of Service blog/web, which asks
		fixed   string
		want    string
		says    string
	}{
		{
			name: "without consent it gets an address of its own, and is told", pool: lan, prepare: []func(*Allocator){hold(shop, "192.0.2.5", of("shop", 80))},
			sharing: of("blog", 443), want: "192.0.2.0@lan, added 192.0.2.0@lan, not shared 192.0.2.5 with shop/web",
			says: "write the annotation tandem-lb.io/share-with-namespaces: blog on it and tandem-lb.io/share-with-namespaces: shop on this Service",
		},
		{
			name: "with the consent of one", pool: lan, prepare: []func(*Allocator){hold(shop, "192.0.2.5", of("shop", 80, "blog"))},
			sharing: of("blog", 443), want: "192.0.2.0@lan, added 192.0.2.0@lan, not shared 192.0.2.5 with shop/web",
			says: "to share, write the annotation tandem-lb.io/share-with-namespaces: shop on this Service",
		},
		{
			name: "with the consent of both", pool: lan, prepare: []func(*Allocator){hold(shop, "192.0.2.5", of("shop", 80, "blog"))},
			sharing: of("blog", 443, "shop"), want: "192.0.2.5@lan, added 192.0.2.5@lan",
		},
		{
			name: "where both name all", pool: lan, prepare: []func(*Allocator){hold(shop, "192.0.2.5", of("shop", 80, "*"))},
			sharing: of("blog", 443, "*"), want: "192.0.2.5@lan, added 192.0.2.5@lan",
		},
		{
			name: "nothing is said where consent would not help", pool: lan, prepare: []func(*Allocator){hold(shop, "192.0.2.5", of("shop", 443))},
			sharing: of("blog", 443), want: "192.0.2.0@lan, added 192.0.2.0@lan",
		},
		{
			name: "each Service on the address has to consent", pool: lan,
			prepare: []func(*Allocator){hold(shop, "192.0.2.5", of("shop", 80, "blog", "wiki")), hold(wiki, "192.0.2.5", of("wiki", 81, "shop"))},
			sharing: of("blog", 443, "shop", "wiki"), want: "192.0.2.0@lan, added 192.0.2.0@lan, not shared 192.0.2.5 with wiki/web",
			says: "write the annotation tandem-lb.io/share-with-namespaces: blog on it",
		},
		{
			name: "beside Services of two namespaces that both consent", pool: lan,
			prepare: []func(*Allocator){hold(shop, "192.0.2.5", of("shop", 80, "blog", "wiki")), hold(wiki, "192.0.2.5", of("wiki", 81, "shop", "blog"))},
			sharing: of("blog", 443, "shop", "wiki"), want: "192.0.2.5@lan, added 192.0.2.5@lan",
		},
		{
			name: "the address given first comes first, whichever its namespace", pool: lan,
			prepare: []func(*Allocator){
				hold(shop, "192.0.2.7", of("shop", 80, "blog")), hold(wiki, "192.0.2.5", of("wiki", 80, "blog")),
				hold(Service{"blog", "old"}, "192.0.2.6", of("blog", 80)),
			},
			sharing: of("blog", 443, "wiki", "shop"), want: "192.0.2.7@lan, added 192.0.2.7@lan",
		},
		{
			name: "a fixed address is refused with what to write", pool: lan, prepare: []func(*Allocator){hold(shop, "192.0.2.5", of("shop", 80))},
			sharing: of("blog", 443), fixed: "192.0.2.5", want: "error: address is in use",
			says: "Service shop/web has 192.0.2.5 in another namespace; to share, write the annotation tandem-lb.io/share-with-namespaces: blog on it and",
		},
		{
			name: "a fixed address with the consent of both", pool: lan, prepare: []func(*Allocator){hold(shop, "192.0.2.5", of("shop", 80, "blog"))},
			sharing: of("blog", 443, "shop"), fixed: "192.0.2.5", want: "192.0.2.5@lan, added 192.0.2.5@lan",
		},
		{
			name: "where the pool is exhausted, it is told what would help", pool: makePool("lan", "192.0.2.5"),
			prepare: []func(*Allocator){hold(shop, "192.0.2.5", of("shop", 80))},
			sharing: of("blog", 443), want: "error: no free address", says: "Service shop/web has 192.0.2.5 in another namespace; to share, write",
		},
		{
			name: "a consent that is withdrawn moves nobody", pool: lan,
			prepare: []func(*Allocator){hold(shop, "192.0.2.5", of("shop", 80, "blog")), hold(blog, "192.0.2.5", of("blog", 443, "shop"))},
			sharing: of("blog", 443), want: "192.0.2.5@lan, kept 192.0.2.5 beside web", says: "write the annotation tandem-lb.io/share-with-namespaces: shop on this",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := withPools(tt.pool)
			for _, prepare := range tt.prepare {
				prepare(a)
			}
			req := Request{Service: blog, Families: []family.Family{family.IPv4}, Sharing: tt.sharing, Pools: auto("lan")}
			if tt.fixed != "" {
				req.Addresses = []netip.Addr{addr(tt.fixed)}
			}
			out, err := allocate(t, a, req)
			if got := describe(out, err); got != tt.want {
				t.Errorf("got  %s (%v)\nwant %s", got, err, tt.want)
			}
			why := errors.Join(err)
			for _, refusal := range slices.Concat(out.Kept, out.Unshared) {
				why = errors.Join(why, refusal)
			}
			if tt.says != "" && (why == nil || !strings.Contains(why.Error(), tt.says)) {
				t.Errorf("the reason is %q, which does not say %q", why, tt.says)
			}
		})
	}
}

// The list of Services on a claim is bounded, so that the Service that would exceed it gets another address.
func TestSharersHaveRoomOnTheClaim(t *testing.T) {
	a := New()
	a.SetPools([]Pool{makePool("lan", "192.0.2.0/28")})
	listed := map[netip.Addr]map[string][]Port{}
	request := func(i int) Request {
		r := Request{Service: Service{strings.Repeat("n", 63), fmt.Sprintf("%063d", i)}, Families: []family.Family{family.IPv4}}
		r.Pools, r.Sharing = []Candidate{{"lan", true}}, Sharing{Key: "k", Namespace: r.Service.Namespace}
		for port := range int32(1000) {
			r.Sharing.Ports = append(r.Sharing.Ports, Port{"SCTP", 10000 + int32(i)*1000 + port})
		}
		return r
	}
	for i := range 40 {
		out, err := a.Allocate(time.Time{}, request(i))
		if err != nil {
			t.Fatal(err)
		}
		at := out.Assigned[0].Address
		if listed[at] == nil {
			listed[at] = map[string][]Port{}
		}
		listed[at][request(i).Service.String()] = request(i).Sharing.Ports
	}
	for at, services := range listed {
		if text, _ := json.Marshal(services); len(text) > 250<<10 {
			t.Errorf("the list of %s has %d bytes", at, len(text))
		}
	}
	if len(listed) != 3 {
		t.Errorf("40 Services with 1,000 ports have %d addresses, want 3", len(listed))
	}
	fixed := request(50)
	fixed.Addresses = []netip.Addr{addr("192.0.2.0")}
	if _, err := a.Allocate(time.Time{}, fixed); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "no room to name another one") {
		t.Errorf("a fixed address: got error %v", err)
	}
}
