// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// probes asks every address from a host, 50 times a second each, until it is stopped, and then logs how many requests failed.
func (s *stage) probes(t *testing.T, host string, ips []string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	answers := make([][]cluster.Answer, len(ips))
	var probes sync.WaitGroup
	for i, ip := range ips {
		probes.Go(func() {
			answers[i] = s.Probe(ctx, host, cluster.URL(ip, "/hostname"), 20*time.Millisecond, 900*time.Millisecond)
		})
	}
	return func() {
		t.Helper()
		cancel()
		probes.Wait()
		for i, ip := range ips {
			failed := slices.DeleteFunc(slices.Clone(answers[i]), func(a cluster.Answer) bool { return a.Err == nil })
			t.Logf("from %s, %d of %d requests to %s failed", host, len(failed), len(answers[i]), ip)
			if len(failed) == len(answers[i]) {
				t.Errorf("from %s, %s never answered", host, ip)
			}
		}
	}
}

func TestAServiceAnswersWhileTheSpeakersRestart(t *testing.T) {
	s := newStage(t, dual)
	ips := s.heldBy(t, "node2")
	s.bgp(t)
	s.announcedFrom(t, ips, s.Nodes()...)
	for _, ip := range ips {
		s.reach(t, lab.Ext, ip, "/hostname")
	}
	c := s.tcpdump(t, lab.Client)
	stopClient, stopExt := s.probes(t, lab.Client, ips), s.probes(t, lab.Ext, ips)
	start := time.Now()
	s.kubectl(t, "rollout", "restart", "-n", "tandem-system", "daemonset/tandem-speaker")
	s.kubectl(t, "rollout", "status", "-n", "tandem-system", "daemonset/tandem-speaker", "--timeout=120s")
	t.Logf("three speakers restarted in %v", time.Since(start).Round(time.Millisecond))
	stopClient()
	stopExt()
	s.answeredBy(t, c, s.holder(t, "web", 2), ips)
	s.announcedFrom(t, ips, s.Nodes()...)
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
	if err := s.StopComponent(t.Context(), apiServer); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(start)

	answers := make([][]cluster.Answer, len(ips))
	tenSeconds, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var probes sync.WaitGroup
	for i, ip := range ips {
		probes.Go(func() {
			answers[i] = s.Probe(tenSeconds, lab.Client, cluster.URL(ip, "/hostname"), 100*time.Millisecond, time.Second)
		})
	}
	mark := c.mark()
	probes.Wait()
	for i, ip := range ips {
		failed := slices.DeleteFunc(slices.Clone(answers[i]), func(a cluster.Answer) bool { return a.Err == nil })
		t.Logf("without an API server, %d of %d requests to %s failed", len(failed), len(answers[i]), ip)
		if len(failed) == len(answers[i]) {
			t.Errorf("%s did not answer without an API server", ip)
		}
		for _, p := range c.since(mark, ip, gratuitous) {
			if p.src != lost {
				t.Errorf("%s says that it has %s, which node1 holds", p.src, ip)
			}
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
	}, func(context.Context) (bool, string) {
		for _, ip := range ips {
			if !slices.ContainsFunc(c.since(mark, ip, gratuitous), func(p packet) bool { return p.src != lost }) {
				return false, "no other node has said that it has " + ip
			}
		}
		return true, ""
	})
	start()
	s.until(t, patience, "another holder on record", func(ctx context.Context) (bool, string) {
		holder := s.holder(t, "web", 2)
		return holder != "node1", holder
	})
	if err := s.SetForwarding(t.Context(), "node1", true); err != nil {
		t.Fatal(err)
	}
	s.nodeReady(t, "node1")
	now := s.holder(t, "web", 2)
	t.Logf("%s took the addresses while the API server was away", now)
	s.answeredBy(t, c, now, ips)
	if after := s.holder(t, "web", 2); after != now {
		t.Errorf("%s holds the Service after healing, want it to stay on %s", after, now)
	}
}
