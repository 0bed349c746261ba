// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// hung is how long the loop, which comes round each second, may take.
const hung = 30 * time.Second

// health is what the probes of the kubelet ask for. The zero value is that of a speaker that does not run yet.
type health struct {
	latest atomic.Pointer[time.Time] // when the loop last came round; nil before it runs, and when it has ended
	// complete says that a decision has seen all other speakers. It is set after await.
	complete atomic.Bool
	// standby says that the speaker stands by, and answers on layer 2 for all that its node is on record for. The one before it may end.
	standby  atomic.Bool
	comeback comeback
	sessions func() []v1alpha1.BGPSession
}

// await has Ready wait for the sessions that there were before the start. It is called once, before the loop runs.
func (h *health) await(before comeback, sessions func() []v1alpha1.BGPSession) {
	h.comeback, h.sessions = before, sessions
}

// turned says that the loop has come round, and ended that it does not run any more.
func (h *health) turned(now time.Time) { h.latest.Store(&now) }
func (h *health) ended()               { h.latest.Store(nil) }

// Healthy returns an error if the loop has not come round for so long that it hangs, which nothing mends but a new start.
func (h *health) Healthy(now time.Time) error {
	if latest := h.latest.Load(); latest != nil && now.Sub(*latest) > hung {
		return fmt.Errorf("the speaker has decided nothing for %v", now.Sub(*latest).Round(time.Second))
	}
	return nil
}

// Ready returns an error that says what the speaker waits for at its start.
func (h *health) Ready(now time.Time) error {
	if h.standby.Load() {
		return nil
	}
	if !h.complete.Load() {
		return errors.New("still reading the API and looking for the other speakers")
	}
	if missing := h.comeback.Missing(now, h.sessions); len(missing) > 0 {
		return fmt.Errorf("waiting for BGP sessions that were established before the start: %s", strings.Join(missing, ", "))
	}
	return nil
}
