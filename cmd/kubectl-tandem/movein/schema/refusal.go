// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Refusal is one thing that the API server would refuse of an object.
type Refusal struct {
	// Path is that of the field, as spec.preferredNodes[0].weight.
	Path string
	// Text says what is wrong with its value, the limit where there is one, and what to do.
	Text string
}

// String returns the refusal as a clause of a sentence.
func (r Refusal) String() string { return r.Path + ": " + r.Text }

// explain puts errors into sentences. The definition is nil for a kind that is not Tandem's.
func explain(d *definition, object map[string]any, errs field.ErrorList) (refusals []Refusal) {
	for _, err := range errs {
		// A number that its format cannot hold, such as 3000000000 for an int32, has an error that names its bound, and another one without a field.
		if err.Field == "<nil>" && slices.ContainsFunc(errs, func(other *field.Error) bool {
			return other != err && strings.HasSuffix(err.Detail, " in "+other.Field)
		}) {
			continue
		}
		value, _ := find(object, err.Field)
		var limits *structural.ValueValidation
		if d != nil {
			limits = d.limits(err.Field)
		}
		refusals = append(refusals, Refusal{err.Field, sentence(err, value, limits)})
	}
	slices.SortStableFunc(refusals, func(a, b Refusal) int { return strings.Compare(a.Path, b.Path) }) // Fields of a mapping come in any order.
	return refusals
}

// sentence says what is wrong with a value.
func sentence(err *field.Error, value any, limits *structural.ValueValidation) string {
	if limits == nil {
		limits = &structural.ValueValidation{}
	}
	number, isNumber := asNumber(value)
	text, isText := value.(string)
	list, isList := value.([]any)
	length := int64(utf8.RuneCountInString(text))
	switch of := limits; {
	case err.Type == field.ErrorTypeRequired && err.Detail != "": // A rule says why.
		return "is missing: " + err.Detail
	case err.Type == field.ErrorTypeRequired:
		return "is missing"
	case err.Type == field.ErrorTypeDuplicate:
		return written(value) + " is there twice; leave one of them out"
	case err.Type == field.ErrorTypeNotSupported:
		return written(value) + " is not one of the " + err.Detail
	case err.Type == field.ErrorTypeForbidden:
		return err.Detail
	case isList && of.MaxItems != nil && int64(len(list)) > *of.MaxItems:
		return fmt.Sprintf("has %d entries, and takes %d at most; write several objects, each with a part of them", len(list), *of.MaxItems)
	case isList && of.MinItems != nil && int64(len(list)) < *of.MinItems:
		return fmt.Sprintf("has %d entries, and needs %d at least", len(list), *of.MinItems)
	case isText && of.MaxLength != nil && length > *of.MaxLength:
		return fmt.Sprintf("%s has %d characters, and the field takes %d at most; shorten it", written(value), length, *of.MaxLength)
	case isText && of.MinLength != nil && length < *of.MinLength:
		return fmt.Sprintf("%s has %d characters, and the field needs %d at least", written(value), length, *of.MinLength)
	case isNumber && of.Maximum != nil && number > *of.Maximum:
		return fmt.Sprintf("%s is more than %s; lower it", written(value), strconv.FormatFloat(*of.Maximum, 'f', -1, 64))
	case isNumber && of.Minimum != nil && number < *of.Minimum:
		return fmt.Sprintf("%s is less than %s; raise it", written(value), strconv.FormatFloat(*of.Minimum, 'f', -1, 64))
	case !isText && !isNumber || strings.HasPrefix(err.Detail, written(value)):
		return err.Detail
	}
	return written(value) + ": " + err.Detail
}

func asNumber(value any) (float64, bool) {
	switch n := value.(type) {
	case int64:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

// written returns a value as JSON, and a long one shortened.
func written(value any) string {
	const most = 80
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	if text := []rune(string(data)); len(text) > most {
		return string(text[:most]) + "…"
	}
	return string(data)
}

// steps are those of a path: spec.ranges[0] is spec, ranges, [0].
var steps = regexp.MustCompile(`[^.\[\]]+|\[[^\]]*\]`)

// find returns the value at a path of an object, and false if there is none.
func find(object map[string]any, path string) (value any, found bool) {
	value = object
	for _, step := range steps.FindAllString(path, -1) {
		switch at := value.(type) {
		case map[string]any:
			if value, found = at[strings.Trim(step, "[]")]; !found {
				return nil, false
			}
		case []any:
			i, err := strconv.Atoi(strings.Trim(step, "[]"))
			if err != nil || i < 0 || i >= len(at) {
				return nil, false
			}
			value = at[i]
		default:
			return nil, false
		}
	}
	return value, true
}

// limits returns what the definition says of the values at a path, nil if it says nothing.
func (d *definition) limits(path string) *structural.ValueValidation {
	at := d.structural
	for _, step := range steps.FindAllString(path, -1) {
		property, ok := at.Properties[step]
		switch {
		case ok:
			at = &property
		case at.Items != nil && strings.HasPrefix(step, "["):
			at = at.Items
		default:
			return nil
		}
	}
	return at.ValueValidation
}
