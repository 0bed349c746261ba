// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

// Answered records what a request gives a Service.
func (l *Ledger) Answered(service ipam.Service, addresses []netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers[service] = addresses
}

// Answer returns what the last request gave a Service, and whether there was one.
func (l *Ledger) Answer(service ipam.Service) (given []netip.Addr, answered bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	given, answered = l.answers[service]
	return given, answered
}

// Shows returns what a Service is to show its clients: what its last request gave it or, for the first one of a
// leader, what its status says. A status that another writer has changed since does not count. For example, web was
// given 192.0.2.1 and another controller writes 192.0.2.7, which nobody has: web holds both, and goes on with
// 192.0.2.1.
func (l *Ledger) Shows(svc *corev1.Service) []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	if given, ok := l.answers[request.ServiceOf(svc)]; ok {
		return given
	}
	return request.Published(svc)
}

// Waiting is what is known of a Service that lacks something.
type Waiting struct {
	Message string       // what the Service was told
	Has     []netip.Addr // the addresses that it goes on with meanwhile
	Woken   bool         // it was woken since it was told so
	// Refused says that the API failed or refused a claim, or another leader came first. To wake the Service would
	// not help; the service controller tries again with a back-off of 5 to 300 seconds.
	Refused bool
}

// Wait records that a Service waits, or that it does not where now has no Message, and returns what was recorded
// before.
func (l *Ledger) Wait(service ipam.Service, now Waiting) (before Waiting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before = l.waiting[service]
	if l.waiting[service] = now; now.Message == "" {
		delete(l.waiting, service)
	}
	return before
}

// Helps reports whether a Service that waits would be better off with an outcome, and records that it is woken then.
// A Service with one of two families is helped by the other one, or by a pair that is better than what it has.
func (l *Ledger) Helps(service ipam.Service, out ipam.Outcome) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w, waits := l.waiting[service]
	if !waits || len(out.Missing) > 0 && slices.Equal(ipam.AddressesOf(out.Assigned), w.Has) {
		return false
	}
	w.Woken = true
	l.waiting[service] = w
	return true
}

// Helpable returns the Services that wait and that it may help to wake, as the informer shows them.
func (l *Ledger) Helpable() (services []*corev1.Service) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for service, w := range l.waiting {
		if svc := l.Service(service); svc == nil || !request.Served(svc) {
			delete(l.waiting, service)
		} else if !w.Refused {
			services = append(services, svc)
		}
	}
	return services
}

// Waits reports whether a Service waits.
func (l *Ledger) Waits(service ipam.Service) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, waits := l.waiting[service]
	return waits
}

// notice is a state of a Service that an event tells of: once when it begins or changes, and not at each request.
type notice struct {
	service ipam.Service
	reason  string // of the event
}

// Note records the state of a Service, "" where there is none. It reports whether the state is to be told, since it
// is new, and whether one has ended. For example, web keeps 192.0.2.1 although mail has the same port there: the first request of web
// tells, the next ten tell nothing, and the first one after mail has left says that it has ended.
func (l *Ledger) Note(service ipam.Service, reason, message string) (tell, ended bool) {
	n := notice{service, reason}
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.told[n]
	if l.told[n] = message; message == "" {
		delete(l.told, n)
	}
	return message != "" && message != before, message == "" && before != ""
}

// Told returns the Services that have a state of which events with the reason tell.
func (l *Ledger) Told(reason string) (services []ipam.Service) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := range l.told {
		if n.reason == reason {
			services = append(services, n.service)
		}
	}
	return services
}

// Forget ends what is remembered of the requests of a Service. It reports whether the Service was woken for an
// address, which another one can have now. For example, 192.0.2.1 becomes free, web is woken for it and deleted before it asks: mail,
// which waits too, has to be woken instead.
func (l *Ledger) Forget(service ipam.Service, reasons ...string) (woken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	woken = l.waiting[service].Woken
	delete(l.waiting, service)
	delete(l.answers, service)
	for _, reason := range reasons {
		delete(l.told, notice{service, reason})
	}
	return woken
}
