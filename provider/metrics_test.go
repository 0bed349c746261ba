// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/metrics/testutil"

	"github.com/tandem-lb/tandem/speaker/config"
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

// An object has a series for each of its conditions until it is deleted.
func TestConditionsAreShown(t *testing.T) {
	condition := func(status metav1.ConditionStatus) metav1.Condition { return metav1.Condition{Status: status} }
	good, bad := config.Key{Kind: "BGPPeer", Name: "good"}, config.Key{Kind: "BGPPeer", Name: "bad"}
	shown := map[config.Key]bool{}
	defer showConditions(nil, "Tried", shown)
	expect := func(want string) {
		t.Helper()
		if err := testutil.GatherAndCompare(legacyregistry.DefaultGatherer, strings.NewReader(want), "tandem_config_object_condition"); err != nil {
			t.Error(err)
		}
	}
	objectConditions.Reset() // of the other tests
	const head = `# HELP tandem_config_object_condition [ALPHA] Whether a condition of an object for the speakers is True; alert on 0.
# TYPE tandem_config_object_condition gauge
`
	showConditions(map[config.Key]metav1.Condition{good: condition(metav1.ConditionTrue), bad: condition(metav1.ConditionFalse)}, "Tried", shown)
	expect(head + `tandem_config_object_condition{condition="Tried",kind="BGPPeer",name="bad"} 0
tandem_config_object_condition{condition="Tried",kind="BGPPeer",name="good"} 1
`)
	showConditions(map[config.Key]metav1.Condition{good: condition(metav1.ConditionTrue)}, "Tried", shown)
	expect(head + `tandem_config_object_condition{condition="Tried",kind="BGPPeer",name="good"} 1
`)
}
