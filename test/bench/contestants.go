// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"github.com/tandem-lb/tandem/test/products"
)

// contestant gives Services their addresses.
type contestant interface {
	name() string
	// start starts it anew. It need not be ready.
	start(ctx context.Context) (running, error)
}

// running is a contestant at work.
type running interface {
	end()
	// cpu returns the processor time that it has used.
	cpu() (time.Duration, error)
}

// contestant prepares one by its name.
func (a *arena) contestant(ctx context.Context, name string) (contestant, error) {
	switch name {
	case "limit":
		return &limit{a}, nil
	case "tandem":
		return a.newTandem(ctx)
	case "metallb":
		return a.newMetalLB(ctx)
	}
	return nil, fmt.Errorf("no contestant is called %q", name)
}

// limit writes what no allocator can do without. It is told what to serve by the watch of the arena.
type limit struct{ *arena }

// limitWorkers is where more make the API server no faster on two cores.
const limitWorkers = 16

// finalizer is that of the upstream service controller.
const finalizer = "service.kubernetes.io/load-balancer-cleanup"

func (*limit) name() string { return "limit" }

type limitRun struct {
	*limit
	cancel context.CancelFunc
	done   sync.WaitGroup
	queue  workqueue.TypedInterface[string]
	next   atomic.Int32
	errs   chan error
	used   time.Duration
}

func (l *limit) start(ctx context.Context) (running, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := &limitRun{limit: l, cancel: cancel, queue: workqueue.NewTyped[string](), errs: make(chan error, 1), used: ownCPU()}
	for range limitWorkers {
		r.done.Go(func() {
			for {
				name, shutdown := r.queue.Get()
				if shutdown {
					return
				}
				if err := r.serve(ctx, name); err != nil {
					fmt.Fprintln(r.progress, "limit:", err)
				}
				r.queue.Done(name)
			}
		})
	}
	l.mu.Lock()
	l.follow = func(svc *corev1.Service) {
		if len(svc.Status.LoadBalancer.Ingress) == 0 || svc.DeletionTimestamp != nil {
			r.queue.Add(svc.Name)
		}
	}
	for name := range l.seen {
		r.queue.Add(name)
	}
	l.mu.Unlock()
	return r, nil
}

func (r *limitRun) end() {
	r.mu.Lock()
	r.follow = nil
	r.mu.Unlock()
	r.queue.ShutDown()
	r.done.Wait()
	r.cancel()
}

func (r *limitRun) cpu() (time.Duration, error) { return ownCPU() - r.used, nil }

// serve does for one Service what is to be done now.
func (r *limitRun) serve(ctx context.Context, name string) error {
	r.mu.Lock()
	svc := r.seen[name]
	r.mu.Unlock()
	services, claims := r.api.CoreV1().Services(namespace), r.api.NetworkingV1().IPAddresses()
	patch := func(what string) error {
		_, err := services.Patch(ctx, name, types.StrategicMergePatchType, []byte(what), metav1.PatchOptions{}, "status")
		return err
	}
	switch {
	case svc == nil:
		return nil
	case svc.DeletionTimestamp != nil && slices.Contains(svc.Finalizers, finalizer):
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			if err := claims.Delete(ctx, ingress.IP, metav1.DeleteOptions{}); err != nil {
				return err
			}
		}
		return patch(`{"metadata":{"$deleteFromPrimitiveList/finalizers":["` + finalizer + `"]}}`)
	case slices.Contains(svc.Finalizers, finalizer):
		return nil // The echo of the finalizer; the addresses are on their way.
	}
	if err := patch(`{"metadata":{"finalizers":["` + finalizer + `"]}}`); err != nil {
		return err
	}
	var status struct {
		Status struct {
			LoadBalancer corev1.LoadBalancerStatus `json:"loadBalancer"`
		} `json:"status"`
	}
	vip := corev1.LoadBalancerIPModeVIP
	for _, address := range addressesOf(int(r.next.Add(1)) - 1) {
		family := "IPv6"
		if address.Is4() {
			family = "IPv4"
		}
		claim := &networkingv1.IPAddress{
			ObjectMeta: metav1.ObjectMeta{Name: address.String(), Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: family, networkingv1.LabelManagedBy: "bench",
			}},
			Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: namespace, Name: name}},
		}
		if _, err := claims.Create(ctx, claim, metav1.CreateOptions{}); err != nil {
			return err
		}
		status.Status.LoadBalancer.Ingress = append(
			status.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: address.String(), IPMode: &vip},
		)
	}
	data, err := json.Marshal(status)
	if err != nil {
		return err
	}
	return patch(string(data))
}

