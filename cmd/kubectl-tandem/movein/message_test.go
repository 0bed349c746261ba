// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// TestMessagesByObject says of each of two Services both sentences that concern both, whatever else has the same words.
func TestMessagesByObject(t *testing.T) {
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME, annotations: {metallb.io/allow-shared-ip: key}}\n" +
		"spec: {type: LoadBalancer, loadBalancerIP: 192.0.2.1}\n---\n"
	_, messages := convert(t, strings.Replace(service, "NAME", "first", 1)+strings.Replace(service, "NAME", "second", 1), movein.Options{Announce: "l2"})
	const said = "annotation metallb.io/allow-shared-ip works in Tandem as it is; Tandem honours spec.loadBalancerIP"
	for _, object := range []string{"Service default/first", "Service default/second"} {
		if !slices.ContainsFunc(messages, func(m movein.Message) bool { return m.Object == object && m.Text == said }) {
			t.Errorf("no message about %s says %q: %q", object, said, messages)
		}
	}
}
