// SPDX-License-Identifier: Apache-2.0

// Package archive writes container images as archives, without a container engine.
//
// An image is one layer of static binaries FROM scratch. [Write] stores it as a docker-archive, which `docker load`,
// `ctr images import` and `podman load` read. The layer is not compressed, as in the output of `docker save`, and every
// timestamp is zero: the same files give the same bytes, so an image's digest says whether anything changed.
//
// Beside its files an image holds what a static Go program may look for: /etc/passwd and /etc/group with root and
// nonroot (65532, the number distroless images use), and a /tmp that everyone may write to. It holds no shell and no
// certificate authorities: Tandem speaks TLS only to the API server, whose authority comes with the service account.
package archive

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// NonRoot is the user that an image runs as unless it needs privileges.
const NonRoot = "65532:65532"

// Image describes an image to write.
type Image struct {
	// Reference is the full name with a tag, for example ghcr.io/tandem-lb/speaker:v0.1.0.
	Reference  string
	Entrypoint []string
	Cmd        []string
	Files      []File
	// User is the default user, as "uid" or "uid:gid". Empty is root.
	User   string
	Env    []string
	Labels map[string]string
}

// File is a regular file of an image.
type File struct {
	// Source is a file on this machine.
	Source string
	// Destination is an absolute path in the image. Its parent directories are made.
	Destination string
	// Mode holds permission bits. Zero is 0755, which suits programs.
	Mode os.FileMode
}

const (
	passwd = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin\n"
	group  = "root:x:0:\nnonroot:x:65532:\n"
)

// Write writes img to a docker-archive at file. The file appears whole or not at all.
func Write(file string, img Image) error {
	tag, err := name.NewTag(img.Reference, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("image reference: %w", err)
	}
	layer, err := layerOf(img.Files)
	if err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{
		Entrypoint: img.Entrypoint,
		Cmd:        img.Cmd,
		User:       img.User,
		Env:        append([]string{"PATH=/"}, img.Env...),
		Labels:     img.Labels,
		WorkingDir: "/",
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}

	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	// The name ends in the process's number, so that two builds at once each finish a file of their own.
	unfinished := fmt.Sprintf("%s.%d", file, os.Getpid())
	if err := tarball.WriteToFile(unfinished, tag, image); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", file, err), os.Remove(unfinished))
	}
	return os.Rename(unfinished, file)
}

// layerOf returns the one layer of an image: its directories, its accounts, then files in the order of their
// destinations.
func layerOf(files []File) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	made := map[string]bool{}
	directory := func(dir string, mode int64) error {
		made[dir] = true
		return w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeDir, Name: strings.TrimPrefix(dir, "/") + "/", Mode: mode, Format: tar.FormatPAX,
		})
	}
	// parents makes every directory above destination that is not there yet, the outermost first.
	parents := func(destination string) error {
		var missing []string
		for dir := path.Dir(destination); dir != "/" && !made[dir]; dir = path.Dir(dir) {
			missing = append(missing, dir)
		}
		for _, dir := range slices.Backward(missing) {
			if err := directory(dir, 0o755); err != nil {
				return err
			}
		}
		return nil
	}
	file := func(destination string, mode int64, content []byte) error {
		if err := parents(destination); err != nil {
			return err
		}
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: strings.TrimPrefix(destination, "/"), Mode: mode,
			Size: int64(len(content)), Format: tar.FormatPAX,
		}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	}

	if err := errors.Join(
		directory("/tmp", 0o1777),
		file("/etc/passwd", 0o644, []byte(passwd)),
		file("/etc/group", 0o644, []byte(group)),
	); err != nil {
		return nil, err
	}
	files = slices.SortedFunc(slices.Values(files), func(a, b File) int { return cmp.Compare(a.Destination, b.Destination) })
	for _, f := range files {
		if !path.IsAbs(f.Destination) || path.Clean(f.Destination) != f.Destination || f.Destination == "/" {
			return nil, fmt.Errorf("destination %q is not a clean absolute path of a file", f.Destination)
		}
		content, err := os.ReadFile(f.Source)
		if err != nil {
			return nil, err
		}
		if err := file(f.Destination, int64(cmp.Or(f.Mode, 0o755).Perm()), content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return static.NewLayer(buf.Bytes(), types.DockerUncompressedLayer), nil
}
