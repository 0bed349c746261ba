// SPDX-License-Identifier: Apache-2.0

package documents

import (
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const root = "../.."

// TestLinks follows each link to a file of the repository, and to a heading of it.
func TestLinks(t *testing.T) {
	pages := map[string]Page{}
	for _, p := range Pages(t, root) {
		pages[p.Path] = p
	}
	linked := map[string]bool{}
	for _, p := range pages {
		for _, link := range p.Links {
			target, err := url.Parse(link.Target)
			if err != nil {
				t.Errorf("%s: %v", p.Path, err)
				continue
			}
			if target.Host != "" || target.Scheme == "mailto" {
				continue
			}
			to := p.Path
			if target.Path != "" {
				to = filepath.Join(filepath.Dir(p.Path), target.Path)
			}
			if _, err := os.Stat(filepath.Join(root, to)); err != nil || strings.HasPrefix(to, "..") {
				t.Errorf("%s: the link %q leads to %s, which does not exist", p.Path, link.Text, to)
			} else if page, ok := pages[to]; target.Fragment != "" && (!ok || !page.Anchors[target.Fragment]) {
				t.Errorf("%s: the link %q leads to #%s of %s, which has no such heading", p.Path, link.Text, target.Fragment, to)
			}
			if to != p.Path {
				linked[to] = true
			}
		}
	}
	for path := range pages {
		if strings.HasPrefix(path, "docs/") && path != "docs/README.md" && !linked[path] {
			t.Errorf("no page leads to %s", path)
		}
	}
}

// TestContents checks that the page of contents lists each page of docs.
func TestContents(t *testing.T) {
	var listed []string
	pages := Pages(t, root)
	for _, p := range pages {
		if p.Path == "docs/README.md" {
			for _, link := range p.Links {
				listed = append(listed, filepath.Join("docs", link.Target))
			}
		}
	}
	for _, p := range pages {
		in := filepath.Dir(p.Path)
		if !slices.Contains([]string{"docs", "docs/distributions", "docs/reference"}, in) || p.Path == "docs/README.md" {
			continue
		}
		if !slices.Contains(listed, p.Path) {
			t.Errorf("docs/README.md does not list %s", p.Path)
		}
	}
}

// TestTables looks for rows that a blank line, or a pipe that is not escaped, has cut off from their table: they are shown as text.
func TestTables(t *testing.T) {
	for _, p := range Pages(t, root) {
		for _, paragraph := range p.Paragraphs {
			if strings.HasPrefix(paragraph, "|") {
				t.Errorf("%s: a row is not part of a table: %.80s", p.Path, paragraph)
			}
		}
	}
}

// TestMake checks that the Makefile has each target that a page names.
func TestMake(t *testing.T) {
	makefile, err := os.ReadFile(root + "/Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range allCommands(t) {
		if c.Args[0] != "make" {
			continue
		}
		for _, target := range c.Args[1:] {
			if !strings.Contains(target, "=") && !regexp.MustCompile(`(?m)^`+regexp.QuoteMeta(target)+`:`).Match(makefile) {
				t.Errorf("%s: the Makefile has no target %s", c, target)
			}
		}
	}
}

// TestGo checks that a test which a page says to run is there: the package, and a function that -run matches.
func TestGo(t *testing.T) {
	for _, c := range allCommands(t) {
		if len(c.Args) < 3 || c.Args[0] != "go" || c.Args[1] != "test" {
			continue
		}
		var functions []string
		pattern := "."
		for i, arg := range c.Args {
			if arg == "-run" && c.Args[i+1] != "…" {
				pattern = c.Args[i+1]
			}
			if strings.HasPrefix(arg, "./") {
				files, _ := filepath.Glob(filepath.Join(root, arg, "*_test.go"))
				for _, file := range files {
					text, err := os.ReadFile(file)
					if err != nil {
						t.Fatal(err)
					}
					for _, f := range regexp.MustCompile(`(?m)^func (Test\w+)`).FindAllSubmatch(text, -1) {
						functions = append(functions, string(f[1]))
					}
				}
			}
		}
		if !slices.ContainsFunc(functions, regexp.MustCompile(pattern).MatchString) {
			t.Errorf("%s: no such test", c)
		}
	}
}

// TestNamedTests checks that each test and benchmark which a page names, as the origin of a figure for example, is there.
func TestNamedTests(t *testing.T) {
	functions, found := map[string]bool{}, 0
	if err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, f := range regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz)\w+)`).FindAllSubmatch(text, -1) {
			functions[string(f[1])] = true
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, p := range Pages(t, root) {
		for _, span := range p.Spans {
			if regexp.MustCompile(`^(Test|Benchmark|Fuzz)[A-Z]\w+$`).MatchString(span) {
				found++
				if !functions[span] {
					t.Errorf("%s: there is no test %s", p.Path, span)
				}
			}
		}
	}
	if found == 0 {
		t.Error("no page names a test")
	}
}

// TestPrograms checks that pages name programs that a reader can be expected to have, so that a word which is misspelt is noticed. What
// kubectl and Helm are told is tested with an API server, in test/api.
func TestPrograms(t *testing.T) {
	known := strings.Fields(`kubectl helm make go sh ls cat cp grep sed awk xargs jq curl arping ndisc6 tcpdump firewall-cmd
		juju kubeadm ctr microk8s kind docker skopeo`)
	for _, c := range allCommands(t) {
		if !slices.Contains(known, c.Args[0]) {
			t.Errorf("%s: %s is no program that this test knows", c, c.Args[0])
		}
	}
}

func allCommands(t *testing.T) []Command {
	t.Helper()
	var all []Command
	for _, p := range Pages(t, root) {
		commands, err := p.Commands()
		if err != nil {
			t.Error(err)
		}
		all = append(all, commands...)
	}
	if len(all) < 100 {
		t.Fatalf("found %d commands", len(all))
	}
	return all
}

func TestParse(t *testing.T) {
	page := Parse("page.md", []byte("# A `b` & c, d\n\nSee [x](y.md#z) and `kubectl get pods`.\n\n| a | b |\n|---|---|\n| `b` | c\\|d |\n\n| cut off |\n\n"+
		"## A `b` & c, d\n\n    $ kubectl get pods -l 'a in (b)'\n    NAME\n\n"+
		"```sh\nX=1 kubectl apply -f - <<EOF | grep $(date)   # why\nkind: $Y\nEOF\n```\n"))
	if diff := cmp.Diff(map[string]bool{"a-b--c-d": true, "a-b--c-d-1": true}, page.Anchors); diff != "" {
		t.Errorf("anchors (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Link{{"x", "y.md#z"}}, page.Links); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string][][]string{"A b & c, d": {{"`b`", `c\|d`}}}, page.Tables); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff("| cut off |", page.Paragraphs[1]); diff != "" {
		t.Errorf("paragraphs (-want +got):\n%s", diff)
	}
	got, err := page.Commands()
	if err != nil {
		t.Fatal(err)
	}
	want := []Command{
		{Where: "page.md:13", Args: []string{"kubectl", "get", "pods", "-l", "a in (b)"}},
		{Where: "page.md:17", Args: []string{"kubectl", "apply", "-f", "-"}, Input: "kind: VALUE\n"},
		{Where: "page.md:17", Args: []string{"grep", "VALUE"}},
		{Where: "page.md:17", Args: []string{"date"}},
		{Where: "page.md", Args: []string{"kubectl", "get", "pods"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
}
