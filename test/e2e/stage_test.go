// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// patience bounds each wait for something that takes Tandem moments and a busy machine longer.
const patience = 30 * time.Second

// stage is where one test plays: a cluster, and a namespace on it that is the test's own.
type stage struct {
	*cluster.Cluster
	// ns is the namespace, and by custom the name of the test's objects that have none.
	ns      string
	created []client.Object
	dumped  bool
}

// newStage makes a namespace. When the test ends, everything that the stage has created goes, its addresses are free again, and a test that leaves a
// node of the shared cluster or its speaker unready fails.
func newStage(t *testing.T, c *cluster.Cluster) *stage {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}
	if err := c.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s plays in namespace %s", t.Name(), ns.Name)
	s := &stage{Cluster: c, ns: ns.Name, created: []client.Object{ns}}
	s.until(t, time.Minute, "the account of pods", func(ctx context.Context) (bool, string) {
		err := s.Client.Get(ctx, client.ObjectKey{Namespace: s.ns, Name: "default"}, &corev1.ServiceAccount{})
		return err == nil, fmt.Sprint(err)
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if t.Failed() {
			s.dump(ctx, t)
		}
		var services corev1.ServiceList
		if err := s.List(ctx, &services, client.InNamespace(s.ns)); err != nil {
			t.Error(err)
		}
		for i := range services.Items {
			if services.Items[i].Name == "kubernetes" { // of the namespace default; pods reach the API server by it
				continue
			}
			if err := s.Delete(ctx, &services.Items[i]); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		}
		if err := cluster.Until(ctx, patience, "the release of all addresses", func(ctx context.Context) (bool, string) {
			claims := s.claims(ctx, t)
			return len(claims) == 0, fmt.Sprint(claims)
		}); err != nil {
			t.Error(err)
		}
		for _, obj := range slices.Backward(s.created) {
			if err := s.Delete(ctx, obj); client.IgnoreNotFound(err) != nil {
				t.Errorf("deleting %T %s: %v", obj, obj.GetName(), err)
			}
		}
		if c != dual {
			return // a cluster of its own, which goes
		}
		for _, node := range c.Nodes() { // The next test takes them for granted.
			s.nodeReady(ctx, t, node)
		}
	})
	return s
}

// create creates the objects of a YAML text in which $NS stands for the namespace.
func (s *stage) create(t *testing.T, text string) {
	t.Helper()
	for _, obj := range s.objects(t, text) {
		s.add(t, obj)
	}
}

// objects reads the objects of a YAML text in which $NS stands for the namespace.
func (s *stage) objects(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var objs []*unstructured.Unstructured
	for document := range strings.SplitSeq(strings.ReplaceAll(text, "$NS", s.ns), "\n---\n") {
		obj := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &obj.Object); err != nil {
			t.Fatalf("reading the test's own objects: %v\n%s", err, document)
		}
		if namespaced, err := s.IsObjectNamespaced(obj); err != nil {
			t.Fatal(err)
		} else if namespaced && obj.GetNamespace() == "" {
			obj.SetNamespace(s.ns)
		}
		objs = append(objs, obj)
	}
	return objs
}

// add creates an object until the test ends.
func (s *stage) add(t *testing.T, obj client.Object) {
	t.Helper()
	if err := s.Create(t.Context(), obj, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
		t.Fatalf("creating %T %s: %v", obj, obj.GetName(), err)
	}
	s.created = append(s.created, obj)
}

// remove deletes an object and waits until it is gone.
func (s *stage) remove(t *testing.T, obj client.Object) {
	t.Helper()
	if err := s.Delete(t.Context(), obj); err != nil {
		t.Fatalf("deleting %T %s: %v", obj, obj.GetName(), err)
	}
	s.until(t, patience, fmt.Sprintf("the end of %T %s", obj, obj.GetName()), func(ctx context.Context) (bool, string) {
		err := s.Client.Get(ctx, client.ObjectKeyFromObject(obj), obj)
		return apierrors.IsNotFound(err), fmt.Sprintf("it is there: %v", err)
	})
}

// patch merges a YAML text into an object.
func (s *stage) patch(t *testing.T, obj client.Object, text string) {
	t.Helper()
	json, err := yaml.YAMLToJSON([]byte(strings.ReplaceAll(text, "$NS", s.ns)))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Patch(t.Context(), obj, client.RawPatch("application/merge-patch+json", json)); err != nil {
		t.Fatalf("patching %T %s: %v", obj, obj.GetName(), err)
	}
}

