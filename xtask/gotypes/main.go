// Command gotypes prints facts about the Go types of the published Kubernetes 1.36 libraries that no reference file
// tells: whether a field is a pointer, whether its zero value is left out of JSON, and what Go calls its type in an
// error message. `cargo xtask schema` reads them from facts.tsv; run `go run . > facts.tsv` to make that file anew.
package main

import (
	"bufio"
	"encoding"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"sort"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	admissionregistrationv1alpha1 "k8s.io/api/admissionregistration/v1alpha1"
	admissionregistrationv1beta1 "k8s.io/api/admissionregistration/v1beta1"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apiserverinternalv1alpha1 "k8s.io/api/apiserverinternal/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1alpha1 "k8s.io/api/certificates/v1alpha1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	coordinationv1 "k8s.io/api/coordination/v1"
	coordinationv1alpha2 "k8s.io/api/coordination/v1alpha2"
	coordinationv1beta1 "k8s.io/api/coordination/v1beta1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	networkingv1beta1 "k8s.io/api/networking/v1beta1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	resourcev1alpha3 "k8s.io/api/resource/v1alpha3"
	resourcev1beta1 "k8s.io/api/resource/v1beta1"
	resourcev1beta2 "k8s.io/api/resource/v1beta2"
	schedulingv1 "k8s.io/api/scheduling/v1"
	schedulingv1alpha2 "k8s.io/api/scheduling/v1alpha2"
	storagev1 "k8s.io/api/storage/v1"
	storagev1beta1 "k8s.io/api/storage/v1beta1"
	storagemigrationv1beta1 "k8s.io/api/storagemigration/v1beta1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

var (
	marshaler = reflect.TypeFor[json.Marshaler]()
	texter    = reflect.TypeFor[encoding.TextMarshaler]()
)

func opaque(t reflect.Type) bool {
	for _, each := range []reflect.Type{t, reflect.PointerTo(t)} {
		if each.Implements(marshaler) || each.Implements(texter) {
			return true
		}
	}
	return false
}

func openAPIName(t reflect.Type) string {
	parts := strings.Split(t.PkgPath(), "/")
	host := strings.Split(parts[0], ".")
	for i, j := 0, len(host)-1; i < j; i, j = i+1, j-1 {
		host[i], host[j] = host[j], host[i]
	}
	return strings.Join(append(host, parts[1:]...), ".") + "." + t.Name()
}

type walker struct {
	seen map[reflect.Type]bool
	todo []reflect.Type
}

func (w *walker) visit(t reflect.Type) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map || t.Kind() == reflect.Array {
		t = t.Elem()
	}
	if t.Kind() == reflect.Struct && !w.seen[t] && strings.Contains(t.PkgPath(), "k8s.io") {
		w.seen[t] = true
		w.todo = append(w.todo, t)
	}
}

// expression names a type in the generator's own words: s, b, i32, i64, f64, bytes, any, [X, {X and @openapi.name.
func expression(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		return "*" + expression(t.Elem())
	}
	if t.PkgPath() != "" && opaque(t) {
		return "@" + openAPIName(t)
	}
	switch t.Kind() {
	case reflect.String:
		return "s"
	case reflect.Bool:
		return "b"
	case reflect.Int32:
		return "i32"
	case reflect.Int64:
		return "i64"
	case reflect.Float64:
		return "f64"
	case reflect.Interface:
		return "any"
	case reflect.Struct:
		return "@" + openAPIName(t)
	case reflect.Map:
		return "{" + expression(t.Elem())
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		return "[" + expression(t.Elem())
	}
	panic("no word for " + t.String())
}

