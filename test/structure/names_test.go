// SPDX-License-Identifier: Apache-2.0

package structure_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/test/documents"
)

// TestNames compares the names that users see with docs/reference.md, which lists them all: the values of the label reason, the reasons of
// events, and the types and reasons of conditions. A name that changes, appears or goes in the code has to change there too. The names keep the
// styles of Prometheus and Kubernetes, those of metrics too, whose table is generated.
//
// It reads the source, since several packages register their metrics where only a running speaker would. For that, names have to be written
// where they can be found: a metric's name whole and as a literal, reasons and types of conditions as constants whose own names begin with
// Event, Reason or Condition.
func TestNames(t *testing.T) {
	code := readNames(t)
	doc := documents.Read(t, "../..", "docs/reference.md").Tables

	t.Run("metrics", func(t *testing.T) {
		for _, m := range code.metrics {
			counts := strings.HasSuffix(m.name, "_total")
			if counts != (m.kind == "counter") || !regexp.MustCompile(`^tandem_[a-z0-9_]+$`).MatchString(m.name) {
				t.Errorf("%s is not how Prometheus names a %s", m.name, m.kind)
			}
		}
	})
	t.Run("reasons of metrics", func(t *testing.T) {
		var want [][]string
		for pkg, reasons := range code.metricReasons {
			i := slices.IndexFunc(code.metrics, func(m metric) bool { return m.pkg == pkg && slices.Contains(m.labels, "reason") })
			if i < 0 {
				t.Errorf("%s has %v, and no metric with the label reason", pkg, reasons)
				continue
			}
			for _, r := range reasons {
				if !regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`).MatchString(r) {
					t.Errorf("reason %q of %s is not in lower_snake_case", r, code.metrics[i].name)
				}
				want = append(want, []string{quote(code.metrics[i].name), quote(r)})
			}
		}
		compare(t, doc["Reasons of metrics"], want, 2)
	})
	t.Run("events", func(t *testing.T) {
		var want [][]string
		for name, reason := range code.constants {
			if !strings.HasPrefix(name.name, "Event") {
				continue
			}
			camelCase(t, reason)
			kinds := slices.Sorted(maps.Keys(code.eventTypes[name.name]))
			if len(kinds) == 0 {
				t.Errorf("nothing writes an event with the reason %s", name.name)
			}
			want = append(want, []string{quote(reason), strings.Join(kinds, ", ")})
		}
		compare(t, doc["Events"], want, 2)
	})
	for _, tt := range []struct{ heading, pkg, prefix string }{
		{"Conditions of an AddressPool", module + "/ipam/v1alpha1", ""},
		{"Conditions of a Service", module + "/ipam/v1alpha1", "Service"},
		{"Conditions of the speakers' objects", module + "/speaker/v1alpha1", ""},
	} {
		t.Run(tt.heading, func(t *testing.T) {
			var want [][]string
			for name, value := range code.constants {
				for _, kind := range []string{"Condition", "Reason"} {
					if name.pkg == tt.pkg && strings.HasPrefix(name.name, tt.prefix+kind) {
						camelCase(t, strings.TrimPrefix(value, "tandem-lb.io/")) // which types in others' statuses need
						if !code.used[name] {
							t.Errorf("nothing uses %s of %s", name.name, name.pkg)
						}
						want = append(want, []string{strings.ToLower(kind), quote(value)})
					}
				}
			}
			compare(t, doc[tt.heading], want, 2)
		})
	}
}

// TestReferenceOfMetrics makes the table of metrics in docs/reference.md from the code, or compares it.
func TestReferenceOfMetrics(t *testing.T) {
	const page, header = "../../docs/reference.md", "| metric | type | labels | help |\n|---|---|---|---|\n"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), header)
	_, after, ends := strings.Cut(rest, "\n\n")
	if !found || !ends {
		t.Fatalf("%s has no table of metrics", page)
	}
	var table strings.Builder
	for _, m := range readNames(t).metrics {
		var labels []string
		for _, l := range m.labels {
			labels = append(labels, quote(l))
		}
		fmt.Fprintf(&table, "| %s | %s | %s | %s |\n", quote(m.name), m.kind, strings.Join(labels, ", "), documents.Cell(m.help))
	}
	documents.Compare(t, page, before+header+table.String()+"\n"+after)
}

func quote(s string) string { return "`" + s + "`" }

func camelCase(t *testing.T, name string) {
	t.Helper()
	if !regexp.MustCompile(`^[A-Z][A-Za-z0-9]+$`).MatchString(name) {
		t.Errorf("%q is not in CamelCase", name)
	}
}

// compare compares the first columns of a table of the reference with rows of the code, in any order. The other columns are for people, and
// may not be empty.
func compare(t *testing.T, table, want [][]string, columns int) {
	t.Helper()
	row := func(cells []string) string { return "| " + strings.Join(cells[:columns], " | ") + " |" }
	reference, code := map[string]bool{}, map[string]bool{}
	for _, cells := range table {
		if len(cells) < columns || slices.Contains(cells[columns:], "") {
			t.Errorf("docs/reference.md has a row with an empty column: %q", cells)
			continue
		}
		if reference[row(cells)] {
			t.Errorf("docs/reference.md has twice: %s", row(cells))
		}
		reference[row(cells)] = true
	}
	for _, cells := range want {
		if code[row(cells)] = true; !reference[row(cells)] {
			t.Errorf("docs/reference.md lacks: %s", row(cells))
		}
	}
	for _, line := range slices.Sorted(maps.Keys(reference)) {
		if !code[line] {
			t.Errorf("the code does not have: %s", line)
		}
	}
}

type metric struct {
	pkg, name, kind, help string
	labels                []string
}

// constant names a constant.
type constant struct{ pkg, name string }

// names are what the code of the product says.
type names struct {
	metrics       []metric
	metricReasons map[string][]string        // by package
	constants     map[constant]string        // those whose names begin with Event, Reason, Condition, ServiceReason or ServiceCondition
	eventTypes    map[string]map[string]bool // Normal or Warning, by the names of constants
	used          map[constant]bool          // outside of their declarations
}

// sourceFile is a file of the product with what its identifiers mean.
type sourceFile struct {
	pkg     string
	syntax  *ast.File
	imports map[string]string // paths by local names
	at      func(ast.Node) string
	lines   func(ast.Node) int
}

// in returns the constant that an expression names.
func (f sourceFile) in(e ast.Expr) (constant, bool) {
	switch e := e.(type) {
	case *ast.Ident:
		return constant{f.pkg, e.Name}, true
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok && f.imports[x.Name] != "" {
			return constant{f.imports[x.Name], e.Sel.Name}, true
		}
	}
	return constant{}, false
}

func readNames(t *testing.T) names {
	t.Helper()
	n := names{
		metricReasons: map[string][]string{}, constants: map[constant]string{},
		eventTypes: map[string]map[string]bool{}, used: map[constant]bool{},
	}
	files := readProduct(t)
	for _, f := range files {
		for _, decl := range f.syntax.Decls {
			if d, ok := decl.(*ast.GenDecl); ok && d.Tok != token.IMPORT && d.Tok != token.TYPE {
				for _, spec := range d.Specs {
					n.declared(t, f, d.Tok, spec.(*ast.ValueSpec))
				}
			}
		}
	}
	for _, f := range files {
		n.metricsOf(t, f)
		n.usesOf(t, f)
	}
	if len(n.metrics) == 0 || len(n.constants) == 0 {
		t.Fatalf("found %d metrics and %d constants", len(n.metrics), len(n.constants))
	}
	slices.SortFunc(n.metrics, func(a, b metric) int { return cmp.Compare(a.name, b.name) })
	return n
}

// readProduct parses the product: neither tests nor build tools.
func readProduct(t *testing.T) []sourceFile {
	t.Helper()
	var files []sourceFile
	set := token.NewFileSet()
	decoder := json.NewDecoder(bytes.NewReader(goList(t, "-json=ImportPath,Dir,GoFiles", module+"/...")))
	for {
		var p struct {
			ImportPath, Dir string
			GoFiles         []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return files
		} else if err != nil {
			t.Fatal(err)
		}
		path := strings.TrimPrefix(p.ImportPath, module)
		if strings.HasPrefix(path, "/test/") || strings.HasPrefix(path, "/cmd/images") || strings.Contains(path, "/internal/") {
			continue
		}
		for _, name := range p.GoFiles {
			syntax, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			f := sourceFile{pkg: p.ImportPath, syntax: syntax, imports: map[string]string{}, at: func(n ast.Node) string {
				return fmt.Sprintf("%s/%s:%d", path, name, set.Position(n.Pos()).Line)
			}, lines: func(n ast.Node) int {
				return set.Position(n.End()).Line - set.Position(n.Pos()).Line + 1
			}}
			for _, i := range syntax.Imports {
				imported, _ := strconv.Unquote(i.Path.Value)
				local := filepath.Base(imported)
				if i.Name != nil {
					local = i.Name.Name
				}
				f.imports[local] = imported
			}
			files = append(files, f)
		}
	}
}

// declared reads a declaration of constants or variables at the top of a file.
func (n *names) declared(t *testing.T, f sourceFile, keyword token.Token, spec *ast.ValueSpec) {
	for i, ident := range spec.Names {
		if i >= len(spec.Values) {
			continue
		}
		value, isText := text(spec.Values[i])
		switch {
		case keyword == token.CONST && regexp.MustCompile(`^(event|reason|drop)[A-Z]`).MatchString(ident.Name) && isText:
			n.metricReasons[f.pkg] = append(n.metricReasons[f.pkg], value)
		case keyword == token.CONST && regexp.MustCompile(`^(Event|(Service)?Reason|(Service)?Condition)[A-Z]`).MatchString(ident.Name):
			if !isText {
				t.Errorf("%s: the value of %s is not a literal", f.at(ident), ident.Name)
			}
			n.constants[constant{f.pkg, ident.Name}] = value
		case keyword == token.VAR && ident.Name == "dropReasonNames":
			for _, e := range spec.Values[i].(*ast.CompositeLit).Elts {
				pair := e.(*ast.KeyValueExpr)
				if value, ok := text(pair.Value); ok && pair.Key.(*ast.Ident).Name != "dropNone" { // which no frame is counted by
					n.metricReasons[f.pkg] = append(n.metricReasons[f.pkg], value)
				}
			}
		}
	}
}

// metricsOf finds the metrics that a file makes.
func (n *names) metricsOf(t *testing.T, f sourceFile) {
	constructor := regexp.MustCompile(`^New(Desc|(Counter|Gauge|Histogram|Summary|Untyped)(Vec|Func)?)$`)
	kinds := map[string]string{} // of descriptions, by the names of their variables
	ast.Inspect(f.syntax, func(node ast.Node) bool {
		if call, ok := node.(*ast.CallExpr); ok {
			if c, ok := f.in(call.Fun); ok && c.name == "MustNewConstMetric" {
				kind, _ := f.in(call.Args[1])
				kinds[call.Args[0].(*ast.Ident).Name] = strings.ToLower(strings.TrimSuffix(kind.name, "Value"))
			} else if ok && c.name == "gauge" { // which calls MustNewConstMetric
				kinds[call.Args[0].(*ast.Ident).Name] = "gauge"
			}
		}
		return true
	})
	variables := map[ast.Expr]string{}
	ast.Inspect(f.syntax, func(node ast.Node) bool {
		if spec, ok := node.(*ast.ValueSpec); ok {
			for i, v := range spec.Values {
				variables[v] = spec.Names[i].Name
			}
		}
		call, ok := node.(*ast.CallExpr)
		if !ok {
			return true
		}
		c, ok := f.in(call.Fun)
		library := strings.HasSuffix(c.pkg, "/client_golang/prometheus") || strings.HasSuffix(c.pkg, "/component-base/metrics")
		if !ok || !library || !constructor.MatchString(c.name) {
			return true
		}
		m := metric{pkg: f.pkg}
		var labels ast.Expr
		if c.name == "NewDesc" {
			m.name, _ = text(call.Args[0])
			m.help, _ = text(call.Args[1])
			m.kind, labels = kinds[variables[call]], call.Args[2]
		} else {
			m.kind = strings.ToLower(constructor.FindStringSubmatch(c.name)[2])
			options := call.Args[0]
			if address, ok := options.(*ast.UnaryExpr); ok {
				options = address.X
			}
			if literal, ok := options.(*ast.CompositeLit); ok {
				fields := map[string]string{}
				for _, e := range literal.Elts {
					pair := e.(*ast.KeyValueExpr)
					fields[pair.Key.(*ast.Ident).Name], _ = text(pair.Value)
				}
				if m.name, m.help = fields["Name"], fields["Help"]; fields["Namespace"]+fields["Subsystem"] != "" {
					t.Errorf("%s: the name of metric %s is not whole", f.at(call), m.name)
				}
			}
			if strings.HasSuffix(c.name, "Vec") {
				labels = call.Args[1]
			}
		}
		if list, ok := labels.(*ast.CompositeLit); ok {
			for _, e := range list.Elts {
				label, _ := text(e)
				m.labels = append(m.labels, label)
			}
		}
		if m.name == "" || m.help == "" || m.kind == "" || slices.Contains(m.labels, "") {
			t.Errorf("%s: name, help, kind or labels of a metric are not written where they can be read: %+v", f.at(call), m)
		}
		n.metrics = append(n.metrics, m)
		return true
	})
}

// usesOf finds where a file uses the constants, and literals where it should.
func (n *names) usesOf(t *testing.T, f sourceFile) {
	literal := func(what string, e ast.Expr) {
		if value, ok := text(e); ok && value != "" {
			t.Errorf("%s: %s %q is a literal, and not a constant of names.go", f.at(e), what, value)
		}
	}
	ast.Inspect(f.syntax, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.GenDecl:
			return node.Tok != token.CONST // a declaration is no use
		case *ast.SelectorExpr:
			if c, ok := f.in(node); ok {
				n.used[c] = true
			}
		case *ast.CallExpr:
			method, ok := node.Fun.(*ast.SelectorExpr)
			if !ok || method.Sel.Name != "Event" && method.Sel.Name != "Eventf" || len(node.Args) < 4 {
				if ok && method.Sel.Name == "WithLabelValues" {
					for _, arg := range node.Args {
						literal("the label value", arg)
					}
				}
				return true
			}
			kind, _ := f.in(node.Args[1])
			reason, _ := f.in(node.Args[2])
			if _, known := n.constants[reason]; !known || !strings.HasPrefix(kind.name, "EventType") {
				t.Errorf("%s: type and reason of an event are not constants", f.at(node))
				return true
			}
			if n.eventTypes[reason.name] == nil {
				n.eventTypes[reason.name] = map[string]bool{}
			}
			n.eventTypes[reason.name][strings.TrimPrefix(kind.name, "EventType")] = true
		case *ast.CompositeLit:
			if c, ok := f.in(node.Type); ok && c.name == "Condition" {
				for _, e := range node.Elts {
					if pair, ok := e.(*ast.KeyValueExpr); ok && slices.Contains([]string{"Type", "Reason"}, pair.Key.(*ast.Ident).Name) {
						literal("of a condition", pair.Value)
					}
				}
			}
		case *ast.AssignStmt:
			for i, left := range node.Lhs {
				if field, ok := left.(*ast.SelectorExpr); ok && field.Sel.Name == "Reason" && len(node.Lhs) == len(node.Rhs) {
					literal("the reason", node.Rhs[i])
				}
			}
		}
		return true
	})
}

// text returns the value of a literal, or of several that are added.
func text(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		value, err := strconv.Unquote(e.Value)
		return value, e.Kind == token.STRING && err == nil
	case *ast.BinaryExpr:
		x, xok := text(e.X)
		y, yok := text(e.Y)
		return x + y, xok && yok && e.Op == token.ADD
	}
	return "", false
}
