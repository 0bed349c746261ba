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

// keyPeriod is how long a speaker that starts after the Secret was deleted waits for another key at most. We may create Secrets and read
// none, so that to look whether it is there is a creation that is refused.
const keyPeriod = 5 * time.Second

// run tries once a second until the Secret is there, and makes it anew whenever it is not, until the context ends. For example, a user
// deletes the Secret to have another key. Speakers that run take that over; one that starts meanwhile waits for it.
func (g *gossipKey) run(ctx context.Context) error {
	for {
		period := keyPeriod
		if err := g.ensure(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Failed to make the key of the speakers' gossip, trying again")
			period = time.Second
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(period):
		}
	}
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
