// SPDX-License-Identifier: Apache-2.0

// Package materials says what a program is made of: which modules it links, and under which licences. From that it writes the two files
// that accompany an image, an SPDX document for machines ([Document]) and the licences' texts for people ([ThirdParty]).
//
// A module's licences are the files called LICENSE, COPYING, NOTICE or the like in its root, and in the directories between it and each
// package that is linked. A licence is recognised by its words, and named by its SPDX identifier.
package materials

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// StandardLibrary is the path under which the standard library of Go is listed, with the version of Go.
const StandardLibrary = "std"

// Module is a module that a program links.
type Module struct {
	Path, Version string
	// Sum is the checksum of go.sum, with its algorithm: h1:… It is empty for the standard library.
	Sum string
	// Licence is an SPDX expression of all licences that hold for what is linked.
	Licence string
	// Texts are those of the licences and notices, each once.
	Texts []string
}

// licenceFile matches the names of files that hold a licence or what it asks to be passed on.
var licenceFile = regexp.MustCompile(`(?i)^(li[cs]en[cs]es?|copying|notice|patents|unlicense|copyright)([-._].*)?$`)

// Modules returns the modules that programs link, given as packages, when they are compiled in environment env, sorted by their
// paths. It fails where a licence is missing or not recognised, so that somebody looks.
func Modules(ctx context.Context, env []string, packages ...string) ([]Module, error) {
	list := exec.CommandContext(ctx, "go", append([]string{"list", "-deps", "-json=Dir,Standard,Module"}, packages...)...)
	list.Env, list.Stderr = env, os.Stderr
	output, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("listing packages: %w", err)
	}
	goenv, err := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		return nil, fmt.Errorf("asking Go for its version: %w", err)
	}
	goroot, goversion, _ := strings.Cut(strings.TrimSpace(string(goenv)), "\n")
	modules := map[string]*Module{StandardLibrary: {Path: StandardLibrary, Version: strings.TrimPrefix(goversion, "go")}}
	directories := map[string]map[string]bool{StandardLibrary: {goroot: true}} // that may hold licences, by module
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var p struct {
			Dir      string
			Standard bool
			Module   *struct {
				Path, Version, Sum, Dir string
				Main                    bool
				Replace                 *struct{ Path string }
			}
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if p.Standard || p.Module.Main {
			continue
		}
		m := p.Module
		if m.Replace != nil {
			return nil, fmt.Errorf("module %s is replaced by %s, which nobody else could", m.Path, m.Replace.Path)
		}
		if modules[m.Path] == nil {
			modules[m.Path] = &Module{Path: m.Path, Version: m.Version, Sum: m.Sum}
			directories[m.Path] = map[string]bool{}
		}
		for dir := p.Dir; len(dir) >= len(m.Dir); dir = filepath.Dir(dir) {
			directories[m.Path][dir] = true
		}
	}
	var sorted []Module
	for _, path := range slices.Sorted(maps.Keys(modules)) {
		m := modules[path]
		if err := m.readLicences(slices.Sorted(maps.Keys(directories[path]))); err != nil {
			return nil, fmt.Errorf("module %s: %w", path, err)
		}
		sorted = append(sorted, *m)
	}
	return sorted, nil
}

// readLicences fills Licence and Texts from files in directories.
func (m *Module) readLicences(directories []string) error {
	identifiers := map[string]bool{}
	for _, dir := range directories {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if entry.IsDir() || !licenceFile.MatchString(entry.Name()) || strings.HasSuffix(entry.Name(), ".go") {
				continue
			}
			text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
			if err != nil {
				return err
			}
			if trimmed := strings.TrimSpace(string(text)); !slices.Contains(m.Texts, trimmed) {
				m.Texts = append(m.Texts, trimmed)
			}
			for _, match := range licensecheck.Scan(text).Match {
				if match.ID != "GooglePatentsFile" { // which SPDX does not know; it is a grant beside the licence
					identifiers[match.ID] = true
				}
			}
		}
	}
	if len(identifiers) == 0 {
		return errors.New("there is no file with a licence that is known")
	}
	m.Licence = strings.Join(slices.Sorted(maps.Keys(identifiers)), " AND ")
	return nil
}

// Verify compares the modules with those that a program's own build information names.
func Verify(modules []Module, info *debug.BuildInfo) error {
	listed := map[string]string{}
	for _, m := range modules {
		if m.Path != StandardLibrary {
			listed[m.Path] = m.Version
		}
	}
	linked := map[string]string{}
	for _, m := range info.Deps {
		linked[m.Path] = m.Version
	}
	if !maps.Equal(listed, linked) {
		return fmt.Errorf("it links %v, and %v were found", linked, listed)
	}
	return nil
}

// ThirdParty returns the licences of modules as a text: which module is under which licence and where its source is, then each text once with
// the modules that it belongs to.
func ThirdParty(modules []Module) []byte {
	var b bytes.Buffer
	b.WriteString("Tandem itself is under the Apache License 2.0. Its programs contain these modules, whose source is at the address beside each.\n\n")
	belongs := map[string][]string{}
	var order []string
	for _, m := range modules {
		fmt.Fprintf(&b, "%s %s\t%s\t%s\n", m.Path, m.Version, m.Licence, m.source())
		for _, text := range m.Texts {
			if belongs[text] == nil {
				order = append(order, text)
			}
			belongs[text] = append(belongs[text], m.Path)
		}
	}
	for _, text := range order {
		fmt.Fprintf(&b, "\n%s\n%s:\n\n%s\n", strings.Repeat("=", 78), strings.Join(belongs[text], "\n"), text)
	}
	return b.Bytes()
}

// source returns the address from which the source of the module may be had.
func (m Module) source() string {
	if m.Path == StandardLibrary {
		return "https://go.dev/dl/go" + m.Version + ".src.tar.gz"
	}
	// The module proxy writes a capital letter as an exclamation mark and the small one, on file systems that know no difference.
	escaped := regexp.MustCompile(`[A-Z]`).ReplaceAllStringFunc(m.Path, func(c string) string { return "!" + strings.ToLower(c) })
	return "https://proxy.golang.org/" + escaped + "/@v/" + m.Version + ".zip"
}
