// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Families are the address families that a lab has.
type Families string

// The choices of families.
const (
	Dual Families = "dual"
	IPv4 Families = "ipv4"
	IPv6 Families = "ipv6"
)

// Config says what kind of lab to bring up. The zero value is a dual-stack lab of three nodes.
type Config struct {
	// Name tells the lab from others on the same machine: everything it makes bears it. Default "tandem".
	Name string `json:"name"`
	// Nodes is the number of nodes. Default 3.
	Nodes int `json:"nodes"`
	// Families says which addresses there are: of links, nodes, pods and Services. Default Dual.
	Families Families `json:"families"`
	// ExternalCloudProvider starts the kubelets with --cloud-provider=external, so that a cloud provider has to
	// initialise the nodes before anything without a toleration is scheduled on them.
	ExternalCloudProvider bool `json:"externalCloudProvider,omitempty"`
	// Bare leaves Kubernetes out: nodes have containerd and the images, and a tool like kubeadm makes a cluster of them. The
	// lab's own client configuration and its kubectl then lead nowhere.
	Bare bool `json:"bare,omitempty"`
	// NodeIPs overrides the kubelet's --node-ip on the nodes that it names.
	NodeIPs map[string]string `json:"nodeIPs,omitempty"`
}

// Defaults sets what is not set.
func (c *Config) Defaults() {
	if c.Name == "" {
		c.Name = "tandem"
	}
	if c.Nodes == 0 {
		c.Nodes = 3
	}
	if c.Families == "" {
		c.Families = Dual
	}
}

