// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"fmt"
	"maps"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	"k8s.io/cloud-provider/app/config"
	servicecontroller "k8s.io/cloud-provider/controllers/service"
	"k8s.io/cloud-provider/names"
	genericcontrollermanager "k8s.io/controller-manager/app"
	"k8s.io/controller-manager/controller"
)

// Every controller manager needs the right to its lease, and to have requests to its own port authenticated and authorised.
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=tandem-system,resources=leases,verbs=get;create;update
// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

// Controllers returns the upstream controllers that run on a [Cloud], by the names that the flag --controllers knows:
//
//	cloud-node-controller            with our own beside it, which labels Nodes with their topology
//	cloud-node-lifecycle-controller
//	service-lb-controller            on our own informer
//
// There is none for routes. A cluster whose nodes another provider initialises runs --controllers=service-lb-controller.
func Controllers() map[string]app.ControllerInitFuncConstructor {
	constructors := maps.Clone(app.DefaultInitFuncConstructors)
	delete(constructors, names.NodeRouteController)
	for name, c := range constructors {
		c.InitContext.ClientName = "tandem-" + name
		switch name {
		case names.ServiceLBController:
			c.Constructor = startServiceController
		case names.CloudNodeController:
			c.Constructor = withTopology(c.Constructor)
		}
		constructors[name] = c
	}
	return constructors
}

// withTopology also runs the controller of topology labels wherever the node controller runs.
func withTopology(upstream app.InitFuncConstructor) app.InitFuncConstructor {
	return func(initContext app.ControllerInitContext, completed *config.CompletedConfig, cloud cloudprovider.Interface) app.InitFunc {
		start := upstream(initContext, completed, cloud)
		return func(ctx context.Context, controllerContext genericcontrollermanager.ControllerContext) (controller.Interface, bool, error) {
			c, started, err := start(ctx, controllerContext)
			if tandem, ok := cloud.(*Cloud); ok && started && err == nil {
				client, nodes := completed.ClientBuilder.ClientOrDie(initContext.ClientName), completed.SharedInformers.Core().V1().Nodes()
				topology, err := newTopology(client, nodes, tandem.recorder)
				if err != nil {
					return nil, false, err
				}
				go topology.run(ctx)
			}
			return c, started, err
		}
	}
}

func startServiceController(
	initContext app.ControllerInitContext, completed *config.CompletedConfig, cloud cloudprovider.Interface,
) app.InitFunc {
	return func(ctx context.Context, controllerContext genericcontrollermanager.ControllerContext) (controller.Interface, bool, error) {
		tandem, ok := cloud.(*Cloud)
		if !ok {
			return nil, false, fmt.Errorf("the service controller of %s runs on its own provider, not on %s", Name, cloud.ProviderName())
		}
		services, err := servicecontroller.New(
			cloud,
			filteringClient{completed.ClientBuilder.ClientOrDie(initContext.ClientName), tandem.services.Lister()},
			tandem.services,
			completed.SharedInformers.Core().V1().Nodes(),
			completed.ComponentConfig.KubeCloudShared.ClusterName,
			utilfeature.DefaultFeatureGate,
		)
		if err != nil {
			return nil, false, fmt.Errorf("building the service controller: %w", err)
		}
		go services.Run(ctx, int(completed.ComponentConfig.ServiceController.ConcurrentServiceSyncs), controllerContext.ControllerManagerMetrics)
		return nil, true, nil
	}
}
