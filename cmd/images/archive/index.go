// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// WriteIndex writes images, which are one image for several platforms, to a tar file that holds an OCI layout, and returns the digest of
// their index: that of the image in a registry that it is copied to. The images have one reference, and compressed layers. The file appears
// whole or not at all.
//
//	skopeo copy --all oci-archive:speaker.oci.tar docker://registry.example/speaker:v0.1.0
func WriteIndex(file string, images ...*Built) (digest string, err error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range images {
		if b.tag != images[0].tag {
			return "", fmt.Errorf("an index of %s and of %s", images[0].tag, b.tag)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: b.oci(), Descriptor: v1.Descriptor{Platform: &b.platform}})
	}
	hash, err := index.Digest()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "tandem-layout-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return "", err
	}
	if err := path.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": images[0].tag.TagStr(), // for skopeo and podman
		"io.containerd.image.name":          images[0].tag.Name(),   // for ctr
	})); err != nil {
		return "", err
	}
	return hash.String(), whole(file, func(unfinished string) error { return pack(unfinished, dir) })
}

// pack writes the files below dir to a tar file, in the order of their names and without times, owners and the umask.
func pack(file, dir string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	files := os.DirFS(dir)
	err = fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := files.Open(name)
		if err != nil {
			return err
		}
		defer content.Close()
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: info.Size(), Format: tar.FormatPAX}); err != nil {
			return err
		}
		_, err = io.Copy(w, content)
		return err
	})
	return errors.Join(err, w.Close(), f.Close())
}
