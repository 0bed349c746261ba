// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/test/lab"
)

const (
	// sharedV4 and sharedV6 are the addresses of the Service whose answers are watched, in the nodes' own subnets.
	sharedV4, sharedV6 = "198.51.100.200", "2001:db8:51::c8"
	// askEvery is how often a client on the LAN opens a connection, and askPatience how long it waits for an answer.
	askEvery, askPatience = 20 * time.Millisecond, time.Second
	// flowCount is how many connections are open, and flowPatience how long one waits for an answer before it is dead.
	flowCount, flowPatience = 20, 15 * time.Second
	// restartAfter is how long a speaker is away that was killed, or is replaced; settleFor is how long the speakers then have.
	restartAfter, settleFor = time.Second, 20 * time.Second
)

// gapsConfig has the speakers announce everything on layer 2, and take the addresses from the nodes' own subnets.
const gapsConfig = layer2Config + `
---
apiVersion: tandem-lb.io/v1alpha1
kind: AddressPool
metadata: {name: bench}
spec: {ipv4: {ranges: ["` + sharedV4 + `/32"]}, ipv6: {ranges: ["` + sharedV6 + `/128"]}}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: bench, namespace: metallb-system}
spec: {addresses: ["` + sharedV4 + `/32", "` + sharedV6 + `/128"]}`

// A gap is what a client has noticed of one fault.
type gap struct {
	name, fault   string
	longest       time.Duration // between the starts of two requests that were answered, of all that follow one another
	failed, alive int           // requests, and connections
}

// A crew is the speakers of one product, one on each node.
type crew struct {
	*arena
	name     string
	commands map[string][]string // by the node
}

// A fault is something that happens to the node that answers.
type fault struct {
	name      string
	cut, heal func(ctx context.Context, c *crew, holder string) error
}

var faults = []fault{
	{
		"its cable is pulled",
		func(ctx context.Context, c *crew, holder string) error { return c.lab.SetLink(ctx, holder, false) },
		func(ctx context.Context, c *crew, holder string) error { return c.lab.SetLink(ctx, holder, true) },
	},
	{
		"its power is cut",
		func(ctx context.Context, c *crew, holder string) error { return c.lab.StopNode(ctx, holder) },
		func(ctx context.Context, c *crew, holder string) error {
			if err := c.lab.StartNode(ctx, holder); err != nil {
				return err
			}
			return c.start(holder)
		},
	},
	{
		"its speaker is killed",
		func(ctx context.Context, c *crew, holder string) error { return c.restart(ctx, holder, unix.SIGKILL) },
		func(context.Context, *crew, string) error { return nil },
	},
	{
		"all speakers are rolled out",
		func(ctx context.Context, c *crew, _ string) error {
			for _, node := range c.lab.Nodes() {
				if err := c.restart(ctx, node, unix.SIGTERM); err != nil {
					return err
				}
				if err := sleep(ctx, settleFor); err != nil {
					return err
				}
			}
			return nil
		},
		func(context.Context, *crew, string) error { return nil },
	},
}

