// SPDX-License-Identifier: Apache-2.0

// Command lab brings up a Kubernetes cluster in network namespaces of this machine; see package lab.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"github.com/tandem-lb/tandem/test/lab"
)

const usage = `Usage: lab [-name NAME] COMMAND

  deps               install the Debian packages that are missing
  build              build etcd, Kubernetes and containerd into the cache
  up [FLAGS]         bring the lab up; "lab up -h" tells the flags
  down               take the lab down
  status             list hosts and processes
  kubectl ARGS       run kubectl as the administrator
  exec HOST COMMAND  run a command in the network namespace of a host
  frr HOST [CONFIG]  start FRR on a host with a configuration file, or stop it
  vtysh HOST COMMAND ask FRR on a host
  link HOST up|down  cut or restore the link of a host
  stop PROCESS|NODE  kill a process, or everything on a node and its link
  start PROCESS|NODE start it again
  load IMAGE.tar...  load docker-archives on every node
`

func main() {
	os.Exit(run())
}

func run() int {
	name := flag.String("name", "tandem", "name of the lab")
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	err := command(ctx, *name, flag.Arg(0), flag.Args()[1:])
	if status := exitStatus(0); errors.As(err, &status) {
		return int(status)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	return 0
}

func command(ctx context.Context, name, command string, args []string) error {
	switch command {
	case "deps":
		return lab.InstallPackages(ctx, os.Stderr)
	case "build":
		_, err := lab.Build(ctx, os.Stderr)
		return err
	case "up":
		config := lab.Config{Name: name}
		flags := flag.NewFlagSet("up", flag.ExitOnError)
		flags.IntVar(&config.Nodes, "nodes", 3, "number of nodes")
		families := flags.String("families", string(lab.Dual), "address families: dual, ipv4 or ipv6")
		flags.BoolVar(&config.ExternalCloudProvider, "external", false, "start kubelets with --cloud-provider=external")
		if err := flags.Parse(args); err != nil {
			return err
		}
		config.Families = lab.Families(*families)
		_, err := lab.Up(ctx, config, os.Stderr)
		return err
	}

	l, err := lab.Open(name)
	if command == "down" && errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	switch {
	case command == "down":
		return l.Down(ctx)
	case command == "status":
		return status(l)
	case command == "kubectl":
		return attach(l.Kubectl(ctx, args...))
	case command == "exec" && len(args) > 1:
		return attach(l.Command(ctx, args[0], args[1], args[2:]...))
	case command == "frr" && len(args) == 1:
		return l.StopFRR(ctx, args[0])
	case command == "frr" && len(args) == 2:
		config, err := os.ReadFile(args[1])
		if err != nil {
			return err
		}
		return l.StartFRR(ctx, args[0], string(config))
	case command == "link" && len(args) == 2 && (args[1] == "up" || args[1] == "down"):
		return l.SetLink(ctx, args[0], args[1] == "up")
	case command == "stop" && len(args) == 1:
		if slices.Contains(l.Nodes(), args[0]) {
			return l.StopNode(ctx, args[0])
		}
		return l.StopComponent(ctx, args[0])
	case command == "start" && len(args) == 1:
		if slices.Contains(l.Nodes(), args[0]) {
			return l.StartNode(ctx, args[0])
		}
		return l.StartComponent(args[0])
	case command == "vtysh" && len(args) > 1:
		out, err := l.Vtysh(ctx, args[0], strings.Join(args[1:], " "))
		fmt.Print(out)
		return err
	case command == "load" && len(args) > 0:
		return l.LoadImages(ctx, args...)
	}
	flag.Usage()
	return fmt.Errorf("no such command: %s %s", command, strings.Join(args, " "))
}

// exitStatus is that of a command that has said itself what is wrong.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// attach runs a command with the terminal of this process.
func attach(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exitStatus(exit.ExitCode())
	}
	return err
}

func status(l *lab.Lab) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tNAMESPACE\tADDRESSES")
	for _, host := range l.Hosts() {
		fmt.Fprintf(w, "%s\t%s\t%v\n", host, l.Namespace(host), l.Addresses(host))
	}
	fmt.Fprintln(w, "\nPROCESS\tPID\tSTATE\tLOG")
	for _, p := range l.Status() {
		state := "ended"
		if p.Running {
			state = "running"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", p.Name, p.PID, state, p.Log)
	}
	return w.Flush()
}