// fields prints `json:flags:number:type:go type` for each field. Flags: p pointer, e omitempty, z omitzero, m an inlined
// TypeMeta. Inlined structs are flattened; the number is then the path of protobuf numbers, outermost first.
func (w *walker) fields(t reflect.Type, path, extra string, out *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.PkgPath != "" && !f.Anonymous {
			continue
		}
		tag, has := f.Tag.Lookup("json")
		name, options, _ := strings.Cut(tag, ",")
		if name == "-" {
			continue
		}
		number := "0"
		if pb := strings.Split(f.Tag.Get("protobuf"), ","); len(pb) > 1 {
			number = pb[1]
		}
		ft := f.Type
		if (f.Anonymous && name == "" || strings.Contains(options, "inline")) && ft.Kind() == reflect.Struct {
			switch {
			case ft == reflect.TypeFor[metav1.TypeMeta]():
				w.fields(ft, path, "m", out)
			case number == "0":
				panic(t.String() + " inlines " + ft.String() + " without a number")
			default:
				w.fields(ft, path+number+"/", "", out)
			}
			continue
		}
		if !has {
			name = f.Name
		}
		flags := extra
		if ft.Kind() == reflect.Pointer {
			flags += "p"
			ft = ft.Elem()
		}
		for _, option := range strings.Split(options, ",") {
			switch option {
			case "omitempty":
				flags += "e"
			case "omitzero":
				flags += "z"
			}
		}
		w.visit(ft)
		if extra == "m" {
			number = "0"
		}
		*out = append(*out, fmt.Sprintf("%s:%s:%s%s:%s:%s", name, flags, path, number, expression(ft), ft))
	}
}

func main() {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		admissionv1.AddToScheme, admissionregistrationv1.AddToScheme, admissionregistrationv1alpha1.AddToScheme,
		admissionregistrationv1beta1.AddToScheme, apidiscoveryv2.AddToScheme, apiserverinternalv1alpha1.AddToScheme,
		appsv1.AddToScheme, authenticationv1.AddToScheme, authorizationv1.AddToScheme, autoscalingv1.AddToScheme,
		autoscalingv2.AddToScheme, batchv1.AddToScheme, certificatesv1.AddToScheme, certificatesv1alpha1.AddToScheme,
		certificatesv1beta1.AddToScheme, coordinationv1.AddToScheme, coordinationv1alpha2.AddToScheme,
		coordinationv1beta1.AddToScheme, corev1.AddToScheme, discoveryv1.AddToScheme, eventsv1.AddToScheme,
		flowcontrolv1.AddToScheme, networkingv1.AddToScheme, networkingv1beta1.AddToScheme, nodev1.AddToScheme,
		policyv1.AddToScheme, rbacv1.AddToScheme, resourcev1.AddToScheme, resourcev1alpha3.AddToScheme,
		resourcev1beta1.AddToScheme, resourcev1beta2.AddToScheme, schedulingv1.AddToScheme, schedulingv1alpha2.AddToScheme,
		storagev1.AddToScheme, storagev1beta1.AddToScheme, storagemigrationv1beta1.AddToScheme, apiextensionsv1.AddToScheme,
		apiextensionsv1beta1.AddToScheme, apiregistrationv1.AddToScheme, metav1.AddMetaToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	w := walker{seen: map[reflect.Type]bool{}}
	gvks := map[reflect.Type][]string{}
	for gvk, t := range scheme.AllKnownTypes() {
		w.visit(t)
		gvks[t] = append(gvks[t], gvk.Group+"/"+gvk.Version+"/"+gvk.Kind)
	}
	for _, t := range []any{metav1.APIGroup{}, metav1.APIGroupList{}, metav1.APIResourceList{}, metav1.APIVersions{}, metav1.Condition{}, runtime.Unknown{},
		version.Info{}, metav1.WatchEvent{}, metav1.GroupKind{}, metav1.GroupResource{}, metav1.GroupVersion{}, metav1.GroupVersionForDiscovery{}, metav1.Timestamp{},
		metav1.Patch{}, apiextensionsv1.CustomResourceSubresourceStatus{}} {
		w.visit(reflect.TypeOf(t))
	}
	lines := []string{}
	for len(w.todo) > 0 {
		t := w.todo[0]
		w.todo = w.todo[1:]
		if opaque(t) && t.Name() != "JSONSchemaProps" {
			continue
		}
		var out []string
		w.fields(t, "", "", &out)
		kinds := gvks[t]
		sort.Strings(kinds)
		lines = append(lines, openAPIName(t)+"\t"+strings.Join(kinds, " ")+"\t"+strings.Join(out, "\t"))
	}
	sort.Strings(lines)
	buffer := bufio.NewWriter(os.Stdout)
	defer buffer.Flush()
	for _, line := range lines {
		fmt.Fprintln(buffer, line)
	}
}
