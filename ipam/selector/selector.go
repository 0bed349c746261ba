// SPDX-License-Identifier: Apache-2.0

// Package selector compiles the lists of label selectors that the objects of tandem-lb.io hold (namespaceSelectors, serviceSelectors,
// addressPoolSelectors, nodeSelectors). All of them mean the same:
//
//   - One selector of the list has to match. [{rack: "2"}, {rack: "3"}] matches a node in rack 2 and a node in rack 3.
//   - A list that is absent or empty restricts nothing: it matches everything.
//   - An empty selector ({}) matches everything, as everywhere in Kubernetes.
//
// Pools and advertisements, which know nothing of each other, share this package so that a list means the same in both.
package selector

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// List is a compiled list of label selectors. The zero List restricts nothing.
type List []labels.Selector

// Compile compiles a list. It never fails: a selector that cannot be read, such as one with an unknown operator, matches nothing, and an
// error names it by field and index ("spec.nodeSelectors[1]: …"). A list that consists of such selectors alone matches nothing.
func Compile(field string, selectors []metav1.LabelSelector) (list List, errs []error) {
	for i := range selectors {
		compiled, err := metav1.LabelSelectorAsSelector(&selectors[i])
		if err != nil {
			errs = append(errs, fmt.Errorf("%s[%d]: %w", field, i, err))
			compiled = labels.Nothing()
		}
		list = append(list, compiled)
	}
	return list, errs
}

// Matches reports whether one of the selectors matches the labels, or there is none.
func (l List) Matches(set labels.Labels) bool {
	for _, s := range l {
		if s.Matches(set) {
			return true
		}
	}
	return len(l) == 0
}
