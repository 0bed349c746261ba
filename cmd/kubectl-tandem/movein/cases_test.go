// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// TestCases converts configurations that users have published, and compares objects and messages with what is expected of each.
//
// A case is a directory of testdata/cases with input.yaml, expected.yaml and notes.txt. Where the input has an error, input-fixed.yaml is
// the input as a person corrects it (or options alone do), and expected-fixed.yaml what comes of it. expected-b.yaml is a second option.
// tandem.yaml stands in place of expected.yaml where Tandem can say more by now than when the case was written, and its comment says why.
func TestCases(t *testing.T) {
	dirs, err := filepath.Glob("testdata/cases/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			c := readCase(t, dir)
			t.Run("input", func(t *testing.T) { c.run(t, "input.yaml", "expected.yaml", c.options, c.messages) })
			if exists(filepath.Join(dir, "expected-fixed.yaml")) {
				t.Run("fixed", func(t *testing.T) { c.run(t, "input-fixed.yaml", "expected-fixed.yaml", c.fixed, nil) })
			}
			if exists(filepath.Join(dir, "expected-b.yaml")) {
				t.Run("b", func(t *testing.T) { c.run(t, "input.yaml", "expected-b.yaml", c.second, nil) })
			}
		})
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// testCase is a case as its notes describe it.
type testCase struct {
	dir                    string
	options, fixed, second movein.Options
	messages               []expected
}

// expected is a line of the notes: level and code, and the sentence, which names the objects.
type expected struct{ level, code, text string }

var (
	flag        = regexp.MustCompile(`--(set|pool|announce|local|remote|namespace|live|keep-in-use)(?:[ =]([^\s,;)]+))?`)
	messageLine = regexp.MustCompile(`^ {2}(error|lost|warn|info) \[([a-z0-9-]+)\] (.*)$`)
)

func readCase(t *testing.T, dir string) *testCase {
	t.Helper()
	notes := string(read(t, filepath.Join(dir, "notes.txt")))
	c := &testCase{dir: dir}
	c.options.Set, c.fixed.Set = map[string]string{}, map[string]string{}
	after := false // after "With …:" the notes list messages of another option
	for line := range strings.Lines(notes) {
		line = strings.TrimRight(line, "\n")
		if assume, ok := strings.CutPrefix(line, "Assume: "); ok {
			always, fixed, _ := cutAny(assume, "for expected-fixed.yaml", "fixed with", "; fixed", "expected-b.yaml")
			c.options.Assume = []string{strings.TrimSpace(always)}
			parseFlags(&c.options, always)
			c.fixed, c.second = c.options, c.options
			c.fixed.Set = map[string]string{}
			if strings.Contains(assume, "expected-b.yaml") {
				c.second.Announce = "bgp"
			}
			parseFlags(&c.fixed, fixed)
		}
		after = after || strings.HasPrefix(line, "  With ")
		if m := messageLine.FindStringSubmatch(line); m != nil && !after {
			c.messages = append(c.messages, expected{m[1], m[2], m[3]})
		}
	}
	return c
}

func cutAny(s string, separators ...string) (before, after string, found bool) {
	for _, separator := range separators {
		if before, after, found = strings.Cut(s, separator); found {
			return before, after, true
		}
	}
	return s, "", false
}

