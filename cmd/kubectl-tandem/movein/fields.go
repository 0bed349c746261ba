// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fields reads the fields of one mapping of the input, and remembers which were asked for: those that nobody has asked for are unknown, and
// are named at the end. Scalars are read as they are written, so that the community 64512:10 and the version 1.10 stay what they are.
//
// The nil fields have no field. A mapping that is absent can so be read like an empty one.
type fields struct {
	in    *input
	node  *yaml.Node
	about subject // the object that messages name; without a kind the messages name the path
	path  string
	// spelling translates the names of fields that the converter knows to those of the input, such as peerAddress to peer-address.
	spelling map[string]string
	read     map[string]bool
	children []*fields
	zeros    *[]string // fields that are written with the value that stands for the default
}

// input is what all fields of an input share.
type input struct {
	*journal
	set     map[string]string // values of placeholders
	several bool              // there is more than one file
	live    bool              // it is an export of a cluster
}

func (f *fields) name(field string) string {
	if other, ok := f.spelling[field]; ok {
		return other
	}
	return field
}

// get returns the value of a field, nil where it is absent or null, and marks it as read.
func (f *fields) get(field string) *yaml.Node {
	if f == nil || f.node == nil {
		return nil
	}
	field = f.name(field)
	f.read[field] = true
	return lookup(f.node, field)
}

// has reports whether a field is there and not null.
func (f *fields) has(field string) bool { return f.get(field) != nil }

// skip marks fields as known.
func (f *fields) skip(names ...string) {
	for _, name := range names {
		f.get(name)
	}
}

// at returns the path of a field.
func (f *fields) at(field string) string {
	if f == nil {
		return field
	}
	if field = f.name(field); f.path == "" {
		return field
	}
	return f.path + "." + field
}

// report adds a message about a field: about the object, with the path in the text, or about the path.
func (f *fields) report(level Level, code, field, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if f.about.kind == "" {
		f.in.add(level, code, subject{name: f.at(field)}, "%s", text)
		return
	}
	f.in.add(level, code, f.about, "%s: %s", f.at(field), text)
}

// reportOr adds a message about a field of a mapping, which is absent itself where f is nil: then the message is about the object.
func (f *fields) reportOr(o *object, level Level, code, field, text string) {
	if f == nil {
		o.in.add(level, code, o.about, "%s: %s", field, text)
		return
	}
	f.report(level, code, field, "%s", text)
}

// zero notes that a field has the value that stands for the default.
func (f *fields) zero(field, value string) {
	if f.zeros != nil {
		*f.zeros = append(*f.zeros, strings.TrimSpace(f.name(field)+" "+value))
	}
}

// text returns a scalar, "" where it is absent.
func (f *fields) text(field string) string {
	n := f.get(field)
	if n == nil {
		return ""
	}
	text := f.scalar(n, field)
	if text == "" && n.Kind == yaml.ScalarNode && n.Value == "" {
		f.zero(field, `""`)
	}
	return text
}

var placeholder = regexp.MustCompile(`\$\{([^}]*)\}`)

// scalar returns the text of a node, with placeholders filled in.
func (f *fields) scalar(n *yaml.Node, field string) string {
	if n.Kind != yaml.ScalarNode {
		f.report(Error, "bad-value", field, "is no single value (line %d)", n.Line)
		return ""
	}
	text := strings.TrimSpace(n.Value)
	if strings.Contains(text, "{{") || strings.Contains(text, "{%") {
		f.report(Error, "template", field, "%q is filled in by a template. Render it first, or read the live cluster by "+
			"--from-cluster", text)
		return ""
	}
	if encrypted(text) {
		f.report(Error, "placeholder", field, "is encrypted by SOPS. Decrypt the file first, or read the live cluster by --from-cluster")
		return ""
	}
	filled, missing := f.in.fill(text)
	for _, variable := range missing {
		f.report(Error, "placeholder", field, "%q is filled in elsewhere; give it by --set %s=..., or read the live cluster by "+
			"--from-cluster", text, variable)
	}
	if len(missing) > 0 {
		return ""
	}
	return filled
}

// encrypted reports whether a value is as SOPS writes it.
func encrypted(text string) bool { return strings.HasPrefix(text, "ENC[") }