// until waits for a condition, and ends the test where it does not come about within limit.
func (s *stage) until(t *testing.T, limit time.Duration, what string, condition func(context.Context) (bool, string)) {
	t.Helper()
	if err := cluster.Until(t.Context(), limit, what, condition); err != nil {
		s.dump(context.WithoutCancel(t.Context()), t)
		t.Fatal(err)
	}
}

// The addresses of the LAN that Services get.
const (
	lanIPv4 = "198.51.100.200-198.51.100.239"
	lanIPv6 = "2001:db8:51::1000/116"
)

// pool creates a pool with these ranges for the stage's namespace alone, named like it with a suffix.
func (s *stage) pool(t *testing.T, suffix string, ranges ...string) *ipamv1alpha1.AddressPool {
	t.Helper()
	pool := &ipamv1alpha1.AddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: s.ns + suffix},
		Spec: ipamv1alpha1.AddressPoolSpec{
			NamespaceSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{corev1.LabelMetadataName: s.ns}}},
		},
	}
	for _, r := range ranges {
		if strings.Contains(r, ":") {
			if pool.Spec.IPv6 == nil {
				pool.Spec.IPv6 = &ipamv1alpha1.IPv6Partition{}
			}
			pool.Spec.IPv6.Ranges = append(pool.Spec.IPv6.Ranges, ipamv1alpha1.IPv6Range(r))
		} else {
			if pool.Spec.IPv4 == nil {
				pool.Spec.IPv4 = &ipamv1alpha1.IPv4Partition{}
			}
			pool.Spec.IPv4.Ranges = append(pool.Spec.IPv4.Ranges, ipamv1alpha1.IPv4Range(r))
		}
	}
	s.add(t, pool)
	return pool
}

// poolsReady waits until the controller manager has found n pools of the stage valid. Pools and Services reach it by watches of their own: a
// Service that is created right after several pools may be given an address when the first of them is known.
func (s *stage) poolsReady(t *testing.T, n int) {
	t.Helper()
	s.until(t, patience, fmt.Sprintf("%d pools to be Ready", n), func(ctx context.Context) (bool, string) {
		var pools ipamv1alpha1.AddressPoolList
		if err := s.List(ctx, &pools); err != nil {
			return false, err.Error()
		}
		ready := 0
		for _, p := range pools.Items {
			if strings.HasPrefix(p.Name, s.ns) && meta.IsStatusConditionTrue(p.Status.Conditions, ipamv1alpha1.ConditionReady) {
				ready++
			}
		}
		return ready == n, fmt.Sprintf("%d are", ready)
	})
}

// layer2 announces the stage's pool on the LAN.
func (s *stage) layer2(t *testing.T) {
	t.Helper()
	s.create(t, `{apiVersion: tandem-lb.io/v1alpha1, kind: L2Advertisement, metadata: {name: $NS}, spec: {addressPools: [$NS]}}`)
}

// bgp announces the stage's pool to the router, over one session whatever the families.
func (s *stage) bgp(t *testing.T) {
	t.Helper()
	s.create(t, `
apiVersion: tandem-lb.io/v1alpha1
kind: BGPPeer
metadata: {name: $NS}
spec: {myASN: 64512, peerASN: 64513, peerAddress: "`+s.Addresses(lab.Router)[0].String()+`"}
---
apiVersion: tandem-lb.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: $NS}
spec: {addressPools: [$NS], peers: [$NS]}
`)
}

