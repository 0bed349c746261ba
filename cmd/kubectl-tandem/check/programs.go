// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/version"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/nodeinfo"
	"github.com/tandem-lb/tandem/speaker/observation"
)

// The versions of Kubernetes that Tandem works with: IPAddress is stable from the first on, and the last is that of the tests.
const (
	firstMinor = 33
	lastMinor  = 36
)

// resources are those of tandem-lb.io/v1alpha1.
var resources = []string{
	"addresspools", "bfdprofiles", "bgpadvertisements", "bgppeers", "communities", "interfaceadvertisements", "l2advertisements", "l2announcements",
	"speakerstatuses",
}

func kinds(in *Input) *Step {
	const name = "kinds"
	if in.KindsErr != nil && !apierrors.IsNotFound(in.KindsErr) {
		return skip(name, "%v", in.KindsErr)
	}
	if in.KindsErr != nil {
		return &Step{Name: name, Result: Fail, Message: in.KindsErr.Error(), Fix: "install the CRDs: kubectl apply -f crds.yaml"}
	}
	var f found
	for _, resource := range resources {
		if !slices.Contains(in.Kinds, resource) {
			f.fail("%s is not served", resource)
		}
	}
	return f.step(name, fmt.Sprintf("all %d kinds of tandem-lb.io/v1alpha1 are served", len(resources)), "install the CRDs of your version: kubectl apply -f crds.yaml")
}

func kubernetes(in *Input) *Step {
	const name = "Kubernetes"
	v, err := version.ParseGeneric(in.Kubernetes)
	if err != nil {
		return skip(name, "the API server does not say its version")
	}
	var f found
	switch {
	case v.Major() == 1 && v.Minor() < firstMinor:
		f.fail("%s has no stable IPAddress of networking.k8s.io", in.Kubernetes)
	case v.Minor() > lastMinor:
		f.warn("%s is newer than 1.%d, with which Tandem was tested", in.Kubernetes, lastMinor)
	}
	return f.step(name, in.Kubernetes, fmt.Sprintf("use Kubernetes 1.%d to 1.%d, or read the changelog of Tandem", firstMinor, lastMinor))
}

func rights(in *Input) *Step {
	const name = "reading"
	if in.State != nil {
		return &Step{Name: name, Result: Pass, Message: "Tandem's objects can be read, in namespace " + in.State.System + " too"}
	}
	fix := "kubectl cluster-info tells whether the API server answers"
	switch {
	case apierrors.IsForbidden(in.StateErr):
		fix = "use an account with the ClusterRole tandem-view; the steps that need what could not be read are left out"
	case kinds(in).Result == Fail:
		fix = "install the CRDs, as the step kinds says; the steps that need them are left out"
	}
	return &Step{Name: name, Result: Fail, Message: in.StateErr.Error(), Fix: fix}
}

func controllerManager(in *Input) *Step {
	const name, fix = "controller manager", "kubectl describe pods -l app.kubernetes.io/component=cloud-controller-manager, in the namespace of Tandem"
	if in.ProgramsErr != nil {
		return skip(name, "%v", in.ProgramsErr)
	}
	if in.Deployment == nil {
		return &Step{
			Name: name, Result: Fail, Message: "there is no Deployment tandem-cloud-controller-manager", Fix: "install Tandem, or name its namespace by --tandem-namespace",
		}
	}
	var f found
	status := in.Deployment.Status
	switch {
	case status.AvailableReplicas == 0:
		f.fail("no replica is available")
	case status.UpdatedReplicas < status.Replicas || status.AvailableReplicas < status.Replicas:
		f.warn("%d of %s are available, %d of this version", status.AvailableReplicas, plural(int(status.Replicas), "replica"), status.UpdatedReplicas)
	}
	return f.step(name, plural(int(status.AvailableReplicas), "replica")+" available", fix)
}

func speakers(in *Input) *Step {
	const name, fix = "speakers run", "kubectl describe pods -l app.kubernetes.io/component=speaker, in the namespace of Tandem"
	if in.ProgramsErr != nil {
		return skip(name, "%v", in.ProgramsErr)
	}
	if in.DaemonSet == nil {
		return &Step{Name: name, Result: Fail, Message: "there is no DaemonSet tandem-speaker", Fix: "install Tandem, or name its namespace by --tandem-namespace"}
	}
	var f found
	status := in.DaemonSet.Status
	switch {
	case status.DesiredNumberScheduled == 0:
		f.fail("its selector and tolerations leave it no node")
	case status.NumberAvailable < status.DesiredNumberScheduled:
		f.fail("%d of %s are available", status.NumberAvailable, plural(int(status.DesiredNumberScheduled), "speaker"))
	case status.UpdatedNumberScheduled < status.DesiredNumberScheduled:
		f.warn("%d of %s have the newest template", status.UpdatedNumberScheduled, plural(int(status.DesiredNumberScheduled), "speaker"))
	}
	return f.step(name, plural(int(status.NumberAvailable), "speaker")+" available", fix)
}