// ownCPU returns the processor time of this process, which also creates the Services and watches them.
func ownCPU() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// tandem is the controller manager of this tree.
type tandem struct {
	*arena
	program string
}

// newTandem builds the controller manager and gives it a pool.
func (a *arena) newTandem(ctx context.Context) (*tandem, error) {
	t := &tandem{a, filepath.Join(a.lab.Dir(), "tandem-cloud-controller-manager")}
	if _, err := products.Go(ctx, a.root, nil, "build", "-o", t.program, "./cmd/cloud-controller-manager"); err != nil {
		return nil, err
	}
	crds, err := filepath.Glob(filepath.Join(a.root, "manifests", "crd", "tandem-lb.io_*.yaml"))
	if err != nil {
		return nil, err
	}
	if err := a.apply(ctx, strings.Join(crds, ",")); err != nil {
		return nil, err
	}
	// A controller manager that does not find all kinds ends, and here no kubelet starts it again.
	wait := a.lab.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=30s", "-f", strings.Join(crds, ","))
	if out, err := wait.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("kubectl wait: %w\n%s", err, out)
	}
	return t, a.apply(ctx, fmt.Sprintf(`apiVersion: tandem-lb.io/v1alpha1
kind: AddressPool
metadata: {name: bench}
spec: {ipv4: {ranges: [%q]}, ipv6: {ranges: [%q]}}`, rangeV4, rangeV6))
}

func (*tandem) name() string { return "tandem" }

func (t *tandem) start(ctx context.Context) (running, error) { return t.startAt(ctx, 7575) }

// startAt starts a controller manager that leads without an election, even if another one leads too.
func (t *tandem) startAt(ctx context.Context, port int) (*process, error) {
	kubeconfig := t.kubeconfig()
	return t.run(ctx, fmt.Sprintf("tandem-%d", port), t.program, "--kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig,
		"--authorization-kubeconfig="+kubeconfig, "--leader-elect=false", fmt.Sprintf("--secure-port=%d", port), "--bind-address=127.0.0.1",
		"--cert-dir="+filepath.Join(t.lab.Dir(), "tandem-certificates"))
}

// kubeconfig returns the path of the administrator's.
func (a *arena) kubeconfig() string { return filepath.Join(a.lab.Dir(), "pki", "admin.kubeconfig") }

// metalLB is MetalLB's controller.
type metalLB struct {
	*arena
	*products.MetalLB
}

// newMetalLB builds MetalLB's controller, and the other programs that are asked for, and gives it a pool.
func (a *arena) newMetalLB(ctx context.Context, also ...string) (*metalLB, error) {
	built, err := products.BuildMetalLB(ctx, a.progress, append(also, "controller")...)
	if err != nil {
		return nil, err
	}
	source, err := built.Source(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.apply(ctx, filepath.Join(source, "config", "crd", "bases")); err != nil {
		return nil, err
	}
	if err := a.apply(ctx, fmt.Sprintf(`apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: bench, namespace: metallb-system}
spec: {addresses: [%q, %q]}`, rangeV4, rangeV6)); err != nil {
		return nil, err
	}
	// The controller looks up its own pod, to be the owner of what it writes. A gate keeps this one from being scheduled.
	return &metalLB{a, built}, a.apply(ctx, `apiVersion: v1
kind: Pod
metadata: {name: controller, namespace: metallb-system}
spec:
  schedulingGates: [{name: tandem-lb.io/bench}]
  containers: [{name: controller, image: none}]`)
}

func (*metalLB) name() string { return "metallb" }

func (m *metalLB) start(ctx context.Context) (running, error) {
	return m.run(
		ctx, "metallb", m.Program("controller"), "--kubeconfig="+m.kubeconfig(), "--namespace=metallb-system", "--pod-name=controller",
		"--webhook-mode=disabled",
	)
}
