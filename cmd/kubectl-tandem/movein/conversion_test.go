// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// Inputs of several tables, in which words in capitals stand for what each row says.
const (
	ruleService    = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop, META}\nspec: {SPEC}\nstatus: {loadBalancer: {ingress: [STATUS]}}\n"
	ruleCiliumPool = "---\napiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: lan}\nspec: {blocks: [{cidr: 192.0.2.0/26}]}\n"
	ruleNode       = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1, META}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.31}]}\n"
)

// codes returns levels and codes of the messages, sorted.
func codes(messages []movein.Message) (list []string) {
	for _, m := range messages {
		list = append(list, m.Level.String()+" "+m.Code)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// convert converts a text, and returns the documents as one text.
func convert(t *testing.T, input string, o movein.Options) (documents string, messages []movein.Message) {
	t.Helper()
	result := movein.Convert([]movein.Input{{Name: "input.yaml", Data: []byte(input)}}, o)
	var b strings.Builder
	for _, d := range result.Documents {
		text, err := d.YAML()
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
	}
	return b.String(), result.Messages
}

// conversion is an input with what has to come of it.
type conversion struct {
	name, input string
	o           movein.Options
	want        []string // texts in the documents
	without     []string // texts that are not in the documents
	codes       []string // level and code of messages, sorted
	says        string   // in one of the messages
}

// run checks the conversion; of messages of level info it looks for says alone.
func (c conversion) run(t *testing.T) {
	t.Helper()
	c.check(t, func(code string) bool { return !strings.HasPrefix(code, "info") })
}

// runWithInfo checks the conversion with all its messages.
func (c conversion) runWithInfo(t *testing.T) {
	t.Helper()
	c.check(t, func(string) bool { return true })
}

// check checks the conversion. counts reports whether a code is among those that are compared.
func (c conversion) check(t *testing.T, counts func(code string) bool) {
	t.Helper()
	documents, messages := convert(t, c.input, c.o)
	hasTexts(t, documents, c.want, c.without)
	got := slices.DeleteFunc(codes(messages), func(code string) bool { return !counts(code) })
	if !slices.Equal(got, c.codes) {
		t.Errorf("messages %q, want codes %q", messages, c.codes)
	}
	if c.says != "" && !slices.ContainsFunc(messages, func(m movein.Message) bool { return strings.Contains(m.String(), c.says) }) {
		t.Errorf("no message of %q says %q", messages, c.says)
	}
}

// hasTexts fails the test for a text that the documents lack, and for one that they have and are to be without.
func hasTexts(t *testing.T, documents string, want, without []string) {
	t.Helper()
	for _, text := range want {
		if !strings.Contains(documents, text) {
			t.Errorf("there is no %q in:\n%s", text, documents)
		}
	}
	for _, text := range without {
		if strings.Contains(documents, text) {
			t.Errorf("there is %q in:\n%s", text, documents)
		}
	}
}

// serviceOf is a Service with some metadata, a spec and the entries of a status.
func serviceOf(meta, spec, status string) string {
	return strings.NewReplacer("META", meta, "SPEC", spec, "STATUS", status).Replace(ruleService)
}

// many returns a list of addresses whose last numbers are the multiples of step.
func many(format string, count, step int) string {
	var list []string
	for i := range count {
		list = append(list, fmt.Sprintf(format, i*step))
	}
	return strings.Join(list, ", ")
}