// A name becomes part of namespaces, cgroups, sockets and FRR's path spaces.
var validName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,19}$`)

// Validate returns everything that is wrong with c.
func (c *Config) Validate() error {
	var errs []error
	if !validName.MatchString(c.Name) {
		errs = append(errs, fmt.Errorf("name %q is not a letter and up to 19 letters, digits and hyphens", c.Name))
	}
	// Their addresses lie between those of the control plane and of the client.
	if c.Nodes < 1 || c.Nodes > 80 {
		errs = append(errs, fmt.Errorf("%d nodes are not between 1 and 80", c.Nodes))
	}
	switch c.Families {
	case Dual, IPv4, IPv6:
	default:
		errs = append(errs, fmt.Errorf("families %q are none of %s, %s and %s", c.Families, Dual, IPv4, IPv6))
	}
	for name := range c.NodeIPs {
		if !slices.Contains((plan{nodes: c.Nodes}).nodeNames(), name) {
			errs = append(errs, fmt.Errorf("node IPs are given for %s, which the lab doesn't have", name))
		}
	}
	return errors.Join(errs...)
}

// Lab is a lab that is up, or what a crash left of one.
type Lab struct {
	dir         string
	config      Config
	plan        plan
	bin         Binaries
	record      *record
	hierarchies []string
}

// state is what a lab keeps beside its record.
type state struct {
	Config   Config   `json:"config"`
	Binaries Binaries `json:"binaries"`
}

// stateDir returns the state directory of the lab of that name: below $TANDEM_LAB_STATE, or /var/lib/tandem-lab.
func stateDir(name string) string {
	root := os.Getenv("TANDEM_LAB_STATE")
	if root == "" {
		root = "/var/lib/tandem-lab"
	}
	return filepath.Join(root, name)
}

// Up builds what is missing from the cache, brings a lab up, and returns when its nodes are ready. With an external
// cloud provider they then still bear the taint that it has to remove. A lab of the same name is taken down first.
//
// The lab lives on when this process ends, until [Lab.Down]. If Up fails, what it has made stays to be looked at: Open
// and Down it, or call Up again.
func Up(ctx context.Context, config Config, progress io.Writer) (*Lab, error) {
	config.Defaults()
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if missing := MissingPackages(); len(missing) > 0 {
		return nil, fmt.Errorf("lab: these Debian packages are missing: %s", strings.Join(missing, " "))
	}
	if old, err := Open(config.Name); err == nil {
		fmt.Fprintf(progress, "Taking down the lab %s that was here before\n", config.Name)
		if err := old.Down(ctx); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	bin, err := Build(ctx, progress)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	start := time.Now()
	l, err := create(ctx, config, bin)
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", config.Name, err)
	}
	if err := l.up(ctx, progress); err != nil {
		return nil, fmt.Errorf("lab %s: %w", config.Name, err)
	}
	fmt.Fprintf(progress, "Lab %s is up after %s: %s get nodes\n",
		config.Name, time.Since(start).Round(100*time.Millisecond), filepath.Join(l.dir, "kubectl"))
	return l, nil
}

// create makes the state directory of a new lab.
func create(ctx context.Context, config Config, bin Binaries) (*Lab, error) {
	dir := stateDir(config.Name)
	// Again, because another lab that is taken down removes the common parent where it is empty.
	if err := eventually(ctx, func() error { return os.MkdirAll(dir, 0o755) }); err != nil {
		return nil, err
	}
	content, err := json.MarshalIndent(state{Config: config, Binaries: bin}, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "state.json"), content, 0o644); err != nil {
		return nil, err
	}
	return Open(config.Name)
}

// Open returns the lab of that name, whether it is up or in pieces. Where there is none, its error is [fs.ErrNotExist].
func Open(name string) (*Lab, error) {
	l := &Lab{dir: stateDir(name)}
	content, err := os.ReadFile(filepath.Join(l.dir, "state.json"))
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	var s state
	if err := json.Unmarshal(content, &s); err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	l.config, l.bin = s.Config, s.Binaries
	l.plan = plan{name: s.Config.Name, nodes: s.Config.Nodes, families: s.Config.Families}
	if l.record, err = openRecord(l.dir); err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	if l.hierarchies, err = hierarchies(); err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	return l, nil
}

func (l *Lab) up(ctx context.Context, progress io.Writer) error {
	start := time.Now()
	step := func(what string) {
		fmt.Fprintf(progress, "%s after %s\n", what, time.Since(start).Round(100*time.Millisecond))
	}
	if err := allowInotify(); err != nil {
		return fmt.Errorf("allowing more inotify instances: %w", err)
	}
	if err := l.record.add(entry{Cgroup: l.cgroup()}); err != nil {
		return err
	}
	if err := l.issueCertificates(); err != nil {
		return fmt.Errorf("issuing certificates: %w", err)
	}
	if err := l.writeKubectl(); err != nil {
		return err
	}
	if err := l.buildNetwork(ctx); err != nil {
		return fmt.Errorf("building the network: %w", err)
	}
	step("Built the network")

	group, groupCtx := errgroup.WithContext(ctx)
	if !l.config.Bare {
		group.Go(func() error {
			if err := l.startControlPlane(groupCtx); err != nil {
				return fmt.Errorf("starting the control plane: %w", err)
			}
			step("Started the control plane")
			return nil
		})
	}
	for _, node := range l.plan.nodeNames() {
		group.Go(func() error {
			if err := l.startRuntime(groupCtx, node); err != nil {
				return fmt.Errorf("starting %s: %w", node, err)
			}
			step("Started containerd on " + node)
			return nil
		})
	}
	if err := group.Wait(); err != nil || l.config.Bare {
		return err
	}
	for _, node := range l.plan.nodeNames() {
		if err := l.startAgents(node); err != nil {
			return fmt.Errorf("starting %s: %w", node, err)
		}
	}
	return l.waitReady(ctx)
}

// waitReady waits until every node is ready, and until pods can be created: they need the service account.
func (l *Lab) waitReady(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(l.RESTConfig())
	if err != nil {
		return err
	}
	for _, name := range l.plan.nodeNames() {
		if err := l.wait(ctx, name+"/kubelet", time.Minute, func(ctx context.Context) error {
			node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, condition := range node.Status.Conditions {
				if condition.Type != corev1.NodeReady {
					continue
				}
				if condition.Status == corev1.ConditionTrue {
					return nil
				}
				return fmt.Errorf("%s: %s", condition.Reason, condition.Message)
			}
			return errors.New("the kubelet has not reported yet")
		}); err != nil {
			return err
		}
	}
	return l.wait(ctx, "cp/kube-controller-manager", time.Minute, func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// prepareHost makes what a host needs for its processes: a directory for logs and a cgroup.
func (l *Lab) prepareHost(host string) error {
	if err := os.MkdirAll(filepath.Join(l.dir, host), 0o755); err != nil {
		return err
	}
	return os.MkdirAll(l.cgroupFor(host), 0o755)
}

// Down ends all processes of the lab and removes everything that it has made. What is gone already is no error.
func (l *Lab) Down(ctx context.Context) error {
	var errs []error
	entries := l.record.all()
	// Processes end first: they hold everything else.
	for _, e := range entries {
		switch {
		case e.Cgroup != "":
			errs = append(errs, l.endCgroup(ctx, e.Cgroup))
		case e.Process != nil:
			errs = append(errs, e.Process.kill(ctx))
		}
	}
	for _, e := range entries {
		switch {
		case e.Namespace != "":
			if _, err := os.Lstat("/run/netns/" + e.Namespace); err == nil {
				errs = append(errs, run(exec.CommandContext(ctx, "ip", "netns", "delete", e.Namespace)))
			}
		case e.Directory != "":
			errs = append(errs, os.RemoveAll(e.Directory))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("taking down lab %s: %w", l.config.Name, err)
	}
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("taking down lab %s: %w", l.config.Name, err)
	}
	_ = os.Remove(filepath.Dir(l.dir)) // Stays while another lab is in it.
	return nil
}

// StopComponent kills a process of the lab by its name in [Lab.Status], "cp/kube-apiserver" for example, and waits
// until it is gone.
func (l *Lab) StopComponent(ctx context.Context, name string) error {
	p, ok := l.record.process(name)
	if !ok {
		return fmt.Errorf("lab %s has no %s", l.config.Name, name)
	}
	return p.kill(ctx)
}

// StartComponent starts a process again that has ended, as it was started before. It doesn't wait until it is ready.
func (l *Lab) StartComponent(name string) error {
	p, ok := l.record.process(name)
	if !ok {
		return fmt.Errorf("lab %s has no %s", l.config.Name, name)
	}
	if p.running() {
		return fmt.Errorf("%s is running", name)
	}
	return l.start(name, p.Command...)
}

// Status is one process of a lab.
type Status struct {
	Name    string // the host and the program: "node1/kubelet"
	PID     int
	Running bool
	Log     string
}

// Status returns the processes that the lab has started, in the order of their first start.
func (l *Lab) Status() []Status {
	var all []Status
	for _, p := range l.record.processes() {
		all = append(all, Status{Name: p.Name, PID: p.PID, Running: p.running(), Log: l.log(p.Name)})
	}
	return all
}

// Config returns the configuration of the lab.
func (l *Lab) Config() Config { return l.config }

// Dir returns the state directory of the lab. It holds logs, a wrapper of kubectl and the administrator's kubeconfig.
func (l *Lab) Dir() string { return l.dir }

// Hosts returns the names of the lab's hosts.
func (l *Lab) Hosts() []string { return l.plan.hosts() }

// Nodes returns the names of the lab's nodes.
func (l *Lab) Nodes() []string { return l.plan.nodeNames() }

// RESTConfig returns a client configuration of the administrator that works from this process. It has no rate limit.
func (l *Lab) RESTConfig() *rest.Config {
	return &rest.Config{
		Host: "https://" + l.plan.apiServer().String(),
		TLSClientConfig: rest.TLSClientConfig{
			CAFile: l.pki("ca.crt"), CertFile: l.pki("admin.crt"), KeyFile: l.pki("admin.key"),
		},
		Dial: l.Dial(ControlPlane),
		QPS:  -1,
	}
}

// Kubectl returns a command that runs kubectl as the administrator.
func (l *Lab) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	// Labs have the same addresses, by which kubectl would keep what it knows of their kinds in one place.
	args = append([]string{"--kubeconfig=" + l.pki("admin.kubeconfig"), "--cache-dir=" + filepath.Join(l.dir, "kubectl-cache")}, args...)
	return l.Command(ctx, ControlPlane, l.bin["kubectl"], args...)
}

// writeKubectl writes the same as a script for people: STATE/kubectl.
func (l *Lab) writeKubectl() error {
	cmd := l.Kubectl(context.Background())
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' \"$@\"\n", strings.Join(cmd.Args, "' '"))
	return os.WriteFile(filepath.Join(l.dir, "kubectl"), []byte(script), 0o755)
}
