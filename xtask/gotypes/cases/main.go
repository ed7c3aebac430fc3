// Command cases asks the published Kubernetes 1.36 libraries what they make of inputs: it reads lines of JSON
// {"api_version", "kind", "input"} and adds "json" and "protobuf" (the object written again), "error" and "strict".
// With -empty it prints instead, for every kind of the table, the object that has nothing set; with -hollow the object
// whose every pointer, list and map is set to something empty. With -yaml it adds "yaml", the input as kubectl prints it.
//
//	go run ./cases < ../../crates/machinery/testdata/decode-cases.jsonl
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

type testCase struct {
	APIVersion string   `json:"api_version,omitempty"`
	Kind       string   `json:"kind,omitempty"`
	Input      string   `json:"input,omitempty"`
	JSON       string   `json:"json,omitempty"`
	Protobuf   []byte   `json:"protobuf,omitempty"`
	Error      string   `json:"error,omitempty"`
	Strict     []string `json:"strict,omitempty"`
	YAML       string   `json:"yaml,omitempty"`
}

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		admissionv1.AddToScheme, admissionregistrationv1.AddToScheme, appsv1.AddToScheme, authenticationv1.AddToScheme,
		authorizationv1.AddToScheme, autoscalingv1.AddToScheme, autoscalingv2.AddToScheme, batchv1.AddToScheme,
		certificatesv1.AddToScheme, coordinationv1.AddToScheme, corev1.AddToScheme, discoveryv1.AddToScheme,
		eventsv1.AddToScheme, flowcontrolv1.AddToScheme, networkingv1.AddToScheme, nodev1.AddToScheme, policyv1.AddToScheme,
		rbacv1.AddToScheme, resourcev1.AddToScheme, schedulingv1.AddToScheme, storagev1.AddToScheme,
		apiextensionsv1.AddToScheme, apiextensionsv1beta1.AddToScheme, apiregistrationv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return scheme
}

func write(scheme *runtime.Scheme, object runtime.Object, out *testCase) {
	encoded, err := json.Marshal(object)
	if err != nil {
		out.Error = err.Error()
		return
	}
	out.JSON = string(encoded)
	var buffer bytes.Buffer
	if err := protobuf.NewSerializer(scheme, scheme).Encode(object, &buffer); err == nil {
		out.Protobuf = buffer.Bytes()
	}
}

// hollow sets every pointer, list and map to something empty.
func hollow(v reflect.Value, above []reflect.Type) {
	for _, t := range above {
		if t == v.Type() {
			return
		}
	}
	// Texts of their own have no empty form that could be read back; leave them out.
	inner := v.Type()
	for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice || inner.Kind() == reflect.Map {
		inner = inner.Elem()
	}
	name := inner.String()
	if v.Kind() == reflect.Pointer && name == "runtime.RawExtension" || strings.HasSuffix(name, "Time") || strings.Contains(name, "JSON") && !strings.HasSuffix(name, "Props") {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		hollow(v.Elem(), above)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		hollow(v.Index(0), above)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		element := reflect.New(v.Type().Elem()).Elem()
		hollow(element, above)
		v.SetMapIndex(reflect.ValueOf("k").Convert(v.Type().Key()), element)
	case reflect.Struct:
		if name == "v1.FieldsV1" {
			v.FieldByName("Raw").SetBytes([]byte("{}"))
			return
		}
		above = append(above[:len(above):len(above)], v.Type())
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && v.Type().Field(i).Name != "TypeMeta" {
				hollow(v.Field(i), above)
			}
		}
	}
}

func main() {
	empty := flag.Bool("empty", false, "")
	full := flag.Bool("hollow", false, "")
	toYAML := flag.Bool("yaml", false, "")
	flag.Parse()
	scheme := newScheme()
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	print := func(c testCase) {
		var buffer bytes.Buffer
		encoder := json.NewEncoder(&buffer)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(c); err != nil {
			panic(err)
		}
		out.Write(buffer.Bytes())
	}
	if *empty || *full {
		for gvk := range scheme.AllKnownTypes() {
			if gvk.Version == "__internal" {
				continue
			}
			object, err := scheme.New(gvk)
			if err != nil {
				panic(err)
			}
			if *full {
				hollow(reflect.ValueOf(object).Elem(), nil)
			}
			object.GetObjectKind().SetGroupVersionKind(gvk)
			version, kind := gvk.ToAPIVersionAndKind()
			c := testCase{APIVersion: version, Kind: kind}
			write(scheme, object, &c)
			print(c)
		}
		return
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<26)
	for lines.Scan() {
		var c testCase
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			panic(err)
		}
		if *toYAML {
			out, err := yaml.JSONToYAML([]byte(c.Input))
			if err != nil {
				continue // upstream cannot print it either
			}
			c.YAML = string(out)
			print(c)
			continue
		}
		c.JSON, c.Protobuf, c.Error, c.Strict = "", nil, "", nil
		gv, _ := schema.ParseGroupVersion(c.APIVersion)
		gvk := gv.WithKind(c.Kind)
		serializer := kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, scheme, scheme, kjson.SerializerOptions{Yaml: false, Strict: true})
		if !strings.HasPrefix(c.Input, "{") && !strings.HasPrefix(c.Input, "[") && !strings.HasPrefix(c.Input, "\"") {
			serializer = kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, scheme, scheme, kjson.SerializerOptions{Yaml: true, Strict: true})
		}
		object, _, err := serializer.Decode([]byte(c.Input), &gvk, nil)
		if strict, ok := runtime.AsStrictDecodingError(err); ok {
			for _, each := range strict.Errors() {
				c.Strict = append(c.Strict, each.Error())
			}
			err = nil
		}
		if err != nil {
			c.Error = err.Error()
		} else {
			object.GetObjectKind().SetGroupVersionKind(gvk)
			write(scheme, object, &c)
		}
		print(c)
	}
	if lines.Err() != nil {
		fmt.Fprintln(os.Stderr, lines.Err())
		os.Exit(1)
	}
}
