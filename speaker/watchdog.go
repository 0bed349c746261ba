// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"maps"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// watchdogPatience is how long a node that was elected has to put itself on record, counted from the last thing that it has written: one
	// that takes over thousands of Services needs longer for all of them.
	watchdogPatience = 3 * time.Second
	// passedFor is for how long a node that did not is passed over.
	passedFor = 30 * time.Second
)

// A watchdog finds nodes that were elected, and do not put themselves on record: their speakers are alive, and cannot read or write the
// API, say, so that they do not know of a new Service. Then the next in rank answers. For example node3 is elected for web, and
// nothing is on record after three seconds: all speakers pass node3 over, and node1 answers. For mail, for which node3 is elected a moment later, they
// do so within a second, unless node3 has written something meanwhile. It is pure.
type watchdog struct {
	waits  map[types.NamespacedName]waiting
	passed map[types.NamespacedName]map[string]time.Time // until when
	silent map[string]time.Time                          // nodes that were passed over, and have written nothing since: since when
}

// waiting is the node for whose record this one waits, and since when.
type waiting struct {
	node  string
	since time.Time
}

func newWatchdog() *watchdog {
	return &watchdog{
		waits: map[types.NamespacedName]waiting{}, passed: map[types.NamespacedName]map[string]time.Time{}, silent: map[string]time.Time{},
	}
}

// Update takes in which nodes are awaited, by the first Service of each group, and when each speaker was last seen to write something. While
// the API is not known to answer this node, nobody can be blamed. It reports whether a node is to be passed over now.
func (w *watchdog) Update(now time.Time, awaited map[types.NamespacedName]string, written map[string]time.Time, apiAnswers bool) (passes bool) {
	for name, nodes := range w.passed {
		maps.DeleteFunc(nodes, func(_ string, until time.Time) bool { return !now.Before(until) })
		if len(nodes) == 0 {
			delete(w.passed, name)
		}
	}
	maps.DeleteFunc(w.silent, func(node string, since time.Time) bool {
		return written[node].After(since) || !now.Before(since.Add(passedFor))
	})
	maps.DeleteFunc(w.waits, func(name types.NamespacedName, at waiting) bool { return awaited[name] != at.node })
	for name, node := range awaited {
		at, ok := w.waits[name]
		switch {
		case !ok || !apiAnswers:
			at = waiting{node, now}
		case written[node].After(at.since):
			at.since = written[node]
		}
		w.waits[name] = at
		_, silent := w.silent[node]
		if now.Sub(at.since) < watchdogPatience && (!silent || !apiAnswers) {
			continue
		}
		if !silent {
			w.silent[node] = now
		}
		if w.passed[name] == nil {
			w.passed[name] = map[string]time.Time{}
		}
		w.passed[name][node] = now.Add(passedFor)
		delete(w.waits, name)
		passes = true
	}
	return passes
}

// Passed returns the nodes that are passed over, by the first Service of each group; nil if there are none.
func (w *watchdog) Passed() map[types.NamespacedName]map[string]bool {
	if len(w.passed) == 0 {
		return nil
	}
	all := map[types.NamespacedName]map[string]bool{}
	for name, nodes := range w.passed {
		all[name] = map[string]bool{}
		for node := range nodes {
			all[name][node] = true
		}
	}
	return all
}
