// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"regexp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	hostname      = "kubernetes.io/hostname"
	namespaceName = "kubernetes.io/metadata.name"
	excludeLabel  = "node.kubernetes.io/exclude-from-external-load-balancers"
)

// in is a selector of one requirement.
func in(key string, values ...string) metav1.LabelSelector {
	return requirement(key, metav1.LabelSelectorOpIn, values...)
}

func requirement(key string, operator metav1.LabelSelectorOperator, values ...string) metav1.LabelSelector {
	return metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: operator, Values: values}}}
}

// anyOf makes a list of selectors, of which one has to match, as short as it can: selectors that are single requirements on one key become
// one. A selector that matches everything makes the list mean everything. For example, {host: a} or {host: c} is host In (a, c).
func anyOf(list []metav1.LabelSelector) (short []metav1.LabelSelector) {
	if slices.ContainsFunc(list, empty) {
		return nil
	}
	var key string
	var values []string
	for _, s := range list {
		k, v := single(s)
		if k == "" || key != "" && k != key {
			return list
		}
		key, values = k, append(values, v...)
	}
	if len(list) < 2 {
		return list
	}
	slices.Sort(values)
	return []metav1.LabelSelector{in(key, slices.Compact(values)...)}
}

// single returns the key and the values of a selector that asks for one of them and nothing else.
func single(s metav1.LabelSelector) (key string, values []string) {
	if len(s.MatchLabels)+len(s.MatchExpressions) != 1 {
		return "", nil
	}
	for key, value := range s.MatchLabels {
		return key, []string{value}
	}
	if e := s.MatchExpressions[0]; e.Operator == metav1.LabelSelectorOpIn {
		return e.Key, e.Values
	}
	return "", nil
}

func empty(s metav1.LabelSelector) bool { return len(s.MatchLabels)+len(s.MatchExpressions) == 0 }

// oneNode reports whether selectors select one node by its name.
func oneNode(list []metav1.LabelSelector) bool {
	if len(list) != 1 {
		return false
	}
	if list[0].MatchLabels[hostname] != "" {
		return true
	}
	return slices.ContainsFunc(list[0].MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
		return e.Key == hostname && e.Operator == metav1.LabelSelectorOpIn && len(e.Values) == 1
	})
}

// apart reports whether it is certain that no node matches both lists. For example, {rack: a} and {rack: b} are.
func apart(a, b []metav1.LabelSelector) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	for _, x := range a {
		for _, y := range b {
			if !contradict(x, y) && !contradict(y, x) {
				return false
			}
		}
	}
	return true
}

// contradict reports whether a requirement of x rules out one of y.
func contradict(x, y metav1.LabelSelector) bool {
	for _, one := range expressions(x) {
		for _, other := range expressions(y) {
			if one.Key != other.Key || one.Operator != metav1.LabelSelectorOpIn {
				continue
			}
			allowed := func(value string) bool { return slices.Contains(other.Values, value) }
			switch other.Operator {
			case metav1.LabelSelectorOpDoesNotExist:
				return true
			case metav1.LabelSelectorOpIn:
				if !slices.ContainsFunc(one.Values, allowed) {
					return true
				}
			case metav1.LabelSelectorOpNotIn:
				if !slices.ContainsFunc(one.Values, func(value string) bool { return !allowed(value) }) {
					return true
				}
			}
		}
	}
	return slices.ContainsFunc(x.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
		return e.Operator == metav1.LabelSelectorOpExists && slices.ContainsFunc(y.MatchExpressions,
			func(o metav1.LabelSelectorRequirement) bool {
				return o.Key == e.Key && o.Operator == metav1.LabelSelectorOpDoesNotExist
			})
	})
}

// expressions returns the requirements of a selector, labels as In.
func expressions(s metav1.LabelSelector) []metav1.LabelSelectorRequirement {
	list := slices.Clone(s.MatchExpressions)
	for key, value := range s.MatchLabels {
		list = append(list, in(key, value).MatchExpressions...)
	}
	return list
}

// matches reports whether one of the selectors matches the labels; a list without any matches all.
func matches(list []metav1.LabelSelector, of map[string]string) bool {
	for _, s := range list {
		if compiled, err := metav1.LabelSelectorAsSelector(&s); err == nil && compiled.Matches(labels.Set(of)) {
			return true
		}
	}
	return len(list) == 0
}

// Keys and values of which their author says that no Service has them.
var (
	unusedKey   = regexp.MustCompile(`(?i)^some-?key$|fake|dummy|pretend|placeholder|never-?used|non-?exist`)
	unusedValue = regexp.MustCompile(`(?i)never-?used|will-match|always-true|no-?n?-?exist|does-?not-?exist|match-(all|any)`)
)

// everything reports whether a selector is the idiom of Cilium's documentation for all Services, or one like it: a key NotIn a value that
// nothing has, or a key that nothing has. Examples are somekey NotIn never-used-value and fakeSelector DoesNotExist.
func everything(s metav1.LabelSelector) bool {
	if len(s.MatchLabels) != 0 || len(s.MatchExpressions) != 1 {
		return false
	}
	e := s.MatchExpressions[0]
	used := func(value string) bool { return !unusedValue.MatchString(value) }
	switch e.Operator {
	case metav1.LabelSelectorOpNotIn:
		return unusedKey.MatchString(e.Key) || !slices.ContainsFunc(e.Values, used)
	case metav1.LabelSelectorOpDoesNotExist:
		return unusedKey.MatchString(e.Key)
	}
	return false
}

// controlPlane reports whether selectors ask for nodes of the control plane, which kubeadm labels with excludeLabel.
func controlPlane(list []metav1.LabelSelector) bool {
	for _, s := range list {
		for _, key := range []string{"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"} {
			if _, ok := s.MatchLabels[key]; ok {
				return true
			}
			if slices.ContainsFunc(s.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
				return e.Key == key && (e.Operator == metav1.LabelSelectorOpExists || e.Operator == metav1.LabelSelectorOpIn)
			}) {
				return true
			}
		}
	}
	return false
}

// excluded warns of nodes of the control plane, from which a product announces and Tandem does not.
func (d *draft) excluded(product string, about subject) {
	d.add(Warn, "exclude-label", about, "%s announces from nodes with the label %s too, which kubeadm puts on control-plane nodes; Tandem does not. Remove the "+
		"label where such nodes are to announce, or give the speakers --ignore-exclude-label", product, excludeLabel)
}
