// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// +kubebuilder:rbac:groups=apps,namespace=tandem-system,resources=daemonsets,resourceNames=tandem-speaker,verbs=get

const (
	// daemonSetName is the name of the DaemonSet that runs the speakers.
	daemonSetName = "tandem-speaker"
	// daemonSetTimeout bounds the question for it. A speaker that stops while the API is away has not long to wait.
	daemonSetTimeout = time.Second
)

// daemonSet asks the API for the DaemonSet that runs the speakers, past the cache: that it is deleted, or selects other nodes, is a moment
// old when a speaker is stopped for it.
type daemonSet struct {
	live client.Reader
	key  client.ObjectKey
	// started reports whether the API server says that it has started.
	started func(context.Context) bool
	// known is set if there was one when this speaker started. One that was started otherwise, or has another name, is none that was deleted.
	known bool
}

func newDaemonSet(api *rest.Config, namespace string, started func(context.Context) bool) (*daemonSet, error) {
	scheme := runtime.NewScheme()
	if err := appsv1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{appsv1.SchemeGroupVersion}) // discovery would cost requests
	mapper.Add(appsv1.SchemeGroupVersion.WithKind("DaemonSet"), meta.RESTScopeNamespace)
	live, err := client.New(api, client.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		return nil, fmt.Errorf("building the client for the DaemonSet: %w", err)
	}
	return &daemonSet{live: live, key: client.ObjectKey{Namespace: namespace, Name: daemonSetName}, started: started}, nil
}

// Get returns the DaemonSet, nil if there is none any more, and false if the API does not say, or if there never was one. A speaker that could
// ask before and may not any more has lost its role, which goes with Tandem and may go before the DaemonSet. An API server that starts also
// forbids everything, until it has read the roles. A token that is not accepted any more says nothing: it ends with the Pod too, which somebody
// deletes by force, and the DaemonSet starts another.
func (d *daemonSet) Get(ctx context.Context) (current *appsv1.DaemonSet, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, daemonSetTimeout)
	defer cancel()
	current = &appsv1.DaemonSet{}
	err := d.live.Get(ctx, d.key, current)
	if apierrors.IsForbidden(err) && d.started(ctx) { // It may have read the roles since.
		if err = d.live.Get(ctx, d.key, current); apierrors.IsForbidden(err) {
			return nil, d.known
		}
	}
	switch {
	case err == nil:
		d.known = true
		return current, true
	case apierrors.IsNotFound(err):
		return nil, d.known
	}
	return nil, false
}
