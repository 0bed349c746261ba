// SPDX-License-Identifier: Apache-2.0

package structure_test

import (
	"os"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// TestRollout looks whether a new version of the controller manager finds a place. Its port is the node's, so that a node takes one pod of
// it, and where every eligible node has one a pod beyond the replicas waits for ever.
func TestRollout(t *testing.T) {
	text, err := os.ReadFile("../../manifests/controller-manager/deployment.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var deployment appsv1.Deployment
	if err := yaml.UnmarshalStrict(text, &deployment); err != nil {
		t.Fatal(err)
	}
	pod := deployment.Spec.Template.Spec
	if !pod.HostNetwork || len(pod.Containers[0].Ports) == 0 {
		t.Fatal("the port is not the node's any more, so that nothing holds the pods apart: this test, and the strategy, have lost their reason")
	}
	// The defaults, and the rounding, of the Deployment controller.
	surge, unavailable := intstr.FromString("25%"), intstr.FromString("25%")
	if rolling := deployment.Spec.Strategy.RollingUpdate; rolling != nil {
		surge = *intstr.ValueOrDefault(rolling.MaxSurge, surge)
		unavailable = *intstr.ValueOrDefault(rolling.MaxUnavailable, unavailable)
	}
	replicas := int(*deployment.Spec.Replicas)
	more, err := intstr.GetScaledValueFromIntOrPercent(&surge, replicas, true)
	if err != nil {
		t.Fatal(err)
	}
	fewer, err := intstr.GetScaledValueFromIntOrPercent(&unavailable, replicas, false)
	if err != nil {
		t.Fatal(err)
	}
	if more > 0 || fewer < 1 {
		t.Errorf("an update of %d replicas starts %d more before it ends one (maxUnavailable %d)", replicas, more, fewer)
	}
}
