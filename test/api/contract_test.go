// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestAccepted creates every object of the contract with users as it stands.
func TestAccepted(t *testing.T) {
	for _, obj := range objects(t, "testdata/accepted.yaml") {
		t.Run(obj.GetKind()+" "+obj.GetName(), func(t *testing.T) {
			if obj.GetKind() == "Service" {
				obj.SetNamespace(metav1.NamespaceDefault)
			}
			create(t, obj)
		})
	}
}

// TestRefused offers every object that the contract with users says is refused.
func TestRefused(t *testing.T) {
	fields := map[string]string{
		"wrong-family":       "spec.ipv4.ranges[0]",
		"reversed":           "spec.ipv4.ranges[0]",
		"mixed":              "spec.ipv6.ranges[0]",
		"empty":              "spec",
		"garbage":            "spec.ipv4.ranges[0]",
		"unknown-allocation": "spec.allocation",
		"nowhere":            "spec.peerAddress",
		"both":               "spec.ttlSecurityHops",
		"two-asns":           "spec.dynamicASN",
		"hold":               "spec.holdTime",
		"length":             "spec.aggregationLength",
		"bad":                "spec.communities[0].value",
		"one":                "spec.detectMultiplier",
		"loopback":           "spec.ipv4.ranges[0]",
		"multicast":          "spec.ipv4.ranges[0]",
		"link-local":         "spec.ipv6.ranges[0]",
		"two-ways":           "spec.defaultGateway",
		"loopback-peer":      "spec.peerAddress",
		"default-route":      "spec.aggregationLength",
	}
	for _, obj := range objects(t, "testdata/refused.yaml") {
		t.Run(obj.GetKind()+" "+obj.GetName(), func(t *testing.T) {
			var got []string
			for _, cause := range causes(t, tryCreate(t.Context(), obj)) {
				field, message, _ := strings.Cut(cause, ": ")
				t.Logf("%s: %s", field, message)
				got = append(got, field)
			}
			if diff := cmp.Diff([]string{fields[obj.GetName()]}, got); diff != "" {
				t.Errorf("fields in the refusal (-want +got):\n%s", diff)
			}
		})
	}
}
