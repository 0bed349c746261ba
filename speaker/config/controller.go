// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// +kubebuilder:rbac:groups=tandem-lb.io,resources=addresspools;l2advertisements;bgppeers;bgpadvertisements;bfdprofiles;communities;interfaceadvertisements,verbs=get;list;watch
// +kubebuilder:rbac:groups=tandem-lb.io,resources=l2advertisements/status;bgppeers/status;bgpadvertisements/status;bfdprofiles/status;communities/status;interfaceadvertisements/status,verbs=patch
// +kubebuilder:rbac:groups="",namespace=tandem-system,resources=secrets,verbs=create

// The Secret with the key of the speakers' gossip, and the key within it.
const (
	MembershipSecret    = "tandem-membership"
	MembershipSecretKey = "key"
)

// gather is how long changes are gathered before conditions are worked out.
const gather = 100 * time.Millisecond

// Controller says of every object that users write for the speakers whether it is in use, and makes the key of their gossip. It
// runs on the controller manager's leader.
type Controller struct {
	// Client reads from Cache and writes statuses.
	Client client.Client
	Cache  ctrlcache.Cache
	// Kubernetes creates the Secret.
	Kubernetes kubernetes.Interface
	// Namespace is the speakers' own.
	Namespace string
}

// Run follows the objects until the context ends. The Cache is started by the caller.
func (c *Controller) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	signal := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	for _, obj := range []client.Object{
		&ipamv1alpha1.AddressPool{}, &v1alpha1.L2Advertisement{}, &v1alpha1.BGPPeer{}, &v1alpha1.BGPAdvertisement{},
		&v1alpha1.BFDProfile{}, &v1alpha1.Community{}, &v1alpha1.InterfaceAdvertisement{},
	} {
		informer, err := c.Cache.GetInformer(ctx, obj)
		if err != nil {
			return fmt.Errorf("watching %T: %w", obj, err)
		}
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { signal() },
			UpdateFunc: func(any, any) { signal() },
			DeleteFunc: func(any) { signal() },
		}); err != nil {
			return fmt.Errorf("watching %T: %w", obj, err)
		}
	}
	signal()
	haveKey := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		var err error
		if !haveKey {
			err = c.ensureKey(ctx)
			haveKey = err == nil
		}
		delay := gather
		if err := errors.Join(err, c.writeConditions(ctx)); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Failed to write what speakers make of their configuration, trying again")
			delay = time.Second
			signal()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

// ensureKey creates the Secret with a random key, unless there is one.
func (c *Controller) ensureKey(ctx context.Context) error {
	_, err := c.Kubernetes.CoreV1().Secrets(c.Namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: MembershipSecret, Namespace: c.Namespace},
		Data:       map[string][]byte{MembershipSecretKey: []byte(rand.Text() + rand.Text())},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating Secret %s/%s: %w", c.Namespace, MembershipSecret, err)
	}
	return nil
}

func (c *Controller) writeConditions(ctx context.Context) error {
	objects, err := Read(ctx, c.Client)
	if err != nil {
		return err
	}
	_, conditions := Compile(objects)
	var errs []error
	write := func(kind string, obj client.Object, status func(client.Object) *v1alpha1.ConfigStatus) {
		updated := obj.DeepCopyObject().(client.Object)
		meta.SetStatusCondition(&status(updated).Conditions, conditions[Key{kind, obj.GetName()}])
		if equality.Semantic.DeepEqual(status(obj), status(updated)) {
			return
		}
		if err := c.Client.Status().Patch(ctx, updated, client.MergeFrom(obj)); client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("condition of %s %s: %w", kind, obj.GetName(), err))
		}
	}
	for i := range objects.L2Advertisements {
		write("L2Advertisement", &objects.L2Advertisements[i], func(o client.Object) *v1alpha1.ConfigStatus { return &o.(*v1alpha1.L2Advertisement).Status })
	}
	for i := range objects.BGPPeers {
		write("BGPPeer", &objects.BGPPeers[i], func(o client.Object) *v1alpha1.ConfigStatus { return &o.(*v1alpha1.BGPPeer).Status })
	}
	for i := range objects.BGPAdvertisements {
		write("BGPAdvertisement", &objects.BGPAdvertisements[i], func(o client.Object) *v1alpha1.ConfigStatus { return &o.(*v1alpha1.BGPAdvertisement).Status })
	}
	for i := range objects.BFDProfiles {
		write("BFDProfile", &objects.BFDProfiles[i], func(o client.Object) *v1alpha1.ConfigStatus { return &o.(*v1alpha1.BFDProfile).Status })
	}
	for i := range objects.Communities {
		write("Community", &objects.Communities[i], func(o client.Object) *v1alpha1.ConfigStatus { return &o.(*v1alpha1.Community).Status })
	}
	for i := range objects.InterfaceAdvertisements {
		write("InterfaceAdvertisement", &objects.InterfaceAdvertisements[i], func(o client.Object) *v1alpha1.ConfigStatus { return &o.(*v1alpha1.InterfaceAdvertisement).Status })
	}
	return errors.Join(errs...)
}
