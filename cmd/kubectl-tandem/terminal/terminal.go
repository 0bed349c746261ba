// SPDX-License-Identifier: Apache-2.0

// Package terminal prints what the commands of the plugin have to say: tables as kubectl's, colours where a person looks, JSON and YAML for programs,
// and exit codes for scripts.
//
// A command exits with 0 if what it was asked for is well, with 1 if it has found a problem, and with 2 if it could not tell: wrong flags, no
// connection, no rights. A command that has found a problem prints it and returns ErrProblem.
package terminal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
	"sigs.k8s.io/yaml"
)

// ErrProblem is the error of a command that has found a problem, and has said which. Nothing more is printed.
var ErrProblem = errors.New("a problem was found")

// ExitCode returns the exit code that stands for the error of a command, and prints the error unless the command has said all there is to say.
func ExitCode(w io.Writer, err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrProblem):
		return 1
	}
	fmt.Fprintln(w, "error:", err)
	return 2
}

// Colour is how a text is shown on a terminal, as SGR code.
type Colour int

// The colours that mean something, and Bold and Faint.
const (
	Plain  Colour = 0
	Bold   Colour = 1
	Faint  Colour = 2
	Red    Colour = 31 // a problem
	Green  Colour = 32 // well
	Yellow Colour = 33 // worth a look
)

// Printer prints on a writer, in colours or without.
type Printer struct {
	io.Writer
	terminal, colours bool
}

// NewPrinter returns a Printer that uses colours if the writer is a terminal, and neither the environment variable NO_COLOR is set nor TERM says "dumb".
func NewPrinter(w io.Writer) *Printer {
	file, ok := w.(*os.File)
	terminal := ok && term.IsTerminal(int(file.Fd())) && os.Getenv("TERM") != "dumb"
	return &Printer{w, terminal, terminal && os.Getenv("NO_COLOR") == ""}
}

// Paint returns a text in a colour, or as it is where there are none.
func (p *Printer) Paint(c Colour, text string) string {
	if !p.colours || c == Plain || text == "" {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", c, text)
}

// Clear empties the screen where there is one, and begins at its top.
func (p *Printer) Clear() {
	if p.terminal {
		p.Printf("\x1b[H\x1b[2J\x1b[3J")
	}
}

// Printf prints a formatted text.
func (p *Printer) Printf(format string, args ...any) { fmt.Fprintf(p.Writer, format, args...) }

// Cell is a text in a table.
type Cell struct {
	Text   string
	Colour Colour
}

// Table is a table as kubectl's: columns that are as wide as their widest text, with three spaces between them.
type Table struct {
	Header []string // none for a table without header
	Rows   [][]Cell
}

// Add adds a row of plain texts.
func (t *Table) Add(texts ...string) {
	row := make([]Cell, len(texts))
	for i, text := range texts {
		row[i].Text = text
	}
	t.Rows = append(t.Rows, row)
}

// AddCells adds a row.
func (t *Table) AddCells(cells ...Cell) { t.Rows = append(t.Rows, cells) }

// Table prints a table, each line after an indent, without the last columns if they have nothing but a header, and nothing of a table without
// rows.
func (p *Printer) Table(indent string, t *Table) {
	rows, columns := t.Rows, 0
	for _, row := range t.Rows {
		for i, cell := range row {
			if cell.Text != "" {
				columns = max(columns, i+1)
			}
		}
	}
	if len(t.Header) > 0 && columns > 0 {
		header := Table{}
		header.Add(t.Header[:min(len(t.Header), columns)]...)
		rows = slices.Concat(header.Rows, rows)
	}
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell.Text))
		}
	}
	for _, row := range rows {
		last := len(row)
		for last > 0 && row[last-1].Text == "" { // no spaces at the end of a line
			last--
		}
		p.Printf("%s", indent)
		for i, cell := range row[:last] {
			p.Printf("%s", p.Paint(cell.Colour, cell.Text))
			if i < last-1 {
				p.Printf("%s", strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell.Text)+3))
			}
		}
		p.Printf("\n")
	}
}

// Marshal prints a value as JSON or YAML.
func Marshal(w io.Writer, format string, value any) error {
	marshal := func() ([]byte, error) { return yaml.Marshal(value) }
	if format == "json" {
		marshal = func() ([]byte, error) {
			text, err := json.MarshalIndent(value, "", "  ")
			return append(text, '\n'), err
		}
	}
	text, err := marshal()
	if err == nil {
		_, err = w.Write(text)
	}
	return err
}
