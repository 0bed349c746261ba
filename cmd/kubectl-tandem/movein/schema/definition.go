// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"errors"
	"fmt"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/api/meta"
	runtimeschema "k8s.io/apimachinery/pkg/runtime/schema"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/manifests/crd"
)

// definition is a CustomResourceDefinition, ready to be asked.
type definition struct {
	structural *structural.Structural
	values     validation.SchemaValidator // types, lengths and bounds
	rules      func() *cel.Validator      // x-kubernetes-validations, which take the longest to compile
}

// definitions are those of all kinds, by the names of their files. Each is read when it is first asked for.
var definitions = func() map[string]func() *definition {
	files, err := crd.Files.ReadDir(".")
	all := map[string]func() *definition{}
	for _, file := range files {
		all[file.Name()] = sync.OnceValue(func() *definition {
			text, err := crd.Files.ReadFile(file.Name())
			d, problem := read(text)
			if err := errors.Join(err, problem); err != nil {
				panic(fmt.Sprintf("%s: %v", file.Name(), err)) // of this program, whose tests read all of them
			}
			return d
		})
	}
	if err != nil {
		panic(err)
	}
	return all
}()

// definitionOf returns the definition of a kind, nil if Tandem has no such kind.
func definitionOf(kind runtimeschema.GroupVersionKind) *definition {
	plural, _ := meta.UnsafeGuessKindToResource(kind)
	find := definitions[kind.Group+"_"+plural.Resource+".yaml"]
	if find == nil || kind.GroupVersion() != v1alpha1.GroupVersion {
		return nil
	}
	return find()
}

// read reads a CustomResourceDefinition.
func read(text []byte) (*definition, error) {
	var object apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(text, &object); err != nil {
		return nil, err
	}
	var props apiextensions.JSONSchemaProps
	err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(object.Spec.Versions[0].Schema.OpenAPIV3Schema, &props, nil)
	if err != nil {
		return nil, err
	}
	d := &definition{}
	if d.structural, err = structural.NewStructural(&props); err != nil {
		return nil, err
	}
	if d.values, _, err = validation.NewSchemaValidator(&props); err != nil {
		return nil, err
	}
	d.rules = sync.OnceValue(func() *cel.Validator { return cel.NewValidator(d.structural, true, celconfig.PerCallLimit) })
	return d, nil
}

// MaxItems returns how many entries a list of a kind of Tandem takes, 0 if there is no such list or it takes any number. The path is that of the list, as
// spec.nodeSelectors.
func MaxItems(kind, path string) int {
	d := definitionOf(v1alpha1.GroupVersion.WithKind(kind))
	if d == nil {
		return 0
	}
	if limits := d.limits(path); limits != nil && limits.MaxItems != nil {
		return int(*limits.MaxItems)
	}
	return 0
}
