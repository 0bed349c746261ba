// SPDX-License-Identifier: Apache-2.0

package selector

import (
	"errors"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

func rack(n string) metav1.LabelSelector {
	return metav1.LabelSelector{MatchLabels: map[string]string{"rack": n}}
}

func TestMatches(t *testing.T) {
	unreadable := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "rack", Operator: "Near"}}}
	for _, tt := range []struct {
		name      string
		selectors []metav1.LabelSelector
		labels    labels.Set
		want      bool
		wantError string
	}{
		{name: "an absent list matches everything", want: true},
		{name: "an empty list matches everything", selectors: []metav1.LabelSelector{}, labels: labels.Set{"rack": "1"}, want: true},
		{name: "an empty selector matches everything", selectors: []metav1.LabelSelector{{}}, want: true},
		{name: "one selector matches", selectors: []metav1.LabelSelector{rack("1")}, labels: labels.Set{"rack": "1"}, want: true},
		{name: "one selector does not match", selectors: []metav1.LabelSelector{rack("1")}, labels: labels.Set{"rack": "2"}},
		{name: "the second of two matches", selectors: []metav1.LabelSelector{rack("1"), rack("2")}, labels: labels.Set{"rack": "2"}, want: true},
		{name: "none of two matches", selectors: []metav1.LabelSelector{rack("1"), rack("2")}, labels: labels.Set{"rack": "3"}},
		{
			name: "labels of one selector have to match together", labels: labels.Set{"rack": "1"},
			selectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"rack": "1", "row": "a"}}},
		},
		{
			name: "a selector that cannot be read matches nothing", selectors: []metav1.LabelSelector{unreadable}, labels: labels.Set{"rack": "1"},
			wantError: `spec.nodeSelectors[0]: "Near" is not a valid label selector operator`,
		},
		{
			name: "a selector that can be read matches beside one that cannot", selectors: []metav1.LabelSelector{rack("1"), unreadable},
			labels: labels.Set{"rack": "1"}, want: true,
			wantError: `spec.nodeSelectors[1]: "Near" is not a valid label selector operator`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list, errs := Compile("spec.nodeSelectors", tt.selectors)
			if got := list.Matches(tt.labels); got != tt.want {
				t.Errorf("%v matches %v: %v, want %v", tt.selectors, tt.labels, got, tt.want)
			}
			var got string
			if err := errors.Join(errs...); err != nil {
				got = err.Error()
			}
			if got != tt.wantError {
				t.Errorf("error %q, want %q", got, tt.wantError)
			}
		})
	}
}
