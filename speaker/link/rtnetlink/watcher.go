// SPDX-License-Identifier: Apache-2.0

// Package rtnetlink follows the kernel's interfaces, addresses and default routes by rtnetlink, and asks it for paths.
//
// A [Watcher] listens to events and keeps the present state as an immutable [link.Snapshot]. An event is only a hint that something
// changed. What changed is read by listing interfaces, addresses and default routes anew, so that lost, reordered or merged events (a full
// socket buffer, ENOBUFS) never leave a state that the kernel does not have. Events that come close together are answered by one listing,
// and a listing that finds nothing new notifies no subscriber. Nothing is polled.
//
// [Watcher.Paths] asks the kernel for the route to each of some addresses. While the kernel has none, because an interface restarts for
// instance, the path that was found last is returned, with the reason why it is not current.
package rtnetlink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// gatherTime is how long events are gathered, counted from the first, before the state is listed: an interface that comes up causes a
// dozen. It is also the delay with which a change is seen.
const gatherTime = 50 * time.Millisecond

// newBackoff returns the delays after which a socket that failed, or a listing, is tried again: 0.1 s, then twice as long each time, up to
// 10 s.
func newBackoff() wait.Backoff {
	return wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 10, Cap: 10 * time.Second}
}

// A Watcher keeps a link.Snapshot current. All methods may be called by any goroutine.
type Watcher struct {
	current atomic.Pointer[link.Snapshot]

	mu          sync.Mutex // guards subscribers and paths
	subscribers []signal.Signal
	paths       map[link.Destination]link.Path // as Paths returned them last

	// The goroutine in Run owns what follows, once it runs.

	events *nl.NetlinkSocket
	handle *netlink.Handle
	hints  signal.Signal
	failed chan error
}

// Open lists the interfaces for the first time and returns a Watcher, which is to be run. It watches the network namespace of the calling
// thread.
func Open() (*Watcher, error) {
	w := &Watcher{hints: signal.New(), failed: make(chan error)}
	if err := w.open(); err != nil {
		return nil, err
	}
	s, err := list(w.handle)
	for range 3 { // A change while the listing is read interrupts it.
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		s, err = list(w.handle)
	}
	if err != nil {
		w.close()
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	w.current.Store(s)
	return w, nil
}

// Snapshot returns the current state, never nil.
func (w *Watcher) Snapshot() *link.Snapshot { return w.current.Load() }

// Subscribe returns a channel that receives after each change of the Snapshot. Several changes that happen before the caller receives are
// received once. A caller that subscribes first and then reads the Snapshot misses no change. A subscription lasts as long as the Watcher.
func (w *Watcher) Subscribe() <-chan struct{} {
	changed := signal.New()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subscribers = append(w.subscribers, changed)
	return changed
}

// Run keeps the Snapshot current until the context ends, then closes the sockets. A Watcher runs once. A socket that fails is opened again,
// in the network namespace of the thread that calls Run.
func (w *Watcher) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx)
	defer w.close()
	done := make(chan struct{})
	defer close(done)
	go w.read(w.events, done)

	var timer <-chan time.Time // runs while there is something to list
	backoff := newBackoff()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.hints:
			if timer == nil {
				timer = time.After(gatherTime)
			}
		case err := <-w.failed:
			logger.Error(err, "Lost the netlink socket, opening it again")
			w.close()
			timer = time.After(backoff.Duration)
		case <-timer:
			timer = nil
			if err := w.update(logger, done); err != nil {
				delay := backoff.Step()
				if !errors.Is(err, netlink.ErrDumpInterrupted) {
					logger.Error(err, "Could not list interfaces, trying again", "after", delay)
				}
				timer = time.After(delay)
			} else {
				backoff = newBackoff()
			}
		}
	}
}

// update lists the state and tells the subscribers if it is a new one.
func (w *Watcher) update(logger klog.Logger, done <-chan struct{}) error {
	if w.events == nil {
		if err := w.open(); err != nil {
			return err
		}
		go w.read(w.events, done)
	}
	s, err := list(w.handle)
	if err != nil {
		return err
	}
	if reflect.DeepEqual(w.current.Load(), s) {
		return nil
	}
	logger.V(2).Info("Interfaces changed", "count", len(s.Interfaces))
	w.current.Store(s)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, subscriber := range w.subscribers {
		subscriber.Raise()
	}
	return nil
}

func (w *Watcher) open() error {
	// Both sockets stay in the namespace that they were opened in.
	events, err := nl.Subscribe(unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("subscribing to netlink events: %w", err)
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		events.Close()
		return fmt.Errorf("opening a netlink socket: %w", err)
	}
	w.events, w.handle = events, handle
	return nil
}

func (w *Watcher) close() {
	if w.events != nil {
		w.events.Close()
		w.handle.Close()
		w.events, w.handle = nil, nil
	}
}

// read turns events into hints until the socket is closed or fails.
func (w *Watcher) read(events *nl.NetlinkSocket, done <-chan struct{}) {
	for {
		messages, _, err := events.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			// Events were lost but the socket goes on. The listing finds what they would have said.
		case errors.Is(err, os.ErrClosed), errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			select {
			case w.failed <- fmt.Errorf("receiving netlink events: %w", err):
			case <-done:
			}
			return
		default:
			relevant := false
			for _, m := range messages {
				relevant = relevant || isRelevant(m.Header.Type, m.Data)
			}
			if !relevant {
				continue
			}
		}
		w.hints.Raise()
	}
}
