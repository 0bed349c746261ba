// SPDX-License-Identifier: Apache-2.0

// Package structure_test holds what no compiler holds: that every package says what it is, once, that every file names the licence, and
// that each program links only what it is made of.
package structure_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	module  = "github.com/tandem-lb/tandem"
	licence = "// SPDX-License-Identifier: Apache-2.0"
)

// goList runs the go command in the module's root, which knows more of packages than their files say.
func goList(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-tags=e2e"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = errors.New(string(exit.Stderr))
		}
		t.Fatalf("go list %v: %v", args, err)
	}
	return out
}

func TestCommentsAndLicence(t *testing.T) {
	decoder := json.NewDecoder(bytes.NewReader(goList(t, "-json=ImportPath,Name,Dir,GoFiles,TestGoFiles,XTestGoFiles", module+"/...")))
	packages := 0
	for ; ; packages++ {
		var p struct {
			ImportPath, Name, Dir              string
			GoFiles, TestGoFiles, XTestGoFiles []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		begin := "Package " + p.Name + " "
		switch {
		case p.Name == "main":
			begin = "Command "
		case len(p.GoFiles) == 0: // nothing but tests, which one of them explains
			begin = "Package "
		}
		var commented []string
		for _, name := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(text, []byte(licence)) && !strings.HasPrefix(name, "zz_generated.") {
				t.Errorf("%s/%s: the first line is not %q", p.ImportPath, name, licence)
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc == nil || file.Doc.Text() == "" { // directives alone are no comment
				continue
			}
			commented = append(commented, name)
			if !strings.HasPrefix(file.Doc.Text(), begin) {
				t.Errorf("%s/%s: the package comment begins with %.40q, want %q", p.ImportPath, name, file.Doc.Text(), begin)
			}
		}
		if len(commented) != 1 {
			t.Errorf("%s: package comments in %q, want one in one file", p.ImportPath, commented)
		}
	}
	if packages == 0 {
		t.Fatal("go list found no package")
	}
}

func TestDependencies(t *testing.T) {
	const (
		noSockets   = "the controller manager speaks with the API server alone; what is on the wire is the speaker's"
		noTest      = "test/ is not part of the product"
		pure        = "a decision is a function of its snapshot: a command or a test that has the snapshot comes to the answer of the speaker"
		onAnySystem = "the plugin runs on macOS and Windows too, and reads what the programs have written"
		onlyRules   = "the plugin asks CustomResourceDefinitions what they refuse, and serves nothing"
		noWeight    = "every node runs a speaker, and pays for what it links"
	)
	for _, tt := range []struct {
		program string
		badDeps map[string]string // package, and all below it => why
	}{
		{program: "cmd/cloud-controller-manager", badDeps: map[string]string{
			"github.com/osrg/gobgp/v4":               noSockets,
			"github.com/mdlayher":                    noSockets,
			"github.com/vishvananda/netlink":         noSockets,
			"github.com/hashicorp/memberlist":        noSockets,
			module + "/speaker/bfd/udp":              noSockets,
			module + "/speaker/bgp/fsm":              noSockets,
			module + "/speaker/kernelroutes":         noSockets,
			module + "/speaker/layer2":               noSockets,
			module + "/speaker/link/rtnetlink":       noSockets,
			module + "/speaker/membership":           noSockets,
			"github.com/google/go-containerregistry": "images are built by cmd/images",
			module + "/test":                         noTest,
			"testing":                                noTest,
		}},
		{program: "speaker/decision", badDeps: map[string]string{
			"k8s.io/client-go":               pure,
			"sigs.k8s.io/controller-runtime": pure,
			"github.com/osrg/gobgp/v4":       pure,
			"github.com/vishvananda/netlink": pure,
			"github.com/mdlayher":            pure,
			"github.com/hashicorp":           pure,
			module + "/speaker/bfd/udp":      pure,
			module + "/speaker/kernelroutes": pure,
			module + "/speaker/layer2":       pure,
			module + "/speaker/membership":   pure,
			module + "/test":                 noTest,
			"testing":                        noTest,
		}},
		{program: "cmd/speaker", badDeps: map[string]string{
			"k8s.io/cloud-provider":                  noWeight,
			"k8s.io/apiserver":                       noWeight,
			"k8s.io/controller-manager":              noWeight,
			module + "/loadbalancer":                 "what a Service gets is decided by the controller manager",
			module + "/provider":                     "what a Service gets is decided by the controller manager",
			"github.com/osrg/gobgp/v4/pkg/server":    "a panic in its parser of UPDATEs would end ARP and NDP as well",
			"github.com/google/go-containerregistry": "images are built by cmd/images",
			module + "/test":                         noTest,
			"testing":                                noTest,
		}},
		{program: "cmd/kubectl-tandem", badDeps: map[string]string{
			"k8s.io/cloud-provider":                  onAnySystem,
			"k8s.io/apiserver/pkg/registry":          onlyRules,
			"k8s.io/apiserver/pkg/server":            onlyRules,
			"k8s.io/apiserver/pkg/storage":           onlyRules,
			"go.etcd.io/etcd":                        onlyRules,
			"github.com/osrg/gobgp/v4":               onAnySystem,
			"github.com/mdlayher":                    onAnySystem,
			"github.com/vishvananda/netlink":         onAnySystem,
			"github.com/hashicorp/memberlist":        onAnySystem,
			module + "/provider":                     onAnySystem,
			module + "/speaker/bgp/fsm":              onAnySystem,
			module + "/speaker/layer2":               onAnySystem,
			module + "/speaker/link/rtnetlink":       onAnySystem,
			"github.com/google/go-containerregistry": "images are built by cmd/images",
			module + "/test":                         noTest,
			"testing":                                noTest,
		}},
	} {
		t.Run(tt.program, func(t *testing.T) {
			deps := strings.Fields(string(goList(t, "-deps", module+"/"+tt.program)))
			for _, dep := range deps {
				for bad, why := range tt.badDeps {
					if dep == bad || strings.HasPrefix(dep, bad+"/") {
						t.Errorf("links %s: %s", dep, why)
					}
				}
			}
			if !slices.Contains(deps, module+"/"+tt.program) {
				t.Errorf("go list names %d packages, and not the program itself", len(deps))
			}
		})
	}
}

// TestSharedVersions checks that tools/helm.mod has the versions of go.mod. A package that is compiled at two versions is compiled twice, and Helm
// shares 300 packages with Tandem: a minute of `make demo` on a fresh machine.
func TestSharedVersions(t *testing.T) {
	requires := func(file string) map[string]string {
		cmd := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json", file)
		cmd.Dir = "../.."
		out, err := cmd.Output()
		var module struct {
			Require []struct{ Path, Version string }
		}
		if err := errors.Join(err, json.Unmarshal(out, &module)); err != nil {
			t.Fatalf("reading %s: %v", file, err)
		}
		versions := map[string]string{}
		for _, r := range module.Require {
			versions[r.Path] = r.Version
		}
		return versions
	}
	helm := requires("tools/helm.mod")
	shared := 0
	for path, version := range requires("go.mod") {
		if helm[path] == version {
			shared++
		} else if helm[path] != "" {
			t.Errorf("%s: go.mod has %s, tools/helm.mod %s: `go get` the later one there, with -modfile=tools/helm.mod for the second", path, version, helm[path])
		}
	}
	if shared < 50 {
		t.Errorf("the two files share %d modules: one of them was not read", shared)
	}
}

// TestPure checks that the pure packages are functions of their arguments. A program that wants to know what Tandem decides can import them
// without linking a client, netlink or a protocol, and a table can test them.
func TestPure(t *testing.T) {
	impure := []string{
		"k8s.io/client-go", "sigs.k8s.io/controller-runtime", "github.com/vishvananda/netlink", "github.com/osrg/gobgp/v4",
		"github.com/mdlayher", "github.com/hashicorp/memberlist",
	}
	pure := map[string]bool{} // packages by whether they may know Kubernetes' types
	for _, p := range []string{
		"ipam", "ipam/family", "loadbalancer/contest", "speaker/bfd", "speaker/bgp", "speaker/election", "speaker/link",
		"speaker/lookingglass", "speaker/reachability", "manifests/crd",
	} {
		pure[module+"/"+p] = false
	}
	for _, p := range []string{
		"cmd/kubectl-tandem/movein", "cmd/kubectl-tandem/movein/live", "cmd/kubectl-tandem/movein/schema",
		"ipam/selector", "ipam/v1alpha1", "loadbalancer/claim", "loadbalancer/repair", "loadbalancer/request",
		"speaker/config", "speaker/decision", "speaker/diagnosis", "speaker/nodeinfo", "speaker/observation", "speaker/v1alpha1",
	} {
		pure[module+"/"+p] = true
	}
	for p, kubernetes := range pure {
		t.Run(strings.TrimPrefix(p, module+"/"), func(t *testing.T) {
			bad := impure
			if !kubernetes {
				bad = append([]string{"k8s.io", "sigs.k8s.io", "github.com/prometheus"}, impure...)
			}
			for dep := range strings.FieldsSeq(string(goList(t, "-deps", p))) {
				if i := slices.IndexFunc(bad, func(b string) bool { return dep == b || strings.HasPrefix(dep, b+"/") }); i >= 0 {
					t.Errorf("links %s", dep)
				}
			}
		})
	}
	clock := regexp.MustCompile(`^(Now|Since|Until|After|AfterFunc|Sleep|Tick|NewTimer|NewTicker)$`)
	for _, f := range readProduct(t) {
		if _, ok := pure[f.pkg]; !ok {
			continue
		}
		ast.Inspect(f.syntax, func(node ast.Node) bool {
			if e, ok := node.(ast.Expr); ok {
				if c, ok := f.in(e); ok && c.pkg == "time" && clock.MatchString(c.name) {
					t.Errorf("%s: time.%s, where the time has to be a parameter", f.at(node), c.name)
				}
			}
			return true
		})
	}
}

// TestLengthOfFunctions: a function of what gives addresses fits on a screen, so that a reader has all of it before the eyes.
func TestLengthOfFunctions(t *testing.T) {
	const most = 60
	functions := 0
	for _, f := range readProduct(t) {
		if !strings.HasPrefix(f.pkg, module+"/ipam") && !strings.HasPrefix(f.pkg, module+"/loadbalancer") {
			continue
		}
		for _, d := range f.syntax.Decls {
			function, ok := d.(*ast.FuncDecl)
			if !ok || strings.HasPrefix(filepath.Base(f.at(d)), "zz_generated.") {
				continue
			}
			functions++
			if n := f.lines(d); n > most {
				t.Errorf("%s: %s has %d lines, want %d at most", f.at(d), function.Name.Name, n, most)
			}
		}
	}
	if functions == 0 {
		t.Error("there is no function in ipam and loadbalancer")
	}
}
