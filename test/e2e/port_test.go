// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/test/lab"
)

// A program of the host has the port of metrics before the speaker starts. The speaker is ready without metrics and announces, and it serves them when
// the port is free. Where probes went to that port, the kubelet ended the speaker every 30 s.
func TestAPortThatIsTakenCostsMetricsAlone(t *testing.T) {
	const node = "node1"
	s := newStage(t, dual)
	ips := s.heldBy(t, node)
	token := s.metricsToken(t)
	before, err := s.process(node, programs["speaker"])
	if err != nil {
		t.Fatal(err)
	}
	// It takes the port at the moment at which the old speaker gives it up.
	ctx, free := context.WithCancel(context.Background())
	other := s.Command(ctx, node, "sh", "-c", "until nc.openbsd -lk "+s.Addresses(node)[0].String()+" 7574 2>/dev/null; do sleep 0.05; done")
	other.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	other.Cancel = func() error { return unix.Kill(-other.Process.Pid, unix.SIGKILL) }
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		free()
		_ = other.Wait()
	})
	s.deletePod(t, "speaker", node)
	s.speakerIsAnother(t, node, before.pid)
	speaker, err := s.process(node, programs["speaker"])
	if err != nil {
		t.Fatal(err)
	}
	if ports := s.listening(t, node, speaker.pid); slices.Contains(ports, 7574) {
		t.Fatalf("the speaker listens on %v although another program has 7574", ports)
	}
	s.answeredBy(t, s.tcpdump(t, lab.Client), node, ips)
	free()
	s.scrape(t, node, token)
	if now, err := s.process(node, programs["speaker"]); err != nil || now.pid != speaker.pid {
		t.Errorf("process %d is the speaker, %v, want %d as before", now.pid, err, speaker.pid)
	}
}
