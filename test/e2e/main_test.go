// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// dual is the cluster of all tests but those of single families. TestMain sets it before any test runs.
var dual *cluster.Cluster

func TestMain(m *testing.M) {
	if what := os.Getenv(idlerEnv); what != "" {
		if err := idleMain(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(hostileEnv) != "" {
		if err := hostileMain(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	keep := os.Getenv("TANDEM_E2E_KEEP") == "1"
	config := lab.Config{Name: labName(), ExternalCloudProvider: true}
	if keep {
		if kept, err := cluster.Open(config.Name); err == nil && kept.Kubectl(ctx, "get", "--raw=/readyz").Run() == nil {
			dual = kept
		}
	}
	if dual == nil {
		start := time.Now()
		var err error
		if dual, err = cluster.Up(ctx, config, os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "bringing the cluster up: %v\n", err)
			return 1
		}
		fmt.Printf("The cluster is up after %.1fs\n", time.Since(start).Seconds())
	}
	if !keep {
		defer func() {
			if err := dual.Down(context.WithoutCancel(ctx)); err != nil {
				fmt.Fprintf(os.Stderr, "taking the cluster down: %v\n", err)
			}
		}()
	}

	done := make(chan int, 1)
	go func() { done <- m.Run() }()
	select {
	case code := <-done:
		soaked.print(os.Stdout)
		return code
	case <-ctx.Done():
		return 1
	}
}