// measureGaps prints for how long, and for which connections, a client on the LAN gets no answer from the address of a Service when something
// happens to the node that answers on layer 2: with Tandem's speakers, and with MetalLB's. Behind the Service is a server on another network, to
// which kube-proxy of that node forwards. The speakers are processes on the nodes.
func (a *arena) measureGaps(ctx context.Context) error {
	programs, err := a.prepareSpeakers(ctx, "", gapsConfig)
	if err != nil {
		return err
	}
	if err := a.fill(ctx, 1, func(int) objects { return a.sharedObjects() }); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(a.lab.Dir(), "secretkey"), []byte("0123456789abcdef"), 0o600); err != nil { // MetalLB's key of gossip
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	server := a.lab.Command(ctx, lab.Ext, self, "-echo", "[::]:80")
	if err := server.Start(); err != nil {
		return err
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	var figures []gap
	for _, p := range programs {
		of, err := a.measureCrew(ctx, a.newCrew(p))
		if err != nil {
			return fmt.Errorf("%s: %w", p[0], err)
		}
		figures = append(figures, of...)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\nof the node that answers\t\tlongest gap\trequests failed\tof %d connections live\t\n", flowCount)
	for _, f := range figures {
		fmt.Fprintf(w, "%s\t%s\t%v\t%d\t%d\t\n", f.fault, f.name, f.longest.Round(time.Millisecond), f.failed, f.alive)
	}
	return w.Flush()
}

// newCrew returns the speakers that are not started, by the command line of one for the first node.
func (a *arena) newCrew(program []string) *crew {
	c := &crew{arena: a, name: program[0], commands: map[string][]string{}}
	for _, node := range a.lab.Nodes() {
		addresses := a.lab.Addresses(node)
		if c.name == "metallb" {
			c.commands[node] = append([]string{
				program[1], "METALLB_ML_SECRET_KEY_PATH=" + a.lab.Dir(), "METALLB_ML_LABELS=app=speaker", "METALLB_ML_BIND_ADDR=" + addresses[0].String(),
			}, program[2:]...)
		} else {
			c.commands[node] = slices.Clone(program[1:])
		}
		for i, flag := range c.commands[node] {
			switch name, _, _ := strings.Cut(flag, "="); name {
			case "--node-name":
				c.commands[node][i] = name + "=" + node
			case "--pod-name":
				c.commands[node][i] = name + "=speaker-" + node
			case "--host-ip":
				c.commands[node][i] = fmt.Sprintf("%s=%s,%s", name, addresses[0], addresses[1])
			case "--health-socket":
				c.commands[node][i] = name + "=" + filepath.Join(a.lab.Dir(), node+"-speaker.sock")
			}
		}
	}
	return c
}

// start starts the speaker of a node.
func (c *crew) start(node string) error { return c.lab.StartOnNode(node, c.name, c.commands[node]...) }

// restart ends the speaker of a node by a signal, and starts another.
func (c *crew) restart(ctx context.Context, node string, by syscall.Signal) error {
	for ended := false; ; ended = true {
		i := slices.IndexFunc(c.lab.Status(), func(s lab.Status) bool { return s.Name == node+"/"+c.name && s.Running })
		if i < 0 {
			break
		}
		if !ended {
			if err := unix.Kill(c.lab.Status()[i].PID, by); err != nil {
				return err
			}
		}
		if err := sleep(ctx, askEvery); err != nil {
			return err
		}
	}
	if err := sleep(ctx, restartAfter); err != nil {
		return err
	}
	return c.start(node)
}

// measureCrew lets every fault happen to the speakers of one product.
func (a *arena) measureCrew(ctx context.Context, c *crew) (figures []gap, err error) {
	for _, node := range a.lab.Nodes() {
		if err := c.start(node); err != nil {
			return nil, err
		}
	}
	defer func() {
		for _, node := range a.lab.Nodes() {
			err = errors.Join(err, a.lab.StopComponent(ctx, node+"/"+c.name))
		}
	}()
	for _, f := range faults {
		if err := sleep(ctx, settleFor); err != nil {
			return nil, err
		}
		holder, err := a.holder(ctx)
		if err != nil {
			return nil, err
		}
		g, err := a.watch(ctx, func() error { return f.cut(ctx, c, holder) })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		g.name, g.fault = c.name, f.name
		fmt.Fprintf(a.progress, "%s: %s (%s): %v, %d requests failed, %d connections live\n", g.name, g.fault, holder, g.longest, g.failed, g.alive)
		figures = append(figures, g)
		if err := f.heal(ctx, c, holder); err != nil {
			return nil, err
		}
	}
	return figures, nil
}

// holder returns the node that answers, by the neighbours of the client: it asks until one does.
func (a *arena) holder(ctx context.Context) (string, error) {
	for range 60 {
		if err := a.ask(ctx); err == nil {
			break
		}
		if err := sleep(ctx, time.Second); err != nil {
			return "", err
		}
	}
	neighbour, err := a.lab.Command(ctx, lab.Client, "ip", "neigh", "show", sharedV4).Output()
	if err != nil {
		return "", err
	}
	for _, node := range a.lab.Nodes() {
		link, err := a.lab.Command(ctx, node, "ip", "-o", "link", "show", "eth0").Output()
		if err != nil {
			return "", err
		}
		_, rest, _ := strings.Cut(string(link), "link/ether ")
		if mac, _, found := strings.Cut(rest, " "); found && strings.Contains(string(neighbour), mac) {
			return node, nil
		}
	}
	return "", fmt.Errorf("no node answers for %s: the client has %q", sharedV4, neighbour)
}

// watch opens connections while something happens, and for some time before and after.
func (a *arena) watch(ctx context.Context, happens func() error) (g gap, err error) {
	var flows sync.WaitGroup
	var alive, failed atomic.Int32
	over := make(chan struct{})
	for range flowCount {
		conn, err := a.connect(ctx)
		if err != nil {
			return g, err
		}
		flows.Go(func() {
			defer conn.Close()
			for {
				if exchange(conn, flowPatience) != nil {
					return
				}
				select {
				case <-over:
					alive.Add(1)
					return
				case <-time.After(5 * askEvery):
				}
			}
		})
	}
	var mu sync.Mutex
	var answered []time.Time
	var requests sync.WaitGroup
	requests.Go(func() {
		for ticks := time.NewTicker(askEvery); ; {
			select {
			case <-over:
				ticks.Stop()
				return
			case <-ticks.C:
			}
			requests.Go(func() {
				began := time.Now()
				if a.ask(ctx) != nil {
					failed.Add(1)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				answered = append(answered, began)
			})
		}
	})
	err = errors.Join(sleep(ctx, 2*time.Second), happens(), sleep(ctx, settleFor))
	close(over)
	requests.Wait()
	flows.Wait()
	slices.SortFunc(answered, time.Time.Compare)
	for i := 1; i < len(answered); i++ {
		g.longest = max(g.longest, answered[i].Sub(answered[i-1]))
	}
	g.failed, g.alive = int(failed.Load()), int(alive.Load())
	return g, err
}

// connect opens a connection to the Service from a machine on the LAN.
func (a *arena) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	return a.lab.Dial(lab.Client)(ctx, "tcp", net.JoinHostPort(sharedV4, "80"))
}

// ask opens a connection, has one answer, and resets it, so that no kernel remembers it.
func (a *arena) ask(ctx context.Context) error {
	conn, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok {
		if err := tcp.SetLinger(0); err != nil {
			return err
		}
	}
	return exchange(conn, askPatience)
}

// exchange sends a byte and waits for its echo.
func exchange(conn net.Conn, patience time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{'?'}); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

// echo is the server behind the Service.
func echo(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn) // The client notices.
		}()
	}
}

