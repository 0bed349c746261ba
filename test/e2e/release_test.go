// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/documents"
	"github.com/tandem-lb/tandem/test/lab"
)

// TestInstallation begins with clusters that have images and nothing of Tandem, and whose nodes need no cloud provider. It installs mode services in each
// way, types the rest of README's first screen, and removes everything. The cluster of three nodes then is upgraded, too.
func TestInstallation(t *testing.T) {
	for _, row := range []struct {
		name  string
		nodes int
	}{
		{"one node", 1},
		{"three nodes", 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := emptyCluster(t, lab.Config{Name: fmt.Sprintf("%s-%d", labName(), row.nodes), Nodes: row.nodes})
			r := newRelease(t, c)
			t.Run("kubectl apply", func(t *testing.T) {
				t.Cleanup(func() { r.sh(t, "kubectl delete -f install-services.yaml --timeout=120s") })
				s := r.play(t, r.screen[0])
				if row.nodes > 1 {
					s.testModeServices(t)
				}
				s.testNoNodeIsTouched(t)
			})
			r.testNothingIsLeft(t)
			t.Run("helm install", func(t *testing.T) {
				t.Cleanup(func() {
					r.helm(t, "uninstall", "tandem", "--namespace", "tandem-system")
					r.sh(t, "kubectl delete crd -l app.kubernetes.io/part-of=tandem && kubectl delete namespace tandem-system")
				})
				// The commands of docs/install.md.
				r.sh(t, "kubectl create namespace tandem-system && "+
					"kubectl label namespace tandem-system pod-security.kubernetes.io/enforce=privileged")
				s := r.play(t, "helm install")
				s.testNoNodeIsTouched(t)
				if row.nodes == 1 {
					if err := r.LoadImages(t.Context(), r.Release("kubectl-tandem-image-linux-"+runtime.GOARCH+".tar")); err != nil {
						t.Fatal(err)
					}
					r.helm(t, "test", "tandem", "--namespace", "tandem-system")
					r.testSpeakersOverlap(t, s)
				}
			})
			r.testNothingIsLeft(t)
			if row.nodes > 1 {
				t.Run("upgrade and back", func(t *testing.T) { testUpgradeAndBack(t, c) })
			}
		})
	}
}

// labName is the name of the lab of most tests, with which those of others begin.
func labName() string { return cmp.Or(os.Getenv("TANDEM_E2E_LAB"), "e2e") }

