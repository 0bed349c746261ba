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
	objectConditions = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "tandem_config_object_condition", Help: "Whether a condition of an object for the speakers is True; alert on 0.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"kind", "name", "condition"})
)

func init() { legacyregistry.MustRegister(servicesByState, objectConditions) }

// countServices sets how many Services have each state. A state that had some keeps its series, so that a graph shows its end.
func countServices(states map[string]int, known map[string]bool) {
	for state := range states {
		known[state] = true
	}
	for state := range known {
		servicesByState.WithLabelValues(state).Set(float64(states[state]))
	}
}

// showConditions sets whether one of the conditions of each object is True. The series of an object goes with it, and no sooner; shown has the
// objects that have one.
func showConditions(conditions map[config.Key]metav1.Condition, conditionType string, shown map[config.Key]bool) {
	for key, condition := range conditions {
		value := 0.0
		if condition.Status == metav1.ConditionTrue {
			value = 1
		}
		objectConditions.WithLabelValues(key.Kind, key.Name, conditionType).Set(value)
		shown[key] = true
	}
	for key := range shown {
		if _, exists := conditions[key]; !exists {
			objectConditions.Delete(map[string]string{"kind": key.Kind, "name": key.Name, "condition": conditionType})
			delete(shown, key)
		}
	}
}
