// SPDX-License-Identifier: Apache-2.0

// Package check looks at all between Tandem's installation and an answer, step by step, and says of each what to do about it.
//
//	[Gather] ──▶ Input ──▶ [Run] ──▶ Steps: PASS, WARN, FAIL or SKIP, with the fix
//
// Run is pure. Gather asks the API server, and the speakers by a port-forward for what only they can see. What could not be read, since the right is
// missing or nobody answers, is skipped with the reason: a check never passes what it has not seen. For example a node whose speaker cannot be asked
// is named in the step "sysctls", which is SKIP if that is true of every node.
//
// Steps say what the programs of Tandem have found, where they have: conditions, records, explanations. Only what they cannot know is judged here.
package check

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/speaker/lookingglass"
)

// Result is the outcome of a step.
type Result string

// The results, of which a step has the worst that it finds.
const (
	Pass Result = "PASS"
	Skip Result = "SKIP" // it could not be looked at, or there is nothing to look at
	Warn Result = "WARN" // it works, and is not as it should be
	Fail Result = "FAIL"
)

// Step is one thing that was looked at.
type Step struct {
	Name    string `json:"name"`
	Result  Result `json:"result"`
	Message string `json:"message,omitempty"`
	// Fix says what to do, if the result is WARN or FAIL.
	Fix string `json:"fix,omitempty"`
}

// Input is what is looked at. A part that could not be read is nil, and its error says why.
type Input struct {
	State    *cluster.State
	StateErr error

	// Kubernetes is the version of the API server, as v1.36.3, and Plugin that of this program.
	Kubernetes, Plugin string
	// Kinds are the resources of tandem-lb.io/v1alpha1 that the API server serves.
	Kinds    []string
	KindsErr error

	Deployment  *appsv1.Deployment // of the controller manager
	DaemonSet   *appsv1.DaemonSet  // of the speakers
	ProgramsErr error

	// Workloads are the DaemonSets and Deployments of all namespaces, and the static Pods of kube-system.
	Workloads                   []Workload
	WorkloadsErr, StaticPodsErr error

	// Facts are what speakers see of their nodes, and FactsErrs why one could not be asked, by the node.
	Facts     map[string]lookingglass.Facts
	FactsErrs map[string]error
	// Heard is what speakers heard when they asked the LAN for addresses, in the order of the addresses. Unheard is for how many addresses no speaker was
	// to ask, since there are too many.
	Heard   []Heard
	Unheard int
	// KubeProxy and Cilium are the configuration in a ConfigMap, "" where there is none that may be read.
	KubeProxy, Cilium string
	CiliumErr         error
	// Networks are those of Pods and of ClusterIPs, with what they are for.
	Networks        map[netip.Prefix]string
	ServiceCIDRsErr error // ClusterIPs are not in Networks

	// Service is the load balancer that is asked for, "" for none; Published says that its status has an address, and Answers what came of each.
	Service   string
	Published bool
	Answers   []Answer
}

// Workload is a DaemonSet, a Deployment or a static Pod, with what tells which program it runs.
type Workload struct {
	Kind, Namespace, Name string
	Images, Args          []string
	Env                   []string // as NAME=value
}

// Answer is what came of a connection to an address of a Service.
type Answer struct {
	Address netip.AddrPort
	Err     error
}

// Unread returns why the cluster could not be read, and nil where the steps say what to do about it: a right is missing, or Tandem's kinds are. For
// example it is "connection refused" of an API server that is down, of which no step can tell anything.
func (in *Input) Unread() error {
	if apierrors.IsForbidden(in.StateErr) || kinds(in).Result == Fail {
		return nil
	}
	return in.StateErr
}

// Run looks at all steps, in the order in which a mistake in one shows in those that follow.
func Run(in *Input) []Step {
	steps := []*Step{kinds(in), kubernetes(in), rights(in)}
	programs := []func(*Input) *Step{controllerManager, speakers, versions}
	cluster := []func(*Input) *Step{
		mode, announcing, alive, ready, gossip, lan, kernelAnswers, addressesAnswer, neighbours, configuration, effective, sessions, router, pools, networks, servicesAnnounced,
	}
	nodes := []func(*Input) *Step{sysctls, kubeProxy, podNetwork, others}
	for _, look := range programs {
		steps = append(steps, look(in))
	}
	for _, look := range cluster {
		if in.State == nil {
			break // The step "rights" has the reason.
		}
		steps = append(steps, look(in))
	}
	for _, look := range nodes {
		steps = append(steps, look(in))
	}
	if in.Service != "" {
		steps = append(steps, answers(in))
	}
	all := make([]Step, 0, len(steps))
	for _, s := range steps {
		if s.Result == Pass || s.Result == Skip {
			s.Fix = ""
		}
		all = append(all, *s)
	}
	return all
}

// Worst returns the worst result of steps.
func Worst(steps []Step) Result {
	worst := Pass
	for _, s := range steps {
		if rank(s.Result) > rank(worst) {
			worst = s.Result
		}
	}
	return worst
}

func rank(r Result) int { return slices.Index([]Result{Pass, Skip, Warn, Fail}, r) }

// found is a step that is being looked at: what was found, the worst of it first.
type found struct {
	warnings, failures []string
}

func (f *found) warn(format string, args ...any) {
	f.warnings = append(f.warnings, fmt.Sprintf(format, args...))
}

func (f *found) fail(format string, args ...any) {
	f.failures = append(f.failures, fmt.Sprintf(format, args...))
}

// step returns the step of what was found. Well is the message if nothing is wrong.
func (f *found) step(name, well, fix string) *Step {
	switch {
	case len(f.failures) > 0:
		return &Step{Name: name, Result: Fail, Message: several(slices.Concat(f.failures, f.warnings)), Fix: fix}
	case len(f.warnings) > 0:
		return &Step{Name: name, Result: Warn, Message: several(f.warnings), Fix: fix}
	}
	return &Step{Name: name, Result: Pass, Message: well}
}

// skip returns a step that was not looked at.
func skip(name, format string, args ...any) *Step {
	return &Step{Name: name, Result: Skip, Message: fmt.Sprintf(format, args...)}
}

// several returns the first messages of a list, and how many there are beside.
func several(messages []string) string {
	const most = 5
	text := strings.Join(messages[:min(len(messages), most)], "; ")
	if more := len(messages) - most; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

// plural returns a number with a word.
func plural(n int, word string) string {
	switch {
	case n == 1:
		return "1 " + word
	case strings.HasSuffix(word, "x"), strings.HasSuffix(word, "s"):
		return fmt.Sprintf("%d %ses", n, word)
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// hasArg reports whether a container of a Pod is started with an argument.
func hasArg(pod *corev1.PodSpec, arg string) bool {
	return slices.ContainsFunc(pod.Containers, func(c corev1.Container) bool { return slices.Contains(c.Args, arg) })
}
