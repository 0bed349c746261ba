// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/speaker/lookingglass"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

const (
	// askTimeout is how long the speaker of one node is asked, and asksAtOnce how many are asked side by side.
	askTimeout = 15 * time.Second
	asksAtOnce = 8
	// mostRoutes is to how many addresses a speaker is asked for the route, in one line of a request.
	mostRoutes = 64
	// dialTimeout is how long a connection to an address of a Service may take.
	dialTimeout = 3 * time.Second
)

// Options say what Gather looks at beside the API.
type Options struct {
	// Plugin is the version of this program.
	Plugin string
	// System is the namespace of Tandem, "" to find it.
	System string
	// Ask says that speakers are asked, by port-forward.
	Ask bool
	// Service is a Service that is connected to from here; the zero value for none.
	Service types.NamespacedName
}

// Gather reads what Run looks at. What cannot be read is left out, with the reason.
func Gather(ctx context.Context, c *cluster.Cluster, o Options) *Input {
	in := &Input{Plugin: o.Plugin, Networks: map[netip.Prefix]string{}, Facts: map[string]lookingglass.Facts{}, FactsErrs: map[string]error{}}
	in.State, in.StateErr = c.Read(ctx)
	if err := in.StateErr; err != nil && !answered(err) {
		in.KindsErr, in.ProgramsErr, in.WorkloadsErr = err, err, err
		return in // The rest would wait as long again.
	}
	if v, err := cluster.Within(ctx, c.Clientset.Discovery().ServerVersion); err == nil {
		in.Kubernetes = v.GitVersion
	}
	if list, err := cluster.Within(ctx, func() (*metav1.APIResourceList, error) {
		return c.Clientset.Discovery().ServerResourcesForGroupVersion(v1alpha1.GroupVersion.String())
	}); err != nil {
		in.KindsErr = fmt.Errorf("%s: %w", v1alpha1.GroupVersion, err)
	} else {
		for _, r := range list.APIResources {
			in.Kinds = append(in.Kinds, r.Name)
		}
	}
	system := o.System
	if in.State != nil {
		system = in.State.System
	} else if system == "" {
		system = cluster.DefaultSystem
	}
	in.readPrograms(ctx, c, system)
	in.readWorkloads(ctx, c)
	in.readStaticPods(ctx, c)
	in.readNetworks(ctx, c)
	if o.Ask && in.State != nil {
		in.ask(ctx, c, system, o.Service)
	}
	if o.Service.Name != "" {
		in.connect(ctx, o.Service)
	}
	return in
}

// answered reports whether an error of reading is an answer of the API server: "forbidden", or that it does not know a kind.
func answered(err error) bool {
	var status apierrors.APIStatus
	return meta.IsNoMatchError(err) || errors.As(err, &status)
}

// readPrograms reads the Deployment and the DaemonSet. One that does not exist is nil.
func (in *Input) readPrograms(ctx context.Context, c *cluster.Cluster, system string) {
	deployment, err := c.Clientset.AppsV1().Deployments(system).Get(ctx, "tandem-cloud-controller-manager", metav1.GetOptions{})
	if err == nil {
		in.Deployment = deployment
	} else if !apierrors.IsNotFound(err) {
		in.ProgramsErr = err
	}
	daemonSet, err := c.Clientset.AppsV1().DaemonSets(system).Get(ctx, "tandem-speaker", metav1.GetOptions{})
	if err == nil {
		in.DaemonSet = daemonSet
	} else if !apierrors.IsNotFound(err) {
		in.ProgramsErr = err
	}
}

// readWorkloads reads the DaemonSets and Deployments of all namespaces.
func (in *Input) readWorkloads(ctx context.Context, c *cluster.Cluster) {
	daemonSets, err := c.Clientset.AppsV1().DaemonSets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		in.WorkloadsErr = err
		return
	}
	deployments, err := c.Clientset.AppsV1().Deployments("").List(ctx, metav1.ListOptions{})
	if err != nil {
		in.WorkloadsErr = err
		return
	}
	for i := range daemonSets.Items {
		in.addWorkload("DaemonSet", daemonSets.Items[i].ObjectMeta, daemonSets.Items[i].Spec.Template.Spec)
	}
	for i := range deployments.Items {
		in.addWorkload("Deployment", deployments.Items[i].ObjectMeta, deployments.Items[i].Spec.Template.Spec)
	}
}

// readStaticPods adds the Pods of kube-system that a kubelet runs without a controller, as kube-vip is where kubeadm has set it up.
func (in *Input) readStaticPods(ctx context.Context, c *cluster.Cluster) {
	pods, err := c.Clientset.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	if err != nil {
		in.StaticPodsErr = err
		return
	}
	for i := range pods.Items {
		if owner := metav1.GetControllerOf(&pods.Items[i]); owner == nil || owner.Kind == "Node" {
			in.addWorkload("Pod", pods.Items[i].ObjectMeta, pods.Items[i].Spec)
		}
	}
}

