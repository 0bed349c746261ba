// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerconfig "github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/observation"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

const policiesNamespace = "lb-policies"

// newToken returns a new token of a service account, which belongs to a Pod if there is one.
func newToken(t *testing.T, namespace, name string, pod *corev1.Pod) string {
	t.Helper()
	wanted := &authenticationv1.TokenRequest{}
	if pod != nil {
		wanted.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := apiClient.SubResource("token").Create(t.Context(), sa, wanted); err != nil {
		t.Fatal(err)
	}
	return wanted.Status.Token
}

// speakerToken returns the token of the speaker's Pod on a node.
func speakerToken(t *testing.T, namespace, node string) string {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "tandem-speaker-" + node},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "tandem-speaker", TerminationGracePeriodSeconds: new(int64(0)),
			Containers: []corev1.Container{{Name: "speaker", Image: "speaker"}},
		},
	}
	create(t, pod)
	return newToken(t, namespace, "tandem-speaker", pod)
}

// newAccount returns a client with a token.
func newAccount(t *testing.T, token string) client.Client {
	t.Helper()
	cfg := rest.AnonymousClientConfig(config)
	cfg.BearerToken = token
	scheme := speakerconfig.Scheme()
	err := errors.Join(authenticationv1.AddToScheme(scheme), authorizationv1.AddToScheme(scheme))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newSpeaker returns a client of the speaker on a node.
func newSpeaker(t *testing.T, node string) client.Client {
	t.Helper()
	create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
	return newAccount(t, speakerToken(t, policiesNamespace, node))
}

// An act is a request of an account, with the answer that the API server is to give.
type act struct {
	name string
	do   func(context.Context) error
	// refusal is a part of the refusal, empty for what an account may do.
	refusal string
}

func runActs(t *testing.T, acts []act) {
	t.Helper()
	for _, a := range acts {
		t.Run(a.name, func(t *testing.T) {
			switch err := a.do(t.Context()); {
			case a.refusal == "" && err != nil:
				t.Errorf("was refused: %v", err)
			case a.refusal != "" && (err == nil || !strings.Contains(err.Error(), a.refusal)):
				t.Errorf("got error %v, want a refusal with %q", err, a.refusal)
			}
		})
	}
}

// withPolicies installs the chart and waits until its policies are in force.
func withPolicies(t *testing.T) {
	t.Helper()
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: policiesNamespace}})
	install(t, policiesNamespace, "mode=cloud-provider")
	speaker, manager := newAccount(t, newToken(t, policiesNamespace, "tandem-speaker", nil)),
		newAccount(t, newToken(t, policiesNamespace, "tandem-cloud-controller-manager", nil))
	create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "witness"}})
	svc := service("witness")
	create(t, svc)
	inForce := map[string]func(context.Context) error{
		"the speaker": func(ctx context.Context) error {
			return speaker.Create(ctx, &speakerv1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "witness"}}, client.DryRunAll)
		},
		"sets the provider ID": func(ctx context.Context) error {
			return patch(manager, &corev1.Node{}, "", "witness", `{"spec":{"providerID":"other://witness"}}`, client.DryRunAll)(ctx)
		},
		"writes no IPAddress": func(ctx context.Context) error {
			return manager.Create(ctx, claim("192.0.2.9", "other", svc.Name), client.DryRunAll)
		},
		"changes no labels and no owners": func(ctx context.Context) error {
			return patchStatus(manager, &corev1.Service{}, "default", svc.Name, `{"metadata":{"labels":{"a":"b"}}}`, client.DryRunAll)(ctx)
		},
	}
	if err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		for message, do := range inForce {
			if err := do(ctx); err != nil && (strings.Contains(err.Error(), message) || strings.Contains(err.Error(), "names no node")) {
				delete(inForce, message)
			}
		}
		return len(inForce) == 0, nil
	}); err != nil {
		t.Fatalf("policies are not in force: %v, %v", slices.Collect(maps.Keys(inForce)), err)
	}
}

func service(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: map[string]string{"example.com/a": "1"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}, LoadBalancerClass: new(ipamv1alpha1.LoadBalancerClass),
		},
	}
}

// claim is an IPAddress of a manager and a Service.
func claim(address, manager, service string) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: address, Labels: map[string]string{networkingv1.LabelManagedBy: manager}},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: service}},
	}
}

