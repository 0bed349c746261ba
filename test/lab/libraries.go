// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// library finds the path in a line of ldd: "libmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f9a9b955000)".
var library = regexp.MustCompile(`(/\S+) \(0x`)

// Libraries returns the shared libraries that programs and libraries of this machine load, each once. An image needs them beside the programs. A program
// that is linked statically loads none.
func Libraries(ctx context.Context, programs ...string) ([]string, error) {
	var found []string
	for _, program := range programs {
		out, err := exec.CommandContext(ctx, "ldd", program).CombinedOutput()
		if err != nil && !strings.Contains(string(out), "not a dynamic executable") {
			return nil, fmt.Errorf("ldd %s: %w: %s", program, err, out)
		}
		for _, match := range library.FindAllStringSubmatch(string(out), -1) {
			found = append(found, match[1])
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}
