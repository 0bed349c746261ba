// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/overview"
	"github.com/tandem-lb/tandem/ipam/family"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/observation"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// compilePlugin compiles the plugin, once, into a directory that TestMain removes.
var compilePlugin = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(filepath.Dir(auditLog), "kubectl-tandem")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/tandem-lb/tandem/cmd/kubectl-tandem").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the plugin: %w\n%s", err, out)
	}
	return path, nil
})

// builtPlugin compiles the plugin, and returns its path.
func builtPlugin(t testing.TB) string {
	t.Helper()
	path, err := compilePlugin()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPlugin has kubectl run the plugin: as somebody without rights, as a holder of tandem-view, whose role is that of the manifests, and with words that it
// does not know.
func TestPlugin(t *testing.T) {
	const namespace, user = "plugin", "plugin-viewer"
	rendered, err := template(t, "tandem-system", "crds.install=false")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range rendered {
		if o.GetKind() == "ClusterRole" && o.GetName() == "tandem-view" {
			o.SetName(user)
			create(t, o)
		}
	}
	create(t, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	})
	ensureNamespace(t, namespace)
	class := ipamv1alpha1.LoadBalancerClass
	create(t, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class, Ports: []corev1.ServicePort{{Port: 80}}},
	})
	plugin, kubeconfig := builtPlugin(t), adminKubeconfig(t)
	run := func(args ...string) (string, int) {
		cmd := exec.CommandContext(t.Context(), kubectl, append([]string{"tandem"}, args...)...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "PATH="+filepath.Dir(plugin)+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return string(out), exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		return string(out), 0
	}
	// The API server reads roles from a cache.
	if err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
		_, code := run("pools", "--as", user)
		return code != 2, nil
	}); err != nil {
		t.Error("a holder of tandem-view cannot read pools")
	}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{args: []string{"status", "--as", "nobody"}, code: 2, want: "the ClusterRole tandem-view gives the rights that are needed"},
		{args: []string{"status", "--as", user}, code: 1, want: "1 waiting for addresses"},
		{args: []string{"status", "--as", user, "-o", "json"}, code: 1, want: `"reason": "NotAllocated"`},
		{args: []string{"services", "--as", user, "-n", namespace}, code: 1, want: "no address yet of IPv4"},
		{args: []string{"services", "--as", user, "-n", "kube-system"}, code: 0, want: "Tandem serves no Service in namespace kube-system"},
		{args: []string{"l2", "--as", user, "-n", namespace}, code: 0, want: "No node answers for a Service on layer 2"},
		{args: []string{"bgp", "--as", user}, code: 0},
		{args: []string{"ip", "10.96.0.1", "--as", user}, code: 0, want: "an IPAddress stands for it that is not Tandem's: services default/kubernetes"},
		{args: []string{"ip", "10.96.0.300"}, code: 2, want: `"10.96.0.300" is no IP address`},
		{args: []string{"status", "-o", "xml"}, code: 2, want: `--output is "xml"; give json, yaml or wide`},
		{args: []string{"statsu"}, code: 2, want: `unknown command "statsu" for "kubectl tandem"`},
		{args: []string{"status", "--context", "other"}, code: 2, want: `context "other" does not exist`},
		{args: []string{"__complete", "sta"}, code: 0, want: "status\t"},
		{args: []string{"--version"}, code: 0, want: "Tandem v"},
	} {
		out, code := run(tt.args...)
		if code != tt.code || !strings.Contains(out, tt.want) {
			t.Errorf("kubectl tandem %s exits with %d, want %d and %q:\n%s", strings.Join(tt.args, " "), code, tt.code, tt.want, out)
		}
	}
}

