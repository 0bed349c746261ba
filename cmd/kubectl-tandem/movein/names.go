// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

var outside = regexp.MustCompile(`[^a-z0-9.-]+`)

// dns returns a name that the API server takes: lower case, with hyphens in place of what is not allowed. For example, my-ns/ingress_a
// becomes my-ns-ingress-a.
func dns(name string, length int) string {
	if len(validation.IsDNS1123Subdomain(name)) == 0 && len(name) <= length {
		return name
	}
	name = outside.ReplaceAllString(strings.ToLower(name), "-")
	if len(name) > length {
		name = name[:length]
	}
	if name = strings.Trim(name, "-."); name == "" || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return "renamed"
	}
	return name
}

// unique appends -2, -3 and so on to a name that is taken, and shortens it to the length where it has to.
func unique(name string, length int, taken func(string) bool) string {
	for n, first := 2, name; taken(name); n++ {
		suffix := fmt.Sprintf("-%d", n)
		name = strings.TrimRight(first[:min(len(first), length-len(suffix))], "-.") + suffix
	}
	return name
}
