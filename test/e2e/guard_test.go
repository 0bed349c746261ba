// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// podNetwork has BIRD announce a network of pods from node1, with graceful restart, as Calico does.
const podNetwork = `
router id 198.51.100.11;
protocol device {}
protocol static { ipv4; route 10.244.1.0/24 blackhole; }
protocol bgp tor {
  local 198.51.100.11 as 64512;
  neighbor 198.51.100.1 as 64513;
  graceful restart on;
  connect delay time 1;
  connect retry time 2;
  error wait time 1, 2;
  ipv4 { import none; export all; };
}
`

// birdOnNode1 runs BIRD in the network of node1 until stop is called, or the test ends.
func (s *stage) birdOnNode1(t *testing.T) (stop func()) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "bird.conf")
	if err := os.WriteFile(config, []byte(podNetwork), 0o644); err != nil {
		t.Fatal(err)
	}
	bird := s.Command(context.Background(), "node1", "bird", "-f", "-c", config, "-s", filepath.Join(dir, "bird.ctl"))
	var said strings.Builder
	bird.Stdout, bird.Stderr = &said, &said
	if err := bird.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = bird.Process.Signal(unix.SIGTERM)
			_ = bird.Wait()
			if t.Failed() {
				t.Log(said.String())
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

// sessionOfNode1 returns what the router says of its session with node1.
func (s *stage) sessionOfNode1(ctx context.Context) (n struct {
	BGPState           string
	ConnectionsDropped int
}, err error,
) {
	out, err := s.Vtysh(ctx, lab.Router, "show bgp neighbors 198.51.100.11 json")
	if err != nil {
		return n, err
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return n, fmt.Errorf("%w in %s", err, out)
	}
	return n, json.Unmarshal(all["198.51.100.11"], &n)
}

// TestAnotherBGPProgramOnTheNode has BIRD on node1 with a session to the router of the BGPPeer, from the same address. The speaker leaves it
// alone and says what to do; when BIRD has gone and the BGPPeer is changed, it opens its own.
func TestAnotherBGPProgramOnTheNode(t *testing.T) {
	s := newStage(t, dual)
	s.router(t, strings.Replace(cluster.RouterConfig, " neighbor NODES peer-group\n",
		" bgp graceful-restart\n neighbor NODES peer-group\n", 1)+
		"router bgp 64513\n neighbor 198.51.100.11 peer-group NODES\n")
	stop := s.birdOnNode1(t)
	s.until(t, patience, "BIRD's session", func(ctx context.Context) (bool, string) {
		n, err := s.sessionOfNode1(ctx)
		return n.BGPState == "Established", fmt.Sprint(n, err)
	})
	s.bgp(t)
	s.until(t, patience, "the reason why node1 has no session", func(ctx context.Context) (bool, string) {
		session, detail := s.bgpSession(ctx, "node1")
		state, err := s.speaker(ctx, "node1")
		condition := meta.FindStatusCondition(state.Conditions, speakerv1alpha1.ConditionOtherRouter)
		return err == nil && session.State == speakerv1alpha1.BGPIdle &&
			strings.Contains(session.LastError, "another program on this node already has a BGP session") &&
			condition != nil && condition.Reason == speakerv1alpha1.ReasonSessionTaken, fmt.Sprint(detail, condition)
	})
	established := func(node string) {
		t.Helper()
		s.until(t, patience, "the session of "+node, func(ctx context.Context) (bool, string) {
			session, detail := s.bgpSession(ctx, node)
			return session.State == speakerv1alpha1.BGPEstablished, detail
		})
	}
	established("node2")
	if n, err := s.sessionOfNode1(t.Context()); n.ConnectionsDropped != 0 || n.BGPState != "Established" {
		t.Errorf("the session of BIRD with the router: %+v, %v", n, err)
	}
	stop()
	s.patch(t, s.object(t, "BGPPeer"), `{spec: {holdTime: 60s}}`)
	established("node1")
	s.until(t, patience, "the end of the condition", func(ctx context.Context) (bool, string) {
		state, err := s.speaker(ctx, "node1")
		condition := meta.FindStatusCondition(state.Conditions, speakerv1alpha1.ConditionOtherRouter)
		return err == nil && condition != nil && condition.Reason == speakerv1alpha1.ReasonNoOtherRouter, fmt.Sprint(condition, err)
	})
}
