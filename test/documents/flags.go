// SPDX-License-Identifier: Apache-2.0

package documents

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// Flags writes a table of flags, sorted by name.
func Flags(flags []*pflag.Flag) string {
	var table strings.Builder
	table.WriteString("| flag | default | meaning |\n|---|---|---|\n")
	slices.SortFunc(flags, func(a, b *pflag.Flag) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range flags {
		value := ""
		if f.DefValue != "" && f.DefValue != "[]" {
			value = "`" + f.DefValue + "`"
		}
		_, usage := pflag.UnquoteUsage(f)
		fmt.Fprintf(&table, "| `--%s` | %s | %s |\n", f.Name, value, Cell(usage))
	}
	return table.String()
}