// versions compares what runs. The images tell most, and the speakers tell their own.
func versions(in *Input) *Step {
	const name = "versions"
	running := map[string]string{}
	if in.Deployment != nil {
		running["controller manager"] = tag(&in.Deployment.Spec.Template.Spec)
	}
	if in.DaemonSet != nil {
		running["speaker"] = tag(&in.DaemonSet.Spec.Template.Spec)
	}
	for node, facts := range in.Facts {
		running["speaker of "+node] = release(facts.Version)
	}
	if in.Plugin = release(in.Plugin); in.Plugin != "" {
		running["kubectl-tandem"] = in.Plugin
	}
	parsed := map[string]*version.Version{}
	var f found
	var newest *version.Version
	for program, text := range running {
		v, err := version.ParseSemantic(text)
		if err != nil || strings.HasPrefix(text, "v0.0.0-") {
			delete(running, program) // an image by its digest, or a build of a tree without a version
			continue
		}
		if parsed[program] = v; newest == nil || newest.LessThan(v) {
			newest = v
		}
	}
	if len(parsed) < 2 {
		return skip(name, "images without version tags, and no speaker that was asked")
	}
	for program, v := range parsed {
		switch {
		case newest.Major() != v.Major() || newest.Minor() > v.Minor()+1:
			f.fail("%s has %s, and the newest is %s", program, running[program], newest)
		case !v.EqualTo(newest):
			f.warn("%s has %s, and the newest is %s", program, running[program], newest)
		}
	}
	slices.Sort(f.failures)
	slices.Sort(f.warnings)
	return f.step(name, fmt.Sprintf("v%s everywhere", newest), "bring all to one version (docs/upgrading.md); neighbouring minor versions work together for as long as an upgrade takes")
}

// tag returns the tag of the first image of a Pod, "" for one by its digest.
func tag(pod *corev1.PodSpec) string {
	if len(pod.Containers) == 0 || strings.Contains(pod.Containers[0].Image, "@") {
		return ""
	}
	image := pod.Containers[0].Image
	i := strings.LastIndexByte(image, ':')
	if i < strings.LastIndexByte(image, '/') {
		return ""
	}
	return image[i+1:]
}

// release returns a version without the commit that it was built of: v0.1.0 of v0.1.0+0123456789ab.
func release(text string) string {
	text, _, _ = strings.Cut(text, "+")
	return text
}

// mode looks whether Tandem runs in the mode that the nodes need.
func mode(in *Input) *Step {
	const name = "mode"
	if in.Deployment == nil {
		return skip(name, "the Deployment of the controller manager could not be read")
	}
	services := hasArg(&in.Deployment.Spec.Template.Spec, "--controllers=service-lb-controller")
	var f found
	for i := range in.State.Nodes.Items {
		node := &in.State.Nodes.Items[i]
		switch uninitialized := nodeinfo.Uninitialized(node); {
		case uninitialized && services:
			f.fail("%s waits for a cloud provider, by its taint", node.Name)
		case uninitialized:
			f.warn("%s is not initialised yet", node.Name)
		case !services && node.Spec.ProviderID != "" && !strings.HasPrefix(node.Spec.ProviderID, "tandem://"):
			f.warn("%s belongs to another provider, by its provider ID %s", node.Name, node.Spec.ProviderID)
		}
	}
	if services {
		return f.step(name, "services, and no node waits for a cloud provider",
			"install Tandem in mode cloud-provider (docs/install.md), or start the kubelets without --cloud-provider=external")
	}
	return f.step(name, "cloud-provider, and all nodes are initialised", "look at the log of the controller manager, or install Tandem in mode services (docs/install.md)")
}

// announcing looks which nodes may announce.
func announcing(in *Input) *Step {
	var f found
	var may, excluded, ignoring []string
	ignores := map[string]bool{}
	for i := range in.State.Speakers.Items {
		ignores[in.State.Speakers.Items[i].Name] = observation.IgnoresLabel(&in.State.Speakers.Items[i])
	}
	for i := range in.State.Nodes.Items {
		node := &in.State.Nodes.Items[i]
		if !in.State.Snapshot.Nodes[node.Name].Excluded {
			may = append(may, node.Name)
			if _, labelled := node.Labels[corev1.LabelNodeExcludeBalancers]; labelled && ignores[node.Name] {
				ignoring = append(ignoring, node.Name)
			}
			continue
		}
		reason, _ := observation.Exclusion(node, observation.ExclusionRules{CordonCounts: true})
		excluded = append(excluded, node.Name+": "+reason)
		if node.Annotations[ipamv1alpha1.AnnotationDrain] != "" {
			f.warn("%s is drained", node.Name)
		}
	}
	message := fmt.Sprintf("%d of %s", len(may), plural(len(in.State.Nodes.Items), "node"))
	if len(excluded) > 0 {
		message += "; out are " + several(excluded)
	}
	if len(ignoring) > 0 {
		message += "; the label that excludes them is ignored (--ignore-exclude-label): " + several(ignoring)
	}
	if len(may) == 0 {
		f.fail("no node may announce: %s", several(excluded))
	}
	return f.step("nodes that may announce", message, "kubectl tandem undrain NODE, or remove the label "+
		"node.kubernetes.io/exclude-from-external-load-balancers where it is a mistake, or give the speakers --ignore-exclude-label")
}
