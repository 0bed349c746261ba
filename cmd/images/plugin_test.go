// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// TestArchives packs files twice, and unpacks them.
func TestArchives(t *testing.T) {
	created := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	files := []packed{{"kubectl-tandem", 0o755, []byte("program")}, {"LICENSE", 0o644, []byte("licence")}}
	want := []string{"kubectl-tandem 755 program " + created.String(), "LICENSE 644 licence " + created.String()}
	for name, tt := range map[string]struct {
		pack   func([]packed, time.Time) ([]byte, error)
		unpack func(*testing.T, []byte) []string
	}{"tar.gz": {tarball, listTarball}, "zip": {zipped, listZip}} {
		t.Run(name, func(t *testing.T) {
			first, err := tt.pack(files, created)
			second, errAgain := tt.pack(files, created)
			if err := errors.Join(err, errAgain); err != nil || !bytes.Equal(first, second) {
				t.Errorf("two archives of the same files differ, error %v", err)
			}
			if diff := cmp.Diff(want, tt.unpack(t, first)); diff != "" {
				t.Errorf("in the archive (-want +got):\n%s", diff)
			}
		})
	}
}

func listTarball(t *testing.T, content []byte) (files []string) {
	plain, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		text, errRead := io.ReadAll(archive)
		if err := errors.Join(err, errRead); err != nil {
			t.Fatal(err)
		}
		files = append(files, line(header.Name, header.Mode, text, header.ModTime))
	}
}

func listZip(t *testing.T, content []byte) (files []string) {
	archive, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range archive.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, line(f.Name, int64(f.Mode().Perm()), text, f.Modified))
	}
	return files
}

func line(name string, mode int64, text []byte, modified time.Time) string {
	return fmt.Sprintf("%s %o %s %s", name, mode, text, modified.UTC())
}

// TestKrew reads the manifest as krew does.
func TestKrew(t *testing.T) {
	b := build{version: "v0.1.0"}
	p := krewPlatform{URI: releases + "/v0.1.0/kubectl-tandem-linux-amd64.tar.gz", SHA256: "ab12", Bin: "kubectl-tandem"}
	p.Selector.MatchLabels = map[string]string{"os": "linux", "arch": "amd64"}
	text, err := b.krew([]krewPlatform{p})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		APIVersion, Kind string
		Metadata         struct{ Name string }
		Spec             struct {
			Version, Homepage, ShortDescription, Description string
			Platforms                                        []krewPlatform
		}
	}
	if err := yaml.UnmarshalStrict(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.Kind != "Plugin" || got.Metadata.Name != "tandem" || got.Spec.Version != "v0.1.0" || len(got.Spec.ShortDescription) > 50 {
		t.Errorf("the manifest is %+v", got)
	}
	if diff := cmp.Diff([]krewPlatform{p}, got.Spec.Platforms); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}
}
