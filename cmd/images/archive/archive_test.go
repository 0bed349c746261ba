// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

type entry struct {
	Name    string
	Mode    int64
	Content string
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("ELF"), 0o600); err != nil {
		t.Fatal(err)
	}
	img := Image{
		Reference:  "ghcr.io/tandem-lb/speaker:v0.1.0",
		Entrypoint: []string{"/tandem-speaker"},
		Cmd:        []string{"--v=2"},
		User:       NonRoot,
		Env:        []string{"GOTRACEBACK=all"},
		Labels:     map[string]string{"org.opencontainers.image.version": "v0.1.0"},
		Files: []File{
			{Source: program, Destination: "/usr/share/doc/readme", Mode: 0o644},
			{Source: program, Destination: "/tandem-speaker"},
		},
	}
	first, second := filepath.Join(dir, "first.tar"), filepath.Join(dir, "made/for/it/second.tar")
	for _, file := range []string{first, second} {
		if err := Write(file, img); err != nil {
			t.Fatal(err)
		}
	}

	tag, err := name.NewTag(img.Reference)
	if err != nil {
		t.Fatal(err)
	}
	image, err := tarball.ImageFromPath(first, &tag)
	if err != nil {
		t.Fatalf("the archive doesn't hold %s: %v", tag, err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	wantConfig := v1.Config{
		Entrypoint: img.Entrypoint, Cmd: img.Cmd, User: "65532:65532", Env: []string{"PATH=/", "GOTRACEBACK=all"},
		Labels: img.Labels, WorkingDir: "/",
	}
	if diff := cmp.Diff(wantConfig, config.Config); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	if config.OS != "linux" || config.Architecture != runtime.GOARCH {
		t.Errorf("platform = %s/%s, want linux/%s", config.OS, config.Architecture, runtime.GOARCH)
	}
	if !config.Created.IsZero() {
		t.Errorf("created at %v, want no time", config.Created)
	}

	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 1 {
		t.Fatalf("got %d layers, want 1", len(layers))
	}
	layer, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	var got []entry
	for r := tar.NewReader(layer); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, entry{header.Name, header.Mode, string(content)})
		if header.ModTime.Unix() != 0 {
			t.Errorf("%s was modified at %v, want the epoch", header.Name, header.ModTime)
		}
	}
	want := []entry{
		{"tmp/", 0o1777, ""},
		{"etc/", 0o755, ""},
		{"etc/passwd", 0o644, passwd},
		{"etc/group", 0o644, group},
		{"tandem-speaker", 0o755, "ELF"},
		{"usr/", 0o755, ""},
		{"usr/share/", 0o755, ""},
		{"usr/share/doc/", 0o755, ""},
		{"usr/share/doc/readme", 0o644, "ELF"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}

	if !bytes.Equal(read(t, first), read(t, second)) {
		t.Error("the same image written twice differs")
	}
	if left, _ := filepath.Glob(first + ".*"); len(left) != 0 {
		t.Errorf("unfinished files were left: %q", left)
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, test := range []struct {
		name      string
		img       Image
		wantError string
	}{
		{
			name:      "a reference without a tag",
			img:       Image{Reference: "ghcr.io/tandem-lb/speaker"},
			wantError: "image reference",
		},
		{
			name:      "a relative destination",
			img:       Image{Reference: "ghcr.io/tandem-lb/speaker:v1", Files: []File{{Source: "/dev/null", Destination: "bin"}}},
			wantError: `destination "bin"`,
		},
		{
			name:      "a destination outside the image",
			img:       Image{Reference: "ghcr.io/tandem-lb/speaker:v1", Files: []File{{Source: "/dev/null", Destination: "/../x"}}},
			wantError: `destination "/../x"`,
		},
		{
			name:      "a source that is not there",
			img:       Image{Reference: "ghcr.io/tandem-lb/speaker:v1", Files: []File{{Source: "/nowhere", Destination: "/x"}}},
			wantError: "/nowhere",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "image.tar")
			err := Write(file, test.img)
			if err == nil || !strings.Contains(err.Error(), test.wantError) {
				t.Errorf("error = %v, want one with %q", err, test.wantError)
			}
			if _, err := os.Stat(file); !os.IsNotExist(err) {
				t.Errorf("a file was written: %v", err)
			}
		})
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// TestWriteIndex writes one image for two platforms, reads it as a registry's client would, and compares it with the docker-archives.
func TestWriteIndex(t *testing.T) {
	dir := t.TempDir()
	var images []*Built
	for _, platform := range []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm", Variant: "v7"}} {
		program := filepath.Join(dir, platform.Architecture)
		if err := os.WriteFile(program, []byte("ELF for "+platform.Architecture), 0o600); err != nil {
			t.Fatal(err)
		}
		built, err := Image{
			Reference: "ghcr.io/tandem-lb/speaker:v0.1.0", Files: []File{{Source: program, Destination: "/speaker"}}, Platform: platform, Compress: true,
		}.Build()
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, built)
	}
	first, second := filepath.Join(dir, "first.tar"), filepath.Join(dir, "second.tar")
	var digest string
	for _, file := range []string{first, second} {
		var err error
		if digest, err = WriteIndex(file, images...); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(read(t, first), read(t, second)) {
		t.Error("the same index written twice differs")
	}

	unpacked := filepath.Join(dir, "layout")
	unpack(t, first, unpacked)
	path, err := layout.FromPath(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	outer, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 || manifest.Manifests[0].Digest.String() != digest ||
		manifest.Manifests[0].Annotations["io.containerd.image.name"] != "ghcr.io/tandem-lb/speaker:v0.1.0" {
		t.Fatalf("the layout holds %+v, want the one index %s", manifest.Manifests, digest)
	}
	index, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	if manifest, err = index.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"linux/amd64", "linux/arm/v7"} {
		descriptor := manifest.Manifests[i]
		if got := descriptor.Platform.String(); got != want {
			t.Errorf("platform = %s, want %s", got, want)
		}
		if got, err := images[i].Digest(); err != nil || got != descriptor.Digest.String() {
			t.Errorf("digest of the image for %s = %s (%v), want %s", want, got, err, descriptor.Digest)
		}
		docker := filepath.Join(dir, "docker.tar")
		if err := images[i].Write(docker); err != nil {
			t.Fatal(err)
		}
		fromArchive, err := tarball.ImageFromPath(docker, nil)
		if err != nil {
			t.Fatal(err)
		}
		fromIndex, err := index.Image(descriptor.Digest)
		if err != nil {
			t.Fatal(err)
		}
		var ids [2]v1.Hash
		for j, image := range []v1.Image{fromArchive, fromIndex} {
			if ids[j], err = image.ConfigName(); err != nil {
				t.Fatal(err)
			}
		}
		if ids[0] != ids[1] {
			t.Errorf("for %s the docker-archive has image %s, the index %s", want, ids[0], ids[1])
		}
	}
}

// unpack extracts the regular files of a tar file.
func unpack(t *testing.T, file, dir string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(read(t, file))); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, header.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