// BenchmarkPlugin measures `kubectl tandem status` and `why` on a cluster with 10,000 Services of both families that are announced on layer 2, on a real API
// server: the programs as a whole, with the time of a processor that the plugin alone takes, which says more on a machine that is busy; and of that the
// reading of the API and what is worked out of it.
func BenchmarkPlugin(b *testing.B) {
	const services = 10_000
	fill(b, services)
	plugin, kubeconfig := builtPlugin(b), adminKubeconfig(b)
	for _, command := range []struct {
		args []string
		says string
	}{
		{args: []string{"status"}, says: fmt.Sprint(services, " announced")},
		{args: []string{"why", "service/web42", "-n", "many"}, says: "many1 on eth0"},
	} {
		b.Run(command.args[0], func(b *testing.B) {
			var processor time.Duration
			var memory int64 // KiB
			for b.Loop() {
				cmd := exec.CommandContext(b.Context(), plugin, append(command.args, "--kubeconfig", kubeconfig)...)
				out, err := cmd.Output()
				processor += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
				memory = max(memory, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
				if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 1) || !strings.Contains(string(out), command.says) {
					b.Fatalf("%v\n%s", err, out)
				}
			}
			b.ReportMetric(processor.Seconds()/float64(b.N), "cpu-s/op")
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/op")
			b.ReportMetric(float64(memory)/1024, "MiB-most")
		})
	}
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig = &kubeconfig
	c, err := cluster.Connect(flags, "")
	if err != nil {
		b.Fatal(err)
	}
	var state *cluster.State
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			if state, err = c.Read(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("overview", func(b *testing.B) {
		for b.Loop() {
			state.Derive()
			if n := len(overview.Of(state).Services); n < services {
				b.Fatalf("%d Services", n)
			}
		}
	})
}

// fill makes Services that are announced, as Tandem's programs would have left them.
func fill(b *testing.B, services int) {
	ensureNamespace(b, "many")
	var failed atomic.Pointer[error]
	try := func(err error) {
		if err != nil {
			failed.CompareAndSwap(nil, &err)
		}
	}
	writer := rest.CopyConfig(config)
	writer.QPS = -1
	c, err := client.New(writer, client.Options{Scheme: apiClient.Scheme()})
	try(err)
	try(client.IgnoreAlreadyExists(c.Create(b.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "many1"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	})))
	try(c.Create(b.Context(), &speakerv1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "many1"}}))
	try(c.Create(b.Context(), &ipamv1alpha1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: "many"}, Spec: ipamv1alpha1.AddressPoolSpec{
		IPv4: &ipamv1alpha1.IPv4Partition{Ranges: []ipamv1alpha1.IPv4Range{"203.0.0.0/16"}},
		IPv6: &ipamv1alpha1.IPv6Partition{Ranges: []ipamv1alpha1.IPv6Range{"2001:db8:113::/64"}},
	}}))
	try(c.Create(b.Context(), &speakerv1alpha1.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "many"}}))
	report := observation.Report("many", "many1", nil, nil, time.Now().Add(time.Hour))
	try(c.Create(b.Context(), report))
	workqueue.ParallelizeUntil(b.Context(), 32, services, func(i int) { fillOne(b.Context(), c, i, try) })
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
}

// fillOne makes one of these Services.
func fillOne(ctx context.Context, c client.Client, i int, try func(error)) {
	class := ipamv1alpha1.LoadBalancerClass
	meta := metav1.ObjectMeta{Namespace: "many", Name: fmt.Sprintf("web%d", i)}
	addresses := []string{fmt.Sprintf("203.0.%d.%d", i/250, i%250), fmt.Sprintf("2001:db8:113::%x", i+1)}
	svc := &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: &class, Ports: []corev1.ServicePort{{Port: 80}},
		IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, IPFamilyPolicy: new(corev1.IPFamilyPolicyRequireDualStack),
		AllocateLoadBalancerNodePorts: new(false), // An API server has 2,768 by default.
	}}
	try(c.Create(ctx, svc))
	for n, address := range addresses {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: address})
		try(c.Create(ctx, &networkingv1.IPAddress{
			ObjectMeta: metav1.ObjectMeta{Name: address, Labels: map[string]string{
				networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy, ipamv1alpha1.LabelAddressPool: "many",
			}},
			Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "many", Name: meta.Name}},
		}))
		f := family.All[n]
		try(c.Create(ctx, &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "many", Name: meta.Name + "-" + strings.ToLower(string(f)), Labels: map[string]string{
				discoveryv1.LabelServiceName: meta.Name,
			}},
			AddressType: discoveryv1.AddressType(f),
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{[]string{"10.244.0.5", "fd00:244::5"}[n]}, NodeName: new("many1")}},
		}))
	}
	for _, condition := range []string{ipamv1alpha1.ServiceConditionAllocated, ipamv1alpha1.ServiceConditionAnnounced} {
		svc.Status.Conditions = append(svc.Status.Conditions, metav1.Condition{
			Type: condition, Status: metav1.ConditionTrue, Reason: "Announced", Message: strings.Join(addresses, " and "), LastTransitionTime: metav1.Now(),
		})
	}
	try(c.Status().Update(ctx, svc))
	try(c.Create(ctx, &speakerv1alpha1.L2Announcement{
		ObjectMeta: metav1.ObjectMeta{Name: "many." + meta.Name}, Service: speakerv1alpha1.ServiceReference{Namespace: "many", Name: meta.Name},
		Status: speakerv1alpha1.L2AnnouncementStatus{Node: "many1", Addresses: addresses, Interfaces: []string{"eth0"}, Since: new(metav1.NowMicro())},
	}))
}
