// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// A controller manager that is told to end releases its lease, so that the next one need not wait until it expires. The lease here would
// outlast the test.
func TestLeaseIsReleased(t *testing.T) {
	program := buildProgram(t, "cloud-controller-manager")
	kubeconfig := adminKubeconfig(t)
	start := func() *exec.Cmd {
		manager := exec.CommandContext(t.Context(), program, "--kubeconfig="+kubeconfig, "--namespace=default", "--secure-port=0",
			"--leader-elect-lease-duration=1h", "--controllers=service-lb-controller")
		manager.Stderr = os.Stderr
		if err := manager.Start(); err != nil {
			t.Fatal(err)
		}
		return manager
	}
	var lease coordinationv1.Lease
	leads := func(other string) func() string {
		return func() string {
			err := apiClient.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "tandem-cloud-controller-manager"}, &lease)
			if err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
			if holder := ptr.Deref(lease.Spec.HolderIdentity, ""); holder == "" || holder == other {
				return fmt.Sprintf("the holder is %q", holder)
			}
			return ""
		}
	}
	t.Cleanup(func() {
		if err := apiClient.Delete(context.WithoutCancel(t.Context()), &lease); err != nil {
			t.Error(err)
		}
	})
	first := start()
	until(t, "the first leader", leads(""))
	// One that is ended between the write of the lease and its answer does not know that it leads, and releases nothing.
	until(t, "the first leader's next renewal", func() string {
		if why := leads("")(); why != "" {
			return why
		}
		if !lease.Spec.RenewTime.After(lease.Spec.AcquireTime.Time) {
			return "it has not renewed its lease"
		}
		return ""
	})
	holder := *lease.Spec.HolderIdentity
	second := start()
	if err := first.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err != nil {
		t.Errorf("the first leader ended with %v", err)
	}
	until(t, "the next leader", leads(holder))
	if err := second.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(); err != nil {
		t.Errorf("the second leader ended with %v", err)
	}
}
