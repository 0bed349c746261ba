// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// Transfer is what happens when a node is named as the target of a Service.
type Transfer struct {
	// Moves are those of the Service and of the Services that share an address with it, sorted by name.
	Moves []Move `json:"moves"`
	// Back is a node that is preferred and will take the addresses back at once or after a time, since an L2Advertisement has failbackAfter; "" if
	// there is none.
	Back string `json:"back,omitempty"`
}

// PlanMove says what happens when a node is named as the target of a Service. The error says why the node would not take its addresses.
func PlanMove(s *cluster.State, service types.NamespacedName, to string) (*Transfer, error) {
	explainer := decision.NewExplainer(s.Snapshot)
	sharers := explainer.Sharers(service)
	if sharers == nil {
		return nil, fmt.Errorf("there is no Service %s of type LoadBalancer that publishes an address of Tandem", service)
	}
	if _, err := findNode(s, to); err != nil {
		return nil, err
	}
	if refusal := explainer.Refusal(service, to); refusal != "" {
		return nil, fmt.Errorf("%s cannot take the addresses of %s: %s%s", to, service, refusal, reasons(explainer, service, to))
	}
	records := s.Records()
	plan := &Transfer{}
	for _, name := range sharers {
		record, ok := records[name]
		switch {
		case !ok && name == service:
			return nil, fmt.Errorf("no node has answered for %s on layer 2 yet, so that there is no L2Announcement to write the target into", service)
		case ok && record.Node != to:
			move := Move{Service: name.String(), Addresses: record.Addresses, From: record.Node, To: to}
			plan.Moves = append(plan.Moves, move)
		}
	}
	plan.Back = takesBack(s.Snapshot, sharers, to)
	return plan, nil
}

// reasons says of each address of a Service why a node does not announce it on layer 2, as in " (198.51.100.7: NoInterface)".
func reasons(explainer *decision.Explainer, service types.NamespacedName, node string) string {
	var all []string
	for _, x := range explainer.Explain(service) {
		if x.Node == node && x.Peer == "" && x.Reason != decision.OtherHolder && x.Reason != decision.Announced {
			all = append(all, fmt.Sprintf("%s: %s", x.Address, x.Reason))
		}
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, ", ") + ")"
}

// takesBack returns the node that takes Services back when it has been healthy for long, after another node has them, "" if none does. Each node
// decides that for itself, so that it is asked of a snapshot of each.
func takesBack(s *decision.Snapshot, services []types.NamespacedName, holder string) string {
	if !slices.ContainsFunc(s.Config.L2, func(ad config.L2Advertisement) bool { return ad.FailbackAfter > 0 }) {
		return ""
	}
	later := *s
	later.HealthyFor, later.Services = 1000*time.Hour, nil
	for i := range s.Services {
		if slices.Contains(services, s.Services[i].Name) {
			moved := s.Services[i]
			moved.Holder, moved.Target = holder, ""
			later.Services = append(later.Services, moved)
		}
	}
	for _, node := range slices.Sorted(maps.Keys(s.Nodes)) {
		if later.Node = node; node == holder || len(later.Services) == 0 || !s.Alive(node) {
			continue
		}
		for _, address := range later.Services[0].Addresses {
			if back, _ := decision.NewExplainer(&later).Holder(later.Services[0].Name, address); back == node {
				return node
			}
		}
	}
	return ""
}

// SetTarget names a node as the target of a Service.
func (a *API) SetTarget(ctx context.Context, service types.NamespacedName, node string) error {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"target": node}})
	if err == nil {
		err = a.Patch(ctx, recordOf(service), client.RawPatch(types.MergePatchType, patch))
	}
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("%w; the ClusterRole tandem-edit gives the right", err)
	}
	return err
}

// AwaitMove waits until all Services of a transfer have moved. If they have not in time, it takes the target back, so that they do not move
// when nobody expects it: a target that cannot take them stays named otherwise, and takes them when it can.
func (a *API) AwaitMove(ctx context.Context, service types.NamespacedName, plan *Transfer) error {
	waiting := slices.Clone(plan.Moves)
	err := a.until(ctx, func() (bool, error) {
		var err error
		waiting = slices.DeleteFunc(waiting, func(m Move) bool {
			record := &v1alpha1.L2Announcement{}
			errGet := a.Get(ctx, client.ObjectKey{Name: strings.Replace(m.Service, "/", ".", 1)}, record)
			if errGet != nil || record.Status.Node != m.To {
				err = errors.Join(err, errGet)
				return false
			}
			a.Told(m)
			return true
		})
		return len(waiting) == 0, err
	})
	if err == nil {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if errUndo := a.clearTarget(undo, service, plan.Moves[0].To); errUndo != nil {
		return fmt.Errorf("%w; its target stays named, since taking it back failed: %w", err, errUndo)
	}
	return fmt.Errorf("%w; the target has been taken back", err)
}

// clearTarget removes a node as the target of a Service, and leaves any other target alone, which somebody else has named meanwhile.
func (a *API) clearTarget(ctx context.Context, service types.NamespacedName, node string) error {
	record := recordOf(service)
	if err := a.Get(ctx, client.ObjectKeyFromObject(record), record); err != nil || record.Spec.Target != node {
		return client.IgnoreNotFound(err)
	}
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/spec/target", "value": node}, {"op": "remove", "path": "/spec/target"},
	})
	if err == nil {
		err = a.Patch(ctx, recordOf(service), client.RawPatch(types.JSONPatchType, patch))
	}
	if apierrors.IsInvalid(err) { // The test has failed: the target is another one since the record was read.
		return nil
	}
	return client.IgnoreNotFound(err)
}

// recordOf returns the L2Announcement of a Service, with nothing but its name.
func recordOf(service types.NamespacedName) *v1alpha1.L2Announcement {
	return &v1alpha1.L2Announcement{ObjectMeta: metav1.ObjectMeta{Name: service.Namespace + "." + service.Name}}
}