// emptyCluster returns a cluster without Tandem, which goes with the test.
func emptyCluster(t *testing.T, config lab.Config) *cluster.Cluster {
	t.Helper()
	t.Cleanup(func() {
		if l, err := lab.Open(config.Name); err != nil {
			t.Error(err)
		} else if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	c, err := cluster.Start(t.Context(), config, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// release is a cluster, and a directory in which a user types.
type release struct {
	*cluster.Cluster
	dir    string   // has install-services.yaml, and lan.yaml of README
	screen []string // the commands of README's first screen, of which the first installs Tandem
}

func newRelease(t *testing.T, c *cluster.Cluster) release {
	t.Helper()
	lan, screen := documents.FirstScreen(t, "../..")
	r := release{c, t.TempDir(), screen}
	if err := errors.Join(
		os.WriteFile(filepath.Join(r.dir, "lan.yaml"), []byte(lan), 0o644),
		os.Symlink(c.Release("install-services.yaml"), filepath.Join(r.dir, "install-services.yaml")),
	); err != nil {
		t.Fatal(err)
	}
	return r
}

// sh types a line.
func (r release) sh(t *testing.T, line string) {
	t.Helper()
	// After a test, its context has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-ec", line)
	cmd.Dir, cmd.Env = r.dir, append(os.Environ(), "PATH="+r.Dir()+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v: %s", line, err, out)
	}
}

// helm runs the Helm that the Makefile names, in the network namespace of the control plane.
func (r release) helm(t *testing.T, args ...string) {
	t.Helper()
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^HELM +:= go run (.+)$`).FindSubmatch(makefile)
	if line == nil {
		t.Fatal("the Makefile does not say which Helm")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	defer cancel()
	run := append([]string{"run", "-exec", "nsenter --net=" + r.Namespace(lab.ControlPlane) + " --"}, strings.Fields(string(line[1]))...)
	cmd := exec.CommandContext(ctx, "go", append(append(run, args...), "--kubeconfig", filepath.Join(r.Dir(), "pki", "admin.kubeconfig"))...)
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

// chart returns the path of the chart.
func (r release) chart(t *testing.T) string {
	t.Helper()
	charts, err := filepath.Glob(r.Release("tandem-*.tgz"))
	if err != nil || len(charts) != 1 {
		t.Fatalf("the release has charts %v, want one", charts)
	}
	return charts[0]
}

// testSpeakersOverlap rolls the speaker of the only node out, by an upgrade and again and again. The next speaker answers on the LAN before the one before
// it ends.
func (r release) testSpeakersOverlap(t *testing.T, s *stage) {
	t.Run("a rollout overlaps", func(t *testing.T) {
		// The web server is on the node on which a speaker starts, and is to get its share of a processor.
		s.kubectl(t, "set", "resources", "deployment/web", "--requests=cpu=500m")
		s.kubectl(t, "rollout", "status", "deployment/web", "--timeout=60s")
		ips, mac := s.addresses(t, "web", 2), s.mac(t, "node1")
		s.confirmOften(t)
		var seen experience
		rollOut := func(start func()) {
			for _, host := range []string{lab.Client, lab.Ext} {
				s.steady(t, host, ips)
			}
			before := s.record(t)
			p, err := s.process("node1", programs["speaker"])
			if err != nil {
				t.Fatal(err)
			}
			s.experiencing(t, ips, mac, &seen, func() {
				start()
				s.kubectl(t, "rollout", "status", "-n", "tandem-system", "daemonset/tandem-speaker", "--timeout=120s")
				s.until(t, patience, "the end of the speaker before", func(context.Context) (bool, string) {
					return errors.Is(unix.Kill(p.pid, 0), unix.ESRCH), "it runs"
				})
				s.nodeReady(t.Context(), t, "node1")
			})
			if after := s.record(t); after.ResourceVersion != before.ResourceVersion {
				t.Errorf("the record was written: %+v, it was %+v", after.Status, before.Status)
			}
		}
		n := repetitions(t, 10)
		rollOut(func() {
			r.helm(t, "upgrade", "tandem", r.chart(t), "--namespace", "tandem-system", "--set", "mode=services", "--set", "speaker.maxSurge=1")
		})
		for range n - 1 {
			rollOut(func() { s.kubectl(t, "rollout", "restart", "-n", "tandem-system", "daemonset/tandem-speaker") })
		}
		seen.note(t, n)
	})
}

// play installs Tandem in a cluster that has a Deployment called web, and types the other two lines of README's first screen. It returns when both
// families answer, and notes how long that took.
func (r release) play(t *testing.T, install string) *stage {
	t.Helper()
	s := newStage(t, r.Cluster)
	s.ns = metav1.NamespaceDefault // where a user's kubectl goes
	s.kubectl(t, "create", "deployment", "web", "--image="+lab.AgnhostImage, fmt.Sprint("--replicas=", len(r.Nodes())), "--",
		"/agnhost", "netexec", "--http-port=80")
	t.Cleanup(func() { s.kubectlAfter(t, "delete", "deployment", "web") })
	s.kubectl(t, "rollout", "status", "deployment/web", "--timeout=60s")

	start := time.Now()
	if install == "helm install" {
		r.helm(t, "install", "tandem", r.chart(t), "--namespace", "tandem-system", "--set", "mode=services")
	} else {
		r.sh(t, install)
	}
	installed := time.Since(start)
	for _, line := range r.screen[1:] {
		r.sh(t, line)
	}
	t.Cleanup(func() {
		s.kubectlAfter(t, "delete", "service", "web")
		if err := cluster.Until(context.Background(), patience, "the end of all claims", func(ctx context.Context) (bool, string) {
			claims := s.claims(ctx, t)
			return len(claims) == 0, fmt.Sprint(claims)
		}); err != nil {
			t.Error(err)
		}
	})
	ips := s.addresses(t, "web", 2)
	if diff := gocmp.Diff([]corev1.IPFamily{v4, v6}, families(t, ips)); diff != "" {
		t.Fatalf("families (-want +got):\n%s", diff)
	}
	for _, host := range []string{lab.Client, lab.Ext} {
		for _, ip := range ips {
			s.reach(t, host, ip, "/hostname")
		}
	}
	soaked.note(t, "from an empty cluster to answers of both families", "%v, of which %v for %s",
		time.Since(start).Round(100*time.Millisecond), installed.Round(100*time.Millisecond), strings.Fields(install)[0])
	if err := r.RolledOut(t.Context()); err != nil {
		t.Error(err)
	}
	return s
}

// testModeServices plays what Services are promised, with the Service web of README.
func (s *stage) testModeServices(t *testing.T) {
	t.Run("conditions", func(t *testing.T) {
		for _, condition := range []string{ipamv1alpha1.ServiceConditionAllocated, ipamv1alpha1.ServiceConditionAnnounced} {
			s.says(t, "web", condition, metav1.ConditionTrue, "")
		}
	})
	t.Run("takeover from a speaker that does not return", func(t *testing.T) {
		ips, holder := s.addresses(t, "web", 2), s.holder(t, "web", 2)
		speaker, err := s.process(holder, programs["speaker"])
		if err != nil {
			t.Fatal(err)
		}
		c := s.tcpdump(t, lab.Client)
		mark, mac := c.mark(), s.mac(t, holder)
		t.Cleanup(func() { _ = unix.Kill(speaker.pid, unix.SIGCONT) })
		if err := unix.Kill(speaker.pid, unix.SIGSTOP); err != nil { // one that is killed would be back before its grace is over
			t.Fatal(err)
		}
		s.until(t, restartGrace+patience, "the move", func(context.Context) (bool, string) { return c.taken(mark, ips, mac) })
		s.steady(t, lab.Client, ips)
	})
	t.Run("sharing and release", func(t *testing.T) {
		shared := func(name string, port int32) *corev1.Service {
			svc := with(s.service(name, v4, v6), ipamv1alpha1.AnnotationAllowSharedIP, "key")
			svc.Spec.Ports = []corev1.ServicePort{{Port: port, TargetPort: intstr.FromInt32(80)}}
			return svc
		}
		s.add(t, shared("one", 80))
		ips := s.addresses(t, "one", 2)
		two := shared("two", 81)
		two.Annotations[ipamv1alpha1.AnnotationLoadBalancerIPs] = strings.Join(ips, ",")
		s.add(t, two)
		if diff := gocmp.Diff(ips, s.addresses(t, "two", 2)); diff != "" {
			t.Errorf("addresses of the second Service (-want +got):\n%s", diff)
		}
		s.answers(t, lab.Client, ips, 81)
		s.remove(t, shared("one", 80))
		s.answers(t, lab.Client, ips, 81)
		s.remove(t, two)
		s.claimsBecome(t, pairs("web", s.addresses(t, "web", 2)...))
	})
}

// testNoNodeIsTouched checks that nothing of Tandem has written a Node, nor may.
func (s *stage) testNoNodeIsTouched(t *testing.T) {
	t.Helper()
	var nodes corev1.NodeList
	if err := s.List(t.Context(), &nodes); err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes.Items {
		if node.Spec.ProviderID != "" || len(node.Spec.Taints) > 0 {
			t.Errorf("%s has provider ID %q and taints %v", node.Name, node.Spec.ProviderID, node.Spec.Taints)
		}
		for _, fields := range node.ManagedFields {
			if strings.Contains(fields.Manager, "tandem") {
				t.Errorf("%s wrote %s of Node %s", fields.Manager, fields.FieldsV1, node.Name)
			}
		}
	}
	for _, account := range []string{"tandem-cloud-controller-manager", "tandem-speaker"} {
		for _, verb := range []string{"create", "update", "patch", "delete", "deletecollection"} {
			for _, resource := range []string{"nodes", "nodes/status"} {
				out, _ := s.Kubectl(t.Context(), "auth", "can-i", verb, resource, "--as=system:serviceaccount:tandem-system:"+account).Output()
				if got := strings.TrimSpace(string(out)); got != "no" {
					t.Errorf("%s may %s %s: %q", account, verb, resource, got)
				}
			}
		}
	}
}

// testNothingIsLeft checks that Tandem is removed completely.
func (r release) testNothingIsLeft(t *testing.T) {
	t.Helper()
	out, err := r.Kubectl(t.Context(), "get", "-o", "name", "--ignore-not-found", "-l", "app.kubernetes.io/part-of=tandem",
		"namespaces,crds,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if left := strings.Fields(string(out)); len(left) > 0 {
		t.Errorf("still there after the removal: %v", left)
	}
}
