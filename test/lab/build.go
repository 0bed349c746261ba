// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/cmd/images/archive"
)

// Versions of what the lab runs. The staging modules carry the version of Kubernetes that they are part of.
const (
	KubernetesVersion = "v1.36.3"
	stagingVersion    = "v0.36.3"
	EtcdVersion       = "v3.6.7"
	ContainerdVersion = "v2.2.0"
)

// Images that every node holds. Nothing can be pulled: pods need an imagePullPolicy of IfNotPresent or Never.
const (
	// PauseImage is the sandbox of every pod.
	PauseImage = "registry.k8s.io/pause:3.10.2"
	// AgnhostImage is the program with which Kubernetes tests itself; `agnhost netexec` is its web server. The tag is
	// the one that KubernetesVersion asks for. The image holds /agnhost and no shell.
	AgnhostImage = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
)

// Binaries are the programs and images that Build made, by name: "kubectl", "pause.tar".
type Binaries map[string]string

// A component is built from one module, at one version, into one directory of the cache.
type component struct {
	name, module, version string
	programs              []string // packages, relative to the module
	ldflags               string
	// staging is the published version of those modules that the component's own go.mod replaces by folders of its
	// repository.
	staging string
}

var components = []component{
	{
		name: "etcd", module: "go.etcd.io/etcd/server/v3", version: EtcdVersion,
		programs: []string{"."},
		ldflags:  "-s -w",
	},
	{
		name: "kubernetes", module: "k8s.io/kubernetes", version: KubernetesVersion, staging: stagingVersion,
		programs: []string{
			"cmd/kube-apiserver", "cmd/kube-controller-manager", "cmd/kube-scheduler", "cmd/kubelet", "cmd/kube-proxy",
			"cmd/kubectl", "test/images/agnhost",
		},
		ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=" + KubernetesVersion +
			" -X k8s.io/client-go/pkg/version.gitVersion=" + KubernetesVersion,
	},
	{
		name: "containerd", module: "github.com/containerd/containerd/v2", version: ContainerdVersion,
		programs: []string{"cmd/containerd", "cmd/containerd-shim-runc-v2", "cmd/ctr"},
		ldflags:  "-s -w",
	},
}

//go:embed pause/main.go
var pauseSource []byte

// Build builds etcd, Kubernetes, containerd, agnhost and pause from the module proxy, and the images of the last two.
// It writes one line for each to progress. What is in the cache already costs nothing; a second process that wants
// the same waits for the first.
//
// It also builds the programs of k8s.io/kubernetes that are asked for, "cmd/kubeadm" for example.
//
// The cache is $TANDEM_LAB_CACHE, or tandem-lab in the user's cache directory, with a folder for every version.
func Build(ctx context.Context, progress io.Writer, also ...string) (Binaries, error) {
	cache := os.Getenv("TANDEM_LAB_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("looking for a place for the lab's binaries: %w", err)
		}
		cache = filepath.Join(user, "tandem-lab")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, cache, progress)
	if err != nil {
		return nil, err
	}
	defer unlock()

	bin := Binaries{}
	for _, c := range components {
		dir := filepath.Join(cache, fmt.Sprintf("%s-%s-%s", c.name, c.version, runtime.GOARCH))
		source := filepath.Join(dir, "src")
		programs := c.programs
		if c.name == "kubernetes" {
			programs = append(slices.Clone(programs), also...)
		}
		for _, program := range programs {
			name := path.Base(program)
			if program == "." {
				name = c.name
			}
			pkg := path.Join(c.module, program)
			bin[name] = filepath.Join(dir, name)
			if err := once(bin[name], func(unfinished string) error {
				if err := c.writeModule(ctx, source); err != nil {
					return err
				}
				return goBuild(ctx, progress, source, name+" "+c.version, "-ldflags", c.ldflags, "-o", unfinished, pkg)
			}); err != nil {
				return nil, err
			}
		}
	}

	dir := filepath.Join(cache, fmt.Sprintf("pause-%.6x-%s", sha256.Sum256(pauseSource), runtime.GOARCH))
	bin["pause"] = filepath.Join(dir, "pause")
	if err := once(bin["pause"], func(unfinished string) error {
		source := filepath.Join(dir, "src", "main.go")
		if err := os.MkdirAll(filepath.Dir(source), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(source, pauseSource, 0o644); err != nil {
			return err
		}
		return goBuild(ctx, progress, filepath.Dir(source), "pause", "-ldflags", "-s -w", "-o", unfinished, "main.go")
	}); err != nil {
		return nil, err
	}

	for _, image := range []struct{ program, reference string }{{"pause", PauseImage}, {"agnhost", AgnhostImage}} {
		name := image.program + ".tar"
		bin[name] = bin[image.program] + ".tar"
		if err := once(bin[name], func(unfinished string) error {
			img := archive.Image{
				Reference:  image.reference,
				Entrypoint: []string{"/" + image.program},
				Files:      []archive.File{{Source: bin[image.program], Destination: "/" + image.program}},
			}
			if image.program == "agnhost" {
				img.Cmd = []string{"pause"}
			}
			return archive.Write(unfinished, img)
		}); err != nil {
			return nil, err
		}
	}
	return bin, nil
}

