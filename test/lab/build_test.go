// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The output of a build tells how far it is, in pieces as they come, and what is wrong.
func TestBuildLog(t *testing.T) {
	var log buildLog
	for _, piece := range []string{
		"go: downloading k8s.io/api v0.36.3\ngo: downloading k8s.io/", "utils v0.0.0-20260707023825-cf1189d6abe3\n",
		"internal/goarch\nk8s.io/api/core/v1\ngithub.com/cyphar/filepath-securejoin\n",
		"# k8s.io/kubernetes/cmd/kubelet\n/root/src/kubelet.go:1:2: undefined: x\n",
	} {
		if _, err := io.WriteString(&log, piece); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff("2 modules downloaded, 3 packages compiled", log.progress()); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff("# k8s.io/kubernetes/cmd/kubelet\n/root/src/kubelet.go:1:2: undefined: x\n", log.complaints()); diff != "" {
		t.Errorf("complaints (-want +got):\n%s", diff)
	}
}
