// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// The addresses of a SpeakerStatus may become those of the Node, to which the API server connects.
func TestSpeakerStatusHasAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"198.51.100.11": "", "2001:db8:51::11": "",
		"attacker.example": "status.addresses[1]: ", "198.51.100.0/24": "status.addresses[1]: ", "fe80::1%eth0": "status.addresses[1]: ",
	} {
		speaker := &speakerv1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{GenerateName: "node-"}}
		create(t, speaker)
		speaker.Status.Addresses = []string{"198.51.100.12", address}
		got := strings.Join(causes(t, apiClient.Status().Update(t.Context(), speaker)), "; ")
		if !strings.HasPrefix(got, want) || want == "" && got != "" || want != "" && !strings.Contains(got, "must be an IP address") {
			t.Errorf("%s: refused with %q, want %q", address, got, want)
		}
	}
}
