// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/test/documents"
)

// TestRunbooks types the commands that docs/runbooks have for each alert. Each command has to do without a complaint; a grep that finds
// nothing is fine, since nothing is the matter.
func TestRunbooks(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	s.layer2(t)
	s.bgp(t)
	s.web(t, "node1")
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	s.announcedFrom(t, ips, s.Nodes()...)

	names := strings.NewReplacer("ADDRESS", ips[0],
		"NODE", "node1", "PEER", s.ns, "POOL", s.ns, "NAMESPACE", s.ns, "KIND NAME", "bgppeers.tandem-lb.io "+s.ns, "NAME", "web")
	typed := map[string]bool{}
	for _, page := range documents.Pages(t, "../..") {
		if !strings.HasPrefix(page.Path, "docs/runbooks/Tandem") {
			continue
		}
		blocks := slices.DeleteFunc(page.Blocks, func(b documents.Block) bool { return b.Language != "sh" })
		if len(blocks) == 0 {
			t.Errorf("%s has no command", page.Path)
		}
		for _, b := range blocks {
			for command := range strings.Lines(b.Text) {
				command = names.Replace(strings.TrimSpace(command))
				// The lab does not have the Prometheus operator's kinds.
				if typed[command] || strings.Contains(command, "servicemonitor") {
					continue
				}
				typed[command] = true
				if args, ok := strings.CutPrefix(command, "kubectl tandem "); ok {
					s.until(t, patience, command+" to find nothing", func(context.Context) (bool, string) {
						out, code := s.plugin(t, strings.Fields(args)...)
						return code == 0, out
					})
					continue
				}
				cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
				cmd.Env = append(os.Environ(), "PATH="+s.Dir()+":"+os.Getenv("PATH"))
				var out, complaint bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &complaint
				err := cmd.Run()
				if complaint.Len() > 0 || err != nil && !strings.Contains(command, "| grep") {
					t.Errorf("%s: %s: %v\n%s%s", b, command, err, out.String(), complaint.String())
				}
			}
		}
	}
	if len(typed) == 0 {
		t.Error("the runbooks have no command")
	}
	t.Logf("typed %d commands", len(typed))
}
