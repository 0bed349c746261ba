// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"fmt"
	"maps"
	"net/http"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	"k8s.io/cloud-provider/app/config"
	nodecontroller "k8s.io/cloud-provider/controllers/node"
	servicecontroller "k8s.io/cloud-provider/controllers/service"
	"k8s.io/cloud-provider/names"
	genericcontrollermanager "k8s.io/controller-manager/app"
	"k8s.io/controller-manager/controller"
	"k8s.io/controller-manager/pkg/healthz"
)

// Every controller manager needs the right to its lease, and to have requests to its own port authenticated and authorised.
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=tandem-system,resources=leases,verbs=create
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=tandem-system,resources=leases,resourceNames=tandem-cloud-controller-manager,verbs=get;update
// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

// Controllers returns the upstream controllers that run on a [Cloud], by the names that the flag --controllers knows:
//
//	cloud-node-controller            on our own informer, with our own controller beside it, which labels Nodes with their topology
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
			c.Constructor = startNodeController
		}
		constructors[name] = c
	}
	return constructors
}

// startNodeController also starts the controller of topology labels.
func startNodeController(
	initContext app.ControllerInitContext, completed *config.CompletedConfig, cloud cloudprovider.Interface,
) app.InitFunc {
	return func(ctx context.Context, controllerContext genericcontrollermanager.ControllerContext) (controller.Interface, bool, error) {
		tandem, ok := cloud.(*Cloud)
		if !ok {
			return nil, false, fmt.Errorf("the node controller of %s runs on its own provider, not on %s", Name, cloud.ProviderName())
		}
		client := completed.ClientBuilder.ClientOrDie(initContext.ClientName)
		nodes, err := nodecontroller.NewCloudNodeController(
			tandem.nodes, client, cloud, completed.ComponentConfig.NodeStatusUpdateFrequency.Duration,
			completed.ComponentConfig.NodeController.ConcurrentNodeSyncs, completed.ComponentConfig.NodeController.ConcurrentNodeStatusUpdates,
		)
		if err != nil {
			return nil, false, fmt.Errorf("building the node controller: %w", err)
		}
		topology, err := newTopology(client, tandem.nodes.NodeInformer, tandem.recorder)
		if err != nil {
			return nil, false, err
		}
		go nodes.RunWithContext(ctx, controllerContext.ControllerManagerMetrics)
		go topology.run(ctx)
		return nil, true, nil
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
			filteringClient{completed.ClientBuilder.ClientOrDie(initContext.ClientName), tandem.services.Lister(), tandem.failures},
			tandem.services,
			oneNode{},
			completed.ComponentConfig.KubeCloudShared.ClusterName,
			utilfeature.DefaultFeatureGate,
		)
		if err != nil {
			return nil, false, fmt.Errorf("building the service controller: %w", err)
		}
		go services.Run(ctx, int(completed.ComponentConfig.ServiceController.ConcurrentServiceSyncs), controllerContext.ControllerManagerMetrics)
		return healthyController{tandem.healthy}, true, nil
	}
}

// healthyController is the service controller as /healthz sees it: healthy while what serves its requests is.
type healthyController struct{ healthy func() error }

var _ controller.HealthCheckable = healthyController{}

// Name is the name that the flag --controllers knows.
func (healthyController) Name() string { return names.ServiceLBController }

// HealthChecker returns the check for /healthz.
func (c healthyController) HealthChecker() healthz.UnnamedHealthChecker { return c }

// Check implements healthz.UnnamedHealthChecker.
func (c healthyController) Check(*http.Request) error { return c.healthy() }
