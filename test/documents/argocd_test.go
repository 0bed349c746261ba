// SPDX-License-Identifier: Apache-2.0

package documents

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	lua "github.com/yuin/gopher-lua"
	"sigs.k8s.io/yaml"
)

// TestHealthOfArgoCD runs the health check of manifests/examples/argo-cd in the Lua that Argo CD uses.
func TestHealthOfArgoCD(t *testing.T) {
	text, err := os.ReadFile(root + "/manifests/examples/argo-cd/health.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var configMap struct{ Data map[string]string }
	if err := yaml.Unmarshal(text, &configMap); err != nil {
		t.Fatal(err)
	}
	var customizations map[string]map[string]string
	if err := yaml.UnmarshalStrict([]byte(configMap.Data["resource.customizations"]), &customizations); err != nil {
		t.Fatal(err)
	}
	script := customizations["tandem-lb.io/*"]["health.lua"]
	for _, test := range []struct{ name, object, want string }{
		{"a new object", "{metadata: {generation: 1}, spec: {}}", "Progressing: Tandem has not seen the object yet"},
		{
			"an object that is in use", "{metadata: {generation: 2}, spec: {}, status: {conditions: [" +
				"{type: Effective, status: 'False'}, {type: Ready, status: 'True', observedGeneration: 2, message: all is well}]}}",
			"Healthy: all is well",
		},
		{
			"an object that has just been changed", "{metadata: {generation: 3}, spec: {}, status: {conditions: [" +
				"{type: Ready, status: 'True', observedGeneration: 2, message: all is well}]}}",
			"Progressing: Tandem has not seen the last change yet",
		},
		{
			"an object with a mistake", "{metadata: {generation: 2}, spec: {}, status: {conditions: [" +
				"{type: Ready, status: 'False', observedGeneration: 2, message: BFDProfile fast does not exist}]}}",
			"Degraded: BFDProfile fast does not exist",
		},
		{"a record of a speaker", "{metadata: {generation: 1}, status: {node: node1}}", "Healthy: nil"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var object map[string]any
			if err := yaml.Unmarshal([]byte(test.object), &object); err != nil {
				t.Fatal(err)
			}
			state := lua.NewState(lua.Options{SkipOpenLibs: true}) // Argo CD gives a script the base library alone, unless told otherwise
			defer state.Close()
			lua.OpenBase(state)
			state.SetGlobal("obj", luaValue(state, object))
			if err := state.DoString(script); err != nil {
				t.Fatal(err)
			}
			health := state.Get(-1)
			got := lua.LVAsString(state.GetField(health, "status")) + ": " + state.GetField(health, "message").String()
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("health (-want +got):\n%s", diff)
			}
		})
	}
}

// luaValue converts what YAML is decoded into.
func luaValue(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case string:
		return lua.LString(value)
	case float64:
		return lua.LNumber(value)
	case []any:
		table := state.NewTable()
		for _, item := range value {
			table.Append(luaValue(state, item))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for name, field := range value {
			table.RawSetString(name, luaValue(state, field))
		}
		return table
	}
	return lua.LNil
}
