// SPDX-License-Identifier: Apache-2.0

package membership

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"
)

var v4, v6 = netip.MustParsePrefix("10.9.0.0/24"), netip.MustParsePrefix("fd00::/64")

// BenchmarkDetection measures from the moment a node dies until each of the others knows, and from its return until all see it again. Run
// it with -benchtime=20x.
func BenchmarkDetection(b *testing.B) {
	for _, nodes := range []int{3, 10} {
		for _, death := range []string{"kill", "cut"} {
			b.Run(fmt.Sprintf("%s/nodes=%d", death, nodes), func(b *testing.B) {
				l := newLab(b, nodes, v6)
				for _, name := range l.names {
					l.start(name)
				}
				l.awaitAll()
				var first, each, back []time.Duration
				for i := 0; b.Loop(); i++ {
					victim := l.names[i%nodes]
					begin := time.Now()
					if death == "kill" {
						l.kill(victim, syscall.SIGKILL)
					} else {
						l.link(victim, "down")
					}
					seen := l.await("its death", l.without(victim), func(v view) bool { return !slices.Contains(v.Nodes, victim) })
					earliest := time.Hour
					for _, at := range seen {
						each = append(each, at.Sub(begin))
						earliest = min(earliest, at.Sub(begin))
					}
					first = append(first, earliest)
					if death == "cut" {
						l.await("that it is alone", []string{victim}, func(v view) bool { return v.Alone })
					}

					begin = time.Now()
					if death == "kill" {
						l.start(victim)
					} else {
						l.link(victim, "up")
					}
					latest := time.Duration(0)
					for _, at := range l.awaitAll() {
						latest = max(latest, at.Sub(begin))
					}
					back = append(back, latest)
				}
				report(b, "first", first)
				report(b, "each", each)
				report(b, "back", back)
			})
		}
	}
}

// BenchmarkLoad counts how often a member that lives is taken for dead while four processes for each processor burn it. One operation is
// ten seconds. Run it with -benchtime=6x.
func BenchmarkLoad(b *testing.B) {
	for _, nodes := range []int{3, 10} {
		for _, nice := range []int{19, 0} {
			b.Run(fmt.Sprintf("nice=%d/nodes=%d", nice, nodes), func(b *testing.B) {
				l := newLab(b, nodes, v6)
				for _, name := range l.names {
					l.start(name)
				}
				l.awaitAll()
				for range 8 {
					burner := exec.Command("nice", "-n", fmt.Sprint(nice), os.Args[0])
					burner.Env = append(os.Environ(), memberEnv+"=burn", "GOMAXPROCS=1")
					if err := burner.Start(); err != nil {
						b.Fatal(err)
					}
					b.Cleanup(func() {
						_ = burner.Process.Kill()
						_ = burner.Wait()
					})
				}
				deaths := 0
				for b.Loop() {
					for end := time.After(10 * time.Second); end != nil; {
						select {
						case v := <-l.views:
							if len(v.Nodes) < len(l.nodes[v.Node].last.Nodes) {
								deaths++
							}
							l.nodes[v.Node].last = v
						case <-end:
							end = nil
						}
					}
				}
				b.ReportMetric(float64(deaths), "false-deaths")
			})
		}
	}
}

func report(b *testing.B, name string, d []time.Duration) {
	slices.Sort(d)
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p95", 0.95}, {"max", 1}} {
		b.ReportMetric(float64(d[int(q.at*float64(len(d)-1))].Milliseconds()), name+"-"+q.name+"-ms")
	}
}
