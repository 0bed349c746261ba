// SPDX-License-Identifier: Apache-2.0

// Command images is a build tool: it compiles Tandem's programs and writes their container images, without a container engine, and the archives of the plugin
// of kubectl, into dist/release.
//
//	go run ./cmd/images -version v0.1.0                          # what a release has of images, for every platform
//	go run ./cmd/images -version v0.1.0 -platforms=linux/amd64   # for one
//	ctr -n k8s.io images import dist/release/speaker-linux-amd64.tar
//
// The Makefile gives it the linker's flags, which set the version that the programs print, and with SOURCE_DATE_EPOCH the time of the
// commit. The same commit, compiled by the same version of Go, gives the same bytes on every machine.
package main

import (
	"cmp"
	"context"
	"debug/buildinfo"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/tandem-lb/tandem/cmd/images/archive"
	"github.com/tandem-lb/tandem/cmd/images/materials"
)

// A program runs in the cluster. Its name is the last part of its image's name, with which the names of the image's files begin, unless file says
// otherwise.
type program struct{ name, binary, user, description, file string }

var programs = []program{
	{name: "cloud-controller-manager", binary: "tandem-cloud-controller-manager", user: archive.NonRoot, description: "gives Services of type LoadBalancer their addresses"},
	// The speaker opens packet sockets, for which a user other than root would need ambient capabilities.
	{name: "speaker", binary: "tandem-speaker", user: "0:0", description: "announces the addresses of Services by ARP, NDP and BGP"},
	// `helm test` runs it. The archives of the plugin for people are kubectl-tandem-….tar.gz.
	{
		name: "kubectl-tandem", binary: "kubectl-tandem", user: archive.NonRoot, description: "the plugin of kubectl: checks the installation",
		file: "kubectl-tandem-image",
	},
}

// platforms are those of a release.
const platforms = "linux/amd64,linux/arm64,linux/arm/v7,linux/ppc64le,linux/s390x"

func main() {
	os.Exit(run())
}

func run() int {
	var b build
	selected := flag.String("platforms", platforms, "platforms, separated by commas")
	selectedForPlugin := flag.String("plugin-platforms", pluginPlatforms, "platforms for which the plugin of kubectl is packed, separated by commas")
	flag.StringVar(&b.version, "version", "v0.0.0-dev", "semantic version: the tag of the images")
	flag.StringVar(&b.commit, "commit", "", "commit that the images are labelled with")
	flag.StringVar(&b.ldflags, "ldflags", "", "flags of the linker, which have to set the version of the programs")
	flag.StringVar(&b.registry, "registry", "ghcr.io/tandem-lb", "registry and path of the images' names")
	flag.StringVar(&b.output, "output", filepath.Join("dist", "release"), "directory for the images")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := b.prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		return 1
	}
	defer os.RemoveAll(b.binaries)
	err := b.release(ctx, strings.Split(*selected, ","))
	if err == nil {
		err = b.plugin(ctx, strings.Split(*selectedForPlugin, ","))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		return 1
	}
	return 0
}

// build is one run of this command.
type build struct {
	version, commit, ldflags string
	registry, output         string
	created                  time.Time // of the commit
	binaries                 string    // a directory for what is compiled
}

