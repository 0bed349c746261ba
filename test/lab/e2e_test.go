// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	cloudproviderapi "k8s.io/cloud-provider/api"
)

func TestLabsSideBySide(t *testing.T) {
	needsRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	dual := Config{Name: "labtest-dual", Nodes: 1}
	ipv6 := Config{Name: "labtest-ipv6", Nodes: 1, Families: IPv6, ExternalCloudProvider: true}
	labs := map[string]*Lab{}
	for _, config := range []Config{dual, ipv6} {
		cleanUp(t, config.Name)
	}
	if _, err := Build(ctx, t.Output()); err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	for _, config := range []Config{dual, ipv6} {
		group.Go(func() error {
			_, err := Up(ctx, config, t.Output())
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, config := range []Config{dual, ipv6} {
		l, err := Open(config.Name)
		if err != nil {
			t.Fatal(err)
		}
		labs[config.Name] = l
	}

	t.Run("a pod answers on the addresses of both families", func(t *testing.T) {
		l := labs[dual.Name]
		pod := runPod(ctx, t, l)
		if len(pod.Status.PodIPs) != 2 {
			t.Fatalf("pod IPs = %v, want a pair", pod.Status.PodIPs)
		}
		for _, ip := range pod.Status.PodIPs {
			if got := get(ctx, t, l, Ext, net.JoinHostPort(ip.IP, "8080")); got != pod.Name {
				t.Errorf("from outside %s answers %q, want %q", ip.IP, got, pod.Name)
			}
		}
	})
	t.Run("an external cloud provider has yet to initialise the node of an IPv6 lab", func(t *testing.T) {
		client, err := kubernetes.NewForConfig(labs[ipv6.Name].RESTConfig())
		if err != nil {
			t.Fatal(err)
		}
		node, err := client.CoreV1().Nodes().Get(ctx, "node1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != cloudproviderapi.TaintExternalCloudProvider {
			t.Errorf("taints = %v, want %s", node.Spec.Taints, cloudproviderapi.TaintExternalCloudProvider)
		}
		if got := node.Annotations[cloudproviderapi.AnnotationAlphaProvidedIPAddr]; got != "2001:db8:51::11" {
			t.Errorf("provided node IP = %q, want the IPv6 address alone", got)
		}
	})
	t.Run("FRR answers", func(t *testing.T) {
		l := labs[dual.Name]
		config := "ip route 192.0.2.0/24 198.51.100.11\nipv6 route 2001:db8:1::/64 2001:db8:51::11"
		if err := l.StartFRR(ctx, Router, config); err != nil {
			t.Fatal(err)
		}
		for show, want := range map[string]string{
			"show ip route static":   "192.0.2.0/24",
			"show ipv6 route static": "2001:db8:1::/64",
		} {
			if got, err := l.Vtysh(ctx, Router, show); err != nil || !strings.Contains(got, want) {
				t.Errorf("%s = %s, %v, want %s", show, got, err, want)
			}
		}
		err := l.StartFRR(ctx, Router, "router bgp 1\n nonsense")
		if err == nil || !strings.Contains(err.Error(), "nonsense") {
			t.Errorf("a configuration that is wrong: error = %v, want the line", err)
		}
	})
	t.Run("a node comes back after its power was cut", func(t *testing.T) {
		l := labs[dual.Name]
		if err := l.StopNode(ctx, "node1"); err != nil {
			t.Fatal(err)
		}
		for _, p := range l.Status() {
			if strings.HasPrefix(p.Name, "node1/") && p.Running {
				t.Errorf("%s still runs", p.Name)
			}
		}
		if err := l.StartNode(ctx, "node1"); err != nil {
			t.Fatal(err)
		}
		runPod(ctx, t, l)
	})
	t.Run("taking one lab down leaves the other alone", func(t *testing.T) {
		if err := labs[ipv6.Name].Down(ctx); err != nil {
			t.Fatal(err)
		}
		if left := traces(t, ipv6.Name); len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
		runPod(ctx, t, labs[dual.Name])
		if err := labs[dual.Name].Down(ctx); err != nil {
			t.Fatal(err)
		}
		if left := traces(t, dual.Name); len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
	})
}

func TestDownAfterCrash(t *testing.T) {
	needsRoot(t)
	const name = "labtest-crash"
	cleanUp(t, name)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	if _, err := Build(ctx, t.Output()); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "lab")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/lab").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, when := range []string{"Built the network", "Started containerd", "Started the control plane"} {
		t.Run(when, func(t *testing.T) {
			up := exec.CommandContext(ctx, program, "-name", name, "up", "-nodes", "2")
			up.Stderr = &trigger{text: when, pull: func() { _ = up.Process.Kill() }}
			if err := up.Run(); err == nil {
				t.Fatalf("the lab is up, but should have been killed after %q", when)
			}
			if len(traces(t, name)) == 0 {
				t.Fatal("nothing was made")
			}
			l, err := Open(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Down(ctx); err != nil {
				t.Fatal(err)
			}
			if left := traces(t, name); len(left) > 0 {
				t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
			}
		})
	}
}

// trigger is a writer that calls pull when it has read a text.
type trigger struct {
	text string
	pull func()
	seen bytes.Buffer
}

func (w *trigger) Write(p []byte) (int, error) {
	w.seen.Write(p)
	if strings.Contains(w.seen.String(), w.text) {
		w.pull()
	}
	return len(p), nil
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// cleanUp takes a lab down before a test, if another has left it, and after it.
func cleanUp(t *testing.T, name string) {
	t.Helper()
	down := func() {
		l, err := Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		if t.Failed() {
			for _, p := range l.Status() {
				t.Logf("%s, running: %t\n%s", p.Name, p.Running, l.tail(p.Name))
			}
		}
		if err := l.Down(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}
	down()
	t.Cleanup(down)
}

// runPod runs a web server that answers with the name of its pod.
func runPod(ctx context.Context, t *testing.T, l *Lab) *corev1.Pod {
	t.Helper()
	client, err := kubernetes.NewForConfig(l.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	pods := client.CoreV1().Pods(metav1.NamespaceDefault)
	pod, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "web-"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "web", Image: AgnhostImage, Args: []string{"netexec", "--http-port=8080"},
		}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	watch, err := pods.Watch(ctx, metav1.SingleObject(pod.ObjectMeta))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	for event := range watch.ResultChan() {
		if pod, ok := event.Object.(*corev1.Pod); ok && pod.Status.Phase == corev1.PodRunning {
			return pod
		}
	}
	out, err := l.Kubectl(context.WithoutCancel(ctx), "describe", "pod", pod.Name).CombinedOutput()
	t.Fatalf("the pod doesn't run: %s, %v", out, err)
	return nil
}

// get asks the web server of runPod from a host, until it answers.
func get(ctx context.Context, t *testing.T, l *Lab, host, address string) string {
	t.Helper()
	client := l.HTTP(host, 2*time.Second)
	var body []byte
	if err := eventually(ctx, func() error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/hostname", nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err = io.ReadAll(response.Body)
		return err
	}); err != nil {
		t.Error(err)
	}
	return string(body)
}

// traces returns everything on this machine that bears the name of a lab.
func traces(t *testing.T, name string) []string {
	t.Helper()
	var found []string
	patterns := []string{"/run/netns/" + name + "*", "/run/frr/" + name + "*", "/etc/frr/" + name + "*", stateDir(name)}
	all, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for _, hierarchy := range all {
		patterns = append(patterns, hierarchy+"/tandem-lab-"+name)
	}
	for _, pattern := range patterns {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, matches...)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, name) {
			found = append(found, "mount "+strings.TrimSpace(line))
		}
	}
	// A process has the name in its arguments, a container in its cgroup. A zombie has no arguments and belongs to
	// whoever has to wait for it.
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range processes {
		arguments, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(arguments) == 0 {
			continue
		}
		cgroup, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err == nil && bytes.Contains(append(arguments, cgroup...), []byte(name)) {
			found = append(found, fmt.Sprintf("process %s: %q", dir, arguments))
		}
	}
	return found
}
