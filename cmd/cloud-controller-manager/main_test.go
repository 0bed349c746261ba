// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"k8s.io/cloud-provider/options"
)

// The lease is in Tandem's namespace, wherever that is, unless its own flag says otherwise.
func TestNamespaceOfLease(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "pods")
	for _, test := range []struct {
		flags []string
		want  string
	}{
		{want: "pods"},
		{flags: []string{"--namespace=lb-system"}, want: "lb-system"},
		{flags: []string{"--namespace=lb-system", "--leader-elect-resource-namespace=leases"}, want: "leases"},
	} {
		opts, err := options.NewCloudControllerManagerOptions()
		if err != nil {
			t.Fatal(err)
		}
		command := newCommand(opts)
		if err := command.ParseFlags(test.flags); err != nil {
			t.Fatal(err)
		}
		command.PreRun(command, nil)
		if got := opts.Generic.LeaderElection.ResourceNamespace; got != test.want {
			t.Errorf("with %v the lease is in %s, want %s", test.flags, got, test.want)
		}
	}
}
