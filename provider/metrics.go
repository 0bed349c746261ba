// SPDX-License-Identifier: Apache-2.0

package provider

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/tandem-lb/tandem/speaker/config"
)

var (
	servicesByState = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "tandem_services", Help: "Services that Tandem serves, by the reason of their condition Announced as it is now.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"state"})
	objectsAtFault = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "tandem_config_objects_false", Help: "Objects for the speakers of which the condition is False, by kind; alert above 0.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"kind", "condition"})
)

func init() { legacyregistry.MustRegister(servicesByState, objectsAtFault) }

// countServices sets how many Services have each state. A state that had some keeps its series, so that a graph shows its end.
func countServices(states map[string]int, known map[string]bool) {
	for state := range states {
		known[state] = true
	}
	for state := range known {
		servicesByState.WithLabelValues(state).Set(float64(states[state]))
	}
}

// countConditions sets of how many objects of each kind one of the conditions is False.
func countConditions(conditions map[config.Key]metav1.Condition, conditionType string, kinds []string) {
	count := map[string]int{}
	for key, condition := range conditions {
		if condition.Status == metav1.ConditionFalse {
			count[key.Kind]++
		}
	}
	for _, kind := range kinds {
		objectsAtFault.WithLabelValues(kind, conditionType).Set(float64(count[kind]))
	}
}
