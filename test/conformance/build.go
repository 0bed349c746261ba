// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/tandem-lb/tandem/cmd/images/archive"
	"github.com/tandem-lb/tandem/test/lab"
)

const (
	// corednsVersion is the one that kubeadm installs at lab.KubernetesVersion.
	corednsVersion = "v1.14.2"
	corednsImage   = "registry.k8s.io/coredns/coredns:" + corednsVersion
)

// artefacts are what the suite needs beside the lab, as files.
type artefacts struct {
	tests                 string // e2e.test
	agnhost, corednsImage string
}

// build builds what is not beside the lab's binaries yet. It takes ten minutes on two quiet cores at the first time.
func build(ctx context.Context) (*artefacts, error) {
	bin, err := lab.Build(ctx, os.Stdout)
	if err != nil {
		return nil, err
	}
	kubernetes := filepath.Dir(bin["kubelet"])
	dir := filepath.Join(kubernetes, "conformance")
	a := &artefacts{filepath.Join(dir, "e2e.test"), filepath.Join(dir, "agnhost.tar"), filepath.Join(dir, "coredns-"+corednsVersion+".tar")}
	// The lab's module has the replacements that Kubernetes needs. The tests need more modules, so that they get a module of their own.
	var module []byte
	if module, err = os.ReadFile(filepath.Join(kubernetes, "src", "go.mod")); err != nil {
		return nil, err
	}
	err = once(a.tests, func() error {
		return compile(ctx, filepath.Join(dir, "src"), module, nil, "test", "-c", "-vet=off", "-ldflags", "-s -w", "-o", a.tests+".unfinished",
			"k8s.io/kubernetes/test/e2e")
	})
	if err != nil {
		return nil, err
	}
	if err := once(a.agnhost, func() error { return writeAgnhost(ctx, a.agnhost+".unfinished", bin["agnhost"]) }); err != nil {
		return nil, err
	}
	return a, once(a.corednsImage, func() error { return writeCoreDNS(ctx, filepath.Join(dir, "coredns"), a.corednsImage+".unfinished") })
}

// once makes a file unless it exists. The function writes FILE.unfinished.
func once(file string, write func() error) error {
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := write(); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	return os.Rename(file+".unfinished", file)
}

// compile runs the go command in a folder that it makes a module.
func compile(ctx context.Context, dir string, module, program []byte, args ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string][]byte{"go.mod": module}
	if program != nil {
		files["main.go"] = program
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	fmt.Printf("go %s\n", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod -trimpath", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// debian are the programs of Debian that the Pods of the suite run, where the suite expects them, with their packages.
var debian = []struct{ file, destination, pkg string }{
	{"/bin/dash", "/bin/sh", "dash"},
	{"/usr/bin/curl", "/bin/curl", "curl"},
	{"/bin/nc.openbsd", "/bin/nc", "netcat-openbsd"},
	{"/bin/busybox", "/bin/nslookup", "busybox-static"},
	{"/usr/bin/wget", "/bin/wget", "wget"}, // that of busybox-static crashes: its C library loads parts of another
	{"/bin/busybox", "/bin/seq", "busybox-static"},
	{"/bin/busybox", "/bin/sleep", "busybox-static"},
	{"/bin/busybox", "/bin/cat", "busybox-static"},
}

// writeAgnhost writes the lab's image of agnhost with programs of Debian, and with the libraries that these load.
func writeAgnhost(ctx context.Context, file, agnhost string) error {
	img := archive.Image{
		Reference: lab.AgnhostImage, Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: []string{"PATH=/bin"},
		Files: []archive.File{{Source: agnhost, Destination: "/agnhost"}},
	}
	// The wget that the suite expects, of BusyBox, tries once; that of Debian would try 20 times before it says that nothing answers.
	wgetrc := filepath.Join(filepath.Dir(file), "wgetrc")
	if err := os.WriteFile(wgetrc, []byte("tries = 1\n"), 0o644); err != nil {
		return err
	}
	img.Files = append(img.Files, archive.File{Source: wgetrc, Destination: "/etc/wgetrc", Mode: 0o644})
	var programs []string
	for _, program := range debian {
		if _, err := os.Stat(program.file); err != nil {
			return fmt.Errorf("%w: apt-get install %s", err, program.pkg)
		}
		img.Files = append(img.Files, archive.File{Source: program.file, Destination: program.destination})
		programs = append(programs, program.file)
	}
	libraries, err := lab.Libraries(ctx, programs...)
	if err != nil {
		return err
	}
	for _, file := range libraries {
		img.Files = append(img.Files, archive.File{Source: file, Destination: file})
	}
	return archive.Write(file, img)
}

// corednsProgram is CoreDNS with the plugins of corednsManifest.
//
//go:embed coredns/main.go.txt
var corednsProgram []byte

//go:embed coredns/coredns.yaml
var corednsYAML string

// writeCoreDNS builds CoreDNS in a folder, and writes its image.
func writeCoreDNS(ctx context.Context, dir, file string) error {
	program := filepath.Join(dir, "coredns")
	module := fmt.Sprintf("module lab/coredns\n\ngo 1.26.0\n\nrequire github.com/coredns/coredns %s\n", corednsVersion)
	if err := compile(ctx, dir, []byte(module), corednsProgram, "build", "-ldflags", "-s -w", "-o", program, "."); err != nil {
		return err
	}
	return archive.Write(file, archive.Image{
		Reference: corednsImage, Entrypoint: []string{"/coredns"}, Files: []archive.File{{Source: program, Destination: "/coredns"}},
	})
}

// clusterDNS are the addresses of the cluster's DNS, which the lab's kubelets tell their Pods.
var clusterDNS = map[lab.Families]string{lab.IPv4: "10.96.0.10", lab.IPv6: "fd00:96::a"}

// corednsManifest returns the objects that run CoreDNS at an address.
func corednsManifest(address string) string {
	return strings.NewReplacer("$IMAGE", corednsImage, "$ADDRESS", address).Replace(corednsYAML)
}
