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
	"sync"
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
	// staging is the published version of those modules that are folders of the component's own repository.
	staging string
	// shared makes the component with the versions of Tandem's go.mod, so that a package of both is compiled once: half of the packages of
	// Kubernetes are in Tandem's programs too. containerd 2.2 does not compile with a later otelgrpc.
	shared bool
}

var components = []component{
	{
		name: "etcd", module: "go.etcd.io/etcd/server/v3", version: EtcdVersion,
		programs: []string{"."},
		ldflags:  "-s -w",
		shared:   true,
	},
	{
		name: "kubernetes", module: "k8s.io/kubernetes", version: KubernetesVersion, staging: stagingVersion,
		programs: []string{
			"cmd/kube-apiserver", "cmd/kube-controller-manager", "cmd/kube-scheduler", "cmd/kubelet", "cmd/kube-proxy",
			"cmd/kubectl", "test/images/agnhost",
		},
		ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=" + KubernetesVersion +
			" -X k8s.io/client-go/pkg/version.gitVersion=" + KubernetesVersion,
		shared: true,
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
// The cache is that of [Cache], with a folder for every version.
func Build(ctx context.Context, progress io.Writer, also ...string) (Binaries, error) {
	cache, err := Cache()
	if err != nil {
		return nil, err
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
		if c.name == "kubernetes" {
			c.programs = append(slices.Clone(c.programs), also...)
		}
		if err := c.build(ctx, progress, cache, bin); err != nil {
			return nil, err
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

// Cache returns the directory of what is built once for all labs: $TANDEM_LAB_CACHE, or tandem-lab in the user's cache directory.
func Cache() (string, error) {
	if dir := os.Getenv("TANDEM_LAB_CACHE"); dir != "" {
		return dir, nil
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("looking for a place for the lab's binaries: %w", err)
	}
	return filepath.Join(user, "tandem-lab"), nil
}

// build builds those programs of the component that the cache does not have, and adds all to bin. One `go build` makes them all: the packages that
// several programs have are compiled once, and a processor that a linker leaves idle compiles the next program.
func (c component) build(ctx context.Context, progress io.Writer, cache string, bin Binaries) error {
	dir := filepath.Join(cache, fmt.Sprintf("%s-%s-%s", c.name, c.version, runtime.GOARCH))
	source, unfinished := filepath.Join(dir, "src"), filepath.Join(dir, "unfinished")
	var missing, packages []string
	for _, program := range c.programs {
		name := path.Base(program)
		if program == "." {
			name = c.name
		}
		bin[name] = filepath.Join(dir, name)
		if _, err := os.Stat(bin[name]); err != nil {
			missing = append(missing, name)
			packages = append(packages, path.Join(c.module, program))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := errors.Join(os.RemoveAll(unfinished), os.MkdirAll(unfinished, 0o755)); err != nil {
		return err
	}
	if err := c.writeModule(ctx, source); err != nil {
		return err
	}
	output := unfinished + "/"
	if len(missing) == 1 {
		output += missing[0] // go would name etcd "server", after its package
	}
	args := append([]string{"-ldflags", c.ldflags, "-o", output}, packages...)
	if err := goBuild(ctx, progress, source, strings.Join(missing, ", ")+" "+c.version, args...); err != nil {
		return err
	}
	for _, name := range missing {
		if err := os.Rename(filepath.Join(unfinished, name), bin[name]); err != nil {
			return err
		}
	}
	return os.Remove(unfinished)
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

// writeModule makes dir a module that requires the component, unless it is one.
func (c component) writeModule(ctx context.Context, dir string) error {
	file := filepath.Join(dir, "go.mod")
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	content := fmt.Sprintf("module lab/%s\n\ngo 1.26.0\n\nrequire %s %s\n", c.name, c.module, c.version)
	if c.shared {
		shared, err := tandemRequires(ctx)
		if err != nil {
			return err
		}
		content += "\n" + shared
	}
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
		content += "\n" + stagingRequires(string(theirs), c.staging)
	}
	return os.WriteFile(file, []byte(content), 0o644)
}

// tandemRequires returns the require block of the module that this process is run from, which is Tandem.
func tandemRequires(ctx context.Context) (string, error) {
	file, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("looking for Tandem's go.mod: %w", err)
	}
	out, err := exec.CommandContext(ctx, "go", "mod", "edit", "-json", strings.TrimSpace(string(file))).Output()
	var module struct {
		Require []struct{ Path, Version string }
	}
	if jsonErr := json.Unmarshal(out, &module); err != nil || jsonErr != nil {
		return "", fmt.Errorf("reading %s: %w", strings.TrimSpace(string(file)), errors.Join(err, jsonErr))
	}
	var b strings.Builder
	b.WriteString("require (\n")
	for _, r := range module.Require {
		fmt.Fprintf(&b, "\t%s %s\n", r.Path, r.Version)
	}
	b.WriteString(")\n")
	return b.String(), nil
}

// stagingRequirement is a requirement of a folder of the component's own repository: "k8s.io/api v0.0.0".
var stagingRequirement = regexp.MustCompile(`(?m)^\s*(?:require )?(\S+) v0\.0\.0(?: // indirect)?$`)

// stagingRequires returns a require block of the published modules of the given version, one for each folder of its repository that gomod
// requires. Its replacements by these folders count only where it is the main module.
func stagingRequires(gomod, version string) string {
	var b strings.Builder
	b.WriteString("require (\n")
	for _, match := range stagingRequirement.FindAllStringSubmatch(gomod, -1) {
		fmt.Fprintf(&b, "\t%s %s\n", match[1], version)
	}
	b.WriteString(")\n")
	return b.String()
}

// goBuild runs `go build` in dir. While it runs, progress tells how far it is. What it says itself is shown only if it fails.
func goBuild(ctx context.Context, progress io.Writer, dir, what string, args ...string) error {
	start := time.Now()
	elapsed := func() time.Duration { return time.Since(start).Round(100 * time.Millisecond) }
	done := make(chan struct{})
	heartbeat := time.NewTicker(20 * time.Second)
	defer heartbeat.Stop()
	var said buildLog
	var err error
	go func() {
		defer close(done)
		cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-v"}, args...)...)
		cmd.Dir = dir
		// GOFLAGS names all flags, so that those of the environment can't change what is built. -trimpath is what the Makefile has: the
		// standard library, which the flag changes, is compiled once for both.
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod -trimpath", "GOWORK=off")
		cmd.Stdout, cmd.Stderr = &said, &said
		err = cmd.Run()
	}()
	fmt.Fprintf(progress, "Building %s\n", what)
	for {
		select {
		case <-heartbeat.C:
			fmt.Fprintf(progress, "  %s so far: %s\n", elapsed(), said.progress())
		case <-done:
			if err != nil {
				return fmt.Errorf("building %s: %w\n%s", what, err, said.complaints())
			}
			fmt.Fprintf(progress, "Built %s in %s\n", what, elapsed())
			return nil
		}
	}
}

// buildLog reads what `go build -v` says: a line for each module that it downloads and for each package that it begins to compile, and
// complaints.
type buildLog struct {
	mu    sync.Mutex
	lines []string // guarded by mu; the last may be incomplete
}

var (
	downloading = regexp.MustCompile(`^go: (?:downloading|added) `)
	compiling   = regexp.MustCompile(`^[\w.~/-]+$`)
)

// Write implements io.Writer.
func (l *buildLog) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	parts := strings.Split(string(text), "\n")
	if len(l.lines) > 0 {
		l.lines[len(l.lines)-1] += parts[0]
		parts = parts[1:]
	}
	l.lines = append(l.lines, parts...)
	return len(text), nil
}

// progress says how much has been downloaded and compiled.
func (l *buildLog) progress() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	modules, packages := 0, 0
	for _, line := range l.lines {
		if downloading.MatchString(line) {
			modules++
		} else if compiling.MatchString(line) {
			packages++
		}
	}
	return fmt.Sprintf("%d modules downloaded, %d packages compiled", modules, packages)
}

// complaints returns everything that is no progress.
func (l *buildLog) complaints() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(slices.DeleteFunc(slices.Clone(l.lines), func(line string) bool {
		return downloading.MatchString(line) || compiling.MatchString(line)
	}), "\n")
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
