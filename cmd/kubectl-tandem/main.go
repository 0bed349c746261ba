// SPDX-License-Identifier: Apache-2.0

// Command kubectl-tandem is a plugin of kubectl: it says how Tandem is doing, why an address does not answer, and what a drain would do, and it moves Services
// to Tandem from other load balancers.
//
// This package has flags and printing, a file for each command, and in prober.go the questions to speakers that commands share. What reads the cluster, and what commands share, lies in the packages below it; what
// Tandem should do is decided by speaker/decision and speaker/diagnosis, for the plugin as for the programs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/version"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop) // A second signal ends the program at once, also where it does not look at its context.
	collectRarely()
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	return terminal.ExitCode(streams.ErrOut, command(streams, cluster.Connect).ExecuteContext(ctx))
}

// A command reads the cluster, prints, and ends: most of what it allocates it uses until then, so that a collection frees little. Of 10,000 Services it takes a
// third of the processor's time with Go's default of 100 percent.
const (
	garbagePercent = 400
	garbageLimit   = 1 << 30 // bytes of memory in all, from where on Go collects as often as it has to
)

// collectRarely has Go collect garbage less often, unless the user has set GOGC or GOMEMLIMIT.
func collectRarely() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(garbageLimit)
	}
}

// plugin is what all commands share: the streams and the flags of the root command.
type plugin struct {
	genericiooptions.IOStreams
	flags         *genericclioptions.ConfigFlags
	allNamespaces bool
	output        string // "", or as --output has it
	system        string // the namespace of Tandem, "" to find it
	open          opener
}

// opener returns a cluster, as [cluster.Connect] does.
type opener func(flags genericclioptions.RESTClientGetter, system string) (*cluster.Cluster, error)

// The formats of --output.
const (
	outputJSON = "json"
	outputYAML = "yaml"
	outputWide = "wide"
)

// command returns the root command with all others.
func command(streams genericiooptions.IOStreams, open opener) *cobra.Command {
	p := &plugin{IOStreams: streams, open: open, flags: genericclioptions.NewConfigFlags(true)}
	root := &cobra.Command{
		Use:           "kubectl-tandem",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl tandem"},
		Short:         "Says how Tandem is doing, why an address does not answer, and what a drain would do",
		Version:       version.Get().GitVersion,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			switch p.output {
			case "", outputJSON, outputYAML, outputWide:
				return nil
			}
			return fmt.Errorf("--output is %q; give json, yaml or wide", p.output)
		},
	}
	root.SetVersionTemplate("Tandem {{.Version}}\n")
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.ErrOut)
	flags := root.PersistentFlags()
	p.flags.AddFlags(flags)
	flags.BoolVarP(&p.allNamespaces, "all-namespaces", "A", false, "Look at Services of all namespaces.")
	flags.StringVarP(&p.output, "output", "o", "", "Format: json, yaml, or wide for more columns; a table without it.")
	flags.StringVar(&p.system, "tandem-namespace", "", "Namespace of Tandem; default the one in which its speakers report, or tandem-system.")
	// One line for each command, in the order of the help.
	root.AddCommand(
		statusCommand(p),
		whyCommand(p),
		servicesCommand(p),
		poolsCommand(p),
		ipCommand(p),
		l2Command(p),
		bgpCommand(p),
		checkCommand(p),
		reportCommand(p),
		uiCommand(p),
		drainCommand(p),
		undrainCommand(p),
		moveCommand(p),
		rebalanceCommand(p),
		convertCommand(p),
		moveInCommand(p),
		externalIPsCommand(p),
	)
	return root
}

// connect returns the cluster that the flags name.
func (p *plugin) connect() (*cluster.Cluster, error) { return p.open(p.flags, p.system) }

// read returns the state of the cluster that the flags name.
func (p *plugin) read(ctx context.Context) (*cluster.State, error) {
	c, err := p.connect()
	if err != nil {
		return nil, err
	}
	return c.Read(ctx)
}

// namespace returns the namespace of the Services that a command is about, "" for all.
func (p *plugin) namespace() (string, error) {
	if p.allNamespaces {
		return "", nil
	}
	namespace, _, err := p.flags.ToRawKubeConfigLoader().Namespace()
	return namespace, err
}

// print prints a value as JSON or YAML where --output says so, and calls table otherwise.
func (p *plugin) print(value any, table func(*terminal.Printer)) error {
	if p.output == outputJSON || p.output == outputYAML {
		return terminal.Marshal(p.Out, p.output, value)
	}
	table(terminal.NewPrinter(p.Out))
	return nil
}

// progress returns where a command says how far it has come: beside JSON or YAML on standard error, since programs read the value alone.
func (p *plugin) progress() *terminal.Printer {
	if p.output == outputJSON || p.output == outputYAML {
		return terminal.NewPrinter(p.ErrOut)
	}
	return terminal.NewPrinter(p.Out)
}
