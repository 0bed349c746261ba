// SPDX-License-Identifier: Apache-2.0

// Package documents reads the project's Markdown files for the tests that hold them true: links and anchors lead somewhere, what the
// reference says is what the code says, the API server takes each YAML block, and each command is one that its program knows.
package documents

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	extensionast "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/text"
)

var update = flag.Bool("update", false, "write the generated pages of docs/reference instead of comparing them")

// Page is a Markdown file.
type Page struct {
	Path       string          // from the root of the repository, such as docs/install.md
	Anchors    map[string]bool // that links may lead to, as GitHub makes them from headings: "which-mode" from "## Which mode"
	Links      []Link
	Blocks     []Block
	Paragraphs []string // as they are written
	Spans      []string // of code within paragraphs, headings and tables
	// Tables are the rows of tables without their headers, by the heading above them. Cells are as they are written, with backticks.
	Tables map[string][][]string

	heading string // above what is read
}

// Link is a link or an image.
type Link struct {
	Text, Target string
}

// Block is a block of code.
type Block struct {
	Page string // its Path
	Line int    // of its first line
	// Language is all that the fence says: "yaml" for what Kubernetes reads, "yaml k3s" for another program's. It is "" for a block that is
	// indented.
	Language string
	Text     string
}

func (b Block) String() string { return fmt.Sprintf("%s:%d", b.Page, b.Line) }

// File returns the name of the file that the block is: its first line is a comment with the name alone, "# lan.yaml".
func (b Block) File() string {
	first, _, _ := strings.Cut(b.Text, "\n")
	name, _, _ := strings.Cut(strings.TrimPrefix(first, "# "), ":")
	if !strings.HasPrefix(first, "# ") || strings.Contains(name, " ") || filepath.Ext(name) == "" {
		return ""
	}
	return name
}

// Pages reads all Markdown files below a directory, but for those of hidden directories and of what is built.
func Pages(t *testing.T, root string) []Page {
	t.Helper()
	var pages []Page
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch name := entry.Name(); {
		case err != nil:
			return err
		case entry.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "dist"):
			return fs.SkipDir
		case entry.IsDir() || filepath.Ext(name) != ".md":
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		pages = append(pages, Parse(relative, source))
		return err
	})
	if err != nil || len(pages) == 0 {
		t.Fatalf("found %d pages in %s: %v", len(pages), root, err)
	}
	return pages
}

// Read reads a Markdown file.
func Read(t *testing.T, root, path string) Page {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return Parse(path, source)
}

// Parse returns what is in a Markdown file.
func Parse(path string, source []byte) Page {
	page := Page{Path: path, Anchors: map[string]bool{}, Tables: map[string][][]string{}}
	parser := goldmark.New(goldmark.WithExtensions(extension.GFM)).Parser()
	_ = ast.Walk(parser.Parse(text.NewReader(source)), func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if entering {
			page.add(node, source)
		}
		return ast.WalkContinue, nil
	})
	return page
}

// add takes what a node of the syntax tree has.
func (p *Page) add(node ast.Node, source []byte) {
	switch node := node.(type) {
	case *ast.Heading:
		p.heading = plain(node, source)
		p.addAnchor(p.heading)
	case *ast.Link:
		p.Links = append(p.Links, Link{plain(node, source), string(node.Destination)})
	case *ast.Image:
		p.Links = append(p.Links, Link{plain(node, source), string(node.Destination)})
	case *ast.Paragraph:
		p.Paragraphs = append(p.Paragraphs, string(node.Lines().Value(source)))
	case *extensionast.TableRow:
		var cells []string
		for cell := node.FirstChild(); cell != nil; cell = cell.NextSibling() {
			cells = append(cells, strings.TrimSpace(string(cell.Lines().Value(source))))
		}
		p.Tables[p.heading] = append(p.Tables[p.heading], cells)
	case *ast.CodeSpan:
		p.Spans = append(p.Spans, strings.Join(strings.Fields(plain(node, source)), " "))
	case *ast.FencedCodeBlock:
		language := ""
		if node.Info != nil {
			language = string(node.Info.Value(source))
		}
		p.addBlock(language, node.Lines(), source)
	case *ast.CodeBlock:
		p.addBlock("", node.Lines(), source)
	}
}

func (p *Page) addBlock(language string, lines *text.Segments, source []byte) {
	if lines.Len() > 0 {
		line := 1 + bytes.Count(source[:lines.At(0).Start], []byte("\n"))
		p.Blocks = append(p.Blocks, Block{p.Path, line, language, string(lines.Value(source))})
	}
}

// addAnchor names a heading as GitHub does: in small letters, without punctuation, with hyphens for spaces, and numbered where it is not
// the first of its name.
func (p *Page) addAnchor(heading string) {
	slug := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
	anchor := slug
	for i := 1; p.Anchors[anchor]; i++ {
		anchor = fmt.Sprintf("%s-%d", slug, i)
	}
	p.Anchors[anchor] = true
}

// plain returns the text of a node without its marks.
func plain(node ast.Node, source []byte) string {
	var b strings.Builder
	_ = ast.Walk(node, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if t, ok := n.(*ast.Text); ok && entering {
			b.Write(t.Value(source))
			if t.SoftLineBreak() {
				b.WriteByte(' ')
			}
		}
		return ast.WalkContinue, nil
	})
	return b.String()
}

// Compare compares a generated page with what it should be. With -update, as `make generate` runs the tests, it writes the page instead.
func Compare(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(string(got), "\n")); diff != "" {
		t.Errorf("%s is not what the code says; run make generate (-code +page):\n%s", path, diff)
	}
}

// Cell makes a text fit into a cell of a table.
func Cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(strings.Join(strings.Fields(s), " "))
}