func parseFlags(o *movein.Options, text string) {
	for _, m := range flag.FindAllStringSubmatch(text, -1) {
		value := strings.TrimRight(m[2], ".")
		switch m[1] {
		case "set":
			name, v, _ := strings.Cut(value, "=")
			o.Set[name] = v
		case "pool":
			o.Pools = append(o.Pools, value)
		case "announce":
			o.Announce = value
		case "local":
			o.Local = append(o.Local, value)
		case "remote":
			o.Remote = append(o.Remote, value)
		case "namespace":
			o.Namespace = value
		case "live":
			o.Live = true
		case "keep-in-use":
			o.KeepInUse = true
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (c *testCase) run(t *testing.T, input, want string, o movein.Options, messages []expected) {
	t.Helper()
	if !exists(filepath.Join(c.dir, input)) {
		input = "input.yaml"
	}
	if own := strings.Replace(want, "expected", "tandem", 1); exists(filepath.Join(c.dir, own)) {
		want = own
	}
	result := movein.Convert([]movein.Input{{Name: "input.yaml", Data: read(t, filepath.Join(c.dir, input))}}, o)
	got := map[string]any{}
	for _, document := range result.Documents {
		object := plain(t, document.Object)
		got[key(object)] = canonical(object)
	}
	expectedObjects := map[string]any{}
	for _, object := range decodeAll(t, read(t, filepath.Join(c.dir, want))) {
		expectedObjects[key(object)] = canonical(object)
	}
	if diff := gocmp.Diff(expectedObjects, got); diff != "" {
		t.Errorf("objects of %s (-want +got):\n%s", want, diff)
	}
	if t.Failed() {
		for _, m := range result.Messages {
			t.Log(m)
		}
	}
	if messages != nil {
		c.compareMessages(t, messages, result.Messages)
	}
}

// compareMessages compares levels and codes, and whether the expected sentence speaks of the objects. extra.txt of a case has messages that
// are right and that its notes do not list (those of level info need none), missing.txt those that are not right any more, each with the
// reason.
func (c *testCase) compareMessages(t *testing.T, want []expected, got []movein.Message) {
	t.Helper()
	extra, missing := c.exceptions(t, "extra.txt"), c.exceptions(t, "missing.txt")
	for _, w := range want {
		var same []movein.Message
		for _, m := range got {
			if m.Level.String() == w.level && m.Code == w.code {
				same = append(same, m)
			}
		}
		found := len(same) == 1 || slices.ContainsFunc(same, func(m movein.Message) bool { return speaksOf(w.text, m.Object) })
		if excused := missing[w.level+" ["+w.code+"]"]; found == excused {
			t.Errorf("message found = %t, excused = %t: %s [%s] %s", found, excused, w.level, w.code, w.text)
		}
	}
	for _, m := range got {
		listed := slices.ContainsFunc(want, func(w expected) bool { return m.Level.String() == w.level && m.Code == w.code })
		if excused := extra[m.Level.String()+" ["+m.Code+"]"]; listed == excused && m.Level != movein.Info {
			t.Errorf("message listed = %t, excused = %t: %s", listed, excused, m)
		}
	}
}

// exceptions reads lines such as "warn [no-advertisement] because …".
func (c *testCase) exceptions(t *testing.T, name string) map[string]bool {
	t.Helper()
	list := map[string]bool{}
	if !exists(filepath.Join(c.dir, name)) {
		return list
	}
	for line := range strings.Lines(string(read(t, filepath.Join(c.dir, name)))) {
		if level, rest, ok := strings.Cut(line, " "); ok && strings.HasPrefix(rest, "[") {
			code, _, _ := strings.Cut(rest, "]")
			list[level+" "+code+"]"] = true
		}
	}
	return list
}

// speaksOf reports whether a sentence names one of the objects of a message at least.
func speaksOf(sentence, object string) bool {
	for _, word := range strings.FieldsFunc(object, func(r rune) bool { return r == ' ' || r == ',' || r == '/' }) {
		if strings.Contains(sentence, word) {
			return true
		}
	}
	return false
}

func plain(t *testing.T, object map[string]any) map[string]any {
	t.Helper()
	data, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	var copied map[string]any
	if err := yaml.Unmarshal(data, &copied); err != nil {
		t.Fatal(err)
	}
	return copied
}

func decodeAll(t *testing.T, data []byte) (objects []map[string]any) {
	t.Helper()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var object map[string]any
		err := decoder.Decode(&object)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		if object != nil {
			objects = append(objects, object)
		}
	}
}

func key(object map[string]any) string {
	meta := object["metadata"].(map[string]any)
	return fmt.Sprintf("%s %v/%v", object["kind"], meta["namespace"], meta["name"])
}

// canonical writes an object so that equal meanings look equal: selectors as expressions, lists without an order sorted.
func canonical(value any) any {
	switch v := value.(type) {
	case map[string]any:
		if labels, ok := v["matchLabels"].(map[string]any); ok {
			expressions, _ := v["matchExpressions"].([]any)
			for _, k := range slices.Sorted(maps.Keys(labels)) {
				expressions = append(expressions, map[string]any{"key": k, "operator": "In", "values": []any{labels[k]}})
			}
			v["matchExpressions"] = expressions
			delete(v, "matchLabels")
		}
		for k, item := range v {
			v[k] = canonical(item)
			if list, ok := v[k].([]any); ok && k != "ranges" {
				slices.SortFunc(list, func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			}
		}
		return v
	case []any:
		for i := range v {
			v[i] = canonical(v[i])
		}
		return v
	}
	return value
}
