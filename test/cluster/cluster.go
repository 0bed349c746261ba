// SPDX-License-Identifier: Apache-2.0

// Package cluster is a lab with Tandem installed on it as a user would: the images of a release loaded on the nodes, its manifests applied with
// kubectl, a router that speaks BGP. The demo and the end-to-end tests stand on it.
package cluster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/config"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/lab"
)

// RouterConfig is FRR's configuration on the lab's router.
//
//go:embed frr.conf
var RouterConfig string

// Cluster is a lab with Tandem on it.
type Cluster struct {
	*lab.Lab
	client.Client
	root string
}

// Start brings up a lab of that configuration with a router and with Tandem's images on its nodes, and does not install Tandem. The images are
// those of the release that `make images` makes.
func Start(ctx context.Context, config lab.Config, progress io.Writer) (*Cluster, error) {
	root, err := findRoot()
	if err != nil {
		return nil, err
	}
	images, err := Images(root)
	if err != nil {
		return nil, err
	}
	l, err := lab.Up(ctx, config, progress)
	if err != nil {
		return nil, err
	}
	c, err := connect(l, root)
	if err != nil {
		return nil, err
	}
	if err := l.LoadImages(ctx, images...); err != nil {
		return nil, err
	}
	return c, l.StartFRR(ctx, lab.Router, RouterConfig)
}

// Images returns the archives of the images for this machine that the manifests run, from the release that `make images` makes in the repository at root.
func Images(root string) ([]string, error) {
	var images []string
	for _, program := range []string{"cloud-controller-manager", "speaker"} {
		image := filepath.Join(root, "dist", "release", program+"-linux-"+runtime.GOARCH+".tar")
		if _, err := os.Stat(image); err != nil {
			return nil, fmt.Errorf("%w; run make images", err)
		}
		images = append(images, image)
	}
	return images, nil
}

// Up brings up a lab of that configuration with Tandem installed, and returns when every part of it is ready.
func Up(ctx context.Context, config lab.Config, progress io.Writer) (*Cluster, error) {
	c, err := Start(ctx, config, progress)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := c.Install(ctx); err != nil {
		return nil, err
	}
	fmt.Fprintf(progress, "Installed Tandem after %.1fs\n", time.Since(start).Seconds())
	return c, nil
}

// Open returns the cluster of a lab that is up.
func Open(name string) (*Cluster, error) {
	root, err := findRoot()
	if err != nil {
		return nil, err
	}
	l, err := lab.Open(name)
	if err != nil {
		return nil, err
	}
	return connect(l, root)
}

func connect(l *lab.Lab, root string) (*Cluster, error) {
	scheme := config.Scheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil { // Deployments and the like
		return nil, err
	}
	api, err := client.New(l.RESTConfig(), client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("connecting to the API server: %w", err)
	}
	return &Cluster{Lab: l, Client: api, root: root}, nil
}

// findRoot returns the top folder of the repository.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("run this inside the repository")
}

