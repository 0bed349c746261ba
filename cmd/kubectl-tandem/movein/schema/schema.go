// SPDX-License-Identifier: Apache-2.0

// Package schema says what the API server would refuse of an object of Tandem, without an API server: it asks the CustomResourceDefinition of the
// object's kind by the code that the API server itself has for them. For example
//
//	kind: BGPPeer
//	metadata: {name: tor}
//	spec: {myASN: 64512, peerASN: 64513, interface: enp129s0f0np0.100}
//
// is refused at spec.interface, which takes 15 characters at most.
//
// The definitions are those of package crd. Each is read and compiled once, when the first object of its kind is checked, so that a command that checks
// none does not pay for it.
package schema

import (
	"context"
	"encoding/json"
	"slices"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metavalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// Refusals returns what the API server would refuse of an object that is to be created: of its metadata, and of the rest where it is of a kind of
// Tandem, whose defaults count. Fields that the kind does not have are refused, as by kubectl. The error is that of an object that is no JSON.
func Refusals(object map[string]any) ([]Refusal, error) {
	data, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(data, &u.Object); err != nil {
		return nil, err
	}
	namespaced := u.GetNamespace() != ""
	errs := metavalidation.ValidateObjectMetaAccessor(u, namespaced, metavalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	d := definitionOf(u.GroupVersionKind())
	if d != nil {
		errs = append(errs, d.refuse(u.Object)...)
	}
	return explain(d, u.Object, errs), nil
}

// refuse returns what the API server would refuse of an object, and fills in its defaults.
func (d *definition) refuse(object map[string]any) (errs field.ErrorList) {
	for _, path := range pruning.PruneWithOptions(object, d.structural, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		errs = append(errs, field.Forbidden(field.NewPath(path), "there is no such field"))
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(object, d.structural)
	defaulting.Default(object, d.structural)
	errs = append(errs, validation.ValidateCustomResource(nil, object, d.values)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, d.structural, object)...)
	if slices.ContainsFunc(errs, blocks) {
		return errs
	}
	broken, _ := d.rules().Validate(context.Background(), nil, d.structural, object, nil, celconfig.RuntimeCELCostBudget)
	return append(errs, broken...)
}

// blocks reports whether the API server asks no rules of an object with such an error: they are written for values of the right type and size.
func blocks(err *field.Error) bool {
	return slices.Contains([]field.ErrorType{
		field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid,
	}, err.Type)
}
