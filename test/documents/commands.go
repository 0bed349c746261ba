// SPDX-License-Identifier: Apache-2.0

package documents

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// Command is one call of a program that a page tells its reader to type.
type Command struct {
	Where string
	Args  []string // the program first, without quotes; the value of a variable or of $(…) is VALUE
	Input string   // what <<EOF gives it
}

func (c Command) String() string { return c.Where + ": " + strings.Join(c.Args, " ") }

// program matches the beginning of what is typed: programs, and variables before them.
var program = regexp.MustCompile(`^([A-Z_]+=\S+ +)*` +
	`(kubectl|helm|make|go|sh|juju|kubeadm|ctr|microk8s|kind|docker|skopeo|curl|oc|talosctl|flux|argocd) `)

// Commands returns all commands of a page: those of blocks in sh, the lines of other blocks that begin with "$ ", whole blocks of lines
// that begin with the name of a program, and code within a paragraph or a table that begins with one and has more than a verb.
func (p Page) Commands() ([]Command, error) {
	var all []Command
	add := func(where, script string) error {
		commands, err := parseScript(script)
		for _, c := range commands {
			c.Where = where
			all = append(all, c)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		return nil
	}
	for _, b := range p.Blocks {
		script := ""
		switch {
		case b.Language == "sh":
			script = b.Text
		case b.Language == "" && program.MatchString(b.Text):
			script = b.Text
		case b.Language == "":
			for line := range strings.Lines(b.Text) {
				if typed, ok := strings.CutPrefix(line, "$ "); ok {
					script += typed
				}
			}
		}
		if err := add(b.String(), script); err != nil {
			return nil, err
		}
	}
	for _, span := range p.Spans {
		isMake := strings.HasPrefix(span, "make ")
		if program.MatchString(span) && !strings.Contains(span, "…") && (isMake || strings.Count(span, " ") > 1) {
			if err := add(p.Path, span); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// FirstScreen returns what README's first screen has its reader do: the file lan.yaml, and three lines to type, of which the first installs
// Tandem.
func FirstScreen(t *testing.T, root string) (lan string, lines []string) {
	t.Helper()
	for _, b := range Read(t, root, "README.md").Blocks {
		switch {
		case b.File() == "lan.yaml":
			lan = b.Text
		case strings.HasPrefix(b.Text, "kubectl apply -f install"):
			lines = strings.Split(strings.TrimSpace(strings.ReplaceAll(b.Text, "\\\n", "")), "\n")
		}
	}
	if lan == "" || len(lines) != 3 {
		t.Fatalf("README has lan.yaml %q and the lines %q, want a file and three lines", lan, lines)
	}
	return lan, lines
}

// variable returns the value of a variable: any, but for the one that says what separates words.
func variable(name string) string {
	if name == "IFS" {
		return " \t\n"
	}
	return "VALUE"
}

// parseScript returns the calls of programs in a script, also those within pipelines and $(…).
func parseScript(script string) ([]Command, error) {
	file, err := syntax.NewParser().Parse(strings.NewReader(script), "")
	if err != nil {
		return nil, err
	}
	words := &expand.Config{
		Env:      expand.FuncEnviron(variable),
		CmdSubst: func(w io.Writer, _ *syntax.CmdSubst) error { _, err := io.WriteString(w, "VALUE"); return err },
	}
	var commands []Command
	syntax.Walk(file, func(node syntax.Node) bool {
		statement, ok := node.(*syntax.Stmt)
		if !ok {
			return true
		}
		call, ok := statement.Cmd.(*syntax.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		var c Command
		if c.Args, err = expand.Fields(words, call.Args...); err != nil {
			return false
		}
		for _, redirect := range statement.Redirs {
			if redirect.Hdoc != nil {
				c.Input, err = expand.Document(words, redirect.Hdoc)
			}
		}
		commands = append(commands, c)
		return err == nil
	})
	return commands, err
}
