// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/schema"
)

// refuse adds an error for each document that the API server or Tandem's controllers would not take, so that none of them is written. What the code of a
// product finds in a field is said there, in the words of the input, and comes first: Convert does not call refuse after such an error, since an object that
// lacks what was wrong would be refused for that.
func (d *draft) refuse(documents []Document) {
	seen := map[string]bool{}
	for _, document := range documents {
		if document.Patch() { // Its Service is there already.
			continue
		}
		about := subject{fmt.Sprint(document.Object["kind"]), fmt.Sprint(document.Object["metadata"].(map[string]any)["name"])}
		var clauses []string
		if seen[about.String()] {
			clauses = append(clauses, "another object that is made has the same name; rename what one of them is made from")
		}
		seen[about.String()] = true
		refusals, err := schema.Refusals(document.Object)
		if err != nil {
			clauses = append(clauses, err.Error())
		}
		for _, r := range refusals {
			clauses = append(clauses, r.String())
		}
		clauses = append(clauses, badSelectors(document)...)
		if len(clauses) > 0 {
			d.add(Error, "refused", about, "%s. Correct %s, from which it is made", strings.Join(clauses, "; "), document.From)
		}
	}
}

// badSelectors says which selectors of a document ask for what no label can be, such as the namespace "my shop" of PureLB. The API server takes them, and
// Tandem's controllers, which compile them, do not.
func badSelectors(document Document) (clauses []string) {
	fields, _ := document.Object["spec"].(map[string]any)
	for _, field := range sortedKeys(fields) {
		list, _ := fields[field].([]metav1.LabelSelector)
		for i, s := range list {
			if _, err := metav1.LabelSelectorAsSelector(&s); err != nil {
				clauses = append(clauses, fmt.Sprintf("spec.%s[%d]: %v", field, i, err))
			}
		}
	}
	return clauses
}
