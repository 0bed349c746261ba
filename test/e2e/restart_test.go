// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

func TestAServiceAnswersWhileTheSpeakersRestart(t *testing.T) {
	s := newStage(t, dual)
	ips := s.heldBy(t, "node2")
	s.bgp(t)
	s.announcedFrom(t, ips, s.Nodes()...)
	s.steady(t, lab.Client, ips)
	s.steady(t, lab.Ext, ips)
	c := s.tcpdump(t, lab.Client)
	probing, stop := context.WithCancel(t.Context())
	defer stop()
	probes := map[string]func() [][]cluster.Answer{}
	for _, host := range []string{lab.Client, lab.Ext} {
		probes[host] = s.probes(probing, host, ips)
	}
	start := time.Now()
	s.kubectl(t, "rollout", "restart", "-n", "tandem-system", "daemonset/tandem-speaker")
	s.kubectl(t, "rollout", "status", "-n", "tandem-system", "daemonset/tandem-speaker", "--timeout=120s")
	t.Logf("three speakers restarted in %v", time.Since(start).Round(time.Millisecond))
	stop()
	for host, wait := range probes {
		for i, answers := range wait() {
			t.Logf("%s from %s: %s", ips[i], host, failures(answers, start))
			if last := answers[len(answers)-1]; last.Err != nil {
				t.Errorf("%s from %s after the restart: %v", ips[i], host, last.Err)
			}
		}
	}
	s.answeredBy(t, c, s.holder(t, "web", 2), ips)
	s.announcedFrom(t, ips, s.Nodes()...)
}

// restartKubernetes kills the programs of Kubernetes that watch the API, starts them again and waits until all nodes are ready. A test that took
// the API server away calls it before others run: client-go waits for up to a minute before it watches again, and for another where the resource
// version is too old by then. A controller manager that does so knows no Pod that was made meanwhile, and its Services have no endpoints.
func (s *stage) restartKubernetes(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	var errs []error
	for _, p := range s.Lab.Status() {
		switch _, program, _ := strings.Cut(p.Name, "/"); program {
		case "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet":
			errs = append(errs, s.StopComponent(ctx, p.Name), s.StartComponent(p.Name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	for _, node := range s.Nodes() {
		s.nodeReady(ctx, t, node)
	}
}

func TestServicesOutliveTheAPIServer(t *testing.T) {
	const apiServer = "cp/kube-apiserver"
	s := newStage(t, dual)
	ips := s.heldBy(t, "node1")
	c := s.tcpdump(t, lab.Client)
	lost := s.mac(t, "node1")
	away := true
	start := func() {
		if !away {
			return
		}
		away = false
		if err := s.StartComponent(apiServer); err != nil {
			t.Error(err)
		}
		if err := cluster.Until(context.Background(), time.Minute, "the API server", func(ctx context.Context) (bool, string) {
			out, err := s.Kubectl(ctx, "get", "--raw=/readyz").CombinedOutput()
			return err == nil, string(out)
		}); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { s.restartKubernetes(t) })
	if err := s.StopComponent(t.Context(), apiServer); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(start)

	mark := c.mark()
	gone := time.Now()
	tenSeconds, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for i, answers := range s.probes(tenSeconds, lab.Client, ips)() {
		t.Logf("%s without an API server: %s", ips[i], failures(answers, gone))
		if last := answers[len(answers)-1]; last.Err != nil {
			t.Errorf("%s after ten seconds without an API server: %v", ips[i], last.Err)
		}
		if taken, _ := c.taken(mark, ips[i:i+1], lost); taken {
			t.Errorf("another node has said that it has %s, which node1 holds", ips[i])
		}
	}
	s.answeredBy(t, c, "node1", ips)

	t.Cleanup(func() {
		if err := s.SetForwarding(context.Background(), "node1", true); err != nil {
			t.Error(err)
		}
	})
	mark = c.mark()
	s.outage(t, ips, func() {
		if err := s.SetForwarding(t.Context(), "node1", false); err != nil {
			t.Fatal(err)
		}
	}, func(context.Context) (bool, string) { return c.taken(mark, ips, lost) })
	start()
	s.until(t, patience, "another holder on record", func(ctx context.Context) (bool, string) {
		holder := s.holder(t, "web", 2)
		return holder != "node1", holder
	})
	if err := s.SetForwarding(t.Context(), "node1", true); err != nil {
		t.Fatal(err)
	}
	s.nodeReady(t.Context(), t, "node1")
	now := s.holder(t, "web", 2)
	t.Logf("%s took the addresses while the API server was away", now)
	s.answeredBy(t, c, now, ips)
	if after := s.holder(t, "web", 2); after != now {
		t.Errorf("%s holds the Service after healing, want it to stay on %s", after, now)
	}
}
