// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Input is a file with the configuration of another product.
type Input struct {
	Name string // of the file, for messages; Cluster for an export
	Data []byte
}

// Cluster is the name of an Input that was read from the cluster, in which no line is worth naming.
const Cluster = "cluster"

// object is one document of the input, or one item of a List in it.
type object struct {
	*fields
	file            string
	line, index     int // index counts documents from 1
	group           string
	kind            string
	namespace, nick string // metadata.namespace and metadata.name
	labels          map[string]string
	annotations     map[string]string
	taken           bool     // a product has converted it
	listed          bool     // it is an element of a list that is a document
	duplicates      []string // paths of the keys that it has twice
}

// origin says where the object stands, for the comments of what is made from it.
func (o *object) origin() string {
	name := o.nick
	if o.namespace != "" {
		name = o.namespace + "/" + o.nick
	}
	if o.file == Cluster {
		return fmt.Sprintf("%s %s of the cluster", o.kind, name)
	}
	return fmt.Sprintf("%s %s (%s, line %d)", o.kind, name, o.file, o.line)
}

// namespaced is the subject of messages about an object with its namespace.
func (o *object) namespaced(fallback string) subject {
	namespace := o.namespace
	if namespace == "" {
		namespace = fallback
	}
	return subject{o.kind, namespace + "/" + o.nick}
}

var (
	templateMark = regexp.MustCompile(`\{\{|\{%`)
	// commentMark is that of templates whose marks are comments in YAML, as makejinja has them: "#{ x }#" and "#% if x %#".
	commentMark = regexp.MustCompile(`^[^#]*(#\{).*\}#|^\s*(#%).*%#`)
	// ours matches what has to do with load balancers.
	ours = regexp.MustCompile(`(?i)metallb|purelb|kube-?vip|cilium|calico|tigera|svccontroller|servicelb|load-?balancer|lb-?ipam|external-?ips|` +
		`address-pools|(range|cidr)-global|bgp`)
)

// parse returns the documents of an input. A text that is no YAML, or a template that has to be rendered first, is an error.
func (in *input) parse(file Input) (objects []*object) {
	data := bytes.ReplaceAll(bytes.TrimPrefix(file.Data, []byte("\xef\xbb\xbf")), []byte("\r\n"), []byte("\n"))
	template, commented := templateLine(data)
	level := Error
	if in.several && !ours.Match(data) { // A directory has files of other programs, too.
		level = Warn
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for index := 1; ; index++ {
		var root yaml.Node
		err := decoder.Decode(&root)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if template > 0 && (err != nil || hasTemplateKey(&root) || commented) {
			text := strings.TrimSpace(strings.Split(string(data), "\n")[template-1])
			mark := templateMark.FindString(text)
			if m := commentMark.FindStringSubmatch(text); m != nil {
				mark = m[1] + m[2]
			}
			in.add(level, "template", subject{name: fmt.Sprintf("%s line %d", file.Name, template)},
				"%q is a template's (Jinja, Ansible, Helm), not YAML: %s. Render it first, or read the live cluster by "+
					"--from-cluster", mark, text)
			return nil
		}
		if err != nil {
			if other := strictJSON(data); other != nil && !bytes.Equal(other, data) {
				return in.parse(Input{file.Name, other})
			}
		}
		var n *yaml.Node
		if err == nil {
			n, err = value(&root)
		}
		if err != nil {
			in.add(level, "no-yaml", subject{name: file.Name}, "%v", err)
			return nil
		}
		if n != nil {
			objects = append(objects, in.document(file.Name, index, n, "", "")...)
			if !in.live { // An export has them as objects, too.
				objects = append(objects, in.embedded(file.Name, index, n)...)
			}
		}
	}
}

// templateLine returns the first line with the mark of a template that is not in a comment, 0 where there is none. commented says that the
// mark is a comment in YAML, so that the template may well be parsed.
func templateLine(data []byte) (number int, commented bool) {
	for line := range bytes.Lines(data) {
		number++
		text := bytes.TrimSpace(line)
		if commentMark.Match(text) {
			return number, true
		}
		if templateMark.Match(text) && !bytes.HasPrefix(text, []byte("#")) {
			return number, false
		}
	}
	return 0, false
}

// hasTemplateKey reports whether a mapping has a mapping for a key, which is how YAML reads {{ name }}.
func hasTemplateKey(n *yaml.Node) bool {
	for i, kid := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && kid.Kind == yaml.MappingNode || hasTemplateKey(kid) {
			return true
		}
	}
	return false
}

