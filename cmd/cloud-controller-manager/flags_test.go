// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/wait"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	"k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/names"
	"k8s.io/cloud-provider/options"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/tandem-lb/tandem/provider"
	"github.com/tandem-lb/tandem/test/documents"
)

// TestReferenceOfFlags makes docs/reference/cloud-controller-manager-flags.md from the flags, or compares it with them. It leaves out those
// that every cloud controller manager has with the same default.
func TestReferenceOfFlags(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "")
	build := func(build func(*options.CloudControllerManagerOptions) *cobra.Command) *pflag.FlagSet {
		opts, err := options.NewCloudControllerManagerOptions()
		if err != nil {
			t.Fatal(err)
		}
		return build(opts).Flags()
	}
	every := build(func(opts *options.CloudControllerManagerOptions) *cobra.Command {
		cloud := func(*config.CompletedConfig) cloudprovider.Interface { return nil }
		return app.NewCloudControllerManagerCommand(
			opts, cloud, provider.Controllers(), names.CCMControllerAliases(), cliflag.NamedFlagSets{}, wait.NeverStop)
	})
	var own, changed []*pflag.Flag
	build(newCommand).VisitAll(func(f *pflag.Flag) {
		if upstream := every.Lookup(f.Name); upstream == nil {
			own = append(own, f)
		} else if upstream.DefValue != f.DefValue {
			changed = append(changed, f)
		}
	})
	documents.Compare(t, "../../docs/reference/cloud-controller-manager-flags.md", "# Flags of tandem-cloud-controller-manager\n\n"+
		"<!-- Made by `make generate`. -->\n\nIn the chart they are values, or items of `controllerManager.extraArgs`. "+
		"`tandem-cloud-controller-manager --help` lists all of them, with those that\nevery cloud controller manager has.\n\n## Tandem's own\n\n"+
		documents.Flags(own)+"\n## Of every cloud controller manager, with another default\n\n"+documents.Flags(changed))
}
