// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestMovedIn offers what `kubectl tandem convert` writes for each of its cases. The cases' own test compares what is written with these files. Patches
// for Services that are not here, and Secrets in a namespace that is not here, are left out.
func TestMovedIn(t *testing.T) {
	const cases = "../../cmd/kubectl-tandem/movein/testdata/cases/*/"
	count := 0
	for _, pattern := range []string{"expected*.yaml", "tandem*.yaml"} {
		files, err := filepath.Glob(cases + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			for _, obj := range objects(t, file) {
				if !strings.HasPrefix(obj.GetAPIVersion(), "tandem-lb.io/") {
					continue
				}
				count++
				if err := tryCreate(t.Context(), obj); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
	}
	if count < 60 {
		t.Errorf("there are %d objects in the cases", count)
	}
}