// patch returns a function that merges a body into an object.
func patch(as client.Client, obj client.Object, namespace, name, body string, opts ...client.PatchOption) func(context.Context) error {
	return func(ctx context.Context) error {
		obj.SetNamespace(namespace)
		obj.SetName(name)
		return as.Patch(ctx, obj, client.RawPatch("application/merge-patch+json", []byte(body)), opts...)
	}
}

// patchStatus returns a function that merges a body into an object by its subresource status.
func patchStatus(as client.Client, obj client.Object, namespace, name, body string, opts ...client.SubResourcePatchOption) func(context.Context) error {
	return func(ctx context.Context) error {
		obj.SetNamespace(namespace)
		obj.SetName(name)
		return as.Status().Patch(ctx, obj, client.RawPatch("application/merge-patch+json", []byte(body)), opts...)
	}
}

// announcement is the L2Announcement of Service default/NAME with a holder.
func announcement(name, node string) *speakerv1alpha1.L2Announcement {
	return &speakerv1alpha1.L2Announcement{
		ObjectMeta: metav1.ObjectMeta{Name: "default." + name},
		Service:    speakerv1alpha1.ServiceReference{Namespace: "default", Name: name},
		Status:     speakerv1alpha1.L2AnnouncementStatus{Node: node, Addresses: []string{"192.0.2.1"}, Interfaces: []string{"eth0"}},
	}
}

// TestPolicies acts with the tokens of the service accounts, which are bound to Pods as those in a cluster are.
func TestPolicies(t *testing.T) {
	withPolicies(t)
	t.Run("speaker", testSpeakerWritesItsOwn)
	t.Run("controller manager", testControllerManagerWritesItsOwn)
}

