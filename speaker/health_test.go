// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestHealthy: a loop that has not come round for half a minute hangs. Before it runs, the speaker waits for the API, which is no fault.
func TestHealthy(t *testing.T) {
	var h health
	now := time.Now()
	if err := h.Healthy(now); err != nil {
		t.Errorf("before the loop runs: %v", err)
	}
	h.turned(now.Add(-hung / 2))
	if err := h.Healthy(now); err != nil {
		t.Errorf("when the loop has come round less than %v ago: %v", hung, err)
	}
	h.turned(now.Add(-hung - time.Second))
	if err := h.Healthy(now); err == nil {
		t.Errorf("when the loop has come round more than %v ago the speaker is healthy", hung)
	}
	h.ended()
	if err := h.Healthy(now); err != nil {
		t.Errorf("when the loop has ended: %v", err)
	}
}

// TestReady: a speaker is ready when it has seen the others, and the sessions are back that there were before.
func TestReady(t *testing.T) {
	var h health
	now := time.Now()
	if err := h.Ready(now); err == nil {
		t.Error("a speaker that has not started is ready")
	}
	state := v1alpha1.BGPActive
	h.await(comeback{until: now.Add(time.Minute), peers: []string{"tor1"}}, func() []v1alpha1.BGPSession {
		return []v1alpha1.BGPSession{{Peer: "tor1", State: state}}
	})
	if err := h.Ready(now); err == nil {
		t.Error("a speaker that has decided nothing is ready")
	}
	h.complete.Store(true)
	if err := h.Ready(now); err == nil || !strings.Contains(err.Error(), "tor1") {
		t.Errorf("without its session the speaker says %v", err)
	}
	state = v1alpha1.BGPEstablished
	if err := h.Ready(now); err != nil {
		t.Errorf("with its session: %v", err)
	}
}
