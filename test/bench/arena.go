// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/claim"
	"github.com/tandem-lb/tandem/test/lab"
)

const (
	// namespace is that of all Services.
	namespace = "bench"
	// creators is the number of workers that create and delete Services. More make the API server no faster on a small machine.
	creators = 16
	// reportEvery is how often long work tells how far it has come.
	reportEvery = 15 * time.Second
	// rangeV4 and rangeV6 are the pool of every contestant.
	rangeV4, rangeV6 = "10.128.0.0/16", "fd00:128::/112"
)

// arena is a lab and what is seen on it.
type arena struct {
	lab      *lab.Lab
	api      kubernetes.Interface
	root     string // of the repository
	progress io.Writer
	stop     context.CancelFunc

	mu sync.Mutex
	// mu guards all following fields.
	seen    map[string]*corev1.Service // Services that exist
	created map[string]time.Time       // when the creation of a Service was answered
	done    map[string]time.Time       // when a Service was first seen with both addresses
	changed chan struct{}              // closed at the next event
	follow  func(*corev1.Service)      // is told of every change to a Service
}

// newArena brings up a lab with everything that the contestants need. A node that is the only one is stopped.
func newArena(ctx context.Context, name string, nodes int, progress io.Writer) (*arena, error) {
	root, err := repository()
	if err != nil {
		return nil, err
	}
	l, err := lab.Up(ctx, lab.Config{Name: name, Nodes: nodes}, progress)
	if err != nil {
		return nil, err
	}
	config := l.RESTConfig()
	config.ContentType = runtime.ContentTypeProtobuf
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	if nodes == 1 {
		if err := l.StopNode(ctx, lab.NodeName(1)); err != nil {
			return nil, err
		}
	}
	ctx, stop := context.WithCancel(ctx)
	a := &arena{
		lab: l, api: api, root: root, progress: progress, stop: stop,
		seen: map[string]*corev1.Service{}, created: map[string]time.Time{}, done: map[string]time.Time{}, changed: make(chan struct{}),
	}
	for _, name := range []string{namespace, "tandem-system", "metallb-system"} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := api.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
			return nil, err
		}
	}
	services := informers.NewSharedInformerFactoryWithOptions(api, 0, informers.WithNamespace(namespace)).Core().V1().Services().Informer()
	if _, err := services.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { a.observe(obj.(*corev1.Service)) },
		UpdateFunc: func(_, obj any) { a.observe(obj.(*corev1.Service)) },
		DeleteFunc: a.forget,
	}); err != nil {
		return nil, err
	}
	go services.Run(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), services.HasSynced) {
		return nil, context.Cause(ctx)
	}
	return a, nil
}

// close takes the lab down.
func (a *arena) close() {
	a.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := a.lab.Down(ctx); err != nil {
		fmt.Fprintln(a.progress, "Failed to take the lab down:", err)
	}
}

// repository returns the top folder of the repository.
func repository() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("looking for the repository: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// apply applies files, or YAML where it starts with apiVersion.
func (a *arena) apply(ctx context.Context, what string) error {
	cmd := a.lab.Kubectl(ctx, "apply", "--server-side", "-f", what)
	if strings.HasPrefix(what, "apiVersion") {
		cmd = a.lab.Kubectl(ctx, "apply", "-f", "-")
		cmd.Stdin = strings.NewReader(what)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w\n%s", err, out)
	}
	return nil
}

func (a *arena) observe(svc *corev1.Service) {
	a.mu.Lock()
	a.seen[svc.Name] = svc
	if _, ok := a.done[svc.Name]; !ok && len(svc.Status.LoadBalancer.Ingress) == 2 {
		a.done[svc.Name] = time.Now()
	}
	follow := a.follow
	a.wake()
	a.mu.Unlock()
	if follow != nil {
		follow(svc)
	}
}

func (a *arena) forget(obj any) {
	key, _ := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	_, name, _ := cache.SplitMetaNamespaceKey(key)
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.seen, name)
	a.wake()
}