// With the token of node3's speaker, whatever concerns node1 is refused, and all that speakers do works.
func testSpeakerWritesItsOwn(t *testing.T) {
	node1, node3 := newSpeaker(t, "node1"), newSpeaker(t, "node3")
	unbound := newAccount(t, newToken(t, policiesNamespace, "tandem-speaker", nil))
	status := func(node string) *speakerv1alpha1.SpeakerStatus {
		return &speakerv1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: node}}
	}
	report := func(node string) *coordinationv1.Lease {
		return observation.Report(policiesNamespace, node, nil, []string{"node2"}, time.Now())
	}
	// holds updates the record of a Service to a holder, as read now.
	holds := func(as client.Client, service, node string) func(context.Context) error {
		return func(ctx context.Context) error {
			now := &speakerv1alpha1.L2Announcement{}
			if err := apiClient.Get(ctx, client.ObjectKey{Name: "default." + service}, now); err != nil {
				return err
			}
			now.Status = announcement(service, node).Status
			return as.Update(ctx, now)
		}
	}
	writeStatus := func(as client.Client, node string) func(context.Context) error {
		return func(ctx context.Context) error {
			now := &speakerv1alpha1.SpeakerStatus{}
			if err := apiClient.Get(ctx, client.ObjectKey{Name: node}, now); err != nil {
				return err
			}
			now.Status.Addresses = append(now.Status.Addresses, "198.51.100.13")
			return as.Status().Update(ctx, now)
		}
	}
	creates := func(as client.Client, obj client.Object) func(context.Context) error {
		return func(ctx context.Context) error { return as.Create(ctx, obj) }
	}
	runActs(t, []act{
		{"node1 reports", creates(node1, status("node1")), ""},
		{"node1 writes its status", writeStatus(node1, "node1"), ""},
		{"node1 takes web", creates(node1, announcement("web", "node1")), ""},
		{"node1 takes mail", creates(node1, announcement("mail", "node1")), ""},
		{"node1 says who is alive", creates(node1, report("node1")), ""},
	})
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, obj := range []client.Object{&speakerv1alpha1.SpeakerStatus{}, &speakerv1alpha1.L2Announcement{}} {
			if err := apiClient.DeleteAllOf(ctx, obj); err != nil {
				t.Error(err)
			}
		}
	})
	// writesTarget updates the record of web, whose target a user has set before, to a holder and a target.
	writesTarget := func(as client.Client, node, before, after string) func(context.Context) error {
		return func(ctx context.Context) error {
			now := &speakerv1alpha1.L2Announcement{}
			if err := apiClient.Get(ctx, client.ObjectKey{Name: "default.web"}, now); err != nil {
				return err
			}
			now.Spec.Target = before
			if err := apiClient.Update(ctx, now); err != nil {
				return err
			}
			now.Status, now.Spec.Target = announcement("web", node).Status, after
			return as.Update(ctx, now)
		}
	}
	const setsNoTarget = "sets no target"
	const ofItsOwn, takes = "writes the SpeakerStatus of its own node", "takes addresses for its own node"
	runActs(t, []act{
		{"report for a node without a speaker", creates(node3, status("node2")), ofItsOwn},
		{"write node1's status", writeStatus(node3, "node1"), ofItsOwn},
		{"make node1 a holder", creates(node3, announcement("api", "node1")), takes},
		{"make nobody a holder", creates(node3, announcement("api", "")), takes},
		{"name a record after another Service", creates(node3, &speakerv1alpha1.L2Announcement{
			ObjectMeta: metav1.ObjectMeta{Name: "default.second"},
			Service:    speakerv1alpha1.ServiceReference{Namespace: "default", Name: "web"}, Status: announcement("web", "node3").Status,
		}), "name must be that of the Service"},
		{"give up node1's addresses", holds(node3, "web", ""), takes},
		{"hand node1's addresses to node2", holds(node3, "web", "node2"), takes},
		{"have node1's addresses moved to its own node", writesTarget(node3, "node1", "", "node3"), takes},
		{"take node1's addresses and name another node for later", writesTarget(node3, "node3", "", "node2"), setsNoTarget},
		{"remove a target that a user has set", writesTarget(node3, "node3", "node2", ""), setsNoTarget},
		{"name a target for what nobody has", creates(node3, func() client.Object {
			a := announcement("api", "node3")
			a.Spec.Target = "node2"
			return a
		}()), setsNoTarget},
		{"delete node1's record", func(ctx context.Context) error { return node3.Delete(ctx, announcement("web", "")) }, "forbidden"},
		{"delete node1's status", func(ctx context.Context) error { return node3.Delete(ctx, status("node1")) }, "forbidden"},
		{"change node1's status object", patch(node3, status("node1"), "", "node1", `{"metadata":{"labels":{"a":"b"}}}`), "forbidden"},
		{"say in node1's name who is alive", patch(node3, &coordinationv1.Lease{}, policiesNamespace, observation.ReportName("node1"),
			`{"metadata":{"annotations":{"tandem-lb.io/dead-speakers":"node4"}}}`), "writes the Lease tandem-speaker.node3"},
		{"take the lease of the controller manager", creates(node3, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: policiesNamespace, Name: "tandem-cloud-controller-manager"},
		}), "writes the Lease tandem-speaker.node3"},
		{"write Node node1", patchStatus(node3, &corev1.Node{}, "", "node1", `{"status":{"addresses":[]}}`), "forbidden"},
		{"write Node node3", patch(node3, &corev1.Node{}, "", "node3", `{"metadata":{"labels":{"a":"b"}}}`), "forbidden"},
		{"use a token of no Pod", creates(unbound, status("node2")), "names no node"},
		{"use a token of no Pod for a record", holds(unbound, "web", "node2"), "names no node"},

		{"take over with the target that a user has set", writesTarget(node3, "node3", "node2", "node2"), ""},
		{"take over as the target, and remove it", writesTarget(node3, "node3", "node3", ""), ""},

		{"report", creates(node3, status("node3")), ""},
		{"write its own status", writeStatus(node3, "node3"), ""},
		{"take a Service that nobody has", creates(node3, announcement("api", "node3")), ""},
		{"take over from node1", holds(node3, "mail", "node3"), ""},
		{"give up its own", holds(node3, "mail", ""), ""},
		{"take what was given up", holds(node3, "mail", "node3"), ""},
		{"say who is alive", creates(node3, report("node3")), ""},
		{"say again who is alive", patch(node3, report("node3"), policiesNamespace, observation.ReportName("node3"),
			`{"metadata":{"annotations":{"tandem-lb.io/dead-speakers":"node4"}}}`), ""},
		{"read its Node", func(ctx context.Context) error {
			return node3.Get(ctx, client.ObjectKey{Name: "node3"}, &corev1.Node{})
		}, ""},
		{"write an event", creates(node3, event("default")), ""},
		{"write it again", patch(node3, &corev1.Event{}, "default", event("default").Name, `{"count":2}`), ""},
		{"review a token", creates(node3, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "a"}}), ""},
		{"review an access", creates(node3, accessReview()), ""},
	})
}

func event(namespace string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: "web.1"},
		InvolvedObject: corev1.ObjectReference{Kind: "Service", Namespace: namespace, Name: "web"}, Reason: "AnnouncingLayer2", Message: "a",
	}
}

