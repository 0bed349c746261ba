// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// Annotations of a Node that become its topology labels, for machines that nothing else knows the place of.
const (
	AnnotationZone   = "tandem-lb.io/zone"
	AnnotationRegion = "tandem-lb.io/region"
)

// places writes the labels of zone and region onto Nodes that we have initialised. The node controller could do so only while it initialises a
// Node, which is mostly before anybody has annotated it, and would not come to an end with a value that cannot be a label.
type places struct {
	client   kubernetes.Interface
	nodes    corelisters.NodeLister
	synced   cache.InformerSynced
	recorder record.EventRecorder
	queue    workqueue.TypedRateLimitingInterface[string]
}

func newPlaces(client kubernetes.Interface, nodes coreinformers.NodeInformer, recorder record.EventRecorder) (*places, error) {
	p := &places{
		client:   client,
		nodes:    nodes.Lister(),
		recorder: recorder,
		queue:    workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
	}
	look := func(obj any) {
		if node, ok := obj.(*corev1.Node); ok && len(misplaced(node)) > 0 {
			p.queue.Add(node.Name)
		}
	}
	registration, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: look,
		UpdateFunc: func(old, cur any) {
			// Nodes report every few seconds. An annotation that is no label is complained of once.
			o, c := old.(*corev1.Node), cur.(*corev1.Node)
			if o.Annotations[AnnotationZone] != c.Annotations[AnnotationZone] || o.Annotations[AnnotationRegion] != c.Annotations[AnnotationRegion] ||
				o.Labels[corev1.LabelTopologyZone] != c.Labels[corev1.LabelTopologyZone] ||
				o.Labels[corev1.LabelTopologyRegion] != c.Labels[corev1.LabelTopologyRegion] || o.Spec.ProviderID != c.Spec.ProviderID {
				look(c)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watching Nodes: %w", err)
	}
	p.synced = registration.HasSynced
	return p, nil
}

// misplaced returns the labels that the annotations of a Node of ours ask for and that it does not have.
func misplaced(node *corev1.Node) map[string]string {
	missing := map[string]string{}
	if node.Spec.ProviderID != providerID(node) {
		return missing
	}
	for annotation, label := range map[string]string{AnnotationZone: corev1.LabelTopologyZone, AnnotationRegion: corev1.LabelTopologyRegion} {
		if place := node.Annotations[annotation]; place != "" && node.Labels[label] != place {
			missing[label] = place
		}
	}
	return missing
}

// run writes labels until the context ends.
func (p *places) run(ctx context.Context) {
	if !cache.WaitForNamedCacheSyncWithContext(ctx, p.synced) {
		return
	}
	go func() {
		<-ctx.Done()
		p.queue.ShutDown()
	}()
	for {
		name, shutdown := p.queue.Get()
		if shutdown {
			return
		}
		if err := p.place(ctx, name); err != nil {
			klog.FromContext(ctx).Error(err, "Failed to label a Node with its place, trying again", "node", name)
			p.queue.AddRateLimited(name)
		} else {
			p.queue.Forget(name)
		}
		p.queue.Done(name)
	}
}

func (p *places) place(ctx context.Context, name string) error {
	node, err := p.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	missing := misplaced(node)
	for label, place := range missing {
		if wrong := validation.IsValidLabelValue(place); len(wrong) > 0 {
			p.recorder.Eventf(node, corev1.EventTypeWarning, "InvalidPlace", "%q cannot be the label %s; change the annotation: %s", place, label, strings.Join(wrong, "; "))
			delete(missing, label)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": missing}})
	if err != nil {
		return err
	}
	if _, err := p.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	klog.FromContext(ctx).Info("Labelled a Node with its place", "node", name, "labels", missing)
	return nil
}