// wake tells await to look again. The caller holds mu.
func (a *arena) wake() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// await waits for n Services of which enough is true, for as long as their number changes at least once in a minute.
func (a *arena) await(ctx context.Context, what string, n int, count func() int) error {
	const patience = time.Minute
	last, since := -1, time.Now()
	report := time.Now()
	for {
		a.mu.Lock()
		now, changed := count(), a.changed
		a.mu.Unlock()
		if now == n {
			return nil
		}
		if now != last {
			last, since = now, time.Now()
		}
		if time.Since(report) > reportEvery {
			report = time.Now()
			if n == 0 {
				fmt.Fprintf(a.progress, "  %d Services %s\n", now, what)
			} else {
				fmt.Fprintf(a.progress, "  %d of %d Services %s so far\n", now, n, what)
			}
		}
		if time.Since(since) > patience {
			return fmt.Errorf("%d Services %s instead of %d for %v", now, what, n, patience)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
			// To look every few milliseconds suffices, however many events there are.
			time.Sleep(5 * time.Millisecond)
		case <-time.After(time.Second):
		}
	}
}

// each calls f for 0 to n-1 from creators goroutines.
func each(ctx context.Context, n int, f func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(creators)
	for i := range n {
		group.Go(func() error { return f(ctx, i) })
	}
	return group.Wait()
}

// create creates n Services that want addresses of both families.
func (a *arena) create(ctx context.Context, prefix string, n int, edits ...func(i int, svc *corev1.Service)) error {
	report := time.Now() // guarded by mu
	return each(ctx, n, func(ctx context.Context, i int) error {
		policy, nodePorts := corev1.IPFamilyPolicyRequireDualStack, false
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", prefix, i), Namespace: namespace},
			Spec: corev1.ServiceSpec{
				Type:                          corev1.ServiceTypeLoadBalancer,
				IPFamilyPolicy:                &policy,
				AllocateLoadBalancerNodePorts: &nodePorts,
				Ports:                         []corev1.ServicePort{{Port: 80}},
			},
		}
		for _, edit := range edits {
			edit(i, svc)
		}
		if _, err := a.api.CoreV1().Services(namespace).Create(ctx, svc, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("creating a Service: %w", err)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.created[svc.Name] = time.Now()
		if time.Since(report) > reportEvery {
			report = time.Now()
			fmt.Fprintf(a.progress, "  %d of %d Services created so far\n", len(a.created), n)
		}
		return nil
	})
}

// delete deletes all Services and waits until they are gone.
func (a *arena) delete(ctx context.Context) error {
	a.mu.Lock()
	var names []string
	for name := range a.seen {
		names = append(names, name)
	}
	a.mu.Unlock()
	if err := each(ctx, len(names), func(ctx context.Context, i int) error {
		return a.api.CoreV1().Services(namespace).Delete(ctx, names[i], metav1.DeleteOptions{})
	}); err != nil {
		return fmt.Errorf("deleting a Service: %w", err)
	}
	if err := a.await(ctx, "left", 0, func() int { return len(a.seen) }); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.created)
	clear(a.done)
	return nil
}

// claims returns the names and Services of all IPAddresses that belong to a Service of ours without being its ClusterIP.
func (a *arena) claims(ctx context.Context) (map[netip.Addr]string, error) {
	list, err := a.api.NetworkingV1().IPAddresses().List(
		ctx, metav1.ListOptions{LabelSelector: networkingv1.LabelManagedBy + "!=ipallocator.k8s.io"},
	)
	if err != nil {
		return nil, err
	}
	claims := map[netip.Addr]string{}
	for i := range list.Items {
		name := list.Items[i].Name
		address, err := netip.ParseAddr(name)
		// A claim whose parent has left names the Service that has the address now.
		services := claim.Read(&list.Items[i]).Named()
		if err != nil {
			return nil, err
		}
		if len(services) == 1 {
			claims[address] = services[0].Name
		} else {
			claims[address] = fmt.Sprint(services)
		}
	}
	return claims, nil
}

// published returns which Service shows which address. An address that two show, and a Service without one of each family, is an
// error.
func (a *arena) published() (map[netip.Addr]string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	owners := map[netip.Addr]string{}
	var errs []error
	for name, svc := range a.seen {
		families := 0
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			address, err := netip.ParseAddr(ingress.IP)
			if err != nil {
				errs = append(errs, err)
			}
			if other, ok := owners[address]; ok {
				errs = append(errs, fmt.Errorf("the Services %s and %s both have %s", name, other, address))
			}
			owners[address] = name
			if address.Is4() {
				families += 1
			} else {
				families += 10
			}
		}
		if families != 11 {
			errs = append(errs, fmt.Errorf("the Service %s has %v", name, svc.Status.LoadBalancer.Ingress))
		}
	}
	return owners, errors.Join(errs[:min(len(errs), 5)]...)
}

