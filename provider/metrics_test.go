// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"testing"

	"k8s.io/component-base/metrics/testutil"
)

func wantGauge(t *testing.T, what string, got float64, err error, want float64) {
	t.Helper()
	if err != nil || got != want {
		t.Errorf("%s is %v, want %v: %v", what, got, want, err)
	}
}

// A Service is counted by what is the matter with it as soon as that is found, however long its condition is held back.
func TestServicesAreCounted(t *testing.T) {
	w := newAnnouncedWorld(t)
	w.service(lanAddress)
	services := func(state string, want float64) {
		t.Helper()
		got, err := testutil.GetGaugeMetricValue(servicesByState.WithLabelValues(state))
		wantGauge(t, "tandem_services of "+state, got, err, want)
	}
	w.pass(1)
	services("NoAdvertisement", 1)
	w.advertise()
	w.record("node1", lanAddress)
	w.pass(1)
	services("NoAdvertisement", 0)
	services("Announced", 1)
}

func TestConditionsAreCounted(t *testing.T) {
	w := conditionWriterOf(t, func(string) error { return nil }, oneOfEach()...)
	if err := w.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]float64{"L2Advertisement": 1, "BFDProfile": 0} {
		got, err := testutil.GetGaugeMetricValue(objectsAtFault.WithLabelValues(kind, "Ready"))
		wantGauge(t, "tandem_config_objects_false of "+kind, got, err, want)
	}
}