// fill replaces placeholders by their values. missing are the names of those that have none.
func (in *input) fill(text string) (filled string, missing []string) {
	filled = placeholder.ReplaceAllStringFunc(text, func(whole string) string {
		variable, _, _ := strings.Cut(placeholder.FindStringSubmatch(whole)[1], ":")
		value, ok := in.set[variable]
		if !ok {
			missing = append(missing, variable)
			return whole
		}
		return value
	})
	return filled, missing
}

// texts returns the scalars of a list. A scalar alone counts as a list of one, as some parsers take it.
func (f *fields) texts(field string) (texts []string) {
	n := f.get(field)
	if n == nil {
		return nil
	}
	if n.Kind == yaml.ScalarNode {
		return nonempty(f.scalar(n, field))
	}
	for i, item := range n.Content {
		if n.Kind != yaml.SequenceNode {
			f.report(Error, "bad-value", field, "is no list (line %d)", n.Line)
			return nil
		}
		texts = append(texts, nonempty(f.scalar(item, fmt.Sprintf("%s[%d]", f.name(field), i)))...)
	}
	if len(n.Content) == 0 {
		f.zero(field, "[]")
	}
	return texts
}

func nonempty(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}

// boolean reads true and false as YAML 1.1 and 1.2 write them, quoted or not.
func (f *fields) boolean(field string, standard bool) bool {
	text := f.text(field)
	switch strings.ToLower(text) {
	case "":
		return standard
	case "true", "yes", "on", "y", "1":
		return true
	case "false", "no", "off", "n", "0":
		return false
	}
	f.report(Error, "bad-value", field, "%q is neither true nor false", text)
	return standard
}

// number returns a number, 0 where it is absent. ok reports whether the field is there, and not 0.
func (f *fields) number(field string) (value int64, ok bool) {
	text := f.text(field)
	if text == "" {
		return 0, false
	}
	value, err := strconv.ParseInt(text, 10, 64)
	if err != nil || value < 0 {
		f.report(Error, "bad-value", field, "%q is no number", text)
		return 0, false
	}
	if value == 0 {
		f.zero(field, "0")
	}
	return value, value != 0
}

// within returns a number that has to lie between two others, 0 where it is absent.
func (f *fields) within(field string, low, high int64) int64 {
	n, ok := f.number(field)
	if ok && (n < low || n > high) {
		f.report(Error, "bad-value", field, "%d is not between %d and %d", n, low, high)
		return 0
	}
	return n
}

var plainDuration = regexp.MustCompile(`^(\d{1,5}[hms])+$`) // as objects of Tandem take it

// duration returns a duration of Go as it is written, "" where it is absent or 0. Whole seconds are written with their unit.
func (f *fields) duration(field string) string {
	text := f.text(field)
	if _, err := strconv.Atoi(text); err == nil {
		text += "s"
	}
	if text == "" {
		return ""
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		f.report(Error, "bad-value", field, "%q is no duration such as 90s", text)
		return ""
	}
	if d == 0 {
		f.zero(field, text)
		return ""
	}
	if !plainDuration.MatchString(text) {
		return fmt.Sprintf("%.0fs", math.Ceil(d.Seconds()))
	}
	return text
}

// off reports whether a field is there and has the duration 0.
func (f *fields) off(field string) bool {
	d, err := time.ParseDuration(f.text(field))
	return err == nil && d == 0
}

// seconds returns a number of seconds as a duration, "" where it is absent.
func (f *fields) seconds(field string) string {
	if n, ok := f.number(field); ok {
		return fmt.Sprintf("%ds", n)
	}
	return ""
}

// child returns the mapping of a field, nil where it is absent.
func (f *fields) child(field string) *fields {
	n := f.get(field)
	if n == nil {
		return nil
	}
	return f.sub(n, f.name(field))
}

func (f *fields) sub(n *yaml.Node, name string) *fields {
	if n.Kind != yaml.MappingNode {
		if n.Kind != yaml.ScalarNode || n.Value != "" {
			f.report(Error, "bad-value", name, "is no mapping (line %d)", n.Line)
		}
		return nil
	}
	path := f.at(name)
	for _, known := range f.children {
		if known.path == path {
			return known
		}
	}
	kid := &fields{in: f.in, node: n, about: f.about, path: path, spelling: f.spelling, read: map[string]bool{}, zeros: f.zeros}
	f.children = append(f.children, kid)
	return kid
}

