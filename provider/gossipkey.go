// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/config"
)

// +kubebuilder:rbac:groups="",roleName=tandem-cloud-controller-manager-secrets,namespace=tandem-system,resources=secrets,verbs=create

// A gossipKey makes the key that encrypts the gossip of the speakers. They wait for it before they join each other.
type gossipKey struct {
	client    kubernetes.Interface
	namespace string // in which the speakers look for it
}

// run tries once a second until the Secret is there or the context ends.
func (g *gossipKey) run(ctx context.Context) error {
	return wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		err := g.ensure(ctx)
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Failed to make the key of the speakers' gossip, trying again")
		}
		return err == nil, nil
	})
}

// ensure creates the Secret with a random key. A Secret that exists is left alone: a user may have made it, with a key of their own.
func (g *gossipKey) ensure(ctx context.Context) error {
	_, err := g.client.CoreV1().Secrets(g.namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: config.MembershipSecret, Namespace: g.namespace},
		Data:       map[string][]byte{config.MembershipSecretKey: []byte(rand.Text() + rand.Text())},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating Secret %s/%s: %w", g.namespace, config.MembershipSecret, err)
	}
	return nil
}
