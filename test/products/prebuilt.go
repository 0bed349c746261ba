// SPDX-License-Identifier: Apache-2.0

package products

import (
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/tandem-lb/tandem/cmd/images/archive"
)

// Prebuilt is a product whose modules the module proxy does not have, so that somebody else has built its programs. Its directory has the programs, and
// install.yaml, which installs them. The last part of an image's name there is the program that the image runs: of ghcr.io/kube-vip/kube-vip:v1.2.3 it is
// kube-vip.
type Prebuilt struct{ dir string }

// OpenPrebuilt returns the product in the directory that a variable of the environment names, and nil where the variable is not set.
func OpenPrebuilt(variable string) *Prebuilt {
	if dir := os.Getenv(variable); dir != "" {
		return &Prebuilt{dir}
	}
	return nil
}

var (
	imageLine = regexp.MustCompile(`(?m)^[\s-]*image:\s*["']?([^\s"']+)`)
	pullLine  = regexp.MustCompile(`(?m)^(\s*imagePullPolicy:).*$`)
)

// Manifest returns install.yaml for nodes that hold the images, and can pull none.
func (p *Prebuilt) Manifest() (string, error) {
	text, err := os.ReadFile(filepath.Join(p.dir, "install.yaml"))
	return string(pullLine.ReplaceAll(text, []byte("$1 IfNotPresent"))), err
}

// Images writes an archive of each image that the manifest runs into a directory, and returns their paths.
func (p *Prebuilt) Images(dir string) (files []string, err error) {
	manifest, err := p.Manifest()
	if err != nil {
		return nil, err
	}
	var references []string
	for _, match := range imageLine.FindAllStringSubmatch(manifest, -1) {
		references = append(references, match[1])
	}
	slices.Sort(references)
	for _, reference := range slices.Compact(references) {
		name, _, _ := strings.Cut(path.Base(reference), ":")
		program := filepath.Join(p.dir, name)
		if err := isProgram(program); err != nil {
			return nil, fmt.Errorf("image %s needs a program that is linked statically: %w", reference, err)
		}
		file := filepath.Join(dir, name+".tar")
		image := archive.Image{Reference: reference, Entrypoint: []string{"/" + name}, Files: []archive.File{{Source: program, Destination: "/" + name}}}
		if err := archive.Write(file, image); err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s names no image", filepath.Join(p.dir, "install.yaml"))
	}
	return files, nil
}

// isProgram returns an error where a file is no program for Linux.
func isProgram(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil || string(magic) != "\x7fELF" {
		return fmt.Errorf("%s is none for Linux", file)
	}
	return nil
}
