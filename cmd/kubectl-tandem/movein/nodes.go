// SPDX-License-Identifier: Apache-2.0

package movein

// This file has what reads and makes nodes of YAML and knows no product. What remembers which fields were read is in fields.go.

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// sameValue reports whether two nodes say the same in the same order, whatever their style and comments are.
func sameValue(a, b *yaml.Node) bool {
	return a.Kind == b.Kind && a.Value == b.Value && slices.EqualFunc(a.Content, b.Content, sameValue)
}

// lookup returns the value of a key of a mapping, nil where it is absent or null.
func lookup(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		switch value := mapping.Content[i+1]; {
		case mapping.Content[i].Value != key:
		case value.Tag == "!!null":
			return nil
		default:
			return value
		}
	}
	return nil
}

// lookupPath returns the value at a path of keys, nil where there is none. The node may be nil.
func lookupPath(n *yaml.Node, path ...string) *yaml.Node {
	for _, key := range path {
		if n == nil || n.Kind != yaml.MappingNode {
			return nil
		}
		n = lookup(n, key)
	}
	return n
}

// scalarOf returns the scalar of a key, "" where there is none.
func scalarOf(n *yaml.Node, key string) string {
	if value := lookup(n, key); value != nil && value.Kind == yaml.ScalarNode {
		return value.Value
	}
	return ""
}

// scalarNode makes a scalar, which is text whatever it looks like.
func scalarNode(text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
}

// anywhere returns the value of a path in the first mapping that has it, also in values that are written as a text; nil where none has.
func anywhere(n *yaml.Node, path ...string) *yaml.Node {
	switch {
	case n == nil:
		return nil
	case n.Kind == yaml.ScalarNode:
		if !strings.Contains(n.Value, "\n") || !strings.Contains(n.Value, path[0]+":") {
			return nil
		}
		return anywhere(writtenIn(n), path...)
	}
	if found := lookupPath(n, path...); found != nil {
		return found
	}
	for _, item := range n.Content {
		if found := anywhere(item, path...); found != nil {
			return found
		}
	}
	return nil
}

// writtenIn returns the mapping or the list that a scalar has as a text, such as the values of a chart in an Application of Argo CD; nil where it has none.
func writtenIn(scalar *yaml.Node) *yaml.Node {
	text, err := decode([]byte(scalar.Value))
	if err != nil || text == nil || text.Kind == yaml.ScalarNode {
		return nil
	}
	return text
}

// mapping makes a mapping of pairs of a key, a string, and a value, a *yaml.Node. A value that is nil is left out with its key.
func mapping(pairs ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for i := 0; i < len(pairs); i += 2 {
		if value := pairs[i+1].(*yaml.Node); value != nil {
			n.Line = max(n.Line, value.Line)
			n.Content = append(n.Content, scalarNode(pairs[i].(string)), value)
		}
	}
	return n
}

// hasKey reports whether a function is true of a key of a mapping.
func hasKey(n *yaml.Node, is func(string) bool) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if is(n.Content[i].Value) {
			return true
		}
	}
	return false
}

// mappingOf returns the mapping of a key, nil where there is none.
func mappingOf(n *yaml.Node, key string) *yaml.Node {
	if value := lookup(n, key); value != nil && value.Kind == yaml.MappingNode {
		return value
	}
	return nil
}

// only returns a mapping with some of the keys of another one.
func only(n *yaml.Node, keys ...string) *yaml.Node {
	some := &yaml.Node{Kind: yaml.MappingNode, Line: n.Line}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if slices.Contains(keys, n.Content[i].Value) {
			some.Content = append(some.Content, n.Content[i], n.Content[i+1])
		}
	}
	return some
}
