// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// A node is a process that holds a mount namespace and a UTS namespace, in the network namespace of its host. In them
// a node has a /run, a /var/lib and a /var/log of its own, so that programs find their customary paths and a hostPath
// volume there is not shared between nodes. All other paths are those of this machine.

// holder is the name of the process that holds the namespaces of a node.
func holder(node string) string { return node + "/pause" }

// startRuntime starts containerd on a node and loads the images that every node has.
func (l *Lab) startRuntime(ctx context.Context, node string) error {
	if err := l.prepareHost(node); err != nil {
		return err
	}
	if err := l.makePodCgroup(node); err != nil {
		return err
	}
	root := filepath.Join(l.dir, node, "root")
	for _, dir := range []string{"cni", "root/var/lib", "root/var/log"} {
		if err := os.MkdirAll(filepath.Join(l.dir, node, dir), 0o755); err != nil {
			return err
		}
	}
	number, _ := l.plan.number(node)
	for file, content := range map[string]string{
		"cni/10-lab.conflist": cniConfig(l.plan, number-10),
		"containerd.toml":     l.containerdConfig(node),
		"kubelet.yaml":        l.kubeletConfig(node),
		"resolv.conf":         "nameserver 127.0.0.1\n",
	} {
		if err := os.WriteFile(filepath.Join(l.dir, node, file), []byte(content), 0o644); err != nil {
			return err
		}
	}

	keep := []string{l.dir}
	for _, file := range l.bin {
		keep = append(keep, filepath.Dir(file))
	}
	slices.Sort(keep)
	script := nodeScript(node, root, l.bin["pause"], slices.Compact(keep))
	if err := l.start(holder(node), "nsenter", "--net="+l.Namespace(node), "--",
		"unshare", "--mount", "--uts", "sh", "-euc", script); err != nil {
		return err
	}
	if err := l.wait(ctx, holder(node), 10*time.Second, func(context.Context) error {
		p, _ := l.record.process(holder(node))
		program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID))
		if err == nil && program != l.bin["pause"] {
			err = errors.New("its namespaces are being made")
		}
		return err
	}); err != nil {
		return err
	}

	if err := l.startOnNode(node, "containerd", "--config", filepath.Join(l.dir, node, "containerd.toml")); err != nil {
		return err
	}
	if err := l.wait(ctx, node+"/containerd", 30*time.Second, func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", l.containerdSocket(node))
		if err != nil {
			return err
		}
		return conn.Close()
	}); err != nil {
		return err
	}
	for _, image := range []string{"pause.tar", "agnhost.tar"} {
		if err := l.loadImage(ctx, node, l.bin[image]); err != nil {
			return err
		}
	}
	return nil
}

// nodeScript returns the shell script that sets up a node's namespaces and becomes their holder. Directories to keep
// stay visible where they are, even below those that the node has of its own.
func nodeScript(node, root, pause string, keep []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "hostname %s\nmount -t tmpfs -o mode=755 tmpfs /run\nmkdir -p /run/lock\n", node)
	for _, dir := range keep {
		if strings.HasPrefix(dir, "/var/lib/") || strings.HasPrefix(dir, "/var/log/") {
			fmt.Fprintf(&b, "mkdir -p '%[1]s%[2]s'\nmount --bind '%[2]s' '%[1]s%[2]s'\n", root, dir)
		}
	}
	for _, dir := range []string{"/var/lib", "/var/log"} {
		fmt.Fprintf(&b, "mount --rbind '%[1]s%[2]s' %[2]s\n", root, dir)
	}
	// Volumes with bidirectional mount propagation need a shared root; its peers are in this namespace alone.
	fmt.Fprintf(&b, "mount --make-rshared /\nexec '%s'\n", pause)
	return b.String()
}

// startAgents starts the kubelet and kube-proxy on a node.
func (l *Lab) startAgents(node string) error {
	ips := join(l.plan.addresses(node))
	if given, ok := l.config.NodeIPs[node]; ok {
		ips = given
	}
	kubelet := []string{
		"--config=" + filepath.Join(l.dir, node, "kubelet.yaml"),
		"--kubeconfig=" + l.pki(node+".kubeconfig"),
		"--hostname-override=" + node, "--node-ip=" + ips,
	}
	if l.config.ExternalCloudProvider {
		kubelet = append(kubelet, "--cloud-provider=external")
	}
	if err := l.startOnNode(node, "kubelet", kubelet...); err != nil {
		return err
	}
	return l.startOnNode(node, "kube-proxy",
		"--kubeconfig="+l.pki("kube-proxy.kubeconfig"), "--hostname-override="+node, "--proxy-mode=nftables",
		"--cluster-cidr="+strings.Join(l.plan.clusterCIDRs(), ","), "--healthz-bind-address=[::]:10256",
		// Those limits belong to the machine, not to a network namespace.
		"--conntrack-max-per-core=0", "--conntrack-min=0")
}

// startOnNode starts a program in all namespaces of a node.
func (l *Lab) startOnNode(node, program string, args ...string) error {
	return l.StartOnNode(node, program, append([]string{l.bin[program]}, args...)...)
}

// StartOnNode starts a process in all namespaces of a node, which lives on when this process ends, as the programs of the
// lab do. In [Lab.Status] it is NODE/NAME.
func (l *Lab) StartOnNode(node, name string, command ...string) error {
	enter, err := l.enter(node)
	if err != nil {
		return err
	}
	return l.start(node+"/"+name, append(append([]string{"nsenter"}, enter...), command...)...)
}

