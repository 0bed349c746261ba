// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// previous is the source of the version before this one, without its tests. While there is no release, that is commit f51e642; a clone without history
// has the archive all the same. When a version is released, its tag takes the place of f51e642, and this writes the file:
//
//	git archive --prefix=previous/ f51e642 go.mod go.sum VERSION cmd ipam loadbalancer provider speaker manifests |
//		tar --delete --wildcards 'previous/*_test.go' | gzip -9n >test/e2e/testdata/previous.tar.gz
const previous = "testdata/previous.tar.gz"

// previousTag tells the images of the version before from those of this one, whatever VERSION says.
const previousTag = "v0.0.1-previous"

// testUpgradeAndBack installs the version before in a cluster without Tandem, gives Services addresses, and applies install.yaml of this version,
// first without the speakers, and then the version before again, while clients ask.
func testUpgradeAndBack(t *testing.T, c *cluster.Cluster) {
	before := loadPrevious(t, c)
	apply := func(args ...string) func() {
		return func() {
			if out, err := c.Kubectl(t.Context(), append([]string{"apply"}, args...)...).CombinedOutput(); err != nil {
				t.Fatalf("kubectl apply %v: %v\n%s", args, err, out)
			}
		}
	}
	apply("-k", before)()
	if err := c.RolledOut(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := newStage(t, c)
	s.pool(t, "", lanIPv4, lanIPv6)
	s.layer2(t)
	s.bgp(t)
	s.web(t, s.Nodes()...)
	s.addOld(t)
	ips := s.addresses(t, "web", 2)
	s.announcedFrom(t, ips, s.Nodes()...)
	want := s.recorded(t)

	for _, step := range []struct {
		name string
		do   func()
	}{
		{"this version's controller manager with speakers of the version before", func() {
			manifests, err := os.ReadFile(c.Release("install.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			documents := slices.DeleteFunc(strings.Split(string(manifests), "\n---\n"), func(document string) bool {
				return strings.Contains(document, "\nkind: DaemonSet\n")
			})
			if err := c.Apply(t.Context(), strings.Join(documents, "\n---\n")); err != nil {
				t.Fatal(err)
			}
		}},
		{"upgrade", apply("-f", c.Release("install.yaml"))},
		{"back", func() {
			s.kubectl(t, "delete", "validatingadmissionpolicies,validatingadmissionpolicybindings", "-l", "app.kubernetes.io/part-of=tandem")
			apply("-k", before)()
		}},
	} {
		if !t.Run(step.name, func(t *testing.T) {
			stops := map[string]func(*tally){}
			for _, host := range []string{lab.Client, lab.Ext} {
				s.answers(t, host, ips, 80)
				stops[host] = s.asking(t, host, ips, 80)
			}
			step.do()
			if err := c.RolledOut(t.Context()); err != nil {
				t.Error(err)
			}
			for host, stop := range stops {
				s.answers(t, host, ips, 80)
				var requests tally
				stop(&requests)
				// A request without an answer is a figure, to compare with that of a restart: on a busy machine one may take longer than its time.
				soaked.note(t, "asked from "+host, "%v", requests)
			}
			if diff := cmp.Diff(want, s.recorded(t)); diff != "" {
				t.Errorf("objects and addresses (-want +got):\n%s", diff)
			}
			s.announcedFrom(t, ips, s.Nodes()...)
			s.servesAnother(t)
		}) {
			return // what comes after would only show the same
		}
	}
}

// loadPrevious builds the version before, loads its images on the nodes, and returns the directory for `kubectl apply -k`.
func loadPrevious(t *testing.T, c *cluster.Cluster) string {
	t.Helper()
	dir := t.TempDir()
	run := func(in string, command ...string) {
		cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
		cmd.Dir, cmd.Env = in, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
	run(".", "tar", "-xzf", previous, "-C", dir)
	source := filepath.Join(dir, "previous")
	run(source, "go", "run", "./cmd/images", "-version", previousTag)
	images, err := filepath.Glob(filepath.Join(source, "dist", "images", "*.tar"))
	if err != nil || len(images) != 2 {
		t.Fatalf("the version before has images %v, want two", images)
	}
	if err := c.LoadImages(t.Context(), images...); err != nil {
		t.Fatal(err)
	}
	overlay := "resources: [../manifests/default]\nimages:\n"
	for _, program := range []string{"cloud-controller-manager", "speaker"} {
		overlay += fmt.Sprintf("- {name: ghcr.io/tandem-lb/%s, newTag: %s}\n", program, previousTag)
	}
	tagged := filepath.Join(source, "tagged")
	if err := os.Mkdir(tagged, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tagged, "kustomization.yaml"), []byte(overlay), 0o644); err != nil {
		t.Fatal(err)
	}
	return tagged
}

// addOld makes Services while the version before runs: one of both families, one with addresses of its choice, and two that share.
func (s *stage) addOld(t *testing.T) {
	t.Helper()
	s.add(t, s.service("web", v4, v6))
	s.add(t, with(s.service("chosen", v4, v6), ipamv1alpha1.AnnotationLoadBalancerIPs, "198.51.100.239,2001:db8:51::1fff"))
	for i, name := range []string{"first", "second"} {
		svc := with(s.service(name, v4, v6), ipamv1alpha1.AnnotationAllowSharedIP, "key")
		svc.Spec.Ports = []corev1.ServicePort{{Port: int32(80 + i), TargetPort: intstr.FromInt32(8080)}}
		svc.Annotations[ipamv1alpha1.AnnotationLoadBalancerIPs] = "198.51.100.230,2001:db8:51::1230"
		s.add(t, svc)
	}
}

// recorded returns, by their names, the UIDs of Tandem's objects, definitions and claims, and the addresses of the stage's Services. Records that
// speakers make are left out.
func (s *stage) recorded(t *testing.T) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, kind := range []schema.GroupVersionKind{
		{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"},
		ipamv1alpha1.GroupVersion.WithKind("AddressPool"),
		ipamv1alpha1.GroupVersion.WithKind("L2Advertisement"),
		ipamv1alpha1.GroupVersion.WithKind("BGPPeer"),
		ipamv1alpha1.GroupVersion.WithKind("BGPAdvertisement"),
		networkingv1.SchemeGroupVersion.WithKind("IPAddress"),
	} {
		var list metav1.PartialObjectMetadataList
		list.SetGroupVersionKind(kind)
		var ours []client.ListOption
		if kind.Kind == "IPAddress" { // and not the IPAddresses of ClusterIPs
			ours = append(ours, client.MatchingLabels{networkingv1.LabelManagedBy: ipamv1alpha1.ManagedBy})
		}
		if err := s.List(t.Context(), &list, ours...); err != nil {
			t.Fatal(err)
		}
		for _, item := range list.Items {
			got[kind.Kind+" "+item.Name] = string(item.UID)
		}
	}
	for _, svc := range s.services(t.Context(), t) {
		got["Service "+svc.Name] = strings.Join(s.addresses(t, svc.Name, 2), ",")
	}
	return got
}

// servesAnother creates a Service and deletes it.
func (s *stage) servesAnother(t *testing.T) {
	t.Helper()
	svc := s.service("another", v4, v6)
	if err := s.Create(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
	// The leader of the version before keeps its lease when it ends, so that the next one leads when that has expired.
	s.until(t, 90*time.Second, "addresses by the next leader", func(ctx context.Context) (bool, string) {
		err := s.Client.Get(ctx, client.ObjectKeyFromObject(svc), svc)
		return err == nil && len(svc.Status.LoadBalancer.Ingress) == 2, fmt.Sprint(svc.Status.LoadBalancer, err)
	})
	ips := s.addresses(t, svc.Name, 2)
	s.holder(t, svc.Name, 2)
	s.announcedFrom(t, ips, s.Nodes()...)
	for _, host := range []string{lab.Client, lab.Ext} {
		s.answers(t, host, ips, 80)
	}
	s.remove(t, svc)
	s.until(t, patience, "the end of its claims and its record", func(ctx context.Context) (bool, string) {
		claims := slices.Collect(maps.Values(s.claims(ctx, t)))
		record := s.objects(t, `{apiVersion: tandem-lb.io/v1alpha1, kind: L2Announcement, metadata: {name: $NS.another}}`)[0]
		err := s.Client.Get(ctx, client.ObjectKeyFromObject(record), record)
		return !slices.Contains(claims, svc.Name) && client.IgnoreNotFound(err) == nil && err != nil, fmt.Sprint(claims, err)
	})
}