func accessReview() *authorizationv1.SubjectAccessReview {
	return &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: "prometheus", NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: "get", Path: "/metrics"},
	}}
}

// The controller manager writes what it manages, and no other part of the same objects.
func testControllerManagerWritesItsOwn(t *testing.T) {
	manager := newAccount(t, newToken(t, policiesNamespace, "tandem-cloud-controller-manager", nil))
	creates := func(obj client.Object) func(context.Context) error {
		return func(ctx context.Context) error { return manager.Create(ctx, obj) }
	}
	deletes := func(obj client.Object) func(context.Context) error {
		return func(ctx context.Context) error { return manager.Delete(ctx, obj) }
	}
	create(t, claim("192.0.2.77", "metallb.io", "web"))
	svc := service("web")
	svc.Finalizers = []string{"example.com/other"}
	create(t, svc)
	t.Cleanup(func() {
		if err := apiClient.Patch(context.WithoutCancel(t.Context()), svc,
			client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
			t.Error(err)
		}
	})
	create(t, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "fresh", Labels: map[string]string{"example.com/rack": "1"}, Annotations: map[string]string{"a": "b"}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{
			{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule},
			{Key: "example.com/mine", Effect: corev1.TaintEffectNoSchedule},
		}},
	})
	node := func(body string) func(context.Context) error {
		return patch(manager, &corev1.Node{}, "", "fresh", body)
	}
	nodeStatus := func(body string) func(context.Context) error {
		return patchStatus(manager, &corev1.Node{}, "", "fresh", body)
	}
	serviceStatus := func(body string) func(context.Context) error {
		return patchStatus(manager, &corev1.Service{}, "default", "web", body)
	}
	pool := object(t, "AddressPool", `{metadata: {name: policies}, spec: {ipv4: {ranges: [192.0.2.0/28]}}}`)
	create(t, pool)
	create(t, announcement("web", "node1"))
	const (
		claims = "writes no IPAddress but those that it manages"
		taint  = `{"key":"node.cloudprovider.kubernetes.io/uninitialized","value":"true","effect":"NoSchedule"}`
		mine   = `{"key":"example.com/mine","effect":"NoSchedule"}`
	)
	status := func(obj client.Object) act {
		return act{fmt.Sprintf("write the conditions of a %T", obj), func(ctx context.Context) error {
			err := patchStatus(manager, obj, "", "absent", `{"status":{"conditions":[]}}`)(ctx)
			return client.IgnoreNotFound(err) // which comes after the right to do it
		}, ""}
	}
	runActs(t, []act{
		{"claim an address", creates(claim("192.0.2.201", ipamv1alpha1.ManagedBy, "web")), ""},
		{"note its pool", patch(manager, &networkingv1.IPAddress{}, "", "192.0.2.201", `{"metadata":{"labels":{"tandem-lb.io/address-pool":"a"}}}`), ""},
		{"hand a claim to another manager", patch(manager, &networkingv1.IPAddress{}, "", "192.0.2.201",
			`{"metadata":{"labels":{"ipaddress.kubernetes.io/managed-by":"other"}}}`), claims},
		{"release it", deletes(claim("192.0.2.201", "", "")), ""},
		{"claim for another manager", creates(claim("192.0.2.202", "metallb.io", "web")), claims},
		{"release another's", deletes(claim("192.0.2.77", "", "")), claims},
		{"take another's", patch(manager, &networkingv1.IPAddress{}, "", "192.0.2.77",
			`{"metadata":{"labels":{"ipaddress.kubernetes.io/managed-by":"tandem-lb.io"}}}`), claims},

		{"publish addresses", serviceStatus(`{"metadata":{"annotations":{"tandem-lb.io/finalizer":"true"},
			"finalizers":["example.com/other","service.kubernetes.io/load-balancer-cleanup"]},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}`), ""},
		{"clear them", serviceStatus(`{"metadata":{"annotations":{"tandem-lb.io/finalizer":null},"finalizers":["example.com/other"]},
			"status":{"loadBalancer":{"ingress":null}}}`), ""},
		{"remove another's finalizer", serviceStatus(`{"metadata":{"finalizers":null}}`), "changes no finalizer"},
		{"annotate a Service", serviceStatus(`{"metadata":{"annotations":{"example.com/b":"1"}}}`), "changes no annotation"},
		{"change an annotation", serviceStatus(`{"metadata":{"annotations":{"example.com/a":"2"}}}`), "changes no annotation"},
		{"remove an annotation", serviceStatus(`{"metadata":{"annotations":{"example.com/a":null}}}`), "changes no annotation"},
		{"label a Service", serviceStatus(`{"metadata":{"labels":{"a":"b"}}}`), "changes no labels"},
		{"own a Service", serviceStatus(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"a","uid":"b"}]}}`), "changes no labels"},

		{"set another provider ID", node(`{"spec":{"providerID":"aws://fresh"}}`), "sets the provider ID"},
		{"add a taint", node(`{"spec":{"taints":[` + taint + `,` + mine + `,{"key":"a","effect":"NoExecute"}]}}`), "changes no other"},
		{"remove a user's taint", node(`{"spec":{"taints":[` + taint + `]}}`), "changes no other"},
		{"cordon a Node", node(`{"spec":{"unschedulable":true}}`), "does not cordon"},
		{"label a Node", node(`{"metadata":{"labels":{"node-restriction.kubernetes.io/a":"b"}}}`), "changes no labels"},
		{"change a label", node(`{"metadata":{"labels":{"example.com/rack":"2"}}}`), "changes no labels"},
		{"remove a label", node(`{"metadata":{"labels":{"example.com/rack":null}}}`), "changes no labels"},
		{"annotate a Node", node(`{"metadata":{"annotations":{"b":"c"}}}`), "changes no annotations"},
		{"write a Node's conditions", nodeStatus(`{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`), "but its addresses"},
		{"redirect the kubelet's port", nodeStatus(`{"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":666}}}}`), "but its addresses"},
		{"attach a volume to a Node", nodeStatus(`{"status":{"volumesAttached":[{"name":"a","devicePath":"b"}]}}`), "but its addresses"},
		{"say what a Node's kubelet can do", nodeStatus(`{"status":{"features":{"supplementalGroupsPolicy":true}}}`), "but its addresses"},
		{"write a Node's addresses", nodeStatus(`{"status":{"addresses":[{"type":"InternalIP","address":"198.51.100.9"}]}}`), ""},
		{"initialise a Node", func(ctx context.Context) error {
			fresh := &corev1.Node{}
			if err := apiClient.Get(ctx, client.ObjectKey{Name: "fresh"}, fresh); err != nil {
				return err
			}
			fresh.Spec.ProviderID, fresh.Spec.Taints = "tandem://fresh", fresh.Spec.Taints[1:]
			fresh.Labels[corev1.LabelTopologyZone] = "hall-1"
			return manager.Update(ctx, fresh)
		}, ""},
		{"label its zone anew", node(`{"metadata":{"labels":{"topology.kubernetes.io/zone":"hall-2"}}}`), ""},
		{"delete a Node", deletes(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "fresh"}}), "forbidden"},

		{"delete the record of a Service", deletes(announcement("web", "")), ""},
		{"write an event", creates(event(metav1.NamespaceSystem)), ""},
		{"write it again", patch(manager, &corev1.Event{}, metav1.NamespaceSystem, event("").Name, `{"count":2}`), ""},
		{"make the key of gossip", creates(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: policiesNamespace, Name: "made"}}), ""},
		{"read a Secret", func(ctx context.Context) error {
			return manager.Get(ctx, client.ObjectKey{Namespace: policiesNamespace, Name: "made"}, &corev1.Secret{})
		}, "forbidden"},
		{"take the lease", creates(leaderLease()), ""},
		{"read the lease", func(ctx context.Context) error {
			return manager.Get(ctx, client.ObjectKeyFromObject(leaderLease()), &coordinationv1.Lease{})
		}, ""},
		{"renew the lease", func(ctx context.Context) error {
			lease := leaderLease()
			if err := apiClient.Get(ctx, client.ObjectKeyFromObject(lease), lease); err != nil {
				return err
			}
			lease.Spec.HolderIdentity = new("me")
			return manager.Update(ctx, lease)
		}, ""},
		{"review a token", creates(&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "a"}}), ""},
		{"review an access", creates(accessReview()), ""},
		status(&ipamv1alpha1.AddressPool{}), status(&speakerv1alpha1.L2Advertisement{}), status(&speakerv1alpha1.BGPPeer{}),
		status(&speakerv1alpha1.BGPAdvertisement{}), status(&speakerv1alpha1.BFDProfile{}), status(&speakerv1alpha1.Community{}),
		status(&speakerv1alpha1.InterfaceAdvertisement{}),
	})
}

func leaderLease() *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: policiesNamespace, Name: "tandem-cloud-controller-manager"}}
}
