// SPDX-License-Identifier: Apache-2.0

package products

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const manifest = `kind: DaemonSet
spec: {template: {spec: {}}}
---
      containers:
      - image: ghcr.io/acme/agent:v1.2.3
        imagePullPolicy: Always
      - name: other
        image: "ghcr.io/acme/agent:v1.2.3"
      - image: ghcr.io/acme/allocator:v1.2.3
`

// prebuilt is a product in a directory with these files.
func prebuilt(t *testing.T, files map[string]string) *Prebuilt {
	t.Helper()
	t.Setenv("TANDEM_TEST_PRODUCT", t.TempDir())
	p := OpenPrebuilt("TANDEM_TEST_PRODUCT")
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestPrebuilt(t *testing.T) {
	p := prebuilt(t, map[string]string{"install.yaml": manifest, "agent": "\x7fELF", "allocator": "\x7fELF"})
	text, err := p.Manifest()
	if want := strings.ReplaceAll(manifest, "Always", "IfNotPresent"); err != nil || text != want {
		t.Errorf("the manifest (-want +got), %v:\n%s", err, cmp.Diff(want, text))
	}
	dir := t.TempDir()
	files, err := p.Images(dir)
	if diff := cmp.Diff([]string{filepath.Join(dir, "agent.tar"), filepath.Join(dir, "allocator.tar")}, files); err != nil || diff != "" {
		t.Errorf("archives (-want +got), %v:\n%s", err, diff)
	}
}

// TestPrebuiltRefused: what is missing is named.
func TestPrebuiltRefused(t *testing.T) {
	for name, row := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no manifest":       {nil, "install.yaml"},
		"no image":          {map[string]string{"install.yaml": "kind: Namespace\n"}, "names no image"},
		"no program":        {map[string]string{"install.yaml": manifest, "agent": "\x7fELF"}, "image ghcr.io/acme/allocator:v1.2.3 needs a program"},
		"a script":          {map[string]string{"install.yaml": manifest, "agent": "#!/bin/sh\n"}, "agent is none for Linux"},
		"a file of nothing": {map[string]string{"install.yaml": manifest, "agent": ""}, "agent is none for Linux"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := prebuilt(t, row.files).Images(t.TempDir()); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("the error is %v, want one with %q", err, row.want)
			}
		})
	}
	if p := OpenPrebuilt("TANDEM_TEST_PRODUCT_OF_NOBODY"); p != nil {
		t.Errorf("without the variable there is %+v", p)
	}
}
