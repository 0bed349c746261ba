// SPDX-License-Identifier: Apache-2.0

// Command fields lists the fields of other products' objects, one a line: kind, version, path, type. Package movein has a test that every
// one of them is converted or spoken of. The lists in cmd/kubectl-tandem/movein/testdata/fields are made by it, from CRDs or from Go types:
//
//	dir=$(go mod download -json go.universe.tf/metallb@v0.16.1 | jq -r .Dir)
//	go run ./test/movein/fields crd $dir/config/crd/bases/*.yaml > cmd/kubectl-tandem/movein/testdata/fields/metallb.txt
//	go run ./test/movein/fields go $dir/api/v1beta1 v1beta1 AddressPool=AddressPoolSpec
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) < 3 {
		fail("usage: fields crd FILE... | fields go DIRECTORY VERSION KIND=TYPE...")
	}
	switch os.Args[1] {
	case "crd":
		for _, file := range os.Args[2:] {
			text, err := os.ReadFile(file)
			if err != nil {
				fail(err)
			}
			for document := range strings.SplitSeq(string(text), "\n---\n") {
				crd(document)
			}
		}
	case "go":
		types := structs(os.Args[2])
		for _, pair := range os.Args[4:] {
			kind, name, _ := strings.Cut(pair, "=")
			walkGo(types, kind+" "+os.Args[3]+" ", "spec", &ast.Ident{Name: name})
		}
	}
}

func fail(what any) {
	fmt.Fprintln(os.Stderr, what)
	os.Exit(1)
}

// crd prints the fields of all versions of a CRD.
func crd(text string) {
	var object apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal([]byte(text), &object); err != nil {
		fail(err)
	}
	for _, version := range object.Spec.Versions {
		if spec, ok := version.Schema.OpenAPIV3Schema.Properties["spec"]; ok {
			walk(object.Spec.Names.Kind+" "+version.Name+" ", "spec", spec)
		}
	}
}

// walk prints the fields of a schema. Selectors end it: they are the same everywhere.
func walk(prefix, path string, s apiextensionsv1.JSONSchemaProps) {
	if s.Type == "array" && s.Items != nil && s.Items.Schema != nil {
		walk(prefix, path+"[]", *s.Items.Schema)
		return
	}
	if _, selector := s.Properties["matchExpressions"]; selector {
		fmt.Println(prefix + path + " selector")
		return
	}
	if len(s.Properties) == 0 {
		fmt.Println(prefix + path + " " + s.Type)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		walk(prefix, path+"."+name, s.Properties[name])
	}
}

// structs returns the types of a package by their names.
func structs(dir string) map[string]ast.Expr {
	types := map[string]ast.Expr{}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		fail(err)
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			fail(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				types[spec.Name.Name] = spec.Type
			}
			return true
		})
	}
	return types
}

// walkGo prints the fields of a Go type, by their JSON names.
func walkGo(types map[string]ast.Expr, prefix, path string, t ast.Expr) {
	switch t := t.(type) {
	case *ast.StarExpr:
		walkGo(types, prefix, path, t.X)
	case *ast.ArrayType:
		walkGo(types, prefix, path+"[]", t.Elt)
	case *ast.Ident:
		if known, ok := types[t.Name]; ok {
			walkGo(types, prefix, path, known)
			return
		}
		name := map[string]string{"bool": "boolean", "string": "string"}[t.Name]
		if name == "" {
			name = "integer"
		}
		fmt.Println(prefix + path + " " + name)
	case *ast.StructType:
		for _, field := range t.Fields.List {
			if field.Tag == nil {
				continue
			}
			name, _, _ := strings.Cut(reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("json"), ",")
			below := path + "." + name
			if name == "" {
				below = path
			}
			walkGo(types, prefix, below, field.Type)
		}
	case *ast.SelectorExpr:
		name := map[string]string{
			"LabelSelector": "selector", "ASNumber": "integer", "Duration": "string",
			"SecretKeySelector": "secretKey",
		}[t.Sel.Name]
		if name == "" {
			name = "object"
		}
		fmt.Println(prefix + path + " " + name)
	default:
		fmt.Println(prefix + path + " object")
	}
}