// list returns the mappings of a list.
func (f *fields) list(field string) (items []*fields) {
	n := f.get(field)
	if n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		f.report(Error, "bad-value", field, "is no list (line %d)", n.Line)
		return nil
	}
	for i, item := range n.Content {
		if item := f.sub(item, fmt.Sprintf("%s[%d]", f.name(field), i)); item != nil {
			items = append(items, item)
		}
	}
	if len(n.Content) == 0 {
		f.zero(field, "[]")
	}
	return items
}

// stringMap returns a mapping of texts, such as labels.
func (f *fields) stringMap(field string) map[string]string {
	kid := f.child(field)
	if kid == nil {
		return nil
	}
	m := map[string]string{}
	for i := 0; i+1 < len(kid.node.Content); i += 2 {
		key := kid.node.Content[i].Value
		kid.read[key] = true
		if value := kid.node.Content[i+1]; value.Kind == yaml.ScalarNode {
			m[key] = kid.scalar(value, key)
		}
	}
	return m
}

// selector reads a label selector, nil where it is absent.
func (f *fields) selector(field string) *metav1.LabelSelector {
	kid := f.child(field)
	if kid == nil {
		return nil
	}
	s := kid.ownSelector()
	return &s
}

// selectors reads a list of label selectors.
func (f *fields) selectors(field string) (list []metav1.LabelSelector) {
	for _, item := range f.list(field) {
		list = append(list, item.ownSelector())
	}
	return list
}

// ownSelector reads the mapping itself as a label selector.
func (f *fields) ownSelector() (s metav1.LabelSelector) {
	if labels := f.stringMap("matchLabels"); len(labels) > 0 {
		s.MatchLabels = labels
	}
	zeros := f.zeros
	f.zeros = nil // An empty list of expressions is nothing to speak of.
	for _, e := range f.list("matchExpressions") {
		s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: e.text("key"), Operator: metav1.LabelSelectorOperator(e.text("operator")), Values: e.texts("values"),
		})
	}
	f.zeros = zeros
	if _, err := metav1.LabelSelectorAsSelector(&s); err != nil && !f.in.failed() { // A placeholder has been spoken of.
		f.report(Error, "bad-value", "matchExpressions", "%v", err)
	}
	return s
}

// whole marks everything below a field as known.
func (f *fields) whole(field string) {
	f.get(field)
	path := f.at(field)
	f.children = slices.DeleteFunc(f.children, func(kid *fields) bool {
		rest, below := strings.CutPrefix(kid.path, path)
		return below && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// wholeObject marks everything below all fields as known.
func (f *fields) wholeObject() {
	for i := 0; i < len(f.node.Content); i += 2 {
		f.whole(f.node.Content[i].Value)
	}
}

// unread returns the paths of the fields that nobody has asked for.
func (f *fields) unread() (paths []string) {
	if f == nil || f.node == nil {
		return nil
	}
	for i := 0; i+1 < len(f.node.Content); i += 2 {
		if key := f.node.Content[i].Value; !f.read[key] {
			path := key
			if f.path != "" {
				path = f.path + "." + key
			}
			paths = append(paths, path)
		}
	}
	for _, kid := range f.children {
		paths = append(paths, kid.unread()...)
	}
	return paths
}

// duplicates returns the paths of keys that a mapping has twice.
func duplicates(n *yaml.Node, path string) (paths []string) {
	switch n.Kind {
	case yaml.MappingNode:
		var keys []string
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			below := strings.TrimPrefix(path+"."+key, ".")
			if slices.Contains(keys, key) {
				paths = append(paths, below)
			}
			keys = append(keys, key)
			paths = append(paths, duplicates(n.Content[i+1], below)...)
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			paths = append(paths, duplicates(item, fmt.Sprintf("%s[%d]", path, i))...)
		}
	}
	return paths
}

// numberOf returns the number that a text of digits is, and the largest there is for more digits than fit; 0 for any other text.
func numberOf(text string) int64 {
	if strings.Trim(text, "0123456789") != "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil && text != "" {
		return math.MaxInt64
	}
	return n
}
