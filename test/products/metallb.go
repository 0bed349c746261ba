// SPDX-License-Identifier: Apache-2.0

// Package products has other load balancers run on the lab: those that Tandem is measured beside (test/bench), and those that its users come from (test/e2e).
// It builds MetalLB from the module proxy, and gives its mode with FRR the FRR of this machine. Of products whose modules the proxy does not have it takes
// programs that somebody else has built ([Prebuilt]).
package products

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/tandem-lb/tandem/cmd/images/archive"
	"github.com/tandem-lb/tandem/test/lab"
)

// What MetalLB is built from. Its own go.mod leaves out no version, but refuses to be asked for the latest.
const (
	MetalLBVersion = "v0.16.1"
	metalLBModule  = "go.universe.tf/metallb"
	frrK8sVersion  = "v0.0.25"
)

// MetalLB has programs of MetalLB in the lab's cache.
type MetalLB struct {
	dir string // has the programs, and is a module that requires MetalLB's
}

// Go runs the go command in a directory, with variables beside those of this process, and returns what it prints.
func Go(ctx context.Context, dir string, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, exit.Stderr)
	}
	return out, err
}

// golang runs the go command in the module that requires MetalLB's.
func (m *MetalLB) golang(ctx context.Context, args ...string) ([]byte, error) {
	return Go(ctx, m.dir, []string{"GOFLAGS=-mod=mod -trimpath", "GOWORK=off"}, args...)
}

// BuildMetalLB builds those of MetalLB's programs that the lab's cache does not have: "controller", "speaker".
func BuildMetalLB(ctx context.Context, progress io.Writer, programs ...string) (*MetalLB, error) {
	cache, err := lab.Cache()
	if err != nil {
		return nil, err
	}
	m := &MetalLB{filepath.Join(cache, "metallb-"+MetalLBVersion+"-"+runtime.GOARCH)}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return nil, err
	}
	gomod := fmt.Sprintf(
		"module bench/metallb\n\ngo 1.26.0\n\nrequire (\n\t%s %s\n\tgithub.com/metallb/frr-k8s %s\n)\n", metalLBModule, MetalLBVersion, frrK8sVersion,
	)
	for _, program := range programs {
		if _, err := os.Stat(m.Program(program)); err == nil {
			continue
		}
		fmt.Fprintf(progress, "Building the %s of MetalLB %s, which takes minutes the first time\n", path.Base(program), MetalLBVersion)
		if err := os.WriteFile(filepath.Join(m.dir, "go.mod"), []byte(gomod), 0o644); err != nil {
			return nil, err
		}
		unfinished := m.Program(program) + ".unfinished"
		if _, err := m.golang(ctx, "build", "-ldflags", "-s -w", "-o", unfinished, metalLBModule+"/"+program); err != nil {
			return nil, err
		}
		if err := os.Rename(unfinished, m.Program(program)); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Program returns the path of a program.
func (m *MetalLB) Program(program string) string { return filepath.Join(m.dir, path.Base(program)) }

// Source returns the directory of MetalLB's source, which has its CRDs and manifests.
func (m *MetalLB) Source(ctx context.Context) (string, error) {
	source, err := m.golang(ctx, "list", "-m", "-f", "{{.Dir}}", metalLBModule)
	return strings.TrimSpace(string(source)), err
}

// Image writes an image of programs, whose entry point is the first of them, as a docker-archive in a directory, under the name that MetalLB's manifests
// have for it, and returns its path.
func (m *MetalLB) Image(dir string, programs ...string) (string, error) {
	img := archive.Image{Reference: "quay.io/metallb/" + path.Base(programs[0]) + ":" + MetalLBVersion, Entrypoint: []string{"/" + path.Base(programs[0])}}
	for _, program := range programs {
		img.Files = append(img.Files, archive.File{Source: m.Program(program), Destination: "/" + path.Base(program)})
	}
	file := filepath.Join(dir, "metallb-"+path.Base(programs[0])+".tar")
	return file, archive.Write(file, img)
}
