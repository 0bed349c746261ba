// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/spf13/pflag"

	"github.com/tandem-lb/tandem/test/documents"
)

// TestReferenceOfFlags makes docs/reference/speaker-flags.md from the flags, or compares it with them.
func TestReferenceOfFlags(t *testing.T) {
	t.Setenv("NODE_NAME", "")
	t.Setenv("POD_NAMESPACE", "")
	var flags []*pflag.Flag
	cmd := command()
	add := func(f *pflag.Flag) { flags = append(flags, f) }
	cmd.Flags().VisitAll(add)
	cmd.PersistentFlags().VisitAll(add)
	documents.Compare(t, "../../docs/reference/speaker-flags.md", "# Flags of tandem-speaker\n\n<!-- Made by `make generate`. -->\n\n"+
		"In the chart they are values, or items of `speaker.extraArgs`.\n\n"+documents.Flags(flags)+
		"\n`tandem-speaker health healthz` and `tandem-speaker health readyz` ask the speaker of the same container for its health, as the\n"+
		"kubelet's probes do.\n")
}