// sharedObjects returns the Service with its claims and endpoints, and the Pods by which MetalLB's speakers find each other.
func (a *arena) sharedObjects() objects {
	all := objects{}
	vips := map[string]string{addressesOf(0)[0].String(): sharedV4, addressesOf(0)[1].String(): sharedV6}
	for key, object := range objectsOf(0) {
		kind, name, _ := strings.Cut(key, "/")
		switch kind {
		case "ipaddresses":
			object["metadata"].(map[string]any)["name"] = vips[name]
			key = kind + "/" + vips[name]
		case "endpointslices":
			f := 0
			if strings.HasSuffix(name, "-v6") {
				f = 1
			}
			object["endpoints"] = []any{map[string]any{
				"addresses": []any{a.lab.Addresses(lab.Ext)[f].String()}, "conditions": map[string]any{"ready": true, "serving": true, "terminating": false},
			}}
		case "services":
			spec := object["spec"].(map[string]any)
			spec["clusterIP"], spec["clusterIPs"] = "10.96.200.1", []any{"10.96.200.1", "fd00:96::c801"}
			object["status"] = map[string]any{"loadBalancer": map[string]any{"ingress": []any{
				map[string]any{"ip": sharedV4, "ipMode": "VIP"}, map[string]any{"ip": sharedV6, "ipMode": "VIP"},
			}}}
		default:
			continue // The speakers write the records.
		}
		all[key] = object
	}
	for i, node := range a.lab.Nodes() {
		address := a.lab.Addresses(node)[0].String()
		all["pods/metallb-system/speaker-"+node] = map[string]any{
			"apiVersion": "v1", "kind": "Pod",
			"metadata": map[string]any{
				"name": "speaker-" + node, "namespace": "metallb-system", "uid": fmt.Sprintf("00000009-0000-4000-8000-%012d", i),
				"creationTimestamp": "2026-01-01T00:00:00Z", "labels": map[string]any{"app": "speaker"},
			},
			"spec": map[string]any{
				"containers": []any{map[string]any{"name": "speaker", "image": "none"}}, "schedulingGates": []any{map[string]any{"name": "tandem-lb.io/bench"}},
			},
			"status": map[string]any{"podIP": address, "podIPs": []any{map[string]any{"ip": address}}, "phase": "Running"},
		}
	}
	return all
}
