// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/signal"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// +kubebuilder:rbac:groups=tandem-lb.io,resources=l2announcements,verbs=get;list;watch;delete

// collectPeriod is the least time between two collections, and the time to the next try after a failure.
const collectPeriod = 500 * time.Millisecond

// recordCollector deletes the L2Announcements of Services that are gone. No speaker may: one that could delete the record of a dead holder
// could delete that of a living one. The owner of a record cannot be its Service, since an object of the cluster cannot belong to one of a
// namespace.
type recordCollector struct {
	client   client.Client // reads from cache
	cache    ctrlcache.Informers
	services coreinformers.ServiceInformer
	changed  signal.Signal // a record may have lost its Service
}

// run collects until the context ends. The caller starts the informers and the cache.
func (c *recordCollector) run(ctx context.Context) error {
	records, err := c.cache.GetInformer(ctx, &v1alpha1.L2Announcement{})
	if err != nil {
		return fmt.Errorf("watching L2Announcements: %w", err)
	}
	for informer, handler := range map[ctrlcache.Informer]cache.ResourceEventHandler{
		c.services.Informer(): cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(_, cur any) {
				if !announceable(cur.(*corev1.Service)) {
					c.changed.Raise()
				}
			},
			DeleteFunc: func(any) { c.changed.Raise() },
		},
		records: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { c.follow(obj.(*v1alpha1.L2Announcement)) },
			UpdateFunc: func(_, cur any) { c.follow(cur.(*v1alpha1.L2Announcement)) },
		},
	} {
		registration, err := informer.AddEventHandler(handler)
		if err != nil {
			return err
		}
		if !cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
			return nil
		}
	}
	c.changed.Raise()
	signal.Every(ctx, c.changed, collectPeriod, collectPeriod, func(ctx context.Context) error {
		err := c.collect(ctx)
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Failed to delete the L2Announcements of Services that are gone, trying again")
		}
		return err
	})
	return nil
}

// follow has a record collected whose Service is gone already, as one that a speaker writes while the Service is deleted.
func (c *recordCollector) follow(a *v1alpha1.L2Announcement) {
	if !c.lives(a) {
		c.changed.Raise()
	}
}

// announceable reports whether a Service may have a record.
func announceable(svc *corev1.Service) bool { return svc.Spec.Type == corev1.ServiceTypeLoadBalancer }

// lives reports whether the Service of a record may have one.
func (c *recordCollector) lives(a *v1alpha1.L2Announcement) bool {
	svc, err := c.services.Lister().Services(a.Service.Namespace).Get(a.Service.Name)
	return err == nil && announceable(svc)
}

// collect deletes the records without a Service. One that has changed since it was read is left to the event of that change.
func (c *recordCollector) collect(ctx context.Context) error {
	var records v1alpha1.L2AnnouncementList
	if err := c.client.List(ctx, &records, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	var errs []error
	for i := range records.Items {
		a := &records.Items[i]
		if c.lives(a) {
			continue
		}
		err := c.client.Delete(ctx, a, client.Preconditions{UID: &a.UID, ResourceVersion: &a.ResourceVersion})
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("L2Announcement %s: %w", a.Name, err))
		}
	}
	return errors.Join(errs...)
}
