// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"regexp/syntax"
	"slices"
	"strings"
)

// interfaceGlobs translates a regular expression for names of interfaces to the globs of an L2Advertisement. open says that an expression without ^
// or $ matches anywhere in the name, as for Cilium; else it is the name itself. A note says where a glob takes more names. For example:
//
//	^eth[12]$     eth1, eth2
//	^eno[0-9]+    eno*
//	^eno          eno*
//	eth           *eth* if open, eth if not
func (d *draft) interfaceGlobs(about subject, f *fields, field, expression string, open bool) []string {
	globs, wider, ok := globs(expression, open)
	if !ok {
		f.report(Error, "bad-value", field, "no list of names and globs says what %q says; write the names of the interfaces", expression)
		return nil
	}
	if wider {
		d.add(Info, "interfaces", about, "%s is %s, which also takes names that go on without a "+
			"digit", expression, strings.Join(globs, ", "))
	}
	return globs
}

func globs(expression string, open bool) (list []string, wider, ok bool) {
	tree, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil, false, false
	}
	list, wider, ok = expand(tree.Simplify())
	if !ok {
		return nil, false, false
	}
	for i, name := range list {
		starts, ends := strings.HasPrefix(name, "^"), strings.HasSuffix(name, "$")
		name = strings.Trim(name, "^$")
		if strings.ContainsAny(name, "^$") {
			return nil, false, false
		}
		if open && !starts {
			name = "*" + name
		}
		if !ends && (open || starts) {
			name += "*"
		}
		for strings.Contains(name, "**") {
			name = strings.ReplaceAll(name, "**", "*")
		}
		list[i] = name
	}
	slices.Sort(list)
	return slices.Compact(list), wider, true
}

// expand returns the texts that a syntax tree matches, with globs for what repeats. It marks anchors by ^ and $.
func expand(tree *syntax.Regexp) (list []string, wider, ok bool) {
	switch tree.Op {
	case syntax.OpEmptyMatch:
		return []string{""}, false, true
	case syntax.OpLiteral:
		if tree.Flags&syntax.FoldCase != 0 { // No glob leaves the case open.
			return nil, false, false
		}
		return []string{string(tree.Rune)}, false, true
	case syntax.OpBeginText, syntax.OpBeginLine:
		return []string{"^"}, false, true
	case syntax.OpEndText, syntax.OpEndLine:
		return []string{"$"}, false, true
	case syntax.OpCapture:
		return expand(tree.Sub[0])
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return []string{"?"}, false, true
	case syntax.OpStar, syntax.OpPlus, syntax.OpRepeat:
		whatever := tree.Sub[0].Op == syntax.OpAnyChar || tree.Sub[0].Op == syntax.OpAnyCharNotNL
		return []string{"*"}, !whatever, true
	case syntax.OpQuest:
		list, wider, ok = expand(tree.Sub[0])
		return append([]string{""}, list...), wider, ok
	case syntax.OpCharClass:
		return class(tree)
	case syntax.OpAlternate:
		for _, sub := range tree.Sub {
			some, w, good := expand(sub)
			if !good {
				return nil, false, false
			}
			list, wider = append(list, some...), wider || w
		}
		return list, wider, true
	case syntax.OpConcat:
		list = []string{""}
		for _, sub := range tree.Sub {
			some, w, good := expand(sub)
			if !good || len(list)*len(some) > 256 {
				return nil, false, false
			}
			var next []string
			for _, head := range list {
				for _, tail := range some {
					next = append(next, head+tail)
				}
			}
			list, wider = next, wider || w
		}
		return list, wider, true
	}
	return nil, false, false
}

// class returns the characters of a class; all digits and larger ones become a glob of one character.
func class(tree *syntax.Regexp) (list []string, wider, ok bool) {
	count := 0
	for i := 0; i+1 < len(tree.Rune); i += 2 {
		count += int(tree.Rune[i+1]-tree.Rune[i]) + 1
	}
	if count >= 10 {
		return []string{"?"}, true, true
	}
	for i := 0; i+1 < len(tree.Rune); i += 2 {
		for r := tree.Rune[i]; r <= tree.Rune[i+1]; r++ {
			list = append(list, string(r))
		}
	}
	return list, false, true
}
