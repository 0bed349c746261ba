// SPDX-License-Identifier: Apache-2.0

// Command growth reads the output of `go test -bench` and prints how the cost of each benchmark grows with its size: `make bench-loops`.
// Its argument is the list that -bench was given, as in Audit|PoolEdit: each part of the list has to be in the name of a benchmark that ran.
//
// A size is the last part of a benchmark's name, such as Audit/10000_services. The exponent of the growth from one size to the next is 0 where
// the cost stays the same, 1 where ten times the Services cost ten times as much, and 2 where they cost a hundred times as much.
package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	if err := run(strings.Split(strings.Join(os.Args[1:], "|"), "|"), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "growth:", err)
		os.Exit(1)
	}
}

// line is what go test prints of a benchmark: its name without the size, the size and its unit, time and bytes.
var line = regexp.MustCompile(`^Benchmark(\S+)/(\d+)_([a-zA-Z]+)(?:-\d+)?\s+\d+\s+([0-9.]+) ns/op(?:.*?\s([0-9.]+) B/op)?`)

// told are the other lines that are worth a look: the rest is the log of what runs.
var (
	told    = regexp.MustCompile(`^(Benchmark|ok|---|FAIL|panic|\s+\S+_test.go)`)
	failure = regexp.MustCompile(`^(--- )?FAIL`)
)

// cost is what one operation takes at a size.
type cost struct{ size, time, bytes float64 }

// run copies what go test says to out, and then prints the table. A benchmark that failed is an error, and so is a part of the list that no
// benchmark has in its name, as after a benchmark was renamed.
func run(list []string, in io.Reader, out io.Writer) error {
	type loop struct{ name, unit string }
	var order []loop
	costs := map[loop][]cost{}
	failed := false
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if name, _, _ := strings.Cut(lines.Text(), " "); strings.HasPrefix(name, "Benchmark") {
			list = slices.DeleteFunc(list, func(part string) bool { return strings.Contains(name, part) })
		}
		m := line.FindStringSubmatch(lines.Text())
		if m == nil {
			failed = failed || failure.MatchString(lines.Text())
			if told.MatchString(lines.Text()) {
				fmt.Fprintln(out, lines.Text())
			}
			continue
		}
		key := loop{m[1], m[3]}
		if costs[key] == nil {
			order = append(order, key)
		}
		var c cost
		for i, text := range map[*float64]string{&c.size: m[2], &c.time: m[4], &c.bytes: cmp.Or(m[5], "0")} {
			*i, _ = strconv.ParseFloat(text, 64) // the expression matches numbers only
		}
		costs[key] = append(costs[key], c)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\nLoop\tper\tsmall\tlarge\tsmall takes\tlarge takes\teach\tgrowth\tsmall allocates\tlarge allocates\tgrowth\t")
	for _, key := range order {
		sizes := slices.SortedFunc(slices.Values(costs[key]), func(a, b cost) int { return cmp.Compare(a.size, b.size) })
		small, large := sizes[0], sizes[len(sizes)-1]
		if small.size == large.size {
			continue
		}
		exponent := func(a, b float64) string {
			if a <= 0 || b <= 0 {
				return ""
			}
			return fmt.Sprintf("%.2f", math.Log(b/a)/math.Log(large.size/small.size))
		}
		each := time.Duration(large.time / large.size)
		fmt.Fprintf(table, "%s\t%s\t%.0f\t%.0f\t%v\t%v\t%v\t%s\t%.1f MB\t%.1f MB\t%s\t\n", key.name, key.unit, small.size, large.size,
			rounded(small.time), rounded(large.time), each, exponent(small.time, large.time), small.bytes/1e6, large.bytes/1e6,
			exponent(small.bytes, large.bytes))
	}
	if err := cmp.Or(lines.Err(), table.Flush()); err != nil {
		return err
	}
	if failed {
		return fmt.Errorf("a benchmark failed")
	}
	if len(list) > 0 {
		return fmt.Errorf("no benchmark has %s in its name; mend the list of -bench, or name the benchmark so again", strings.Join(list, " or "))
	}
	return nil
}

// rounded returns nanoseconds with three digits.
func rounded(ns float64) time.Duration {
	d := time.Duration(ns)
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
