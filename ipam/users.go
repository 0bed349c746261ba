// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"iter"
	"maps"
	"slices"
)

// users are the Services that hold an address, each with how it shares. Nearly every address has one, which is kept outside of the map: a
// map of one takes 800 bytes, so that those of 20,000 addresses would take 16 MB. How it shares has the zero value where it has no key.
type users struct {
	one     Service
	sharing *Sharing            // of one; nil for the zero value
	several map[Service]Sharing // all of them, since there have been two
}

// n returns the number of users.
func (u *users) n() int {
	switch {
	case u.several != nil:
		return len(u.several)
	case u.one != Service{}:
		return 1
	}
	return 0
}

// of returns how a Service shares the address, and whether it is one of the users.
func (u *users) of(service Service) (sharing Sharing, uses bool) {
	if u.several != nil {
		sharing, uses = u.several[service]
		return sharing, uses
	}
	if u.one != service || service == (Service{}) {
		return Sharing{}, false
	}
	return u.ofOne(), true
}

func (u *users) ofOne() Sharing {
	if u.sharing == nil {
		return Sharing{}
	}
	return *u.sharing
}

// set adds a user, or replaces how it shares.
func (u *users) set(service Service, sharing Sharing) {
	switch {
	case u.several != nil:
		u.several[service] = sharing
	case u.n() == 0 || u.one == service:
		if u.one, u.sharing = service, nil; sharing.Key != "" {
			kept := sharing // so that sharing stays off the heap elsewhere
			u.sharing = &kept
		}
	default:
		u.several = map[Service]Sharing{u.one: u.ofOne(), service: sharing}
	}
}

// remove takes a user away, if it is one.
func (u *users) remove(service Service) {
	delete(u.several, service)
	if len(u.several) == 0 && (u.several != nil || u.one == service) {
		*u = users{}
	}
}

// all returns the users in no order.
func (u *users) all() iter.Seq2[Service, Sharing] {
	if u.several != nil {
		return maps.All(u.several)
	}
	return func(yield func(Service, Sharing) bool) {
		if u.n() == 1 {
			yield(u.one, u.ofOne())
		}
	}
}

// sorted returns the users by name.
func (u *users) sorted() []Service {
	var services []Service
	for user := range u.all() {
		services = append(services, user)
	}
	slices.SortFunc(services, compareServices)
	return services
}
