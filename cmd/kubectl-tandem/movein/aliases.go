// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// mostOfAliases is how many values a document may stand for by its aliases, beyond ten times what is written.
const mostOfAliases = 100_000

// decode returns the value of a YAML or JSON text, nil where it has none, with aliases and merge keys written out. For example,
//
//	a: &a {x: 1}
//	b: {<<: *a, y: 2}
//
// is {a: {x: 1}, b: {y: 2, x: 1}}. An alias within what it stands for is an error, and so is a text that its aliases make far larger.
func decode(data []byte) (*yaml.Node, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return nil, err
	}
	return value(&root)
}

// value returns the value of a document as decode does.
func value(root *yaml.Node) (*yaml.Node, error) {
	if len(root.Content) != 1 {
		return nil, nil
	}
	a := &aliases{sizes: map[*yaml.Node]int{}}
	a.most = mostOfAliases + 10*a.written(root)
	if _, err := a.replace(root); err != nil {
		return nil, err
	}
	return root.Content[0], nil
}

// aliases are those of a document that are being replaced.
type aliases struct {
	sizes map[*yaml.Node]int // of what is done, with all that is below; open for what is under way
	most  int
}

const open = -1

func (a *aliases) written(n *yaml.Node) int {
	count := 1
	for _, kid := range n.Content {
		count += a.written(kid)
	}
	return count
}

// replace replaces aliases and merge keys below a node, and returns how many values it stands for.
func (a *aliases) replace(n *yaml.Node) (size int, err error) {
	switch size := a.sizes[n]; {
	case size == open:
		return 0, fmt.Errorf("line %d: anchor %q contains itself", n.Line, n.Anchor)
	case size > 0:
		return size, nil
	}
	a.sizes[n] = open
	size = 1
	for i, kid := range n.Content {
		if kid.Kind == yaml.AliasNode {
			n.Content[i], kid = kid.Alias, kid.Alias
		}
		below, err := a.replace(kid)
		if err != nil {
			return 0, err
		}
		if size += below; size > a.most {
			return 0, errors.New("its aliases stand for far more than is written")
		}
	}
	if n.Kind == yaml.MappingNode {
		merge(n)
	}
	a.sizes[n] = size
	return size, nil
}

// merge writes out the merge keys of a mapping: what it has itself comes first, and of a list the first mapping.
func merge(n *yaml.Node) {
	var own, merged []*yaml.Node
	has := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!merge":
		case value.Kind == yaml.MappingNode:
			merged = append(merged, value)
			continue
		case value.Kind == yaml.SequenceNode:
			merged = append(merged, value.Content...)
			continue
		}
		has[key.Value] = true
		own = append(own, key, value)
	}
	for _, from := range merged {
		for i := 0; from.Kind == yaml.MappingNode && i+1 < len(from.Content); i += 2 {
			if key := from.Content[i]; !has[key.Value] {
				has[key.Value] = true
				own = append(own, key, from.Content[i+1])
			}
		}
	}
	n.Content = own
}

// strictJSON writes JSON so that a YAML parser reads it, which takes neither \/ nor characters of two \u, nor one value after the other as kubectl
// does. It returns nil for what is no JSON.
func strictJSON(data []byte) []byte {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	for {
		var value any
		switch err := decoder.Decode(&value); {
		case errors.Is(err, io.EOF):
			return out.Bytes()
		case err != nil:
			return nil
		case out.Len() > 0:
			out.WriteString("---\n")
		}
		if encoder.Encode(value) != nil {
			return nil
		}
	}
}