// document returns the objects of a document: itself, the items of a List, or the elements of a list. Items of a ServiceList and the like may have no kind and
// no apiVersion of their own: then kind and version are theirs.
func (in *input) document(file string, index int, n *yaml.Node, version, kind string) []*object {
	if n.Kind == yaml.ScalarNode && n.Value != "" {
		in.add(Error, "no-yaml", subject{name: fmt.Sprintf("%s line %d", file, n.Line)}, "it is no object in YAML or JSON")
	}
	if n.Kind == yaml.SequenceNode { // a playbook of Ansible, or an array of objects in JSON
		var objects []*object
		for _, item := range n.Content {
			if item.Kind == yaml.MappingNode {
				objects = append(objects, in.document(file, index, item, version, kind)...)
			}
		}
		for _, o := range objects {
			o.listed = true
		}
		return objects
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	if items := lookup(n, "items"); items != nil && items.Kind == yaml.SequenceNode {
		var objects []*object
		version, kind := scalarOf(n, "apiVersion"), strings.TrimSuffix(scalarOf(n, "kind"), "List")
		for _, item := range items.Content {
			objects = append(objects, in.document(file, index, item, version, kind)...)
		}
		return objects
	}
	if kind != "" && lookup(n, "kind") == nil {
		n.Content = append(n.Content, scalarNode("kind"), scalarNode(kind), scalarNode("apiVersion"), scalarNode(version))
	}
	o := &object{file: file, line: n.Line, index: index}
	f := &fields{in: in, node: n, read: map[string]bool{}, zeros: new([]string)}
	o.fields = f
	o.kind = f.text("kind")
	o.group, _, _ = strings.Cut(f.text("apiVersion"), "/")
	f.skip("status", "sops") // which SOPS adds
	if meta := f.child("metadata"); meta != nil {
		o.nick, o.namespace = meta.quiet("name"), meta.quiet("namespace")
		o.nick, _ = in.fill(o.nick)
		o.namespace, _ = in.fill(o.namespace)
		o.labels, o.annotations = meta.quietMap("labels"), meta.quietMap("annotations")
		for i := 0; i < len(meta.node.Content); i += 2 {
			meta.read[meta.node.Content[i].Value] = true
		}
	}
	f.about = subject{o.kind, o.nick}
	if o.kind == "ConfigMap" && o.namespace != "" {
		f.about = o.namespaced("")
	}
	*f.zeros = nil
	o.duplicates = duplicates(n, "")
	return []*object{o}
}

// spec returns the spec of the object; one that is absent has no field.
func (o *object) spec() *fields {
	if spec := o.child("spec"); spec != nil {
		return spec
	}
	return &fields{
		in: o.in, node: &yaml.Node{Kind: yaml.MappingNode}, about: o.about, path: "spec", read: map[string]bool{},
		zeros: o.zeros,
	}
}

// quiet returns a scalar as it is written.
func (f *fields) quiet(field string) string {
	if n := f.get(field); n != nil && n.Kind == yaml.ScalarNode {
		return n.Value
	}
	return ""
}

// quietMap returns a mapping of texts as they are written, with the placeholders filled in whose values are known. Whether the others
// matter depends on who reads the mapping.
func (f *fields) quietMap(field string) map[string]string {
	kid := f.get(field)
	if kid == nil || kid.Kind != yaml.MappingNode {
		return nil
	}
	m := map[string]string{}
	for i := 0; i+1 < len(kid.Content); i += 2 {
		if value := kid.Content[i+1]; value.Kind == yaml.ScalarNode {
			m[kid.Content[i].Value], _ = f.in.fill(strings.TrimSpace(value.Value))
		}
	}
	return m
}

// password returns a key of a Secret, "" where it is absent or encrypted, as SOPS does it.
func (o *object) password(key string) string {
	if encrypted(o.child("stringData").peek(key)) || encrypted(o.child("data").peek(key)) {
		return ""
	}
	if text := o.child("stringData").text(key); text != "" {
		return text
	}
	data, err := base64.StdEncoding.DecodeString(o.child("data").text(key))
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(data), "\n")
}

// aboutOr is the object, or a path where there is none.
func (f *fields) aboutOr(path string) subject {
	if f.about.kind == "" {
		return subject{name: path}
	}
	return f.about
}

// nested returns the fields of a text that is itself YAML, such as a key of a ConfigMap, or of a mapping that stands for it. Messages about
// it name paths within it.
func (o *object) nested(n *yaml.Node, spelling map[string]string) *fields {
	if n.Kind == yaml.ScalarNode {
		text, err := decode([]byte(n.Value))
		mark := templateMark.FindString(n.Value)
		switch {
		case mark != "" && (err != nil || text != nil && hasTemplateKey(text)):
			o.in.add(Error, "template", o.about, "%q in its text is a template's (Jinja, Ansible, Helm), not YAML. Render it first, or read the live cluster by "+
				"--from-cluster", mark)
			return nil
		case err != nil:
			o.in.add(Error, "no-yaml", o.about, "its text is no YAML: %v", err)
			return nil
		case text == nil:
			return nil
		}
		n = text
		for _, path := range duplicates(n, "") {
			o.in.add(Error, "duplicate-key", subject{name: path}, "is there twice; parsers take the last one silently, so say which is "+
				"meant")
		}
	}
	if n.Kind != yaml.MappingNode {
		o.in.add(Error, "bad-value", o.about, "its text is no mapping")
		return nil
	}
	return &fields{in: o.in, node: n, spelling: spelling, read: map[string]bool{}, zeros: new([]string)}
}
