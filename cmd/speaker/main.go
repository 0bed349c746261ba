// SPDX-License-Identifier: Apache-2.0

// Command tandem-speaker announces the addresses of Services from the node it runs on.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	"k8s.io/component-base/version"
	"k8s.io/component-base/version/verflag"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker"
	"github.com/tandem-lb/tandem/speaker/kernelroutes"
	"github.com/tandem-lb/tandem/speaker/lan"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/nodeinfo"
	"github.com/tandem-lb/tandem/speaker/serving"
)

type options struct {
	node, hostIP       string
	namespace, secrets string
	kubeconfig         string
	metrics            serving.Metrics
	metricsSecure      bool
	healthSocket       string
	lookingGlass       string
	membershipPort     uint16
	restartGrace       time.Duration
	lanProbeInterval   time.Duration
	announcementRate   uint16
	realtime           bool
	cleanup            bool
	drainTime          time.Duration
	drainOnCordon      bool
	ignoreExcludeLabel bool
}

// gcPercent is how much the heap may grow beyond what is in use, unless the environment variable GOGC says something else. Most of it is what the API
// holds, which lies there unchanged: with the default of 100 a speaker takes twice the memory, for a few tenths of a per cent of a processor.
const gcPercent = 50

func main() { os.Exit(cli.Run(command())) }

func command() *cobra.Command {
	var o options
	logOptions := logs.NewOptions()
	cmd := &cobra.Command{
		Use:           "tandem-speaker",
		Short:         "Announces the addresses of Services from the node it runs on",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(*cobra.Command, []string) error {
			verflag.PrintAndExitIfRequested()
			if err := logsapi.ValidateAndApply(logOptions, nil); err != nil {
				return err
			}
			if o.cleanup {
				return kernelroutes.Clear()
			}
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return run(ctx, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.node, "node-name", os.Getenv("NODE_NAME"), "Name of this node; default from the environment variable NODE_NAME.")
	flags.StringVar(&o.hostIP, "host-ip", "", "Address of this node by which other speakers reach it, or one of each family, separated by a "+
		"comma; default the InternalIPs of the Node, or while it has none the address of the interface with the default route.")
	flags.StringVar(&o.namespace, "namespace", os.Getenv("POD_NAMESPACE"),
		"Namespace of Tandem, with the Leases of the speakers; default from the environment variable POD_NAMESPACE.")
	flags.StringVar(&o.secrets, "secrets-namespace", "",
		"Namespace of the Secrets with passwords and the key of membership; default that of --namespace.")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "Path of a kubeconfig; without it the service account of the pod is used.")
	flags.StringVar(&o.metrics.Address, "metrics-bind-address", ":7574", "Address for /metrics.")
	flags.BoolVar(&o.metricsSecure, "metrics-secure", true, "Serve metrics over HTTPS, for bearer tokens that may get the nonResourceURL /metrics. "+
		"If false, everybody who reaches the address reads them over plain HTTP, so that it should be one of the loopback interface.")
	flags.StringVar(&o.metrics.CertFile, "tls-cert-file", "", "File with the certificate of the metrics port, read for each connection; "+
		"without it the speaker makes one that nobody has signed.")
	flags.StringVar(&o.metrics.KeyFile, "tls-private-key-file", "", "File with the key of --tls-cert-file.")
	flags.StringVar(&o.lookingGlass, "looking-glass-bind-address", "127.0.0.1:7576", "Address of loopback for what this speaker does by BGP and BFD, as "+
		"JSON: /bgp/sessions, /bgp/routes?peer=NAME and /bfd; empty for none.")
	flags.Uint16Var(&o.membershipPort, "membership-port", 7573, "UDP and TCP port on which speakers watch each other, the same on every node.")
	flags.DurationVar(&o.restartGrace, "restart-grace", 30*time.Second, "How long the addresses of a node stay there while its speaker restarts, or has "+
		"crashed, and the node itself answers on the LAN; 0 moves them at once.")
	flags.DurationVar(&o.lanProbeInterval, "lan-probe-interval", lan.Interval, "How often a few other nodes are asked by ARP, neighbour "+
		"solicitations and ICMP echoes whether they live; 0 asks nobody, and then the addresses of a node move whenever its speaker stops.")
	flags.DurationVar(&o.drainTime, "drain-time", 10*time.Second, "How long a node that is drained, excluded or deleted goes on announcing by BGP with the "+
		"least preference before it withdraws its routes; as long as routers take to follow. At the end of a speaker it is 5s at most.")
	flags.BoolVar(&o.ignoreExcludeLabel, "ignore-exclude-label", false, "Whether nodes with the label node.kubernetes.io/exclude-from-external-load-balancers announce all the same.")
	flags.BoolVar(&o.drainOnCordon, "drain-on-cordon", false, "Whether a node that is cordoned announces nothing, as one with the annotation tandem-lb.io/drain.")
	flags.Uint16Var(&o.announcementRate, "layer2-announcement-rate", layer2.DefaultRate, "How many gratuitous ARP packets and unsolicited neighbour "+
		"advertisements an interface sends a second at most; keep it below what switches and routers take (storm control, ARP policing).")
	flags.BoolVar(&o.realtime, "realtime", false, "Whether the speaker has the real-time policy SCHED_RR, so that a node whose processors are busy is not taken "+
		"for dead, nor late to see that another has died. It needs the capability SYS_NICE; without it the speaker goes on as it is.")
	flags.BoolVar(&o.cleanup, "cleanup", false, "Take the routes, addresses and interfaces of InterfaceAdvertisements out of the kernel, and end. "+
		"It needs NET_ADMIN in the network of the node, and no API server.")
	cmd.PersistentFlags().StringVar(&o.healthSocket, "health-socket", "/run/tandem/health.sock", "Unix socket for the health of this speaker.")
	verflag.AddFlags(flags)
	logsapi.AddFlags(logOptions, flags)
	cmd.AddCommand(&cobra.Command{
		Use:       "health healthz|readyz",
		Short:     "Asks the speaker of this container whether it is alive or ready, for the kubelet's probes",
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"healthz", "readyz"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return serving.AskHealth(cmd.Context(), o.healthSocket, args[0])
		},
	})
	return cmd
}

