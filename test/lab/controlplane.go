// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
)

// issueCertificates writes the keys, certificates and kubeconfigs of everything in the lab to STATE/pki.
func (l *Lab) issueCertificates() error {
	if err := os.MkdirAll(l.pki(""), 0o700); err != nil {
		return err
	}
	a, err := newAuthority(l.pki(""))
	if err != nil {
		return err
	}
	key, err := writeKey(l.pki("service-accounts.key"))
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := writePEM(l.pki("service-accounts.pub"), "PUBLIC KEY", public); err != nil {
		return err
	}

	names := []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
	}
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	ips := append(append(loopback, l.plan.addresses(ControlPlane)...), l.plan.serviceIPs()...)
	if err := a.issue("kube-apiserver", "kube-apiserver", nil, names, ips); err != nil {
		return err
	}
	masters := []string{"system:masters"}
	if err := a.issue("kubelet-client", "kube-apiserver-kubelet-client", masters, nil, nil); err != nil {
		return err
	}
	server := "https://" + l.plan.apiServer().String()
	if err := a.kubeconfig("admin", server, "admin", "system:masters"); err != nil {
		return err
	}
	for _, name := range []string{"kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		if err := a.kubeconfig(name, server, "system:"+name); err != nil {
			return err
		}
	}
	for _, node := range l.plan.nodeNames() {
		// The API server checks a kubelet's certificate against the address that it dials.
		ips := l.plan.addresses(node)
		user := "system:node:" + node
		if err := a.issue(node+"-server", user, nil, []string{node}, ips); err != nil {
			return err
		}
		if err := a.kubeconfig(node, server, user, "system:nodes"); err != nil {
			return err
		}
	}
	return nil
}

// pki returns the path of a file of STATE/pki.
func (l *Lab) pki(file string) string { return filepath.Join(l.dir, "pki", file) }

// startControlPlane starts etcd and what Kubernetes runs on a control plane, and waits until all of it is ready.
func (l *Lab) startControlPlane(ctx context.Context) error {
	if err := l.prepareHost(ControlPlane); err != nil {
		return err
	}
	for _, name := range []string{"etcd", "kube-apiserver"} {
		if err := l.startComponent(name); err != nil {
			return err
		}
	}
	client, err := kubernetes.NewForConfig(l.RESTConfig())
	if err != nil {
		return err
	}
	if err := l.wait(ctx, "cp/kube-apiserver", time.Minute, func(ctx context.Context) error {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	}); err != nil {
		return err
	}
	var group errgroup.Group
	for name, port := range map[string]string{"kube-controller-manager": "10257", "kube-scheduler": "10259"} {
		group.Go(func() error {
			if err := l.startComponent(name); err != nil {
				return err
			}
			return l.wait(ctx, "cp/"+name, time.Minute, func(ctx context.Context) error {
				conn, err := l.Dial(ControlPlane)(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
				if err != nil {
					return err
				}
				return conn.Close()
			})
		})
	}
	return group.Wait()
}

// startComponent starts a component of the control plane.
func (l *Lab) startComponent(name string) error {
	command := []string{"nsenter", "--net=" + l.Namespace(ControlPlane), "--", l.bin[name]}
	return l.start("cp/"+name, append(command, l.controlPlaneFlags(name)...)...)
}

func (l *Lab) controlPlaneFlags(name string) []string {
	cloudProvider := ""
	if l.config.ExternalCloudProvider {
		cloudProvider = "external"
	}
	kubeconfig := l.pki(name + ".kubeconfig")
	switch name {
	case "etcd":
		return []string{
			"--data-dir=" + filepath.Join(l.dir, ControlPlane, "etcd-data"),
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380",
			// A lab that has lost power is brought up anew.
			"--unsafe-no-fsync",
		}
	case "kube-apiserver":
		return []string{
			"--etcd-servers=http://127.0.0.1:2379",
			"--advertise-address=" + l.plan.apiServer().Addr().String(),
			"--service-cluster-ip-range=" + strings.Join(l.plan.serviceCIDRs(), ","),
			"--client-ca-file=" + l.pki("ca.crt"),
			"--tls-cert-file=" + l.pki("kube-apiserver.crt"), "--tls-private-key-file=" + l.pki("kube-apiserver.key"),
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + l.pki("service-accounts.pub"),
			"--service-account-signing-key-file=" + l.pki("service-accounts.key"),
			"--authorization-mode=Node,RBAC", "--allow-privileged=true",
			// Webhooks and aggregated APIs are reached at their endpoints: here is no kube-proxy.
			"--enable-aggregator-routing=true",
			"--kubelet-client-certificate=" + l.pki("kubelet-client.crt"),
			"--kubelet-client-key=" + l.pki("kubelet-client.key"),
			"--kubelet-certificate-authority=" + l.pki("ca.crt"),
			"--kubelet-preferred-address-types=InternalIP",
		}
	case "kube-controller-manager":
		return []string{
			"--kubeconfig=" + kubeconfig, "--leader-elect=false", "--use-service-account-credentials",
			"--root-ca-file=" + l.pki("ca.crt"), "--service-account-private-key-file=" + l.pki("service-accounts.key"),
			"--cluster-cidr=" + strings.Join(l.plan.clusterCIDRs(), ","), "--cloud-provider=" + cloudProvider,
		}
	case "kube-scheduler":
		return []string{"--kubeconfig=" + kubeconfig, "--leader-elect=false"}
	}
	panic(fmt.Sprintf("%s is no component of the control plane", name))
}
