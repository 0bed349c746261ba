// SPDX-License-Identifier: Apache-2.0

package terminal

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

func TestTable(t *testing.T) {
	for _, tt := range []struct {
		name  string
		table Table
		want  string
	}{
		{name: "no row", table: Table{Header: []string{"NODE"}}, want: ""},
		{
			name:  "columns are as wide as their widest text, in characters",
			table: Table{Header: []string{"POOL", "USE"}, Rows: [][]Cell{{{Text: "lan"}, {Text: "██░"}}, {{Text: "office"}, {Text: "█"}}}},
			want:  "  POOL     USE\n  lan      ██░\n  office   █\n",
		},
		{
			name:  "no spaces at the end of a line",
			table: Table{Header: []string{"NODE", "WRONG"}, Rows: [][]Cell{{{Text: "node1"}, {}}, {{Text: "node2"}, {Text: "dead"}}}},
			want:  "  NODE    WRONG\n  node1\n  node2   dead\n",
		},
		{
			name:  "a last column without any text is left out",
			table: Table{Header: []string{"NODE", "STATE", "WRONG"}, Rows: [][]Cell{{{Text: "node1"}, {Text: "alive"}, {}}}},
			want:  "  NODE    STATE\n  node1   alive\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			NewPrinter(&out).Table("  ", &tt.table)
			if out.String() != tt.want {
				t.Errorf("got\n%swant\n%s", out.String(), tt.want)
			}
		})
	}
}

// TestColours: there are none where no person looks, and they do not count for the width of columns.
func TestColours(t *testing.T) {
	table := Table{Rows: [][]Cell{{{Text: "dead", Colour: Red}, {Text: "x"}}, {{Text: "alive", Colour: Green}, {Text: "y"}}}}
	for colours, want := range map[bool]string{
		false: "dead    x\nalive   y\n",
		true:  "\x1b[31mdead\x1b[0m    x\n\x1b[32malive\x1b[0m   y\n",
	} {
		var out bytes.Buffer
		p := NewPrinter(&out)
		p.colours = p.colours || colours
		p.Table("", &table)
		if out.String() != want {
			t.Errorf("with colours %t it prints %q, want %q", colours, out.String(), want)
		}
	}
}

func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		err     error
		code    int
		printed string
	}{
		{code: 0},
		{err: ErrProblem, code: 1},
		{err: fmt.Errorf("of three: %w", ErrProblem), code: 1},
		{err: errors.New("no connection"), code: 2, printed: "error: no connection\n"},
	} {
		var out bytes.Buffer
		if code := ExitCode(&out, tt.err); code != tt.code || out.String() != tt.printed {
			t.Errorf("%v: code %d and %q, want %d and %q", tt.err, code, out.String(), tt.code, tt.printed)
		}
	}
}
