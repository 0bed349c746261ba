// SPDX-License-Identifier: Apache-2.0

package products

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/cmd/images/archive"
)

// MetalLB with FRR has FRR's own image in its Pods. No registry is reached from the lab, so that FRR is the one of this machine's Debian packages there:
// its directories of programs are mounted into containers of an image that has accounts alone.

// frrImage is the image of the containers of FRR.
const frrImage = "tandem.test/frr:debian"

// frrReload is the program by which MetalLB changes the configuration of FRR. It is in a Debian package of its own.
const frrReload = "/usr/lib/frr/frr-reload.py"

// FRRImage writes the image of the containers of FRR as a docker-archive in a directory, and returns its path. The error says which Debian package
// this machine lacks.
func (m *MetalLB) FRRImage(ctx context.Context, dir string) (string, error) {
	if _, err := os.Stat(frrReload); err != nil {
		return "", fmt.Errorf("%w: install the Debian package frr-pythontools", err)
	}
	source, err := m.Source(ctx)
	if err != nil {
		return "", err
	}
	// The numbers are those of FRR's own image, since the manifest has them.
	texts := map[string]string{
		"/etc/passwd":      "root:x:0:0:root:/:/bin/bash\nfrr:x:100:101:frr:/:/bin/bash\n",
		"/etc/group":       "root:x:0:\nfrr:x:101:\nfrrvty:x:102:frr\n",
		"/etc/pam.d/frr":   "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\n", // vtysh asks PAM
		"/etc/pam.d/other": "auth required pam_deny.so\naccount required pam_deny.so\n",
	}
	img := archive.Image{
		Reference: frrImage,
		Files:     []archive.File{{Source: filepath.Join(source, "frr-tools", "reloader", "frr-reloader.sh"), Destination: "/frr-reloader.sh"}},
	}
	for destination, text := range texts {
		file := filepath.Join(dir, strings.ReplaceAll(destination, "/", "_"))
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return "", err
		}
		img.Files = append(img.Files, archive.File{Source: file, Destination: destination, Mode: 0o644})
	}
	file := filepath.Join(dir, "frr.tar")
	return file, archive.Write(file, img)
}

// FRRManifest returns MetalLB's own manifest of the mode frr, whose containers of FRR run the programs of this machine. The container that makes metrics of
// FRR is left out, with the probes that ask it.
func (m *MetalLB) FRRManifest(ctx context.Context) (string, error) {
	source, err := m.Source(ctx)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(source, "config", "manifests", "metallb-frr.yaml"))
	if err != nil {
		return "", err
	}
	documents := strings.Split(string(text), "\n---\n")
	for i, document := range documents {
		if !strings.Contains(document, "\nkind: DaemonSet\n") {
			continue
		}
		o := map[string]any{}
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			return "", err
		}
		if err := withFRROfThisMachine(o); err != nil {
			return "", err
		}
		edited, err := yaml.Marshal(o)
		if err != nil {
			return "", err
		}
		documents[i] = string(edited)
		return strings.Join(documents, "\n---\n"), nil
	}
	return "", errors.New("MetalLB's manifest has no DaemonSet")
}

// withFRROfThisMachine edits the DaemonSet of MetalLB's speakers. Its error says that the manifest has another form.
func withFRROfThisMachine(daemonSet map[string]any) error {
	spec, _, _ := unstructured.NestedFieldNoCopy(daemonSet, "spec", "template", "spec")
	pod, ok := spec.(map[string]any)
	if !ok {
		return errors.New("the DaemonSet has no Pods")
	}
	commands := map[string][]any{
		"frr":      {"/bin/bash", "-c", "source /usr/lib/frr/frrcommon.sh; exec /usr/lib/frr/watchfrr $(daemon_list)"},
		"reloader": {"/bin/bash", "/frr-reloader.sh"},
	}
	volumes, mounts := programs()
	edited := 0
	for _, list := range []string{"containers", "initContainers"} {
		items, _ := pod[list].([]any)
		items = slices.DeleteFunc(items, func(item any) bool {
			c, _ := item.(map[string]any)
			return slices.Contains([]any{"frr-metrics", "cp-metrics", "cp-reloader"}, c["name"])
		})
		for _, item := range items {
			c, _ := item.(map[string]any)
			if image, _ := c["image"].(string); !strings.Contains(image, "frrouting/frr") {
				continue
			}
			edited++
			c["image"] = frrImage
			if command := commands[fmt.Sprint(c["name"])]; command != nil {
				c["command"] = command
			}
			delete(c, "livenessProbe")
			delete(c, "startupProbe")
			c["env"] = []any{map[string]any{"name": "PATH", "value": "/usr/sbin:/usr/bin:/sbin:/bin"}}
			own, _ := c["volumeMounts"].([]any)
			c["volumeMounts"] = slices.Concat(own, mounts)
		}
		pod[list] = items
	}
	if edited != 3 {
		return fmt.Errorf("the DaemonSet has %d containers of FRR, and 3 are known: one that copies files, FRR, and what reloads it", edited)
	}
	own, _ := pod["volumes"].([]any)
	pod["volumes"] = slices.Concat(own, volumes)
	return nil
}

// programs returns volumes of this machine's directories of programs and libraries, and the mounts of them where /bin and the like are links into /usr.
func programs() (volumes, mounts []any) {
	for _, dir := range []string{"", "bin", "sbin", "lib", "lib64"} {
		path := filepath.Join("/usr", dir)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		name := "machine-usr" + dir
		mounted := "/" + dir
		if dir == "" {
			mounted = path
		}
		volumes = append(volumes, map[string]any{"name": name, "hostPath": map[string]any{"path": path}})
		mounts = append(mounts, map[string]any{"name": name, "mountPath": mounted, "readOnly": true})
	}
	return volumes, mounts
}