func run(ctx context.Context, o options) error {
	logger := klog.FromContext(ctx)
	ctrl.SetLogger(logr.New(logger.GetSink()))
	if err := o.validate(); err != nil {
		return err
	}
	if o.realtime {
		if err := realtime(); err != nil {
			logger.Error(err, "Failed to get a real-time policy, going on without")
		}
	}
	if err := slacken(); err != nil {
		logger.Error(err, "Failed to get a timer slack, going on with more wake-ups")
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(speaker.Processors)
	}
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return fmt.Errorf("--kubeconfig: %w", err)
	}
	// A node that takes over thousands of Services writes a record for each. The limit that is meant to hold is the API server's priority and
	// fairness.
	config.QPS, config.Burst = 200, 400
	config.UserAgent = rest.DefaultKubernetesUserAgent()
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	program := version.Get()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "tandem_build_info", Help: "The version and the commit of the speaker; always 1.",
	}, []string{"version", "commit"})
	build.WithLabelValues(program.GitVersion, program.GitCommit).Set(1)
	metrics.Registry.MustRegister(build)
	var running atomic.Pointer[speaker.Speaker]
	defer o.serve(ctx, clientset, &running)()
	hostIP, otherIP, err := o.hostAddresses(ctx, clientset)
	if err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: clientset.CoreV1().Events("")})
	s, err := speaker.New(speaker.Config{
		Node:               o.node,
		HostIP:             hostIP,
		OtherIP:            otherIP,
		HostIPFixed:        o.hostIP != "",
		Namespace:          o.namespace,
		SecretsNamespace:   cmp.Or(o.secrets, o.namespace),
		MembershipPort:     o.membershipPort,
		RestartGrace:       o.restartGrace,
		LANProbeInterval:   o.lanProbeInterval,
		AnnouncementRate:   int(o.announcementRate),
		DrainTime:          o.drainTime,
		DrainOnCordon:      o.drainOnCordon,
		IgnoreExcludeLabel: o.ignoreExcludeLabel,
		REST:               config,
		Registerer:         metrics.Registry,
		Recorder:           broadcaster.NewRecorder(clientgoscheme.Scheme, corev1.EventSource{Component: "tandem-speaker", Host: o.node}),
	})
	if err != nil {
		return err
	}
	running.Store(s)
	return s.Run(ctx)
}

// validate returns an error that names the flag that is wrong, and what to give.
func (o options) validate() error {
	for flag, value := range map[string]string{"--node-name": o.node, "--namespace": o.namespace} {
		if value == "" {
			return fmt.Errorf("%s is empty; set it, or its environment variable as the manifests do", flag)
		}
	}
	for flag, value := range map[string]time.Duration{"--restart-grace": o.restartGrace, "--lan-probe-interval": o.lanProbeInterval, "--drain-time": o.drainTime} {
		if value < 0 {
			return fmt.Errorf("%s is %v; give a duration of 0 or more, as 30s", flag, value)
		}
	}
	if host, _, err := net.SplitHostPort(o.lookingGlass); o.lookingGlass != "" && (err != nil || !serving.IsLoopback(host)) {
		return fmt.Errorf("--looking-glass-bind-address is %q; give an address of loopback, as 127.0.0.1:7576, since it asks nobody for a token", o.lookingGlass)
	}
	if o.membershipPort == 0 {
		return errors.New("--membership-port is 0; give the same port on every node, as 7573")
	}
	if o.announcementRate == 0 {
		return errors.New("--layer2-announcement-rate is 0; give a number a second, as 500")
	}
	if (o.metrics.CertFile == "") != (o.metrics.KeyFile == "") {
		return errors.New("--tls-cert-file and --tls-private-key-file go together")
	}
	return nil
}

