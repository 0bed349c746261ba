// SPDX-License-Identifier: Apache-2.0

// Command conformance runs the LoadBalancer suite of Kubernetes' own end-to-end tests on a cluster with Tandem, by layer 2 and by BGP, and
// prints what passed as a table for docs/conformance.md: `make conformance`.
//
// The tests run on the machine ext, behind the router, as they would run outside of a cluster. They are built from the Go module proxy, at the
// version of Kubernetes that the lab runs, as is CoreDNS, by which their Pods look up the names of Services. Their image agnhost is the lab's,
// with a shell, curl, nc and nslookup of Debian beside the program.
//
// They are made for one family. The suite takes the family of the cluster, so that the cluster has one: -family.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// A way is one of the two ways to announce, as an administrator configures it.
type way struct {
	name, manifest string
}

// ways are the ways, with addresses of each family: of the LAN for layer 2, and of no link for BGP.
var ways = map[lab.Families][]way{
	lab.IPv4: {
		{"layer 2", pool("ipv4", "198.51.100.200-198.51.100.239") + layer2},
		{"BGP", pool("ipv4", "192.0.2.0/24") + bgp("198.51.100.1")},
	},
	lab.IPv6: {
		{"layer 2", pool("ipv6", "2001:db8:51::1000/116") + layer2},
		{"BGP", pool("ipv6", "2001:db8:c::/64") + bgp("2001:db8:51::1")},
	},
}

func pool(family, addresses string) string {
	return `
apiVersion: tandem-lb.io/v1alpha1
kind: AddressPool
metadata: {name: conformance}
spec: {` + family + `: {ranges: ["` + addresses + `"]}}
---`
}

const layer2 = `
apiVersion: tandem-lb.io/v1alpha1
kind: L2Advertisement
metadata: {name: conformance}
spec: {addressPools: [conformance]}
`

func bgp(router string) string {
	return `
apiVersion: tandem-lb.io/v1alpha1
kind: BGPPeer
metadata: {name: conformance}
spec: {myASN: 64512, peerASN: 64513, peerAddress: "` + router + `"}
---
apiVersion: tandem-lb.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: conformance}
spec: {addressPools: [conformance], peers: [conformance]}
`
}

type options struct {
	lab, focus, only string
	family           lab.Families
	keep             bool
}

func main() {
	var o options
	flag.StringVar(&o.lab, "lab", "conform", "Name of the lab.")
	flag.StringVar((*string)(&o.family), "family", string(lab.IPv4), "Family of the cluster, ipv4 or ipv6.")
	flag.StringVar(&o.focus, "focus", "", "Regular expression for the names of the tests to run; default all of the suite.")
	flag.StringVar(&o.only, "way", "", `The one way to run, "layer 2" or "BGP"; default both.`)
	flag.BoolVar(&o.keep, "keep", false, "Leave the lab up, and take the one that is up.")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := o.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func (o options) run(ctx context.Context) error {
	if ways[o.family] == nil {
		return fmt.Errorf("-family: %q is neither %s nor %s", o.family, lab.IPv4, lab.IPv6)
	}
	if o.only != "" && !slices.ContainsFunc(ways[o.family], func(w way) bool { return w.name == o.only }) {
		return fmt.Errorf("-way: %q is no way to announce", o.only)
	}
	built, err := build(ctx)
	if err != nil {
		return err
	}
	c, err := o.cluster(ctx)
	if err != nil {
		return err
	}
	if !o.keep {
		defer func() {
			if err := c.Down(context.WithoutCancel(ctx)); err != nil {
				fmt.Fprintln(os.Stderr, "taking the lab down:", err)
			}
		}()
	}
	if err := c.LoadImages(ctx, built.agnhost, built.corednsImage); err != nil {
		return err
	}
	if err := c.Apply(ctx, corednsManifest(clusterDNS[o.family])); err != nil {
		return err
	}
	if out, err := c.Kubectl(ctx, "rollout", "status", "-n", "kube-system", "deployment/coredns", "--timeout=90s").CombinedOutput(); err != nil {
		return fmt.Errorf("CoreDNS: %w\n%s", err, out)
	}
	var all []results
	for _, w := range ways[o.family] {
		if o.only != "" && o.only != w.name {
			continue
		}
		r, err := o.suite(ctx, c, built, w)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		all = append(all, r)
	}
	fmt.Print(table(o.family, all))
	return nil
}

// cluster brings up a lab with Tandem on it.
func (o options) cluster(ctx context.Context) (*cluster.Cluster, error) {
	if o.keep {
		if c, err := cluster.Open(o.lab); err == nil && c.Kubectl(ctx, "get", "--raw=/readyz").Run() == nil {
			return c, nil
		}
	}
	return cluster.Up(ctx, lab.Config{Name: o.lab, Families: o.family, ExternalCloudProvider: true}, os.Stdout)
}

// suite runs the suite while the cluster announces in one way.
func (o options) suite(ctx context.Context, c *cluster.Cluster, built *artefacts, w way) (results, error) {
	if err := c.Apply(ctx, w.manifest); err != nil {
		return results{}, err
	}
	defer func() {
		remove := c.Kubectl(context.WithoutCancel(ctx), "delete", "--ignore-not-found", "-f", "-")
		remove.Stdin = strings.NewReader(w.manifest)
		if out, err := remove.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "removing %s: %v\n%s", w.name, err, out)
		}
	}()
	name := strings.ReplaceAll(w.name, " ", "")
	report, log := filepath.Join(c.Dir(), name+".json"), filepath.Join(c.Dir(), name+".log")
	out, err := os.Create(log)
	if err != nil {
		return results{}, err
	}
	defer out.Close()
	fmt.Printf("Running the suite by %s; its log is %s\n", w.name, log)
	focus := `\[Feature:LoadBalancer\]`
	if o.focus != "" {
		focus += ".*" + o.focus
	}
	start := time.Now()
	cmd := c.Command(ctx, lab.Ext, built.tests, "--kubeconfig="+filepath.Join(c.Dir(), "pki", "admin.kubeconfig"),
		"--kubectl-path="+filepath.Join(c.Dir(), "kubectl"), "--provider=skeleton", "--ginkgo.focus="+focus, "--ginkgo.timeout=2h",
		"--ginkgo.no-color", "--ginkgo.v", "--ginkgo.json-report="+report)
	cmd.Stdout, cmd.Stderr = out, out
	// A test that fails is a result, and so no error here; where there is no report, readReport says so.
	if err := cmd.Run(); err != nil && ctx.Err() != nil {
		return results{}, ctx.Err()
	} else if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return results{}, err
	}
	tests, err := readReport(report)
	return results{way: w.name, took: time.Since(start), tests: tests}, err
}
