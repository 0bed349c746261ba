// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Somebody has stolen the token of node3's speaker, and writes for node1, which holds a Service. What the API server refuses in detail is a matter of
// TestPolicies; here the token is that of a Pod which runs.
func TestTheTokenOfANodesSpeakerIsOfNoUseForAnotherNode(t *testing.T) {
	s := newStage(t, dual)
	s.heldBy(t, "node1")
	thief := s.speakersToken(t, "node3")
	status := &speakerv1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
	record := &speakerv1alpha1.L2Announcement{ObjectMeta: metav1.ObjectMeta{Name: s.ns + ".web"}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
	for _, obj := range []client.Object{status, record, node} {
		if err := s.Client.Get(t.Context(), client.ObjectKeyFromObject(obj), obj); err != nil {
			t.Fatal(err)
		}
	}
	for what, write := range map[string]func(context.Context) error{
		"the addresses of node1's speaker": func(ctx context.Context) error {
			status.Status.Addresses = []string{"198.51.100.13"}
			return thief.Status().Update(ctx, status)
		},
		"the record of a Service that node1 holds, for node2": func(ctx context.Context) error {
			record.Status.Node = "node2"
			return thief.Update(ctx, record)
		},
		"a new record for node1": func(ctx context.Context) error {
			return thief.Create(ctx, &speakerv1alpha1.L2Announcement{
				ObjectMeta: metav1.ObjectMeta{Name: s.ns + ".other"}, Service: speakerv1alpha1.ServiceReference{Namespace: s.ns, Name: "other"},
				Status: speakerv1alpha1.L2AnnouncementStatus{Node: "node1"},
			})
		},
		"the Node node1": func(ctx context.Context) error {
			return thief.Patch(ctx, node, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"stolen":"true"}}}`)))
		},
		"the addresses of the Node node1": func(ctx context.Context) error {
			return thief.Status().Patch(ctx, node, client.RawPatch("application/merge-patch+json", []byte(`{"status":{"addresses":[]}}`)))
		},
		"the end of node1's status": func(ctx context.Context) error { return thief.Delete(ctx, status) },
	} {
		if err := write(t.Context()); err == nil || !strings.Contains(err.Error(), "forbidden") { // by RBAC, or by an admission policy
			t.Errorf("writing %s with the token of node3's speaker: %v, want a refusal", what, err)
		}
	}
	if err := s.Client.Get(t.Context(), client.ObjectKeyFromObject(record), record); err != nil || record.Status.Node != "node1" {
		t.Errorf("%q holds the Service, %v, want node1", record.Status.Node, err)
	}
	own := &speakerv1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node3"}}
	if err := thief.Get(t.Context(), client.ObjectKeyFromObject(own), own); err != nil {
		t.Fatal(err)
	}
	// The speaker itself may write it meanwhile, which is a conflict and no refusal.
	if err := thief.Status().Update(t.Context(), own, client.DryRunAll); err != nil && !apierrors.IsConflict(err) {
		t.Errorf("writing the status of its own node: %v", err)
	}
}

// speakersToken returns a client with a token like that of the Pod of a node's speaker.
func (s *stage) speakersToken(t *testing.T, node string) client.Client {
	t.Helper()
	var pods corev1.PodList
	if err := s.List(t.Context(), &pods, client.InNamespace("tandem-system"), client.MatchingLabels{"app.kubernetes.io/component": "speaker"}); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(pods.Items, func(pod corev1.Pod) bool { return pod.Spec.NodeName == node })
	if i < 0 {
		t.Fatalf("%s has no speaker", node)
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pods.Items[i].Name, UID: pods.Items[i].UID},
	}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "tandem-system", Name: "tandem-speaker"}}
	if err := s.SubResource("token").Create(t.Context(), account, request); err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(s.RESTConfig())
	config.BearerToken = request.Status.Token
	c, err := client.New(config, client.Options{Scheme: s.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