func (b *build) prepare() error {
	// component-base parses its version where a program starts, and panics if it can't.
	if _, err := version.ParseSemantic(b.version); err != nil || strings.Contains(b.version, "+") {
		return fmt.Errorf("version %q is not a semantic version that can be an image tag, like v0.1.0", b.version)
	}
	seconds, err := strconv.ParseInt(cmp.Or(os.Getenv("SOURCE_DATE_EPOCH"), "0"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	b.created = time.Unix(seconds, 0).UTC()
	b.binaries, err = os.MkdirTemp("", "tandem-images-")
	return err
}

// release writes, for each program, docker-archives for the platforms with their SPDX documents, and the index of all platforms as an OCI
// layout; then the lists of images and of their digests, and the licences of what is linked.
func (b *build) release(ctx context.Context, platforms []string) error {
	var names, digests strings.Builder
	for _, p := range programs {
		var all []*archive.Built
		for _, text := range platforms {
			platform, err := v1.ParsePlatform(text)
			if err != nil {
				return err
			}
			image, modules, err := b.image(ctx, p, *platform)
			if err != nil {
				return err
			}
			image.Compress = true
			built, err := image.Build()
			if err != nil {
				return err
			}
			all = append(all, built)
			if err := b.accompany(p.files()+"-"+strings.ReplaceAll(text, "/", "-"), text, built, modules); err != nil {
				return err
			}
		}
		if err := b.write(p.files()+".oci.tar", func(file string) error {
			digest, err := archive.WriteIndex(file, all...)
			fmt.Fprintln(&names, b.reference(p))
			fmt.Fprintf(&digests, "%s@%s\n", strings.TrimSuffix(b.reference(p), ":"+b.version), digest)
			return err
		}); err != nil {
			return err
		}
	}
	modules, err := materials.Modules(ctx, environment(v1.Platform{OS: "linux", Architecture: "amd64"}), packages(programs...)...)
	if err != nil {
		return err
	}
	for file, text := range map[string][]byte{
		"images.txt":               []byte(names.String()),
		"digests.txt":              []byte(digests.String()),
		"third-party-licences.txt": materials.ThirdParty(modules),
	} {
		if err := b.write(file, func(file string) error { return os.WriteFile(file, text, 0o644) }); err != nil {
			return err
		}
	}
	return nil
}

// accompany writes an image of a release as a docker-archive, and its SPDX document.
func (b *build) accompany(name, platform string, image *archive.Built, modules []materials.Module) error {
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	document, err := materials.Document(materials.Image{
		Name: image.Name(), Digest: digest, Platform: platform, Version: b.version, Created: b.created,
	}, modules)
	if err != nil {
		return err
	}
	if err := b.write(name+".tar", image.Write); err != nil {
		return err
	}
	return b.write(name+".spdx.json", func(file string) error { return os.WriteFile(file, document, 0o644) })
}

// write has one file written to the output, and prints its name.
func (b *build) write(name string, write func(file string) error) error {
	file := filepath.Join(b.output, name)
	if err := os.MkdirAll(b.output, 0o755); err != nil {
		return err
	}
	if err := write(file); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	fmt.Println(file)
	return nil
}

// image compiles a program for a platform and returns its image, and the modules that are in it.
func (b *build) image(ctx context.Context, p program, platform v1.Platform) (archive.Image, []materials.Module, error) {
	env := environment(platform)
	modules, err := materials.Modules(ctx, env, packages(p)...)
	if err != nil {
		return archive.Image{}, nil, fmt.Errorf("%s: %w", p.name, err)
	}
	dir := filepath.Join(b.binaries, platform.Architecture+platform.Variant)
	binary, licences := filepath.Join(dir, p.name), filepath.Join(dir, p.name+".licences")
	compile := exec.CommandContext(ctx, "go", "build", "-ldflags", b.ldflags, "-o", binary, packages(p)[0])
	compile.Env, compile.Stdout, compile.Stderr = env, os.Stderr, os.Stderr
	if err := compile.Run(); err != nil {
		return archive.Image{}, nil, fmt.Errorf("building %s for %s: %w", p.name, platform, err)
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return archive.Image{}, nil, err
	}
	if err := materials.Verify(modules, info); err != nil {
		return archive.Image{}, nil, fmt.Errorf("%s for %s: %w", p.name, platform, err)
	}
	if err := os.WriteFile(licences, materials.ThirdParty(modules), 0o600); err != nil {
		return archive.Image{}, nil, err
	}
	return archive.Image{
		Reference:  b.reference(p),
		Platform:   platform,
		Entrypoint: []string{"/" + p.binary},
		Files: []archive.File{
			{Source: binary, Destination: "/" + p.binary},
			{Source: "LICENSE", Destination: "/licenses/LICENSE", Mode: 0o644},
			{Source: licences, Destination: "/licenses/third-party-licences.txt", Mode: 0o644},
		},
		User:   p.user,
		Labels: b.labels(p),
	}, modules, nil
}

func (b *build) labels(p program) map[string]string {
	labels := map[string]string{
		"org.opencontainers.image.title":       p.binary,
		"org.opencontainers.image.description": p.description,
		"org.opencontainers.image.version":     b.version,
		"org.opencontainers.image.source":      "https://github.com/tandem-lb/tandem",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.created":     b.created.Format(time.RFC3339),
	}
	if b.commit != "" {
		labels["org.opencontainers.image.revision"] = b.commit
	}
	return labels
}

// files is that with which the names of an image's files begin.
func (p program) files() string { return cmp.Or(p.file, p.name) }

func (b *build) reference(p program) string { return b.registry + "/" + p.name + ":" + b.version }

func packages(programs ...program) []string {
	var paths []string
	for _, p := range programs {
		paths = append(paths, "./cmd/"+p.name)
	}
	return paths
}

// environment is that of the Go command for a platform. TANDEM_BUILD_CACHE is the directory of another build cache, for a build that owes nothing
// to earlier ones. What would show in the binary is set, whatever this machine has: paths (-trimpath),
// and the state of the checkout, which a build from an archive of the source cannot know (-buildvcs).
func environment(platform v1.Platform) []string {
	env := os.Environ()
	if cache := os.Getenv("TANDEM_BUILD_CACHE"); cache != "" {
		env = append(env, "GOCACHE="+cache)
	}
	return append(
		env, "CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false", "GOEXPERIMENT=", "GOOS="+platform.OS, "GOARCH="+platform.Architecture,
		"GOARM="+strings.TrimPrefix(cmp.Or(platform.Variant, "v7"), "v"), "GOAMD64=v1", "GOARM64=v8.0", "GOPPC64=power8",
	)
}
