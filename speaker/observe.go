// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/observation"
)

// +kubebuilder:rbac:groups="",resources=services;nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=get;list;watch
// +kubebuilder:rbac:groups=networking.k8s.io,resources=ipaddresses,verbs=get;list;watch
// +kubebuilder:rbac:groups=tandem-lb.io,resources=addresspools;l2advertisements;bgppeers;bgpadvertisements;bfdprofiles;communities;interfaceadvertisements,verbs=get;list;watch
// +kubebuilder:rbac:groups=tandem-lb.io,resources=l2announcements,verbs=get;list;watch;create;update
// +kubebuilder:rbac:groups=tandem-lb.io,resources=speakerstatuses,verbs=get;list;watch;create
// +kubebuilder:rbac:groups=tandem-lb.io,resources=speakerstatuses/status,verbs=update
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups="",roleName=tandem-speaker-secrets,namespace=tandem-system,resources=secrets,verbs=get;list;watch

// readObjects returns what a cache holds. Nothing in it may be changed.
func readObjects(ctx context.Context, reader client.Reader) (*observation.Objects, error) {
	configuration, err := config.Read(func(list config.List) error { return reader.List(ctx, list, client.UnsafeDisableDeepCopy) })
	if err != nil {
		return nil, err
	}
	o := &observation.Objects{Config: configuration}
	for _, list := range []client.ObjectList{
		&o.Services, &o.EndpointSlices, &o.Nodes, &o.Claims, &o.Announcements, &o.Speakers, &o.Secrets,
	} {
		if err := reader.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("reading %T: %w", list, err)
		}
	}
	return o, nil
}
