// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	sizes := flag.String("sizes", "1000,5000", "Numbers of Services, a list. Beyond 1000 the creation of Services itself takes minutes.")
	names := flag.String("contestants", "limit,tandem,metallb", "Who takes part, a list.")
	modes := flag.String("modes", "arriving,waiting", "When the Services are created: while the contestant runs, before it starts, or both.")
	repeat := flag.Int("repeat", 1, "How often everything is measured; the table shows medians.")
	memory := flag.Int("memory", 0, "Measure memory and restart of the controller manager with so many Services instead.")
	speakers := flag.Int("speakers", 0, "Measure the speakers with so many Services instead, beside MetalLB's.")
	latency := flag.Int("latency", 0, "Measure how soon a router has routes instead, of one Service and of so many at once, beside MetalLB's speaker.")
	baseline := flag.String("baseline", "", "Path of another build of Tandem's speaker, which takes part in the measurement of the speakers.")
	gaps := flag.Bool("gaps", false, "Measure what clients notice when something happens to the node that answers on layer 2 instead, beside MetalLB.")
	server := flag.String("echo", "", "Do nothing but to answer at this address what is sent there: the server behind the Service of -gaps.")
	lab := flag.String("lab", "bench", "Name of the lab; labs of different names run side by side.")
	flag.Parse()

	if *server != "" {
		return echo(*server)
	}
	nodes := 1
	if *gaps {
		nodes = 3
	}
	a, err := newArena(ctx, *lab, nodes, os.Stdout)
	if err != nil {
		return err
	}
	defer a.close()
	if *gaps {
		return a.measureGaps(ctx)
	}
	if *speakers > 0 {
		return a.measureSpeakers(ctx, *speakers, strings.Split(*names, ","), *baseline, *repeat)
	}
	if *latency > 0 {
		return a.measureLatency(ctx, *latency, strings.Split(*names, ","), *baseline)
	}
	if *memory > 0 {
		return a.measureMemory(ctx, *memory)
	}
	var contestants []contestant
	for name := range strings.SplitSeq(*names, ",") {
		c, err := a.contestant(ctx, name)
		if err != nil {
			return err
		}
		contestants = append(contestants, c)
	}
	var figures []figure
	for size := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			return fmt.Errorf("-sizes: %w", err)
		}
		for m := range strings.SplitSeq(*modes, ",") {
			for range *repeat {
				for _, c := range contestants {
					f, err := a.measure(ctx, c, mode(m), n)
					if err != nil {
						return fmt.Errorf("%s, %d Services: %w", c.name(), n, err)
					}
					figures = append(figures, f)
				}
			}
		}
	}
	printTable(figures)
	return nil
}

// mode says when the Services are created.
type mode string

const (
	arriving mode = "arriving" // while the contestant runs
	existing mode = "waiting"  // before it starts
)

// figure is what was measured of one contestant with one number of Services.
type figure struct {
	contestant string
	mode       mode
	services   int
	allocated  float64       // Services a second
	median     time.Duration // from the creation of a Service to its addresses, where they arrive
	last       time.Duration // the same of the slowest hundredth
	deleted    float64       // Services a second
	// Requests for each Service: those that write while it gets and while it gives up its addresses, and all that read.
	created, removed, reads float64
	cpu                     time.Duration // of the contestant for each Service, from creation to deletion
}

// printTable prints figures with their ratios to Tandem's in the same mode and number.
func printTable(figures []figure) {
	type row struct {
		mode       mode
		services   int
		contestant string
	}
	var order []row
	groups := map[row][]figure{}
	for _, f := range figures {
		key := row{f.mode, f.services, f.contestant}
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], f)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(
		w, "\nServices\t\t\tallocated/s\ttandem is\tmedian wait\tp99\tdeleted/s\ttandem is\twrites each: create\tdelete\treads\tCPU each\t",
	)
	for _, key := range order {
		group := groups[key]
		of := func(g []figure, value func(figure) float64) float64 {
			values := []float64{}
			for _, f := range g {
				values = append(values, value(f))
			}
			slices.Sort(values)
			return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
		}
		ratio := func(value func(figure) float64) string {
			tandem := groups[row{key.mode, key.services, "tandem"}]
			if tandem == nil || key.contestant == "tandem" {
				return ""
			}
			return fmt.Sprintf("%.2f ×", of(tandem, value)/of(group, value))
		}
		duration := func(value func(figure) time.Duration) string {
			d := time.Duration(of(group, func(f figure) float64 { return float64(value(f)) }))
			return cmp.Or(d, 0).Round(100 * time.Microsecond).String()
		}
		wait, last := "", ""
		if key.mode == arriving {
			wait, last = duration(func(f figure) time.Duration { return f.median }), duration(func(f figure) time.Duration { return f.last })
		}
		allocated, deleted := func(f figure) float64 { return f.allocated }, func(f figure) float64 { return f.deleted }
		fmt.Fprintf(w, "%d\t%s\t%s\t%.1f\t%s\t%s\t%s\t%.1f\t%s\t%.2f\t%.2f\t%.2f\t%s\t\n", key.services, key.mode, key.contestant,
			of(group, allocated), ratio(allocated), wait, last, of(group, deleted), ratio(deleted),
			of(group, func(f figure) float64 { return f.created }), of(group, func(f figure) float64 { return f.removed }),
			of(group, func(f figure) float64 { return f.reads }), duration(func(f figure) time.Duration { return f.cpu }))
	}
	w.Flush()
}