// Install applies install.yaml of the release, makes the controller managers two, so that there is one to take over, and waits for them.
func (c *Cluster) Install(ctx context.Context) error {
	for _, args := range [][]string{
		{"apply", "-f", c.Release("install.yaml")},
		{"scale", "-n", "tandem-system", "deployment/tandem-cloud-controller-manager", "--replicas=2"},
	} {
		if out, err := c.Kubectl(ctx, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return c.RolledOut(ctx)
}

// RolledOut waits until the newest controller managers and speakers are ready on all nodes.
func (c *Cluster) RolledOut(ctx context.Context) error {
	for _, name := range []string{"deployment/tandem-cloud-controller-manager", "daemonset/tandem-speaker"} {
		if out, err := c.Kubectl(ctx, "rollout", "status", "-n", "tandem-system", name, "--timeout=120s").CombinedOutput(); err != nil {
			return fmt.Errorf("waiting for %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// Release returns the path of a file of the release that `make images` makes.
func (c *Cluster) Release(name string) string { return filepath.Join(c.root, "dist", "release", name) }

// Example returns the path of a file in manifests/examples.
func (c *Cluster) Example(name string) string {
	return filepath.Join(c.root, "manifests", "examples", name)
}

// Apply applies YAML as kubectl does.
func (c *Cluster) Apply(ctx context.Context, yaml string) error {
	cmd := c.Kubectl(ctx, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(yaml)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w\n%s", err, out)
	}
	return nil
}

// Until polls until the condition holds. It ends with the context, or with limit; its error then bears the condition's last detail.
func Until(ctx context.Context, limit time.Duration, what string, condition func(context.Context) (bool, string)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	last := "never looked"
	for {
		done, detail := condition(ctx)
		if done {
			return nil
		}
		if ctx.Err() == nil {
			last = detail // and not what a look that was cut short says
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v for %s: %s", limit, what, last)
		case <-ticker.C:
		}
	}
}

// ServiceIPs waits until a Service publishes n addresses, and returns them in order.
func (c *Cluster) ServiceIPs(ctx context.Context, namespace, name string, n int) ([]string, error) {
	var ips []string
	what := fmt.Sprintf("%d addresses of Service %s/%s", n, namespace, name)
	err := Until(ctx, 30*time.Second, what, func(ctx context.Context) (bool, string) {
		var svc corev1.Service
		if err := c.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &svc); err != nil {
			return false, err.Error()
		}
		ips = IPs(&svc)
		return len(ips) == n, fmt.Sprintf("it has %v", ips)
	})
	return ips, err
}

// IPs returns the addresses that a Service publishes, in order.
func IPs(svc *corev1.Service) (ips []string) {
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		ips = append(ips, ingress.IP)
	}
	return ips
}

// Holder waits until a node is on record for the Service on layer 2 with n addresses, and returns it.
func (c *Cluster) Holder(ctx context.Context, namespace, name string, n int) (string, error) {
	var holder string
	err := Until(ctx, 30*time.Second, fmt.Sprintf("a holder of Service %s/%s", namespace, name), func(ctx context.Context) (bool, string) {
		var a speakerv1alpha1.L2Announcement
		if err := c.Client.Get(ctx, client.ObjectKey{Name: namespace + "." + name}, &a); err != nil {
			return false, err.Error()
		}
		holder = a.Status.Node
		return holder != "" && len(a.Status.Addresses) == n, fmt.Sprintf("node %s has %v", holder, a.Status.Addresses)
	})
	return holder, err
}

// Get asks a URL once from a host.
func (c *Cluster) Get(ctx context.Context, host, url string) (string, error) {
	return get(ctx, c.HTTP(host, 2*time.Second), url)
}

func get(ctx context.Context, from *http.Client, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := from.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, response.Status)
	}
	return string(body), err
}

// URL returns the URL of a path at an address.
func URL(ip, path string) string {
	if strings.Contains(ip, ":") {
		ip = "[" + ip + "]"
	}
	return "http://" + ip + path
}

// Answer is one request of a probe.
type Answer struct {
	URL  string
	At   time.Time
	Took time.Duration
	Body string
	Err  error
	// Connected says that the TCP connection was established, whatever became of it.
	Connected bool
}

// Probe asks a URL from a host every interval, each time over a new connection and without waiting for the one before, until the context
// ends. It returns all answers in the order of their requests.
func (c *Cluster) Probe(ctx context.Context, host, url string, interval, timeout time.Duration) []Answer {
	return c.ProbeEach(ctx, host, []string{url}, interval, timeout)
}

// ProbeEach is Probe of several URLs, which take turns: there is one request every interval, whatever their number.
func (c *Cluster) ProbeEach(ctx context.Context, host string, urls []string, interval, timeout time.Duration) []Answer {
	from := c.HTTP(host, timeout)
	results := make(chan Answer)
	next, pending := 0, 0
	var answers []Answer
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for done := ctx.Done(); done != nil || pending > 0; {
		select {
		case <-done:
			done = nil
		case <-ticker.C:
			if done == nil {
				continue
			}
			url := urls[next%len(urls)]
			next++
			pending++
			go func() {
				a := Answer{URL: url, At: time.Now()}
				trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { a.Connected = true }}
				a.Body, a.Err = get(httptrace.WithClientTrace(context.WithoutCancel(ctx), trace), from, url)
				a.Took = time.Since(a.At)
				results <- a
			}()
		case a := <-results:
			pending--
			answers = append(answers, a)
		}
	}
	slices.SortFunc(answers, func(a, b Answer) int { return a.At.Compare(b.At) })
	return answers
}

// Outage returns how long nothing was answered from a moment on: until the first request was sent that got an answer. ok is false
// where none was.
func Outage(answers []Answer, since time.Time) (outage time.Duration, ok bool) {
	for _, a := range answers {
		if !a.At.Before(since) && a.Err == nil {
			return a.At.Sub(since), true
		}
	}
	return 0, false
}
