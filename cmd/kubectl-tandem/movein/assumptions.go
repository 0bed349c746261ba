// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
)

// assumption is what a user knows of a product.
type assumption struct {
	known   bool
	release release // the zero one where nobody has said it
	words   string
}

// release is a version of a product such as 0.14.9.
type release struct{ major, minor, patch int }

// latest stands for the last patch of a minor version, which 0.14 without a patch means.
const latest = 1 << 20

// version matches a number that does not go on a word, as that of frr-k8s does.
var version = regexp.MustCompile(`(?:^|[^\pL\d_])v?(\d+)(?:\.(\d+|x)(?:\.(\d+))?)?`)

// parseRelease reads the first version in a text, such as the tag of an image.
func parseRelease(text string) (r release, ok bool) {
	m := version.FindStringSubmatch(text)
	if m == nil {
		return release{}, false
	}
	r.major, _ = strconv.Atoi(m[1])
	r.minor, _ = strconv.Atoi(m[2])
	if r.patch = latest; m[3] != "" {
		r.patch, _ = strconv.Atoi(m[3])
	}
	return r, true
}

// assumed reads what the user has said of a product, such as "metallb=0.12 native", "cilium=1.16 or later" or "kube-vip without its cloud
// provider".
func (d *draft) assumed(product string) (a assumption) {
	for _, text := range d.Options.Assume {
		rest, ok := strings.CutPrefix(strings.TrimSpace(text), product)
		if !ok {
			continue
		}
		a.known, a.words = true, rest
		if r, ok := parseRelease(rest); ok {
			a.release = r.bound(strings.TrimSpace(rest))
		}
	}
	return a
}

// bound returns the release next to r that a text with a comparison means. For example, "<0.13" is 0.12 at most, and "<0.14.9" is 0.14.8.
func (r release) bound(text string) release {
	strict := !strings.HasPrefix(text, "<=") && !strings.HasPrefix(text, ">=")
	switch {
	case strict && text[0] == '<' && (r.patch == latest || r.patch == 0):
		return release{r.major, r.minor - 1, latest}
	case strict && text[0] == '<':
		r.patch--
	case strict && text[0] == '>' && r.patch == latest:
		return release{r.major, r.minor + 1, latest}
	case strict && text[0] == '>':
		r.patch++
	}
	return r
}

// versioned reports whether a version is known.
func (a assumption) versioned() bool { return a.release.major > 0 || a.release.minor > 0 }

// before reports whether a known version is older than another one, whose patch is 0 unless it is given.
func (a assumption) before(major, minor int, patch ...int) bool {
	other := release{major: major, minor: minor}
	if len(patch) > 0 {
		other.patch = patch[0]
	}
	return a.versioned() && a.release.compare(other) < 0
}

// compare returns -1, 0 or 1 as r is older than, the same as or newer than another one.
func (r release) compare(other release) int {
	return cmp.Or(cmp.Compare(r.major, other.major), cmp.Compare(r.minor, other.minor), cmp.Compare(r.patch, other.patch))
}

// learn takes the version from the tag of an image, where the user has not said it.
func (a *assumption) learn(tag string) {
	if r, ok := parseRelease(tag); ok && !a.versioned() {
		a.release = r
	}
}

// says reports whether the user has said a word, in either case.
func (a assumption) says(word string) bool { return a.first(word) != "" }

// first returns the word that the user has said first of some, in small letters, "" for none. For example, "0.13 frr (native has no vrf)" says frr before
// native.
func (a assumption) first(words ...string) string {
	m := regexp.MustCompile(`(?i)(?:^|[^\w-])(` + strings.Join(words, "|") + `)(?:$|[^\w-])`).FindStringSubmatch(a.words)
	if m == nil {
		return ""
	}
	return strings.ToLower(m[1])
}
