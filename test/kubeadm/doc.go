// SPDX-License-Identifier: Apache-2.0

// Package kubeadm tests Tandem on clusters that kubeadm makes, from the files in manifests/examples/kubeadm.
//
// Nodes are those of a bare lab: network namespaces with containerd. Everything else is kubeadm's doing: certificates, the
// static pods of the control plane and of etcd, TLS bootstrap of the workers, kube-proxy as a DaemonSet. The test stands in
// for what is missing on such a node:
//
//   - The images of Kubernetes are made from the binaries of [lab.Build].
//   - In place of systemd a shell waits for the files that kubeadm writes and becomes the kubelet.
//   - The /etc and /usr/libexec of a node are overlays, so that nodes have an /etc/kubernetes each.
//   - The kubelet is told by kubeadm's patches to live with version 1 cgroups and to keep pods in the lab's, and kube-proxy to
//     leave the size of the connection table alone, which belongs to the machine.
//   - CoreDNS is left out: it is not part of Kubernetes' own module.
package kubeadm
