// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/cmd/images/materials"
)

const (
	// pluginPlatforms are those of a release for which there is an archive of the plugin of kubectl.
	pluginPlatforms = "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64,windows/amd64,windows/arm64"
	// releases is where the archives of a release are downloaded from, by the manifest for krew.
	releases = "https://github.com/tandem-lb/tandem/releases/download"
	// completion is what kubectl runs to complete `kubectl tandem`. It has to be a program of this name in the PATH.
	completion = "#!/bin/sh\nexec kubectl-tandem __complete \"$@\"\n"
)

// packed is a file of an archive.
type packed struct {
	name    string
	mode    int64
	content []byte
}

// plugin writes, for each platform, an archive with the plugin, what completes it in shells, and its licences; and a manifest for krew, which names the
// archives with their checksums.
func (b *build) plugin(ctx context.Context, platforms []string) error {
	var entries []krewPlatform
	for _, text := range platforms {
		platform, err := v1.ParsePlatform(text)
		if err != nil {
			return err
		}
		files, err := b.compilePlugin(ctx, *platform)
		if err != nil {
			return fmt.Errorf("kubectl-tandem for %s: %w", text, err)
		}
		name, pack := "kubectl-tandem-"+strings.ReplaceAll(text, "/", "-"), tarball
		if platform.OS == "windows" {
			name, pack = name+".zip", zipped
		} else {
			name += ".tar.gz"
		}
		content, err := pack(files, b.created)
		if err != nil {
			return err
		}
		if err := b.write(name, func(file string) error { return os.WriteFile(file, content, 0o644) }); err != nil {
			return err
		}
		entry := krewPlatform{URI: releases + "/" + b.version + "/" + name, SHA256: fmt.Sprintf("%x", sha256.Sum256(content)), Bin: files[0].name}
		entry.Selector.MatchLabels = map[string]string{"os": platform.OS, "arch": platform.Architecture}
		entries = append(entries, entry)
	}
	manifest, err := b.krew(entries)
	if err != nil {
		return err
	}
	return b.write("krew.yaml", func(file string) error { return os.WriteFile(file, manifest, 0o644) })
}

// compilePlugin returns what an archive of the plugin has for a platform, the program first.
func (b *build) compilePlugin(ctx context.Context, platform v1.Platform) ([]packed, error) {
	const path = "./cmd/kubectl-tandem"
	env := environment(platform)
	modules, err := materials.Modules(ctx, env, path)
	if err != nil {
		return nil, err
	}
	name := "kubectl-tandem"
	if platform.OS == "windows" {
		name += ".exe"
	}
	binary := filepath.Join(b.binaries, platform.OS+platform.Architecture, name)
	compile := exec.CommandContext(ctx, "go", "build", "-ldflags", b.ldflags, "-o", binary, path)
	compile.Env, compile.Stdout, compile.Stderr = env, os.Stderr, os.Stderr
	if err := compile.Run(); err != nil {
		return nil, err
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	licence, err := os.ReadFile("LICENSE")
	if err != nil {
		return nil, err
	}
	files := []packed{{name, 0o755, program}, {"LICENSE", 0o644, licence}, {"third-party-licences.txt", 0o644, materials.ThirdParty(modules)}}
	if platform.OS != "windows" {
		files = append(files, packed{"kubectl_complete-tandem", 0o755, []byte(completion)})
	}
	return files, nil
}

// tarball returns a tar.gz of files, the same bytes for the same files and time.
func tarball(files []packed, created time.Time) ([]byte, error) {
	var out bytes.Buffer
	compressed := gzip.NewWriter(&out)
	archive := tar.NewWriter(compressed)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), ModTime: created, Format: tar.FormatUSTAR}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	err := compressed.Close()
	return out.Bytes(), err
}

// zipped returns a zip of files, the same bytes for the same files and time.
func zipped(files []packed, created time.Time) ([]byte, error) {
	var out bytes.Buffer
	archive := zip.NewWriter(&out)
	for _, f := range files {
		header := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: created}
		header.SetMode(os.FileMode(f.mode))
		w, err := archive.CreateHeader(header)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	err := archive.Close()
	return out.Bytes(), err
}

// krewPlatform is an archive in a manifest for krew.
type krewPlatform struct {
	Selector struct {
		MatchLabels map[string]string `json:"matchLabels"`
	} `json:"selector"`
	URI    string `json:"uri"`
	SHA256 string `json:"sha256"`
	Bin    string `json:"bin"`
}

// krew returns the manifest by which krew installs the plugin (https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/).
func (b *build) krew(platforms []krewPlatform) ([]byte, error) {
	type object = map[string]any
	return yaml.Marshal(object{
		"apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
		"kind":       "Plugin",
		"metadata":   object{"name": "tandem"},
		"spec": object{
			"version":          b.version,
			"homepage":         "https://github.com/tandem-lb/tandem",
			"shortDescription": "Shows how the load balancer Tandem is doing",
			"description": "Says how the load balancer Tandem is doing in a cluster on bare metal: pools, speakers, BGP sessions and Services on one screen,\n" +
				"who has an address and why, and what a drain of a node would do.\n",
			"platforms": platforms,
		},
	})
}
