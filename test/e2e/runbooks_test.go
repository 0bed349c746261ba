// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRunbooks types what docs/runbooks tell people to type who look after an alert. Each command has to do without a complaint; a grep that
// finds nothing is fine, since nothing is the matter.
func TestRunbooks(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	s.layer2(t)
	s.bgp(t)
	s.web(t, "node1")
	s.add(t, s.service("web", v4, v6))
	s.announcedFrom(t, s.addresses(t, "web", 2), s.Nodes()...)

	pages, err := filepath.Glob("../../docs/runbooks/Tandem*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	names := strings.NewReplacer("NODE", "node1", "PEER", s.ns, "POOL", s.ns, "NAMESPACE", s.ns, "KIND NAME", "bgppeers.tandem-lb.io "+s.ns, "NAME", "web")
	block := regexp.MustCompile("(?s)```sh\n(.*?)```")
	typed := map[string]bool{}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		blocks := block.FindAllStringSubmatch(string(text), -1)
		if len(blocks) == 0 {
			t.Errorf("%s has no command", page)
		}
		for _, b := range blocks {
			for command := range strings.Lines(b[1]) {
				command = names.Replace(strings.TrimSpace(command))
				// The lab does not have the Prometheus operator's kinds.
				if typed[command] || strings.Contains(command, "servicemonitor") {
					continue
				}
				typed[command] = true
				cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
				cmd.Env = append(os.Environ(), "PATH="+s.Dir()+":"+os.Getenv("PATH"))
				var out, complaint bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &complaint
				err := cmd.Run()
				if complaint.Len() > 0 || err != nil && !strings.Contains(command, "| grep") {
					t.Errorf("%s: %s: %v\n%s%s", filepath.Base(page), command, err, out.String(), complaint.String())
				}
			}
		}
	}
	t.Logf("typed %d commands", len(typed))
}