// service returns a Service of type LoadBalancer that has not been created: it demands both families and has the pods of web behind it.
func (s *stage) service(name string, families ...corev1.IPFamily) *corev1.Service {
	policy := corev1.IPFamilyPolicyRequireDualStack
	if len(families) == 1 {
		policy = corev1.IPFamilyPolicySingleStack
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name},
		Spec: corev1.ServiceSpec{
			Type:           corev1.ServiceTypeLoadBalancer,
			IPFamilies:     families,
			IPFamilyPolicy: &policy,
			Selector:       map[string]string{"app": "web"},
			Ports:          []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
}

// web runs web servers on each of the nodes, and waits until they are ready. They answer /hostname with the name of their node.
func (s *stage) web(t *testing.T, nodes ...string) {
	t.Helper()
	for _, node := range nodes {
		s.create(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: web-%[1]s, labels: {app: web}}
spec:
  nodeName: %[1]s
  hostname: %[1]s
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: %[2]s
    args: [netexec, --http-port=8080]
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
`, node, lab.AgnhostImage))
	}
	for _, node := range nodes {
		s.until(t, time.Minute, "the web server on "+node, func(ctx context.Context) (bool, string) {
			var pod corev1.Pod
			if err := s.Client.Get(ctx, client.ObjectKey{Namespace: s.ns, Name: "web-" + node}, &pod); err != nil {
				return false, err.Error()
			}
			return ready(&pod), string(pod.Status.Phase)
		})
	}
}

// ready reports whether a Pod is ready.
func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// addresses waits until the Service publishes n addresses and returns them in order.
func (s *stage) addresses(t *testing.T, name string, n int) []string {
	t.Helper()
	ips, err := s.ServiceIPs(t.Context(), s.ns, name, n)
	if err != nil {
		s.dump(context.WithoutCancel(t.Context()), t)
		t.Fatal(err)
	}
	return ips
}

// holder waits until a node is on record for n addresses of the Service on layer 2 and returns it.
func (s *stage) holder(t *testing.T, name string, n int) string {
	t.Helper()
	holder, err := s.Holder(t.Context(), s.ns, name, n)
	if err != nil {
		s.dump(context.WithoutCancel(t.Context()), t)
		t.Fatal(err)
	}
	return holder
}

// claims returns the claims of the stage's Services: the Service by the address.
func (s *stage) claims(ctx context.Context, t *testing.T) map[string]string {
	t.Helper()
	var list networkingv1.IPAddressList
	if err := s.List(ctx, &list, client.MatchingLabels{networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy}); err != nil && ctx.Err() == nil {
		t.Error(err)
	}
	claims := map[string]string{}
	for _, claim := range list.Items {
		if parent := claim.Spec.ParentRef; parent != nil && parent.Namespace == s.ns {
			claims[claim.Name] = parent.Name
		}
	}
	return claims
}

// reach waits until the URL path on an address answers from a host, and returns the answer.
func (s *stage) reach(t *testing.T, host, ip, path string) string {
	t.Helper()
	var body string
	s.until(t, patience, cluster.URL(ip, path)+" from "+host, func(ctx context.Context) (bool, string) {
		var err error
		body, err = s.Get(ctx, host, cluster.URL(ip, path))
		return err == nil, fmt.Sprint(err)
	})
	return body
}

// kubectl returns what kubectl prints.
func (s *stage) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.Kubectl(t.Context(), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// event waits for an event on the Service with a reason and all of these texts in its message.
func (s *stage) event(t *testing.T, service, reason string, texts ...string) {
	t.Helper()
	s.until(t, patience, fmt.Sprintf("an event %s on %s with %q", reason, service, texts), func(ctx context.Context) (bool, string) {
		var list corev1.EventList
		if err := s.List(ctx, &list, client.InNamespace(s.ns)); err != nil {
			return false, err.Error()
		}
		var seen []string
		for _, e := range list.Items {
			if e.InvolvedObject.Name != service {
				continue
			}
			seen = append(seen, e.Reason+": "+e.Message)
			if e.Reason == reason && !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(e.Message, text) }) {
				return true, ""
			}
		}
		return false, strings.Join(seen, "\n")
	})
}

// dump logs, once, what a person would look at.
func (s *stage) dump(ctx context.Context, t *testing.T) {
	t.Helper()
	if s.dumped {
		return
	}
	s.dumped = true
	var b strings.Builder
	show := func(args ...string) {
		out, err := s.Kubectl(ctx, append(args, "--request-timeout=10s")...).CombinedOutput()
		fmt.Fprintf(&b, "$ kubectl %s\n%s\n", strings.Join(args, " "), out)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	show("get", "nodes,pods", "-A", "-o", "wide")
	show("get", "addresspools,ipaddresses,l2advertisements,bgppeers,bgpadvertisements,l2announcements,speakerstatuses", "-o", "wide")
	show("describe", "services", "-n", s.ns)
	show("describe", "l2announcements,speakerstatuses")
	var pods corev1.PodList
	if err := s.List(ctx, &pods, client.InNamespace("tandem-system")); err != nil {
		fmt.Fprintln(&b, err)
	}
	for _, pod := range pods.Items {
		show("logs", "-n", pod.Namespace, pod.Name, "--tail=40")
	}
	for _, command := range []string{"show bgp summary", "show bgp ipv4 unicast", "show bgp ipv6 unicast"} {
		out, err := s.Vtysh(ctx, lab.Router, command)
		fmt.Fprintf(&b, "router# %s\n%s\n", command, out)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	// What the router forwards by is the kernel's.
	for _, args := range [][]string{{"route"}, {"-6", "route"}, {"neighbour"}, {"-6", "neighbour"}} {
		out, err := s.Command(ctx, lab.Router, "ip", args...).CombinedOutput()
		fmt.Fprintf(&b, "router$ ip %s\n%s\n", strings.Join(args, " "), out)
		if err != nil {
			fmt.Fprintln(&b, err)
		}
	}
	// What is shown last is nearest to what the test says, and some CIs keep no more than the end.
	show("get", "services,endpointslices,events", "-n", s.ns, "-o", "wide")
	t.Log(b.String())
}

// speaker returns what the speaker of a node publishes.
func (s *stage) speaker(ctx context.Context, node string) (speakerv1alpha1.SpeakerState, error) {
	var status speakerv1alpha1.SpeakerStatus
	err := s.Client.Get(ctx, client.ObjectKey{Name: node}, &status)
	return status.Status, err
}

// families returns the families of addresses, in their order.
func families(t *testing.T, ips []string) []corev1.IPFamily {
	t.Helper()
	var fs []corev1.IPFamily
	for _, ip := range ips {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			t.Fatal(err)
		}
		if a.Is4() {
			fs = append(fs, corev1.IPv4Protocol)
		} else {
			fs = append(fs, corev1.IPv6Protocol)
		}
	}
	return fs
}

// usage waits until the status of the stage's pool with that suffix counts so many addresses in use.
func (s *stage) usage(t *testing.T, suffix string, ipv4, ipv6 int64) {
	t.Helper()
	what := fmt.Sprintf("%d IPv4 and %d IPv6 addresses in use in the pool's status", ipv4, ipv6)
	s.until(t, patience, what, func(ctx context.Context) (bool, string) {
		var pool ipamv1alpha1.AddressPool
		if err := s.Client.Get(ctx, client.ObjectKey{Name: s.ns + suffix}, &pool); err != nil {
			return false, err.Error()
		}
		used := func(p *ipamv1alpha1.PartitionStatus) int64 {
			if p == nil {
				return 0
			}
			return p.Allocated
		}
		return used(pool.Status.IPv4) == ipv4 && used(pool.Status.IPv6) == ipv6, fmt.Sprintf("%+v", pool.Status)
	})
}

// object returns a reference to the object of one of our kinds that is named like the stage.
func (s *stage) object(t *testing.T, kind string) *unstructured.Unstructured {
	t.Helper()
	return s.objects(t, `{apiVersion: tandem-lb.io/v1alpha1, kind: `+kind+`, metadata: {name: $NS}}`)[0]
}

// onlyLabelled has an advertisement of the stage announce the Services of namespaces with a label alone.
func (s *stage) onlyLabelled(t *testing.T, kind string) {
	t.Helper()
	s.patch(t, s.object(t, kind), `{spec: {namespaceSelectors: [{matchLabels: {announce: $NS}}]}}`)
}

// label gives the stage's namespace the label of onlyLabelled, or takes it away.
func (s *stage) label(t *testing.T, on bool) {
	t.Helper()
	value := "null"
	if on {
		value = "$NS"
	}
	s.patch(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}, `{metadata: {labels: {announce: `+value+`}}}`)
}

// followsNamespaces has an advertisement of the stage select namespaces by a label that the stage's own gets and loses again, and then all namespaces.
// announced waits until the advertisement announces the stage's Service, or does not.
func (s *stage) followsNamespaces(t *testing.T, kind string, announced func(bool)) {
	t.Helper()
	s.onlyLabelled(t, kind)
	announced(false)
	s.label(t, true)
	announced(true)
	s.label(t, false)
	announced(false)
	s.patch(t, s.object(t, kind), `{spec: {namespaceSelectors: null}}`)
	announced(true)
}

// pod names the pod of web on a node.
func (s *stage) pod(node string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: s.ns, Name: "web-" + node}
}

// kubectlAfter runs kubectl after a test, when its context has ended.
func (s *stage) kubectlAfter(t *testing.T, args ...string) {
	t.Helper()
	if out, err := s.Kubectl(context.Background(), args...).CombinedOutput(); err != nil {
		t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