// path returns a PATH with the directories of all binaries before the one of this process.
func (b Binaries) path() string {
	var dirs []string
	for _, program := range []string{"etcd", "kubelet", "containerd", "pause"} {
		dirs = append(dirs, filepath.Dir(b[program]))
	}
	return strings.Join(append(dirs, os.Getenv("PATH")), ":")
}

// once makes file unless it exists. make writes to the name that it is given, in the same directory.
func once(file string, make func(unfinished string) error) error {
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	unfinished := file + ".unfinished"
	if err := make(unfinished); err != nil {
		return err
	}
	return os.Rename(unfinished, file)
}

// writeModule makes dir a module that requires the component, unless it is one. A main module's replacements are the
// only ones that count, so those of the component are repeated in it.
func (c component) writeModule(ctx context.Context, dir string) error {
	file := filepath.Join(dir, "go.mod")
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	content := fmt.Sprintf("module lab/%s\n\ngo 1.26.0\n\nrequire %s %s\n", c.name, c.module, c.version)
	if c.staging != "" {
		download := exec.CommandContext(ctx, "go", "mod", "download", "-json", c.module+"@"+c.version)
		download.Dir = dir
		out, err := download.Output()
		var module struct{ GoMod, Error string }
		if jsonErr := json.Unmarshal(out, &module); err != nil || jsonErr != nil {
			return fmt.Errorf("downloading %s %s: %w: %s", c.module, c.version, errors.Join(err, jsonErr), module.Error)
		}
		theirs, err := os.ReadFile(module.GoMod)
		if err != nil {
			return err
		}
		content += "\n" + stagingReplacements(string(theirs), c.staging)
	}
	return os.WriteFile(file, []byte(content), 0o644)
}

var stagingReplacement = regexp.MustCompile(`(?m)^\s*(?:replace )?(\S+) => \./staging/src/\S+$`)

// stagingReplacements returns the replace block of gomod with folders of its repository changed to published modules of
// the given version.
func stagingReplacements(gomod, version string) string {
	var b strings.Builder
	b.WriteString("replace (\n")
	for _, match := range stagingReplacement.FindAllStringSubmatch(gomod, -1) {
		fmt.Fprintf(&b, "\t%s => %s %s\n", match[1], match[1], version)
	}
	b.WriteString(")\n")
	return b.String()
}

// goBuild runs `go build` in dir. Its output is shown only if it fails.
func goBuild(ctx context.Context, progress io.Writer, dir, what string, args ...string) error {
	start := time.Now()
	elapsed := func() time.Duration { return time.Since(start).Round(100 * time.Millisecond) }
	done := make(chan struct{})
	heartbeat := time.NewTicker(20 * time.Second)
	defer heartbeat.Stop()
	var out []byte
	var err error
	go func() {
		defer close(done)
		cmd := exec.CommandContext(ctx, "go", append([]string{"build"}, args...)...)
		cmd.Dir = dir
		// GOFLAGS names all flags, so that those of the environment can't change what is built.
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
		out, err = cmd.CombinedOutput()
	}()
	for {
		select {
		case <-heartbeat.C:
			fmt.Fprintf(progress, "Building %s, %s so far\n", what, elapsed())
		case <-done:
			if err != nil {
				return fmt.Errorf("building %s: %w\n%s", what, err, out)
			}
			fmt.Fprintf(progress, "Built %s in %s\n", what, elapsed())
			return nil
		}
	}
}

// lock takes the lock of the cache in dir. The lock ends with the process, however that ends.
func lock(ctx context.Context, dir string, progress io.Writer) (unlock func(), err error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for waited := false; ; waited = true {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), file.Close())
		}
		if !waited {
			fmt.Fprintf(progress, "Waiting for another process that builds into %s\n", dir)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), file.Close())
		case <-time.After(200 * time.Millisecond):
		}
	}
}
