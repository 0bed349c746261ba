// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tandem-lb/tandem/speaker/config"
)

func TestGossipKey(t *testing.T) {
	const namespace = "tandem-system"
	keyOf := func(t *testing.T, api kubernetes.Interface) string {
		t.Helper()
		secret, err := api.CoreV1().Secrets(namespace).Get(t.Context(), config.MembershipSecret, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return string(secret.Data[config.MembershipSecretKey])
	}
	t.Run("is created once, each with a key of its own", func(t *testing.T) {
		keys := map[string]bool{}
		for range 2 {
			g := &gossipKey{client: fake.NewClientset(), namespace: namespace}
			if err := g.ensure(t.Context()); err != nil {
				t.Fatal(err)
			}
			key := keyOf(t, g.client)
			if err := g.ensure(t.Context()); err != nil {
				t.Fatal(err)
			}
			if again := keyOf(t, g.client); again != key {
				t.Errorf("the key was %q and is %q", key, again)
			}
			if len(key) < 32 {
				t.Errorf("the key %q has fewer than 32 characters", key)
			}
			keys[key] = true
		}
		if len(keys) != 2 {
			t.Error("two clusters have the same key")
		}
	})
	t.Run("is left alone where a user made it", func(t *testing.T) {
		api := fake.NewClientset(&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: config.MembershipSecret},
			Data:       map[string][]byte{config.MembershipSecretKey: []byte("my own")},
		})
		if err := (&gossipKey{client: api, namespace: namespace}).ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := keyOf(t, api); got != "my own" {
			t.Errorf("the key is %q, want the user's", got)
		}
	})
	t.Run("is made anew where somebody deleted it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			api := fake.NewClientset()
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- (&gossipKey{client: api, namespace: namespace}).run(ctx) }()
			synctest.Wait()
			first := keyOf(t, api)
			if err := api.CoreV1().Secrets(namespace).Delete(ctx, config.MembershipSecret, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(keyPeriod)
			synctest.Wait()
			if keyOf(t, api) == first {
				t.Error("the deleted key is there again")
			}
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("run = %v, want the end of its context", err)
			}
		})
	})
	t.Run("that cannot be created is an error", func(t *testing.T) {
		api := fake.NewClientset()
		api.PrependReactor("create", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(corev1.Resource("secrets"), config.MembershipSecret, nil)
		})
		if err := (&gossipKey{client: api, namespace: namespace}).ensure(t.Context()); !apierrors.IsForbidden(err) {
			t.Errorf("ensure = %v, want a refusal", err)
		}
	})
}