// serve serves metrics and health until the function that it returns is called: a speaker that is stopping is still asked for its health. Neither
// holds the announcements up. Before there is a speaker, it is alive, and waits for the API.
func (o options) serve(ctx context.Context, reviews kubernetes.Interface, running *atomic.Pointer[speaker.Speaker]) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	o.metrics.Gatherer = metrics.Registry
	if o.metricsSecure {
		o.metrics.Reviews = reviews
	}
	checks := map[string]func() error{
		"healthz": func() error {
			if s := running.Load(); s != nil {
				return s.Healthy()
			}
			return nil
		},
		"readyz": func() error {
			if s := running.Load(); s != nil {
				return s.Ready()
			}
			return errors.New("still looking for the address of this node")
		},
	}
	var servers sync.WaitGroup
	servers.Go(func() { o.metrics.Run(ctx) })
	servers.Go(func() {
		if err := serving.Health(ctx, o.healthSocket, checks); err != nil {
			klog.FromContext(ctx).Error(err, "Failed to serve health: the kubelet's probes will fail", "socket", o.healthSocket)
		}
	})
	if o.lookingGlass != "" {
		servers.Go(func() {
			serving.Local{Address: o.lookingGlass, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if s := running.Load(); s != nil {
					s.LookingGlass().ServeHTTP(w, r)
					return
				}
				http.Error(w, "still looking for the address of this node", http.StatusServiceUnavailable)
			})}.Run(ctx)
		})
	}
	return func() { cancel(); servers.Wait() }
}

// hostAddresses returns the address of this node by which other speakers reach it, and that of the other family, if it has one. The downward
// API cannot tell it: a kubelet with --cloud-provider=external and without --node-ip knows no address until the cloud provider has initialised the
// node, and starts no container that asks for it. The cloud provider in turn waits for this speaker to report the addresses of the node.
func (o options) hostAddresses(ctx context.Context, clientset kubernetes.Interface) (address, other netip.Addr, err error) {
	if o.hostIP != "" {
		return parseHostIP(o.hostIP)
	}
	err = wait.PollUntilContextCancel(ctx, time.Second, true, func(ctx context.Context) (bool, error) {
		node, err := clientset.CoreV1().Nodes().Get(ctx, o.node, metav1.GetOptions{})
		if err != nil {
			klog.FromContext(ctx).Error(err, "Failed to read this node, trying again", "node", o.node)
			return false, nil
		}
		address, other = nodeinfo.InternalIP(node, family.IPv4), nodeinfo.InternalIP(node, family.IPv6)
		if !address.IsValid() {
			address, other = other, netip.Addr{}
		}
		// A node that is not initialised may yet get an IPv4 address, which its speaker finds.
		if address.Is4() || address.IsValid() && !nodeinfo.Uninitialized(node) {
			return true, nil
		}
		ip, err := utilnet.ChooseHostInterface()
		address, _ = netip.AddrFromSlice(ip)
		address, other = address.Unmap(), netip.Addr{}
		return true, err
	})
	if err != nil {
		return netip.Addr{}, netip.Addr{}, fmt.Errorf("looking for the address of node %s: %w", o.node, err)
	}
	if other.IsValid() && !isLocal(other) {
		klog.FromContext(ctx).Info("The Node has an address of the other family that none of its interfaces has", "address", other)
		other = netip.Addr{}
	}
	return address, other, nil
}

// parseHostIP reads one address, or one of each family.
func parseHostIP(text string) (address, other netip.Addr, err error) {
	first, second, two := strings.Cut(text, ",")
	if address, err = netip.ParseAddr(strings.TrimSpace(first)); err == nil && two {
		other, err = netip.ParseAddr(strings.TrimSpace(second))
	}
	if err == nil && two && family.Of(address) == family.Of(other) {
		err = fmt.Errorf("%s and %s are of one family; give one address, or one of each family, as 198.51.100.11,2001:db8::11", address, other)
	}
	for _, a := range []netip.Addr{address, other} {
		if err == nil && a.Is6() && a.IsLinkLocalUnicast() {
			err = fmt.Errorf("%s is an address of one link, which other nodes cannot tell from those of their own links; give one that they reach", a)
		}
	}
	if err != nil {
		return netip.Addr{}, netip.Addr{}, fmt.Errorf("--host-ip: %w", err)
	}
	return address, other, nil
}

// isLocal reports whether an interface of this node has an address.
func isLocal(address netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(all, func(a net.Addr) bool {
		prefix, err := netip.ParsePrefix(a.String())
		return err == nil && prefix.Addr() == address
	})
}