// addWorkload adds what tells which program a Pod runs.
func (in *Input) addWorkload(kind string, meta metav1.ObjectMeta, pod corev1.PodSpec) {
	w := Workload{Kind: kind, Namespace: meta.Namespace, Name: meta.Name}
	for _, container := range pod.Containers {
		w.Images, w.Args = append(w.Images, container.Image), append(append(w.Args, container.Command...), container.Args...)
		for _, variable := range container.Env {
			w.Env = append(w.Env, variable.Name+"="+variable.Value)
		}
	}
	in.Workloads = append(in.Workloads, w)
}

// readNetworks reads the networks of Pods and ClusterIPs, and the configuration of kube-proxy and Cilium.
func (in *Input) readNetworks(ctx context.Context, c *cluster.Cluster) {
	if in.State != nil {
		for i := range in.State.Nodes.Items {
			node := &in.State.Nodes.Items[i]
			for _, text := range node.Spec.PodCIDRs {
				if prefix, err := netip.ParsePrefix(text); err == nil {
					in.Networks[prefix.Masked()] = "the Pods of " + node.Name
				}
			}
		}
	}
	if ranges, err := c.Clientset.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{}); err != nil {
		in.ServiceCIDRsErr = err
	} else {
		for i := range ranges.Items {
			for _, text := range ranges.Items[i].Spec.CIDRs {
				if prefix, err := netip.ParsePrefix(text); err == nil {
					in.Networks[prefix.Masked()] = "ClusterIPs"
				}
			}
		}
	}
	configMaps := c.Clientset.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	if proxy, err := configMaps.Get(ctx, "kube-proxy", metav1.GetOptions{}); err == nil {
		in.KubeProxy = proxy.Data["config.conf"]
	}
	if cilium, err := configMaps.Get(ctx, "cilium-config", metav1.GetOptions{}); err != nil {
		in.CiliumErr = err
	} else {
		for key, value := range cilium.Data {
			in.Cilium += key + "=" + strings.TrimSpace(value) + "\n"
		}
	}
}

// ask asks all speakers that are alive for the facts of their nodes, and has them ask their LANs for addresses, those of a Service first.
func (in *Input) ask(ctx context.Context, c *cluster.Cluster, system string, first types.NamespacedName) {
	byAsker, left := questions(in.State, first)
	in.Unheard = left
	var mu sync.Mutex
	var wait sync.WaitGroup
	turns := make(chan struct{}, asksAtOnce)
	for i := range in.State.Speakers.Items {
		status := &in.State.Speakers.Items[i]
		if !in.State.Snapshot.Alive(status.Name) {
			continue // The step "speakers alive" says so.
		}
		wait.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			facts, heard, err := in.askOne(ctx, c, system, status, byAsker[status.Name])
			mu.Lock()
			defer mu.Unlock()
			in.Heard = append(in.Heard, heard...)
			if err != nil {
				in.FactsErrs[status.Name] = err
			} else {
				in.Facts[status.Name] = facts
			}
		})
	}
	wait.Wait()
	slices.SortFunc(in.Heard, func(a, b Heard) int { return a.Address.Compare(b.Address) })
}

// askOne asks the speaker of a node for its facts, for parameters of the interfaces that can announce and for the routes to the other nodes on their links,
// and has it ask the LAN.
func (in *Input) askOne(
	ctx context.Context, c *cluster.Cluster, system string, status *v1alpha1.SpeakerStatus, questions []Question,
) (facts lookingglass.Facts, heard []Heard, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	query := url.Values{}
	for _, i := range usable(status) {
		query.Add("interface", i.Name)
		for _, n := range in.neighboursOn(status.Name, i) {
			if len(query["to"]) < mostRoutes {
				query.Add("to", n.address.String())
			}
		}
	}
	speaker, err := c.Speaker(ctx, system, status.Name)
	if err != nil {
		for _, q := range questions {
			heard = append(heard, Heard{Question: q, Asker: status.Name, Err: err})
		}
		return facts, heard, err
	}
	err = speaker.Get(ctx, "/facts?"+query.Encode(), &facts)
	for _, q := range questions {
		heard = append(heard, hear(ctx, c.Client, speaker, status.Name, q))
	}
	_ = speaker.Close() // The answers are here, or the errors of asking.
	return facts, heard, err
}

// connect opens a TCP connection to each address and TCP port of a Service, and closes it. Of a Service that is no load balancer, or does not exist,
// there is nothing in the Input.
func (in *Input) connect(ctx context.Context, name types.NamespacedName) {
	var svc corev1.Service
	if in.State != nil {
		i := slices.IndexFunc(in.State.Services.Items, func(s corev1.Service) bool { return s.Namespace == name.Namespace && s.Name == name.Name })
		if i < 0 {
			return
		}
		svc = in.State.Services.Items[i]
	}
	in.Service = "service/" + name.Name
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		ip, err := netip.ParseAddr(ingress.IP)
		if err != nil {
			continue // a host name, which is not ours
		}
		in.Published = true
		for _, port := range svc.Spec.Ports {
			if port.Protocol != "" && port.Protocol != corev1.ProtocolTCP {
				continue
			}
			address := netip.AddrPortFrom(ip, uint16(port.Port))
			connection, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address.String())
			if err == nil {
				_ = connection.Close()
			}
			in.Answers = append(in.Answers, Answer{address, err})
		}
	}
}
