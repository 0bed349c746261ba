// SPDX-License-Identifier: Apache-2.0

// Package lab brings up a real Kubernetes cluster on one Linux machine, without a container engine and without images
// from anywhere: nodes, a control plane, a router and clients, each in a network namespace.
//
//	ext 203.0.113.100 ────── router ──┐            LAN       198.51.100.0/24  2001:db8:51::/64
//	    2001:db8:203::100          .1 │            pods      10.244.N.0/24    fd00:244:0:N::/64
//	                                  │            Services  10.96.0.0/16     fd00:96::/112
//	                   client .100 ── br0 ── cp .10
//	                                  │
//	                                  ├── node1 .11
//	                                  ├── node2 .12
//	                                  └── node3 .13
//
// All programs are the real ones, built by [Build] from the module proxy into a cache that is keyed by version:
// etcd, the API server, the controller manager and the scheduler on cp, containerd, the kubelet and kube-proxy
// (nftables) on every node, and FRR wherever [Lab.StartFRR] puts it. Pods run. Their networks are routed, as by a CNI
// plugin without an overlay.
//
// # What a host is
//
// A host is a network namespace named LAB-HOST, with eth0 on the LAN; its other end is port p-HOST of the bridge br0
// in the namespace LAB-sw. [Lab.Command] and [Lab.Dial] work in it. A node also has a mount and a UTS namespace, held
// by a process that does nothing else, in which /run, /var/lib and /var/log are the node's own. [Lab.StopNode] is a
// power cut, [Lab.StartNode] the boot after it, [Lab.SetLink] a pulled cable, [Lab.SetForwarding] a switch that fails
// in silence.
//
// # What keeps labs apart, and what takes them down
//
// Labs of different names live side by side with the same addresses. What a lab makes bears its name: namespaces, a
// cgroup (/tandem-lab-LAB), FRR's path spaces, the state directory. Each is recorded before it is made, and each
// process runs in the cgroup from its first instruction, so that [Lab.Down] leaves nothing behind, however far [Up]
// came and however the process that called it has ended. A lab outlives that process; [Open] finds it again.
//
// # What tests should know
//
//   - A client on the LAN is a neighbour of the nodes. Only [Ext] is outside, with a router before the nodes.
//   - With [Config.ExternalCloudProvider] nodes bear the taint node.cloudprovider.kubernetes.io/uninitialized until a
//     cloud provider runs. The kubelet has set their addresses and the annotation alpha.kubernetes.io/provided-node-ip.
//   - No image can be pulled. [PauseImage] and [AgnhostImage] are there; [Lab.LoadImages] adds others.
//   - There is no cluster DNS, until a test installs one at 10.96.0.10 or fd00:96::a, where the kubelets say that it is.
package lab
