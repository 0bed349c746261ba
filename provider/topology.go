// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	nodehelpers "k8s.io/cloud-provider/node/helpers"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// topologyLabels are the labels by the annotations that ask for them.
var topologyLabels = map[string]string{
	v1alpha1.AnnotationZone:   corev1.LabelTopologyZone,
	v1alpha1.AnnotationRegion: corev1.LabelTopologyRegion,
}

// topology labels the Nodes that we have initialised with their zone and region. The upstream node controller could do so only while it
// initialises a Node. Most Nodes are annotated later; and with a value that cannot be a label, such as "hall 1", it would never finish.
type topology struct {
	client   kubernetes.Interface
	nodes    corelisters.NodeLister
	synced   cache.InformerSynced
	recorder record.EventRecorder
	changed  signal.Signal // a Node lacks a label
}

func newTopology(client kubernetes.Interface, nodes coreinformers.NodeInformer, recorder record.EventRecorder) (*topology, error) {
	t := &topology{client: client, nodes: nodes.Lister(), recorder: recorder, changed: signal.New()}
	registration, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { t.follow(&corev1.Node{}, obj.(*corev1.Node)) },
		UpdateFunc: func(old, cur any) { t.follow(old.(*corev1.Node), cur.(*corev1.Node)) },
	})
	if err != nil {
		return nil, fmt.Errorf("watching Nodes: %w", err)
	}
	t.synced = registration.HasSynced
	return t, nil
}

// follow reports annotations that cannot be labels, once for each value, and has missing labels written.
func (t *topology) follow(old, node *corev1.Node) {
	_, reported := missingLabels(old)
	missing, invalid := missingLabels(node)
	for label, value := range invalid {
		if reported[label] != value {
			t.recorder.Eventf(node, corev1.EventTypeWarning, v1alpha1.EventInvalidTopologyLabel,
				"%q cannot be the label %s; change the annotation: %s", value, label, strings.Join(validation.IsValidLabelValue(value), "; "))
		}
	}
	if len(missing) > 0 {
		t.changed.Raise()
	}
}

// missingLabels returns the labels that the annotations of a Node of ours ask for and that the Node does not have, by their keys. The
// values in invalid cannot be those of labels.
func missingLabels(node *corev1.Node) (missing, invalid map[string]string) {
	missing, invalid = map[string]string{}, map[string]string{}
	if node.Spec.ProviderID != providerID(node) {
		return missing, invalid
	}
	for annotation, label := range topologyLabels {
		switch value := node.Annotations[annotation]; {
		case value == "" || node.Labels[label] == value:
		case len(validation.IsValidLabelValue(value)) > 0:
			invalid[label] = value
		default:
			missing[label] = value
		}
	}
	return missing, invalid
}

// run writes missing labels until the context ends.
func (t *topology) run(ctx context.Context) {
	if !cache.WaitForNamedCacheSyncWithContext(ctx, t.synced) {
		return
	}
	signal.Every(ctx, t.changed, 100*time.Millisecond, 5*time.Second, t.label)
}

// label writes the labels that Nodes lack. A Node that cannot be labelled does not keep it from labelling others.
func (t *topology) label(ctx context.Context) error {
	nodes, err := t.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, node := range nodes {
		missing, _ := missingLabels(node)
		if len(missing) == 0 {
			continue
		}
		if nodehelpers.AddOrUpdateLabelsOnNode(t.client, missing, node) {
			klog.FromContext(ctx).Info("Labelled a Node with its zone and region", "node", klog.KObj(node), "labels", missing)
		} else {
			err = fmt.Errorf("labelling Node %s", node.Name) // The helper has logged why.
		}
	}
	return err
}