// requests are numbers of requests to the API server, by verb and resource.
type requests map[string]float64

// countRequests returns how many requests the API server has answered. Those that stand beside the contest are left out: leases, the Endpoints that
// kube-controller-manager looks for when a Service is gone, and the Secret of the speakers, for which Tandem looks every few seconds by creating it.
func (a *arena) countRequests(ctx context.Context) (requests, error) {
	body, err := a.api.Discovery().RESTClient().Get().AbsPath("/metrics").Do(ctx).Raw()
	if err != nil {
		return nil, fmt.Errorf("reading the API server's metrics: %w", err)
	}
	counts := requests{}
	lines := bufio.NewScanner(strings.NewReader(string(body)))
	for lines.Scan() {
		metric, ok := strings.CutPrefix(lines.Text(), "apiserver_request_total{")
		if !ok {
			continue
		}
		labels, value, _ := strings.Cut(metric, "} ")
		label := func(name string) string {
			_, rest, _ := strings.Cut(","+labels, ","+name+`="`)
			text, _, _ := strings.Cut(rest, `"`)
			return text
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("reading the API server's metrics: %w", err)
		}
		if resource := label("resource"); resource != "" && !slices.Contains([]string{"leases", "endpoints", "secrets"}, resource) {
			counts[label("verb")+" "+resource] += n
		}
	}
	return counts, lines.Err()
}

// settle waits until nothing has written to the API for so many seconds, not even events, and returns the requests that were counted until then.
func (a *arena) settle(ctx context.Context, quiet int) (requests, error) {
	last, since := -1.0, 0
	for range 120 {
		counts, err := a.countRequests(ctx)
		if err != nil {
			return nil, err
		}
		if now := counts.writes(nil); now != last {
			last, since = now, 0
		} else if since++; since >= quiet {
			return counts, nil
		}
		time.Sleep(time.Second)
	}
	return nil, errors.New("somebody writes without end")
}

// conditions returns how many Services say whether they are announced, and how many events say that one is not.
func (a *arena) conditions(ctx context.Context) (services, events int, err error) {
	a.mu.Lock()
	for _, svc := range a.seen {
		if meta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ServiceConditionAnnounced) != nil {
			services++
		}
	}
	a.mu.Unlock()
	list, err := a.api.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=" + v1alpha1.EventNotAnnounced})
	if err != nil {
		return 0, 0, fmt.Errorf("listing events: %w", err)
	}
	return services, len(list.Items), nil
}

// writes returns the writing requests since earlier.
func (r requests) writes(earlier requests) (n float64) {
	for key, count := range r {
		switch verb, _, _ := strings.Cut(key, " "); verb {
		case "POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION":
			n += count - earlier[key]
		}
	}
	return n
}

// reads returns the requests that read single objects since earlier.
func (r requests) reads(earlier requests) (n float64) {
	for key, count := range r {
		if strings.HasPrefix(key, "GET ") {
			n += count - earlier[key]
		}
	}
	return n
}

// describe lists the most frequent requests since earlier, for each of n Services.
func (r requests) describe(earlier requests, n int) string {
	var parts []string
	for key, count := range r {
		if per := (count - earlier[key]) / float64(n); per >= 0.01 {
			parts = append(parts, fmt.Sprintf("%s %.2f", key, per))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// process is a controller in the control plane's network namespace.
type process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	err    error
}

// run starts a program on the control plane and logs what it says to a file of the lab.
func (a *arena) run(ctx context.Context, name, program string, args ...string) (*process, error) {
	p := &process{cmd: a.lab.Command(ctx, lab.ControlPlane, program, args...), exited: make(chan struct{})}
	p.log = filepath.Join(a.lab.Dir(), name+".log")
	log, err := os.OpenFile(p.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// end ends the process as the kubelet does.
func (p *process) end() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// status returns a line of /proc/PID/status in kilobytes: VmRSS or VmHWM.
func (p *process) status(field string) (int, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(content), field+":")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, fmt.Errorf("no %s in /proc/%d/status", field, p.cmd.Process.Pid)
	}
	return strconv.Atoi(fields[0])
}

// cpu returns the processor time that the process has used.
func (p *process) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// Fields 14 and 15 of proc_pid_stat(5), in hundredths of a second; the second one, a name, may hold blanks.
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	var ticks int
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
