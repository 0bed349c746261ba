// SPDX-License-Identifier: Apache-2.0

package live

import "errors"

// kindsInFiles are the kinds of Tandem's objects that a move makes, in the order in which they are applied.
var kindsInFiles = []string{"AddressPool", "BFDProfile", "Community", "BGPPeer", "L2Advertisement", "BGPAdvertisement"}

// Files returns Tandem's objects of the cluster as files have them: with names, labels, annotations and specs, and without what the API server and Tandem
// write; an empty list, and not nil, if there are none. Secrets with passwords are not among them. It is an error while a move is under way, since the
// objects have its selectors then.
func Files(s *Snapshot) ([]map[string]any, error) {
	if phase := s.PhaseOf(); phase != "" && phase != Finished || s.PhaseLost() {
		return nil, errors.New("a move is under way, and its label is in the selectors of Tandem's objects: kubectl tandem move-in finish ends it first")
	}
	objects := []map[string]any{}
	for _, kind := range kindsInFiles {
		for _, o := range s.Objects.of(ourGroup, kind) {
			object := map[string]any{
				"apiVersion": o["apiVersion"], "kind": kind, "metadata": map[string]any{"name": text(o, "metadata", "name")}, "spec": o["spec"],
			}
			for _, field := range []string{"labels", "annotations"} {
				if values := clone(map[string]any{field: at(o, "metadata", field)}); values[field] != nil {
					set(values, nil, field, "kubectl.kubernetes.io/last-applied-configuration")
					set(object, values[field], "metadata", field)
				}
			}
			objects = append(objects, object)
		}
	}
	return objects, nil
}
