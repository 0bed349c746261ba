// SPDX-License-Identifier: Apache-2.0

// Command tandem-cloud-controller-manager gives Services of type LoadBalancer their addresses and initialises nodes that were
// started with --cloud-provider=external. It has the flags of every cloud controller manager.
package main

import (
	"cmp"
	"context"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/util/wait"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	"k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/names"
	"k8s.io/cloud-provider/options"
	"k8s.io/component-base/cli"
	cliflag "k8s.io/component-base/cli/flag"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of API requests
	_ "k8s.io/component-base/metrics/prometheus/version"  // metric of the version
	baseversion "k8s.io/component-base/version"
	genericcontrollermanager "k8s.io/controller-manager/app"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/loadbalancer/request"
	"github.com/tandem-lb/tandem/provider"
)

func main() { os.Exit(run()) }

func run() int {
	if os.Getenv("GOGC") == "" {
		go tuneCollector()
	}
	// component-base takes the version of this program, such as v0.1.0, for one of Kubernetes, in which none of today's features existed: without
	// this line they would all be off, --logging-format=json among them.
	if err := utilfeature.DefaultMutableFeatureGate.SetEmulationVersion(version.MustParse(baseversion.DefaultKubeBinaryVersion)); err != nil {
		klog.ErrorS(err, "Failed to set the version of the feature gates")
		return 1
	}
	opts, err := options.NewCloudControllerManagerOptions()
	if err != nil {
		klog.ErrorS(err, "Failed to build the default options")
		return 1
	}
	return cli.Run(newCommand(opts))
}

// newCommand returns the command, with our own defaults in opts and flags of our own.
func newCommand(opts *options.CloudControllerManagerOptions) *cobra.Command {
	opts.KubeCloudShared.CloudProvider.Name = provider.Name
	// After a restart, each of ten thousand Services may cost eight writes. The API server limits its load by priority and fairness; this
	// limit bounds a faulty loop only.
	opts.Generic.ClientConnection.QPS = 1000
	opts.Generic.ClientConnection.Burst = 2000
	opts.ServiceController.ConcurrentServiceSyncs = 16
	// A Node is initialised with the addresses of its status, and its speaker may find those of the other family a moment later. To ask for
	// them costs no request.
	opts.NodeStatusUpdateFrequency.Duration = 10 * time.Second
	// A name of our own, so that a cluster may run another provider's controller manager for its nodes.
	opts.Generic.LeaderElection.ResourceName = "tandem-cloud-controller-manager"
	here := cmp.Or(os.Getenv("POD_NAMESPACE"), "tandem-system")
	opts.Generic.LeaderElection.ResourceNamespace = here

	var flags cliflag.NamedFlagSets
	namespace := flags.FlagSet("tandem").String("namespace", here,
		"Namespace of Tandem, with the Leases of the speakers; default from the environment variable POD_NAMESPACE.")
	secrets := flags.FlagSet("tandem").String("secrets-namespace", "",
		"Namespace in which the speakers look for their Secrets, and the key of their gossip is made; default that of --namespace.")
	classOnly := flags.FlagSet("tandem").Bool("load-balancer-class-only", false,
		"Serve only Services with spec.loadBalancerClass tandem-lb.io/tandem and leave those without a class to another provider.")
	former := flags.FlagSet("tandem").StringSlice("load-balancer-class", nil,
		"Further values of spec.loadBalancerClass to serve, such as purelb.io/purelb: those of a load balancer that is gone, since the class of a "+
			"Service cannot be changed.")
	rules := request.Rules{Honour: slices.Clone(request.AllProducts), CrossNamespace: request.OptIn}
	flags.FlagSet("tandem").Var(&rules.Honour, "honour-annotations",
		"Other load balancers whose annotations on Services are read like Tandem's own, separated by commas; empty for none.")
	flags.FlagSet("tandem").Var(&rules.CrossNamespace, "cross-namespace-sharing",
		"Whether Services of several namespaces may share an address. Deny: never. OptIn: where the annotation tandem-lb.io/share-with-namespaces of "+
			"each names the other's namespace. Allow: also where both have a sharing key in an annotation of MetalLB.")

	newCloud := func(c *config.CompletedConfig) cloudprovider.Interface {
		boundConnections(c.SecureServing)
		// With credentials for each controller the framework builds their clients from another configuration.
		if !c.ComponentConfig.KubeCloudShared.UseServiceAccountCredentials {
			shutDownOnSignal(c.Kubeconfig, c.ComponentConfig.Generic.LeaderElection)
		}
		client := c.ClientBuilder.ClientOrDie("tandem-provider")
		cloud, err := provider.New(context.Background(), provider.Config{
			REST:             c.Kubeconfig,
			Client:           client,
			Informers:        c.SharedInformers,
			Recorder:         newRecorder(client),
			Namespace:        *namespace,
			SecretsNamespace: cmp.Or(*secrets, *namespace),
			ClassOnly:        *classOnly,
			FormerClasses:    *former,
			NodesOnly: !genericcontrollermanager.IsControllerEnabled(
				names.ServiceLBController, app.ControllersDisabledByDefault, c.ComponentConfig.Generic.Controllers),
			LeaseDuration: c.ComponentConfig.Generic.LeaderElection.LeaseDuration.Duration,
			Rules:         rules,
		})
		if err != nil {
			klog.ErrorS(err, "Failed to build the cloud provider")
			klog.FlushAndExit(klog.ExitFlushTimeout, 1)
		}
		return cloud
	}
	command := app.NewCloudControllerManagerCommand(
		opts, newCloud, provider.Controllers(), names.CCMControllerAliases(), flags, wait.NeverStop)
	command.Use = "tandem-cloud-controller-manager"
	command.PreRun = func(command *cobra.Command, _ []string) {
		// The lease is Tandem's too, and the Role that lets us write it is in the same namespace.
		if !command.Flags().Changed("leader-elect-resource-namespace") {
			opts.Generic.LeaderElection.ResourceNamespace = *namespace
		}
	}
	return command
}
