// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tandem-lb/tandem/test/lab"
)

// results are what one run of the suite came to.
type results struct {
	way   string
	took  time.Duration
	tests map[string]result
}

// result is what a test came to.
type result struct {
	state string // "passed", "failed", "skipped"
	took  time.Duration
	why   string
}

// readReport reads Ginkgo's report of the tests that were not left out by the focus.
func readReport(file string) (map[string]result, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the suite has written no report: %w", err)
	}
	var suites []struct {
		SpecReports []struct {
			ContainerHierarchyTexts []string
			LeafNodeText, State     string
			RunTime                 time.Duration
			NumAttempts             int
			Failure                 struct{ Message string }
		}
	}
	if err := json.Unmarshal(text, &suites); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	tests := map[string]result{}
	for _, suite := range suites {
		for _, spec := range suite.SpecReports {
			// What the focus leaves out was attempted never, and has no message that says why it was skipped.
			if spec.LeafNodeText == "" || spec.NumAttempts == 0 && spec.Failure.Message == "" {
				continue
			}
			why, _, _ := strings.Cut(spec.Failure.Message, "\n")
			name := plain(strings.Join(append(spec.ContainerHierarchyTexts, spec.LeafNodeText), " "))
			tests[name] = result{spec.State, spec.RunTime, why}
		}
	}
	if len(tests) == 0 {
		return nil, fmt.Errorf("%s has no test; does the focus select one?", file)
	}
	return tests, nil
}

// plain returns the name of a test without its labels, such as "[Slow]".
func plain(name string) string {
	var words []string
	for word := range strings.FieldsSeq(name) {
		if !strings.HasPrefix(word, "[") {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

// table returns the results as Markdown.
func table(family lab.Families, all []results) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nKubernetes %s, %s, CoreDNS %s, containerd %s\n\n| test |", lab.KubernetesVersion, family, corednsVersion, lab.ContainerdVersion)
	names, line := map[string]bool{}, "|---|"
	for _, r := range all {
		passed := 0
		for name, test := range r.tests {
			if names[name] = true; test.state == "passed" {
				passed++
			}
		}
		fmt.Fprintf(&b, " %s: %d of %d in %s |", r.way, passed, len(r.tests), r.took.Round(time.Second))
		line += "---|"
	}
	fmt.Fprintf(&b, "\n%s\n", line)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, r := range all {
			test := r.tests[name]
			fmt.Fprintf(&b, " %s, %s", test.state, test.took.Round(time.Second))
			if test.why != "" {
				fmt.Fprintf(&b, ": %s", test.why)
			}
			b.WriteString(" |")
		}
		b.WriteString("\n")
	}
	return b.String()
}