// NodeCommand returns a command that runs in all namespaces of a node. Unlike one of [Lab.Command] it sees the node's own
// /run, /var/lib and /var/log, and finds the lab's programs by their names.
func (l *Lab) NodeCommand(ctx context.Context, node, name string, args ...string) *exec.Cmd {
	enter, err := l.enter(node)
	cmd := exec.CommandContext(ctx, "nsenter", append(append(enter, "env", "PATH="+l.bin.path(), name), args...)...)
	if err != nil {
		cmd.Err = err
	}
	return cmd
}

// enter returns the flags with which nsenter enters all namespaces of a node.
func (l *Lab) enter(node string) ([]string, error) {
	p, ok := l.record.process(holder(node))
	if !ok || !p.running() {
		return nil, fmt.Errorf("%s isn't running", node)
	}
	return []string{"--target=" + strconv.Itoa(p.PID), "--net", "--mount", "--uts", "--"}, nil
}

func (l *Lab) containerdSocket(node string) string {
	return filepath.Join(l.dir, node, "containerd.sock")
}

// cniConfig returns the network configuration of node i: a bridge, and routes that other hosts have already.
func cniConfig(p plan, i int) string {
	type object = map[string]any
	var ranges [][]object
	var routes []object
	for j, cidr := range p.podCIDRs(i) {
		ranges = append(ranges, []object{{"subnet": cidr}})
		routes = append(routes, object{"dst": p.defaultRoutes()[j]})
	}
	config, err := json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       "lab",
		"plugins": []object{
			{
				"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
				"ipam": object{"type": "host-local", "ranges": ranges, "routes": routes},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}, "", "  ")
	if err != nil {
		panic(err) // Strings in maps marshal.
	}
	return string(config)
}

func (l *Lab) containerdConfig(node string) string {
	return fmt.Sprintf(`version = 3
[grpc]
  address = %q
[ttrpc]
  address = %q
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = %q
[plugins."io.containerd.cri.v1.runtime"]
  # Lowering a score needs CAP_SYS_RESOURCE, which root in a container or a small virtual machine may lack.
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = %q
`, l.containerdSocket(node), l.containerdSocket(node)+".ttrpc", PauseImage, filepath.Join(l.dir, node, "cni"))
}

func (l *Lab) kubeletConfig(node string) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %[1]s}
authorization: {mode: Webhook}
tlsCertFile: %[2]s
tlsPrivateKeyFile: %[3]s
containerRuntimeEndpoint: unix://%[4]s
resolvConf: %[5]s
clusterDomain: cluster.local
# Nothing answers there unless a test installs a cluster DNS.
clusterDNS: [%[7]q]
volumePluginDir: /var/lib/kubelet/plugins
# The machine may have version 1 cgroups. What a node may use in all is not limited.
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: %[6]s
enforceNodeAllocatable: []
failSwapOn: false
# An image that was collected could not be pulled again, and a full disk of the machine is not the node's fault.
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 50Mi, nodefs.available: 1%%, imagefs.available: 1%%}
`, l.pki("ca.crt"), l.pki(node+"-server.crt"), l.pki(node+"-server.key"), l.containerdSocket(node),
		filepath.Join(l.dir, node, "resolv.conf"), l.podCgroup(node), l.plan.of(pair{"10.96.0.10", "fd00:96::a"})[0])
}

// LoadImages loads docker-archives into containerd on every node.
func (l *Lab) LoadImages(ctx context.Context, tars ...string) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range l.plan.nodeNames() {
		group.Go(func() error {
			for _, tar := range tars {
				if err := l.loadImage(ctx, node, tar); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func (l *Lab) loadImage(ctx context.Context, node, tar string) error {
	err := run(exec.CommandContext(ctx, l.bin["ctr"], "--address", l.containerdSocket(node), "--namespace", "k8s.io",
		"images", "import", tar))
	if err != nil {
		return fmt.Errorf("loading an image on %s: %w", node, err)
	}
	return nil
}

// StopNode ends a node as a power cut does: its link goes down and everything on it dies at once.
func (l *Lab) StopNode(ctx context.Context, node string) error {
	if err := l.isNode(node); err != nil {
		return err
	}
	if err := l.SetLink(ctx, node, false); err != nil {
		return err
	}
	return l.endCgroup(ctx, l.cgroup()+"/"+node)
}

// StartNode starts a node that StopNode has stopped, with the disk that it had. It doesn't wait until the node is
// ready.
func (l *Lab) StartNode(ctx context.Context, node string) error {
	if err := l.isNode(node); err != nil {
		return err
	}
	// What a reboot clears and the network namespace has kept.
	if err := run(l.Command(ctx, node, "nft", "flush", "ruleset")); err != nil {
		return err
	}
	if err := l.startRuntime(ctx, node); err != nil {
		return err
	}
	if err := l.SetLink(ctx, node, true); err != nil {
		return err
	}
	return l.startAgents(node)
}

func (l *Lab) isNode(name string) error {
	if !slices.Contains(l.plan.nodeNames(), name) {
		return fmt.Errorf("%s is not a node of lab %s", name, l.config.Name)
	}
	return nil
}
