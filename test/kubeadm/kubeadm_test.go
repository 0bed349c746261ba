// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/tandem-lb/tandem/cmd/images/archive"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

const (
	labName      = "kubeadm"
	controlPlane = "node1"
	taint        = "node.cloudprovider.kubernetes.io/uninitialized"
)

// root is the top folder of the repository. It is absolute: a command on a node begins in the node's own /.
var root = func() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
}()

func TestKubeadm(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	tandem, err := cluster.Images(root)
	if err != nil {
		t.Fatal(err)
	}
	bin, err := lab.Build(ctx, t.Output(), "cmd/kubeadm")
	if err != nil {
		t.Fatal(err)
	}
	kubernetes := kubernetesImages(ctx, t, bin)

	for _, test := range []struct {
		name string
		// change makes of the example files what this cluster needs.
		change *strings.Replacer
		// nodeIP are values of the kubelet's --node-ip that differ from the example's. Empty leaves the flag out.
		nodeIP map[string]string
		// want are the InternalIPs in their order.
		want map[string][]string
	}{
		{
			name:   "IPv4 first, kube-proxy in nftables mode",
			change: strings.NewReplacer(),
			nodeIP: map[string]string{"node2": "", "node3": "0.0.0.0"},
			want: map[string][]string{
				"node1": {"198.51.100.11", "2001:db8:51::11"},
				"node2": {"198.51.100.12", "2001:db8:51::12"},
				"node3": {"198.51.100.13", "2001:db8:51::13"},
			},
		},
		{
			name: "IPv6 first, kube-proxy in iptables mode",
			change: strings.NewReplacer(
				"198.51.100.11,2001:db8:51::11", "2001:db8:51::11,198.51.100.11",
				"198.51.100.12,2001:db8:51::12", "2001:db8:51::12,198.51.100.12",
				"10.244.0.0/16,fd00:244::/48", "fd00:244::/48,10.244.0.0/16",
				"10.96.0.0/16,fd00:96::/112", "fd00:96::/112,10.96.0.0/16",
				"advertiseAddress: 198.51.100.11", `advertiseAddress: "2001:db8:51::11"`,
				"mode: nftables", "mode: iptables",
			),
			nodeIP: map[string]string{"node3": "::"},
			want: map[string][]string{
				"node1": {"2001:db8:51::11", "198.51.100.11"},
				"node2": {"2001:db8:51::12", "198.51.100.12"},
				"node3": {"2001:db8:51::13", "198.51.100.13"},
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := up(ctx, t)
			c.prepare(ctx, t, append(slices.Clone(kubernetes), tandem...))
			c.makeCluster(ctx, t, func(node string) string { return example(t, node, test.change, test.nodeIP) })

			c.until(ctx, t, "three nodes that wait for a cloud provider", func() error {
				got, err := c.ask(ctx, "get", "nodes", "-o", "jsonpath={.items[*].spec.taints[*].key}")
				if err == nil && strings.Count(got, taint) != 3 {
					err = fmt.Errorf("taints are %q", got)
				}
				return err
			})
			start := time.Now()
			c.kubectl(ctx, t, "apply", "-k", filepath.Join(root, "manifests", "default"))
			c.until(ctx, t, "every node without the taint "+taint, func() error {
				got, err := c.ask(ctx, "get", "nodes", "-o", "jsonpath={.items[*].spec.taints[*].key}")
				if err == nil && strings.Contains(got, taint) {
					err = fmt.Errorf("taints are %q", got)
				}
				return err
			})
			for node, want := range test.want {
				c.until(ctx, t, "the addresses of "+node, func() error {
					got, err := c.ask(ctx, "get", "node", node, "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
					if diff := cmp.Diff(want, strings.Fields(got)); err == nil && diff != "" {
						err = errors.New("InternalIPs (-want +got):\n" + diff)
					}
					return err
				})
			}
			t.Logf("all nodes were initialised and had their addresses %.1fs after kubectl apply", time.Since(start).Seconds())
			ids := c.kubectl(ctx, t, "get", "nodes", "-o", "jsonpath={.items[*].spec.providerID}")
			if ids != "tandem://node1 tandem://node2 tandem://node3" {
				t.Errorf("provider IDs = %q", ids)
			}
			c.kubectl(ctx, t, "rollout", "status", "-n", "tandem-system", "daemonset/tandem-speaker", "--timeout=90s")
			c.kubectl(ctx, t, "rollout", "status", "-n", "tandem-system", "deployment/tandem-cloud-controller-manager", "--timeout=90s")

			for _, example := range []string{"pool.yaml", "layer2.yaml", "service.yaml"} {
				c.kubectl(ctx, t, "apply", "-f", filepath.Join(root, "manifests", "examples", example))
			}
			c.kubectl(ctx, t, "rollout", "status", "deployment/web", "--timeout=90s")
			var ips []string
			c.until(ctx, t, "two addresses of Service web", func() error {
				got, err := c.ask(ctx, "get", "service", "web", "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")
				if ips = strings.Fields(got); err == nil && len(ips) != 2 {
					err = fmt.Errorf("it has %v", ips)
				}
				return err
			})
			for _, host := range []string{lab.Client, lab.Ext} {
				client := c.HTTP(host, 2*time.Second)
				for _, ip := range ips {
					c.until(ctx, t, fmt.Sprintf("an answer of %s to %s", ip, host), func() error {
						response, err := client.Get(cluster.URL(ip, "/hostname"))
						if err != nil {
							return err
						}
						return response.Body.Close()
					})
				}
			}
			// kubeadm labels control planes with node.kubernetes.io/exclude-from-external-load-balancers.
			if got := c.kubectl(ctx, t, "get", "l2announcements", "-o", "jsonpath={.items[*].status.node}"); got == controlPlane {
				t.Errorf("the control plane announces the Service although it bears the exclusion label")
			}
			c.kubectl(ctx, t, "wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
			// docs/kubeadm.md shows this.
			t.Logf("\n%s\n%s\n%s",
				c.kubectl(ctx, t, "get", "nodes", "-o", "custom-columns=NAME:.metadata.name,ID:.spec.providerID,"+
					`ADDRESSES:.status.addresses[?(@.type=="InternalIP")].address,TAINTS:.spec.taints[*].key`),
				c.kubectl(ctx, t, "get", "speakerstatus", "node2", "-o", "jsonpath={.status.addresses}"),
				c.kubectl(ctx, t, "get", "service,l2announcements", "-A"))
		})
	}
}

// kubeadmCluster is a cluster on a bare lab.
type kubeadmCluster struct{ *lab.Lab }

// up brings up the bare lab, and takes it down when the test ends.
func up(ctx context.Context, t *testing.T) kubeadmCluster {
	t.Helper()
	t.Cleanup(func() {
		l, err := lab.Open(labName)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		if err := l.Down(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	l, err := lab.Up(ctx, lab.Config{Name: labName, Bare: true}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	c := kubeadmCluster{l}
	t.Cleanup(func() {
		if t.Failed() {
			c.explain(context.WithoutCancel(ctx), t)
		}
	})
	return c
}

// explain logs what a reader of a failed test asks first: which pods run, and what Tandem's said last, before their last restart too.
func (c kubeadmCluster) explain(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, script := range []string{
		"kubectl get pods -A -o wide; kubectl get events -n tandem-system --sort-by=.lastTimestamp | tail -n 30",
		`for pod in $(kubectl get pods -n tandem-system -o name); do
			echo "== $pod"; kubectl logs -n tandem-system $pod -p --tail=8 2>/dev/null; echo "-- now"; kubectl logs -n tandem-system $pod --tail=25
		done`,
	} {
		out, err := c.NodeCommand(ctx, controlPlane, "bash", "-c", "export KUBECONFIG=/etc/kubernetes/admin.conf; "+script).CombinedOutput()
		t.Logf("%s (%v)", out, err)
	}
}

// prepare gives the nodes what kubeadm expects to find, and loads images.
func (c kubeadmCluster) prepare(ctx context.Context, t *testing.T, tars []string) {
	t.Helper()
	for _, node := range c.Nodes() {
		dir := filepath.Join(c.Dir(), node)
		c.onNode(ctx, t, node, fmt.Sprintf(`
for d in etc usr/libexec; do
  mkdir -p %[1]s/overlay/$d %[1]s/work/$d
  mount -t overlay overlay -o lowerdir=/$d,upperdir=%[1]s/overlay/$d,workdir=%[1]s/work/$d /$d
done
# There is no DNS; a refusal is quicker than silence.
rm -f /etc/resolv.conf
echo nameserver 127.0.0.1 > /etc/resolv.conf
mkdir -p /run/containerd /etc/kubernetes/patches
ln -s %[1]s/containerd.sock /run/containerd/containerd.sock
cat > /etc/kubernetes/patches/kubeletconfiguration+merge.yaml <<.
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /tandem-lab-%[2]s/%[3]s/pods
enforceNodeAllocatable: []
failSwapOn: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 50Mi, nodefs.available: 1%%, imagefs.available: 1%%}
.
`, dir, labName, node))
	}
	if err := c.LoadImages(ctx, tars...); err != nil {
		t.Fatal(err)
	}
}

// makeCluster runs kubeadm on every node with the configuration that config returns for it, and leaves out CoreDNS.
func (c kubeadmCluster) makeCluster(ctx context.Context, t *testing.T, config func(node string) string) {
	t.Helper()
	start := time.Now()
	if err := c.kubeadm(ctx, controlPlane, "init", config(controlPlane), "--skip-phases=addon/coredns"); err != nil {
		t.Fatal(err)
	}
	t.Logf("kubeadm init took %.1fs", time.Since(start).Seconds())
	start = time.Now()
	// kubeadm join ENDPOINT --token TOKEN --discovery-token-ca-cert-hash HASH
	join := strings.Fields(c.onNode(ctx, t, controlPlane, "kubeadm token create --print-join-command"))
	if len(join) != 7 {
		t.Fatalf("the join command is %q", join)
	}
	discovery := strings.NewReplacer("198.51.100.11:6443", strconv.Quote(join[2]), "abcdef.0123456789abcdef", join[4], zeroHash, join[6])
	var group errgroup.Group
	for _, node := range c.Nodes()[1:] {
		group.Go(func() error { return c.kubeadm(ctx, node, "join", discovery.Replace(config(node))) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("kubeadm join took %.1fs", time.Since(start).Seconds())
}

// kubeadm runs `kubeadm init` or `kubeadm join` on a node, and the kubelet beside it.
func (c kubeadmCluster) kubeadm(ctx context.Context, node, command, config string, flags ...string) error {
	const kubelet = `
until [ -s /var/lib/kubelet/kubeadm-flags.env ] && [ -s /var/lib/kubelet/config.yaml ]; do sleep 0.2; done
. /var/lib/kubelet/kubeadm-flags.env
exec kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
  --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS`
	if err := c.StartOnNode(node, "kubelet", "sh", "-euc", kubelet); err != nil {
		return err
	}
	// SystemVerification looks for cgroups of version 2 and for a kernel configuration.
	args := append([]string{command, "--config=/dev/stdin", "--ignore-preflight-errors=SystemVerification"}, flags...)
	cmd := c.NodeCommand(ctx, node, "kubeadm", args...)
	cmd.Stdin = strings.NewReader(config)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubeadm %s on %s: %w\n%s", command, node, err, out)
	}
	return nil
}

const zeroHash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

var (
	nodeIPArgument = regexp.MustCompile(`(?m)^.*name: node-ip, value: "([^"]*)".*\n`)
	nodeKind       = regexp.MustCompile(`(?m)^kind: (Init|Join)Configuration$`)
	proxyKind      = regexp.MustCompile(`(?m)^kind: KubeProxyConfiguration$`)
)

// example returns the example file of a node: with its own addresses, and with what the lab needs.
func example(t *testing.T, node string, change *strings.Replacer, nodeIP map[string]string) string {
	t.Helper()
	file := "join.yaml"
	if node == controlPlane {
		file = "init.yaml"
	}
	content, err := os.ReadFile(filepath.Join(root, "manifests", "examples", "kubeadm", file))
	if err != nil {
		t.Fatal(err)
	}
	config := change.Replace(string(content))
	if node == "node3" {
		config = strings.NewReplacer("198.51.100.12", "198.51.100.13", "2001:db8:51::12", "2001:db8:51::13").Replace(config)
	}
	if value, ok := nodeIP[node]; ok && value == "" {
		config = nodeIPArgument.ReplaceAllString(config, "")
	} else if ok {
		config = nodeIPArgument.ReplaceAllString(config, fmt.Sprintf("  - {name: node-ip, value: %q}\n", value))
	}
	config = nodeKind.ReplaceAllString(config, "$0\npatches: {directory: /etc/kubernetes/patches}")
	return proxyKind.ReplaceAllString(config, "$0\nconntrack: {maxPerCore: 0, min: 0}")
}

// kubernetesImages writes the images that kubeadm asks for.
func kubernetesImages(ctx context.Context, t *testing.T, bin lab.Binaries) []string {
	t.Helper()
	list, err := exec.CommandContext(ctx, bin["kubeadm"], "config", "images", "list", "--kubernetes-version="+lab.KubernetesVersion).Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var tars []string
	for reference := range strings.FieldsSeq(string(list)) {
		name, _, _ := strings.Cut(filepath.Base(reference), ":")
		if bin[name] == "" || name == "pause" {
			continue
		}
		image := archive.Image{Reference: reference, Files: []archive.File{{Source: bin[name], Destination: "/usr/local/bin/" + name}}}
		image.Env = []string{"PATH=/usr/local/bin:/usr/sbin"}
		if name == "kube-proxy" {
			image.Files = append(image.Files, firewallTools(ctx, t)...)
		}
		tars = append(tars, filepath.Join(dir, name+".tar"))
		if err := archive.Write(tars[len(tars)-1], image); err != nil {
			t.Fatal(err)
		}
	}
	return tars
}

// firewallTools returns the programs with which kube-proxy writes rules, from this machine, with what they load.
func firewallTools(ctx context.Context, t *testing.T) []archive.File {
	t.Helper()
	const multi = "/usr/sbin/xtables-nft-multi"
	same, err := filepath.Glob("/usr/lib/*/xtables/*.so")
	if err != nil {
		t.Fatal(err)
	}
	same = append(same, "/usr/sbin/nft")
	libraries, err := lab.Libraries(ctx, append(same, multi)...)
	if err != nil {
		t.Fatal(err)
	}
	var files []archive.File
	for _, file := range append(same, libraries...) {
		files = append(files, archive.File{Source: file, Destination: file})
	}
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		files = append(files, archive.File{Source: multi, Destination: "/usr/sbin/" + name})
	}
	return files
}

// kubectl runs kubectl as a user of kubeadm does, which must succeed.
func (c kubeadmCluster) kubectl(ctx context.Context, t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.ask(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// ask runs kubectl, which may fail while the API server of the one control plane is busy.
func (c kubeadmCluster) ask(ctx context.Context, args ...string) (string, error) {
	out, err := c.NodeCommand(
		ctx, controlPlane, "kubectl", append([]string{"--kubeconfig=/etc/kubernetes/admin.conf"}, args...)...,
	).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func (c kubeadmCluster) onNode(ctx context.Context, t *testing.T, node, script string) string {
	t.Helper()
	out, err := c.NodeCommand(ctx, node, "sh", "-euc", script).CombinedOutput()
	if err != nil {
		t.Fatalf("on %s: %v\n%s", node, err, out)
	}
	return string(out)
}

// until polls until condition returns nil.
func (c kubeadmCluster) until(ctx context.Context, t *testing.T, what string, condition func() error) {
	t.Helper()
	err := cluster.Until(ctx, time.Minute, what, func(context.Context) (bool, string) {
		err := condition()
		if err != nil {
			return false, err.Error()
		}
		return true, ""
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, c.kubectl(ctx, t, "get", "nodes,pods", "-A", "-o", "wide"))
	}
}
