// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/export"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
)

// convertFlags are those of `kubectl tandem convert`.
type convertFlags struct {
	movein.Options
	files       []string
	values      []string // of placeholders, as NAME=VALUE
	fromCluster bool
	strict      bool
}

// conversion is what `kubectl tandem convert -o json` prints.
type conversion struct {
	Documents []movein.Document `json:"documents"`
	Messages  []movein.Message  `json:"messages"`
}

func convertCommand(p *plugin) *cobra.Command {
	f := &convertFlags{}
	cmd := &cobra.Command{
		Use:   "convert (-f FILE | --from-cluster)",
		Short: "Converts the configuration of another load balancer to objects of Tandem",
		Long: "Reads the configuration of MetalLB, PureLB, kube-vip, Cilium, Calico or k3s' ServiceLB, and Services, and writes " +
			"Tandem's objects to standard\n" +
			"output. Every difference that matters goes to standard error: errors, with which nothing is written, what is lost, what a " +
			"person has to look\n" +
			"at, and what is said in another form. Nothing in the cluster is changed.",
		Example: "  kubectl tandem convert -f metallb.yaml > tandem.yaml\n" +
			"  kubectl tandem convert --from-cluster --from metallb > tandem.yaml",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.convert(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.files, "filename", "f", nil, "File or directory with the configuration, - for standard input. May be "+
		"given several times.")
	flags.BoolVar(&f.fromCluster, "from-cluster", false, "Read the live cluster instead of files.")
	flags.StringVar(&f.From, "from", "", "Convert one product only: "+strings.Join(movein.Products, ", ")+".")
	flags.StringArrayVar(&f.Assume, "assume", nil, `What the files do not say of a product's version and mode,
		such as "metallb=0.12 native".`)
	flags.StringArrayVar(&f.values, "set", nil, "Value of a placeholder such as ${RANGE}, as RANGE=192.0.2.0/28.")
	flags.StringArrayVar(&f.Pools, "pool", nil, "Pool of new addresses, as NAME=RANGE[,RANGE], for a product that has none.")
	flags.StringVar(&f.Announce, "announce", "", "How addresses are announced where the input does not say it: l2, bgp or calico.")
	flags.StringSliceVar(&f.Local, "local", nil, "Service group of PureLB whose addresses are in the nodes' subnet.")
	flags.StringSliceVar(&f.Remote, "remote", nil, "Service group of PureLB whose addresses are in no subnet of the nodes.")
	flags.BoolVar(&f.Live, "live", false, "The files are an export of a cluster, so that the status of Services counts.")
	flags.BoolVar(&f.KeepInUse, "keep-in-use", false, "Make a pool of the addresses that Services have and no other pool holds; implies --live.")
	flags.BoolVar(&f.strict, "strict", false, "Take what is lost for an error.")
	return cmd
}

// convert reads, converts and prints.
func (p *plugin) convert(ctx context.Context, f *convertFlags) error {
	if f.From != "" && !slices.Contains(movein.Products, f.From) {
		return fmt.Errorf("--from is %q; give one of %s", f.From, strings.Join(movein.Products, ", "))
	}
	if !slices.Contains([]string{"", "l2", "bgp", "calico"}, f.Announce) {
		return fmt.Errorf("--announce is %q; give l2, bgp or calico", f.Announce)
	}
	if (len(f.files) > 0) == f.fromCluster {
		return fmt.Errorf("give either -f FILE or --from-cluster")
	}
	if err := f.Validate(); err != nil {
		return err
	}
	f.Namespace = *p.flags.Namespace
	f.Set = map[string]string{}
	for _, text := range f.values {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			return fmt.Errorf("--set is %q; give NAME=VALUE", text)
		}
		f.Set[name] = value
	}
	inputs, err := p.convertInputs(ctx, f)
	if err != nil {
		return err
	}
	result := movein.Convert(inputs, f.Options)
	if !result.Failed(false) { // With an error, such as one of YAML, the input may have a group that was not read.
		if err := f.ValidateGroups(result.Groups); err != nil {
			return err
		}
		if err := f.ValidatePools(result.TookPools); err != nil {
			return err
		}
	}
	failed := result.Failed(f.strict)
	if failed {
		result.Documents = nil
	}
	if err := p.printConversion(result); err != nil {
		return err
	}
	switch empty := len(result.Documents)+len(result.Messages) == 0; {
	case empty && !result.Known:
		terminal.NewPrinter(p.ErrOut).Printf("Nothing in the input is of a load balancer that is converted.\n")
		return terminal.ErrProblem
	case empty:
		terminal.NewPrinter(p.ErrOut).Printf("Nothing in the input has to be converted.\n")
	}
	if failed {
		return terminal.ErrProblem
	}
	return nil
}

// convertInputs reads the cluster or the files.
func (p *plugin) convertInputs(ctx context.Context, f *convertFlags) ([]movein.Input, error) {
	if f.fromCluster {
		f.Live = true
		c, err := p.connect()
		if err != nil {
			return nil, err
		}
		client, err := dynamic.NewForConfig(c.REST)
		if err != nil {
			return nil, err
		}
		data, err := export.Read(ctx, client, c.Clientset.Discovery())
		return []movein.Input{{Name: movein.Cluster, Data: data}}, err
	}
	var inputs []movein.Input
	for _, name := range f.files {
		if name == "-" {
			data, err := io.ReadAll(p.In)
			if err != nil {
				return nil, err
			}
			inputs = append(inputs, movein.Input{Name: "standard input", Data: data})
			continue
		}
		paths, err := filesIn(name)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			inputs = append(inputs, movein.Input{Name: path, Data: data})
		}
	}
	return inputs, nil
}

// filesIn returns a file itself, or the YAML and JSON files of a directory.
func filesIn(name string) (paths []string, err error) {
	info, err := os.Stat(name)
	if err != nil || !info.IsDir() {
		return []string{name}, err
	}
	entries, err := os.ReadDir(name)
	for _, e := range entries {
		if !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) {
			paths = append(paths, filepath.Join(name, e.Name()))
		}
	}
	return paths, err
}

// printConversion prints documents on standard output and messages on standard error, or both as JSON.
func (p *plugin) printConversion(result movein.Result) error {
	if p.output == outputJSON {
		return terminal.Marshal(p.Out, p.output, conversion{
			append([]movein.Document{}, result.Documents...), append([]movein.Message{}, result.Messages...), // not null where there are none
		})
	}
	for i, document := range result.Documents {
		text, err := document.YAML()
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Fprintln(p.Out, "---")
		}
		fmt.Fprintf(p.Out, "%s", text)
	}
	out := terminal.NewPrinter(p.ErrOut)
	colours := map[movein.Level]terminal.Colour{movein.Error: terminal.Red, movein.Lost: terminal.Red, movein.Warn: terminal.Yellow}
	for _, m := range result.Messages {
		out.Printf("%s %s\n", out.Paint(colours[m.Level], m.Level.String()), strings.TrimPrefix(m.String(), m.Level.String()+" "))
	}
	return nil
}
