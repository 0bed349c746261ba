// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestDecode(t *testing.T) {
	// Each line stands for nine of the line before.
	laughs := "l0: &l0 [a]\n"
	for i := 1; i < 10; i++ {
		laughs += fmt.Sprintf("l%d: &l%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*l%d, ", i-1), 9), ", "))
	}
	for _, tt := range []struct{ name, text, want, problem string }{
		{name: "nothing", text: "# nothing\n"},
		{name: "an alias", text: "a: &a {x: 1}\nb: *a\n", want: "{a: {x: 1}, b: {x: 1}}"},
		{name: "a merge key", text: "a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}\n", want: "{a: {x: 1, y: 1}, b: {y: 2, x: 1}}"},
		{name: "a merge key after the others", text: "a: &a {x: 1, y: 1}\nb: {y: 2, <<: *a}\n", want: "{a: {x: 1, y: 1}, b: {y: 2, x: 1}}"},
		{name: "a list of merges", text: "b: {<<: [{x: 1}, {x: 2, y: 2}]}\n", want: "{b: {x: 1, y: 2}}"},
		{name: "a merge within a merge", text: "a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b}\n", want: "{a: {x: 1}, b: {y: 2, x: 1}, c: {y: 2, x: 1}}"},
		{name: "a key of that name", text: `b: {"<<": {x: 1}}`, want: "{b: {<<: {x: 1}}}"},
		{name: "an alias within itself", text: "a: &a {b: *a}\n", problem: "contains itself"},
		{name: "the same beside a key that is there twice", text: "x: 1\nx: 2\na: &a {b: *a}\n", problem: "contains itself"},
		{name: "aliases of aliases", text: laughs, problem: "far more"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, err := decode([]byte(tt.text))
			switch {
			case (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem):
				t.Errorf("error %v, want %q", err, tt.problem)
			case err == nil && written(n) != tt.want:
				t.Errorf("%s, want %s", written(n), tt.want)
			}
		})
	}
}

// written writes a node on one line.
func written(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	var kids []string
	for _, kid := range n.Content {
		kids = append(kids, written(kid))
	}
	switch n.Kind {
	case yaml.MappingNode:
		var pairs []string
		for i := 0; i < len(kids); i += 2 {
			pairs = append(pairs, kids[i]+": "+kids[i+1])
		}
		return "{" + strings.Join(pairs, ", ") + "}"
	case yaml.SequenceNode:
		return "[" + strings.Join(kids, ", ") + "]"
	}
	return n.Value
}
