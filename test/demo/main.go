// SPDX-License-Identifier: Apache-2.0

// Command demo shows Tandem at work on a cluster of three nodes in network namespaces of this machine: `make demo`.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// name is that of the demo's lab.
const name = "demo"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	step("A cluster of three nodes, its kubelets started with --cloud-provider=external, and a router that speaks BGP")
	c, err := cluster.Start(ctx, lab.Config{Name: name, ExternalCloudProvider: true}, os.Stdout)
	if err != nil {
		return err
	}
	d := demo{c}

	step("Tandem is installed from the release, for nodes that wait for a cloud provider")
	d.kubectl(ctx, "apply", "-f", c.Release("install.yaml"))
	if err := c.RolledOut(ctx); err != nil {
		return err
	}

	step("Tandem runs, and has initialised the nodes: no taint is left, both families are reported")
	d.kubectl(ctx, "get", "pods", "-n", "tandem-system", "-o", "wide")
	d.kubectl(
		ctx, "get", "nodes", "-o",
		"custom-columns=NAME:.metadata.name,PROVIDER ID:.spec.providerID,TAINTS:.spec.taints,ADDRESSES:.status.addresses[*].address",
	)

	step("A pool, a layer 2 advertisement, a BGP peer and advertisement, and a dual-stack Service")
	for _, file := range []string{"pool.yaml", "layer2.yaml", "bgp.yaml", "service.yaml"} {
		d.kubectl(ctx, "apply", "-f", c.Example(file))
	}
	ips, err := c.ServiceIPs(ctx, "default", "web", 2)
	if err != nil {
		return err
	}
	if out, err := c.Kubectl(ctx, "rollout", "status", "deployment/web", "--timeout=60s").CombinedOutput(); err != nil {
		return fmt.Errorf("the web server does not run: %w\n%s", err, out)
	}
	holder, err := c.Holder(ctx, "default", "web", 2)
	if err != nil {
		return err
	}

	step("The Service has an address of each family, each claimed by an IPAddress; the pool counts them")
	d.kubectl(ctx, "get", "service", "web", "-o", "wide")
	d.kubectl(ctx, "get", "ipaddresses", "-l", "ipaddress.kubernetes.io/managed-by=tandem-lb.io")
	d.kubectl(ctx, "get", "addresspools")

	step("On the LAN %s answers for both", holder)
	d.kubectl(ctx, "get", "l2announcements")
	if err := d.reach(ctx, lab.Client, ips); err != nil {
		return err
	}

	step("The router has heard of both from every node, with the nodes' own addresses as next hops")
	if err := d.routes(ctx, ips); err != nil {
		return err
	}
	d.kubectl(ctx, "get", "speakerstatuses")
	if err := d.reach(ctx, lab.Ext, ips); err != nil {
		return err
	}

	step("The cable of %s is pulled; a client on the LAN goes on asking, 50 times a second in each family", holder)
	if err := d.failover(ctx, holder, ips); err != nil {
		return err
	}

	step("The cable is plugged in again: the addresses stay where they are")
	if err := c.SetLink(ctx, holder, true); err != nil {
		return err
	}
	d.kubectl(ctx, "get", "l2announcements")
	d.kubectl(ctx, "describe", "service", "web")

	step("All of it works. The cluster stays up until `make demo-down`")
	fmt.Printf(`Look further:
  %[1]s/kubectl get addresspools,ipaddresses,l2announcements,speakerstatuses
  %[1]s/kubectl logs -n tandem-system daemonset/tandem-speaker
  go run ./test/lab/cmd/lab -name %[2]s exec client curl -s %[3]s
  go run ./test/lab/cmd/lab -name %[2]s exec client curl -s '%[4]s'
  go run ./test/lab/cmd/lab -name %[2]s exec node1 tcpdump -ni eth0 arp or icmp6
  go run ./test/lab/cmd/lab -name %[2]s vtysh router 'show bgp ipv6 unicast'
`, c.Dir(), name, cluster.URL(ips[0], "/hostname"), cluster.URL(ips[1], "/hostname"))
	return nil
}

type demo struct{ *cluster.Cluster }

func step(format string, args ...any) {
	fmt.Printf("\n\033[1m== "+format+"\033[0m\n", args...)
}

// kubectl shows a command and what it prints. It does not judge: what has to hold is checked by what follows.
func (d demo) kubectl(ctx context.Context, args ...string) {
	d.show("kubectl "+strings.Join(args, " "), d.Kubectl(ctx, args...))
}

func (d demo) show(line string, cmd *exec.Cmd) {
	fmt.Printf("\033[2m$ %s\033[0m\n", line)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
	}
}

// reach asks both addresses from a host, with curl as a person would.
func (d demo) reach(ctx context.Context, host string, ips []string) error {
	for _, ip := range ips {
		url := cluster.URL(ip, "/hostname")
		// A new address may meet a router that has just heard of it.
		if err := cluster.Until(ctx, 10*time.Second, url+" from "+host, func(ctx context.Context) (bool, string) {
			_, err := d.Get(ctx, host, url)
			return err == nil, fmt.Sprint(err)
		}); err != nil {
			return err
		}
		d.show("curl "+url+"      (on "+host+")", d.Command(ctx, host, "curl", "-sS", "--max-time", "5", "-w", `\n`, url))
	}
	return nil
}

// routes shows the router's routes once it has them from every node.
func (d demo) routes(ctx context.Context, ips []string) error {
	for i, show := range []string{"show ip route bgp", "show ipv6 route bgp"} {
		var table string
		if err := cluster.Until(ctx, 30*time.Second, "routes of the router to "+ips[i], func(ctx context.Context) (bool, string) {
			var err error
			if table, err = d.Vtysh(ctx, lab.Router, show); err != nil {
				return false, err.Error()
			}
			_, entry, found := strings.Cut(table, ips[i]+"/")
			return found && strings.Count(entry, " via ") == len(d.Nodes()), table
		}); err != nil {
			return err
		}
		fmt.Printf("\033[2m$ vtysh -c '%s'      (on the router)\033[0m\n%s\n", show, strings.TrimSpace(table[strings.Index(table, "B>"):]))
	}
	return nil
}

// failover cuts the holder off while both addresses are asked, and prints for how long nothing was answered.
func (d demo) failover(ctx context.Context, holder string, ips []string) error {
	const before, after = 500 * time.Millisecond, 6 * time.Second
	probing, stop := context.WithTimeout(ctx, before+after)
	defer stop()
	answers := make([][]cluster.Answer, len(ips))
	var probes sync.WaitGroup
	for i, ip := range ips {
		probes.Go(func() {
			answers[i] = d.Probe(probing, lab.Client, cluster.URL(ip, "/hostname"), 20*time.Millisecond, time.Second)
		})
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(before):
	}
	if err := d.SetLink(ctx, holder, false); err != nil {
		return err
	}
	cut := time.Now() // what was sent before may still have got through
	probes.Wait()
	for i, ip := range ips {
		outage, ok := cluster.Outage(answers[i], cut)
		if !ok {
			return fmt.Errorf("%s did not answer again within %v", ip, after)
		}
		fmt.Printf("%-20s answered again %4d ms after the cut\n", ip, outage.Milliseconds())
	}
	fmt.Println(
		"(Until Kubernetes takes its pods out of the Service, after 40 s, requests that kube-proxy sends to the dead node still fail.)",
	)
	return nil
}
