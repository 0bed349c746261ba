// SPDX-License-Identifier: Apache-2.0

// Command images is a build tool: it compiles Tandem's programs and writes their container images to dist/images, without a container
// engine.
//
//	go run ./cmd/images -version v0.1.0
//	ctr -n k8s.io images import dist/images/speaker.tar
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"

	"github.com/tandem-lb/tandem/cmd/images/archive"
)

// programs are the programs that run in the cluster, by the last part of their image's name.
var programs = []struct {
	name string
	user string
}{
	{name: "cloud-controller-manager", user: archive.NonRoot},
	// The speaker opens packet sockets, for which a user other than root would need ambient capabilities.
	{name: "speaker", user: "0:0"},
}

func main() {
	os.Exit(run())
}

func run() int {
	tag := flag.String("version", "v0.0.0-dev", "semantic version of the programs and tag of the images")
	output := flag.String("output", filepath.Join("dist", "images"), "directory for the images")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := write(ctx, *tag, *output); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		return 1
	}
	return 0
}

func write(ctx context.Context, tag, output string) error {
	// component-base parses its version where a program starts, and panics if it can't.
	if _, err := version.ParseSemantic(tag); err != nil || strings.Contains(tag, "+") {
		return fmt.Errorf("version %q is not a semantic version that can be an image tag, like v0.1.0", tag)
	}
	binaries, err := os.MkdirTemp("", "tandem-images-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(binaries)

	for _, p := range programs {
		binary := filepath.Join(binaries, p.name)
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", ldflags(tag), "-o", binary, "./cmd/"+p.name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("building %s: %w", p.name, err)
		}
		file := filepath.Join(output, p.name+".tar")
		if err := archive.Write(file, archive.Image{
			Reference:  "ghcr.io/tandem-lb/" + p.name + ":" + tag,
			Entrypoint: []string{"/tandem-" + p.name},
			Files:      []archive.File{{Source: binary, Destination: "/tandem-" + p.name}},
			User:       p.user,
			Labels: map[string]string{
				"org.opencontainers.image.title":    "tandem-" + p.name,
				"org.opencontainers.image.version":  tag,
				"org.opencontainers.image.source":   "https://github.com/tandem-lb/tandem",
				"org.opencontainers.image.licenses": "Apache-2.0",
			},
		}); err != nil {
			return err
		}
		fmt.Println(file)
	}
	return nil
}

// ldflags sets the version that --version prints, the build_info metric shows and the API server sees as user agent.
func ldflags(tag string) string {
	return "-s -w" +
		" -X k8s.io/component-base/version.gitVersion=" + tag +
		" -X k8s.io/client-go/pkg/version.gitVersion=" + tag
}
