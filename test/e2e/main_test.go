// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// dual is the cluster of all tests but those of single families. TestMain sets it before any test runs.
var dual *cluster.Cluster

// processes are what a process of this test binary does instead of running tests, by the variable of its environment that is set.
var processes = map[string]func(value string) error{
	idlerEnv:   idleMain,
	hostileEnv: func(string) error { return hostileMain() },
}

// moveInTests begins the names of the tests of a move, which `make soak-move-in` runs. They have clusters of their own.
const moveInTests = "TestMoveIn"

func TestMain(m *testing.M) {
	for variable, process := range processes {
		if value := os.Getenv(variable); value != "" {
			if err := process(value); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	flag.Parse()
	if strings.HasPrefix(strings.TrimPrefix(flag.Lookup("test.run").Value.String(), "^"), moveInTests) {
		code := m.Run()
		soaked.print(os.Stdout)
		return code
	}
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
