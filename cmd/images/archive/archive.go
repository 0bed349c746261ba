// SPDX-License-Identifier: Apache-2.0

// Package archive writes container images as archives, without a container engine.
//
// An image is one layer of static binaries FROM scratch. [Write] stores it as a docker-archive, which `docker load`,
// `ctr images import` and `podman load` read; [Image.Build] and [WriteIndex] store one image for several platforms as an OCI layout, which
// registries are filled from. Every timestamp is zero: the same files give the same bytes, so an image's digest says whether anything
// changed.
//
// Beside its files an image holds what a static Go program may look for: /etc/passwd and /etc/group with root and
// nonroot (65532, the number distroless images use), and a /tmp that everyone may write to. It holds no shell and no
// certificate authorities: Tandem speaks TLS only to the API server, whose authority comes with the service account.
package archive

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
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
	// Platform is what the programs were compiled for. Zero is Linux on this machine's processor.
	Platform v1.Platform
	// Compress makes the layer smaller, and takes longer. Without it the layer is as in the output of `docker save`.
	Compress bool
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

// Built is an image with its content.
type Built struct {
	tag      name.Tag
	platform v1.Platform
	image    v1.Image
}

// Build reads the files of the image.
func (img Image) Build() (*Built, error) {
	tag, err := name.NewTag(img.Reference, name.StrictValidation)
	if err != nil {
		return nil, fmt.Errorf("image reference: %w", err)
	}
	built, err := img.build()
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", tag, err)
	}
	built.tag = tag
	return built, nil
}

func (img Image) build() (*Built, error) {
	layer, err := layerOf(img.Files, img.Compress)
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	platform := img.Platform
	if platform.Architecture == "" {
		platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
	config.Config = v1.Config{
		Entrypoint: img.Entrypoint,
		Cmd:        img.Cmd,
		User:       img.User,
		Env:        append([]string{"PATH=/"}, img.Env...),
		Labels:     img.Labels,
		WorkingDir: "/",
	}
	image, err = mutate.ConfigFile(image, config)
	return &Built{platform: platform, image: image}, err
}

// Name returns the reference of the image.
func (b *Built) Name() string { return b.tag.Name() }

// Digest returns the digest that the image has in a registry, by which the index of [WriteIndex] refers to it.
func (b *Built) Digest() (string, error) {
	hash, err := b.oci().Digest()
	return hash.String(), err
}

// oci returns the image in the form of the OCI. Its ID, the digest of its configuration, is that of the same image in a docker-archive.
func (b *Built) oci() v1.Image {
	return mutate.ConfigMediaType(mutate.MediaType(b.image, types.OCIManifestSchema1), types.OCIConfigJSON)
}

// Write writes img to a docker-archive at file. The file appears whole or not at all.
func Write(file string, img Image) error {
	built, err := img.Build()
	if err != nil {
		return err
	}
	return built.Write(file)
}

// Write writes the image to a docker-archive at file. The file appears whole or not at all.
func (b *Built) Write(file string) error {
	return whole(file, func(unfinished string) error { return tarball.WriteToFile(unfinished, b.tag, b.image) })
}

// whole has write write a file, under a name that ends in the process's number, so that two builds at once each finish a file of their own.
func whole(file string, write func(unfinished string) error) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	unfinished := fmt.Sprintf("%s.%d", file, os.Getpid())
	if err := write(unfinished); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", file, err), os.Remove(unfinished))
	}
	return os.Rename(unfinished, file)
}

// layerOf returns the one layer of an image: its directories, its accounts, then files in the order of their
// destinations.
func layerOf(files []File, compress bool) (v1.Layer, error) {
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
	if !compress {
		return static.NewLayer(buf.Bytes(), types.DockerUncompressedLayer), nil
	}
	var smaller bytes.Buffer
	z := gzip.NewWriter(&smaller) // whose header has no time unless it is told one
	if _, err := z.Write(buf.Bytes()); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(smaller.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
}
