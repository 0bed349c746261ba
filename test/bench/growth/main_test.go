// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRun(t *testing.T) {
	const said = `goos: linux
BenchmarkAudit/1000_services-2       5   20000000 ns/op   2000000 B/op   28000 allocs/op
BenchmarkAudit/10000_services-2      5  200000000 ns/op  20000000 B/op  280000 allocs/op
BenchmarkKey/all_on_443/10_pools-2   1  100 ns/op
BenchmarkKey/all_on_443/100_pools-2  1  10000 ns/op
BenchmarkOther-2                     9  12 ns/op
ok  	example.com/a	1.0s
`
	const want = `BenchmarkOther-2                     9  12 ns/op
ok  	example.com/a	1.0s

            Loop       per  small  large  small takes  large takes   each  growth  small allocates  large allocates  growth
           Audit  services   1000  10000         20ms        200ms   20µs    1.00           2.0 MB          20.0 MB    1.00
  Key/all_on_443     pools     10    100        100ns         10µs  100ns    2.00           0.0 MB           0.0 MB
`
	var out strings.Builder
	if err := run([]string{"Audit", "BenchmarkKey", "Other"}, strings.NewReader(said), &out); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	if diff := cmp.Diff(want, strings.Join(lines, "\n")+"\n"); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	if err := run(nil, strings.NewReader("--- FAIL: BenchmarkAudit\n"), &out); err == nil {
		t.Error("a benchmark that failed is no error")
	}
	if err := run([]string{"Audit", "Pools", "Key"}, strings.NewReader(said), &out); err == nil || !strings.Contains(err.Error(), "Pools") {
		t.Errorf("without a benchmark of Pools the error is %v", err)
	}
}
