// Command structural asks the published Kubernetes 1.36 libraries what a structural schema does to objects. It reads
// lines of JSON {"schema", "object"} and adds "schema_errors", "pruned" (paths), "result" (pruned and defaulted) and
// "errors".
//
//	go run ./structural < ../../crates/machinery/testdata/structural-cases.jsonl
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"sort"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
)

type testCase struct {
	Schema       json.RawMessage `json:"schema"`
	Object       json.RawMessage `json:"object"`
	SchemaErrors []string        `json:"schema_errors,omitempty"`
	Pruned       []string        `json:"pruned,omitempty"`
	Result       json.RawMessage `json:"result,omitempty"`
	Errors       []string        `json:"errors,omitempty"`
	// What reading metadata says: an error, or paths of unknown fields.
	MetaError   string   `json:"meta_error,omitempty"`
	MetaUnknown []string `json:"meta_unknown,omitempty"`
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<26)
	for lines.Scan() {
		var c testCase
		check(json.Unmarshal(lines.Bytes(), &c))
		c = testCase{Schema: c.Schema, Object: c.Object}
		run(&c)
		var buffer bytes.Buffer
		encoder := json.NewEncoder(&buffer)
		encoder.SetEscapeHTML(false)
		check(encoder.Encode(c))
		os.Stdout.Write(buffer.Bytes())
	}
	check(lines.Err())
}

func run(c *testCase) {
	var props apiextensionsv1.JSONSchemaProps
	check(json.Unmarshal(c.Schema, &props))
	var internal apiextensions.JSONSchemaProps
	check(apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&props, &internal, nil))
	structural, err := structuralschema.NewStructural(&internal)
	if err != nil {
		c.SchemaErrors = []string{err.Error()}
		return
	}
	for _, each := range crdvalidation.ValidateCustomResourceDefinition(context.Background(), definition(&internal)) {
		if rest, found := strings.CutPrefix(each.Error(), "spec.validation.openAPIV3Schema"); found {
			c.SchemaErrors = append(c.SchemaErrors, "schema"+rest)
		}
	}
	sort.Strings(c.SchemaErrors)
	var object map[string]interface{}
	check(kjson.UnmarshalCaseSensitivePreserveInts(c.Object, &object))
	coercion := objectmeta.CoerceOptions{ReturnUnknownFieldPaths: true}
	fault, unknown := objectmeta.CoerceWithOptions(nil, object, structural, true, coercion)
	if fault != nil {
		c.MetaError = fault.Error()
		return
	}
	c.MetaUnknown = unknown
	c.Pruned = pruning.PruneWithOptions(object, structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	defaulting.Default(object, structural)
	defaulting.PruneNonNullableNullsWithoutDefaults(object, structural)
	c.Result, err = json.Marshal(object)
	check(err)
	validator, _, err := validation.NewSchemaValidator(&internal)
	check(err)
	for _, each := range validation.ValidateCustomResource(nil, object, validator) {
		c.Errors = append(c.Errors, each.Error())
	}
	for _, each := range objectmeta.Validate(nil, object, structural, false) {
		c.Errors = append(c.Errors, each.Error())
	}
	for _, each := range listtype.ValidateListSetsAndMaps(nil, structural, object) {
		c.Errors = append(c.Errors, each.Error())
	}
	sort.Strings(c.Errors)
}

// definition is a complete definition around a schema.
func definition(schema *apiextensions.JSONSchemaProps) *apiextensions.CustomResourceDefinition {
	no := false
	names := apiextensions.CustomResourceDefinitionNames{Plural: "ks", Singular: "k", Kind: "K", ListKind: "KList"}
	return &apiextensions.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "ks.a.io", ResourceVersion: "1"},
		Spec: apiextensions.CustomResourceDefinitionSpec{
			Group: "a.io", Names: names, Scope: apiextensions.ClusterScoped, PreserveUnknownFields: &no,
			Versions:   []apiextensions.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true}},
			Conversion: &apiextensions.CustomResourceConversion{Strategy: apiextensions.NoneConverter},
			Validation: &apiextensions.CustomResourceValidation{OpenAPIV3Schema: schema},
		},
		Status: apiextensions.CustomResourceDefinitionStatus{StoredVersions: []string{"v1"}, AcceptedNames: names},
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
