// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os/exec"
	"testing"
)

// TestRouterSamples has FRR and BIRD read the configurations that docs/security.md shows.
func TestRouterSamples(t *testing.T) {
	const samples = "../../manifests/examples/routers/"
	for name, command := range map[string][]string{
		"FRR":  {"vtysh", "--dryrun", "--inputfile", samples + "frr.conf"},
		"BIRD": {"bird", "-p", "-c", samples + "bird.conf"},
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%v: %v\n%s", command, err, out)
			}
		})
	}
}
