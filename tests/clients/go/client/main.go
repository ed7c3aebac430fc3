// What an operator written with client-go does: list, informers, patch, apply, exec by both protocols, leader election. It says
// each step, and fails at the first that goes another way than with upstream.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
)

const name, namespace = "from-go", "default"

func done(step string) { fmt.Println("client-go:", step) }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func ensure(ok bool, format string, arguments ...any) {
	if !ok {
		panic(fmt.Sprintf(format, arguments...))
	}
}

func list(ctx context.Context, clients kubernetes.Interface, config *rest.Config) {
	version, err := clients.Discovery().ServerVersion()
	must(err)
	ensure(version.Minor == "36", "version %v", version)
	nodes, err := clients.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	must(err)
	ensure(len(nodes.Items) == 1, "%d nodes", len(nodes.Items))
	groups, lists, err := discovery.NewDiscoveryClientForConfigOrDie(config).ServerGroupsAndResources()
	must(err)
	ensure(len(groups) > 15 && len(lists) > 15, "%d groups, %d lists", len(groups), len(lists))
	// In pages, over one snapshot.
	seen, options := 0, metav1.ListOptions{Limit: 7}
	for {
		roles, err := clients.RbacV1().ClusterRoles().List(ctx, options)
		must(err)
		seen += len(roles.Items)
		if options.Continue = roles.Continue; options.Continue == "" {
			break
		}
		ensure(len(roles.Items) == 7, "a page of %d", len(roles.Items))
	}
	roles, err := clients.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	must(err)
	ensure(seen == len(roles.Items) && seen > 40, "%d of %d roles in pages", seen, len(roles.Items))
	done("list, discovery, pages")
}

// Shared informers, which begin with a watch list where the server has it.
func maps(ctx context.Context, clients kubernetes.Interface) {
	events := make(chan string, 100)
	factory := informers.NewSharedInformerFactoryWithOptions(clients, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.FieldSelector = "metadata.name=" + name }))
	informer := factory.Core().V1().ConfigMaps().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { events <- "added" },
		UpdateFunc: func(any, any) { events <- "updated" },
		DeleteFunc: func(any) { events <- "deleted" },
	})
	must(err)
	stop := make(chan struct{})
	factory.Start(stop)
	ensure(cache.WaitForCacheSync(stop, informer.HasSynced), "no sync")

	api := clients.CoreV1().ConfigMaps(namespace)
	made, err := api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"a": "1"}}, metav1.CreateOptions{})
	must(err)
	_, err = api.Create(ctx, made, metav1.CreateOptions{})
	ensure(err != nil, "created with a resource version")
	for kind, patch := range map[types.PatchType]string{
		types.MergePatchType:          `{"data":{"m":"1"}}`,
		types.StrategicMergePatchType: `{"data":{"s":"1"}}`,
		types.JSONPatchType:           `[{"op":"add","path":"/data/j","value":"1"}]`,
	} {
		_, err = api.Patch(ctx, name, kind, []byte(patch), metav1.PatchOptions{})
		must(err)
	}
	made.Data["a"] = "late"
	_, err = api.Update(ctx, made, metav1.UpdateOptions{})
	ensure(errors.IsConflict(err), "an old version: %v", err)
	_, err = api.Apply(ctx, applycorev1.ConfigMap(name, namespace).WithData(map[string]string{"a": "2"}), metav1.ApplyOptions{FieldManager: "go"})
	ensure(errors.IsConflict(err), "a field of another manager: %v", err)
	applied, err := api.Apply(ctx, applycorev1.ConfigMap(name, namespace).WithData(map[string]string{"a": "2"}), metav1.ApplyOptions{FieldManager: "go", Force: true})
	must(err)
	ensure(fmt.Sprint(applied.Data) == "map[a:2 j:1 m:1 s:1]", "%v", applied.Data)
	must(api.Delete(ctx, name, metav1.DeleteOptions{}))
	for _, expected := range []string{"added", "updated", "updated", "updated", "updated", "deleted"} {
		select {
		case event := <-events:
			ensure(event == expected, "%s instead of %s", event, expected)
		case <-time.After(30 * time.Second):
			panic("no event " + expected)
		}
	}
	close(stop)
	done("informer, patch, conflict, apply")
}

func pod(ctx context.Context, clients kubernetes.Interface, config *rest.Config, image string) {
	api := clients.CoreV1().Pods(namespace)
	grace := int64(0)
	_, err := api.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{{Name: "c", Image: image, Command: []string{"sh", "-c", "echo started; sleep 1000"}}},
		},
	}, metav1.CreateOptions{})
	must(err)
	must(wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		pod, err := api.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, one := range pod.Status.Conditions {
			if one.Type == corev1.PodReady && one.Status == corev1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	}))
	done("a pod runs")

	for _, protocol := range []string{"SPDY", "WebSocket"} {
		request := clients.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(name).SubResource("exec").
			VersionedParams(&corev1.PodExecOptions{Command: []string{"sh", "-c", "cat; echo bad >&2; exit 4"}, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec)
		var executor remotecommand.Executor
		if protocol == "SPDY" {
			executor, err = remotecommand.NewSPDYExecutor(config, "POST", request.URL())
		} else {
			executor, err = remotecommand.NewWebSocketExecutor(config, "GET", request.URL().String())
		}
		must(err)
		// More than any window or buffer on the way; the end of the input has to arrive.
		text := strings.Repeat("a line of some length\n", 20000)
		var out, bad bytes.Buffer
		err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(text), Stdout: &out, Stderr: &bad})
		exit, ok := err.(utilexec.ExitError)
		ensure(ok && exit.ExitStatus() == 4, "%s: %v", protocol, err)
		ensure(out.String() == text && bad.String() == "bad\n", "%s: %d of %d bytes, %q", protocol, out.Len(), len(text), bad.String())
		done("exec by " + protocol)
	}

	log, err := api.GetLogs(name, &corev1.PodLogOptions{}).DoRaw(ctx)
	must(err)
	ensure(string(log) == "started\n", "%q", log)
	must(api.Delete(ctx, name, metav1.DeleteOptions{}))
	must(wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		_, err := api.Get(ctx, name, metav1.GetOptions{})
		return errors.IsNotFound(err), nil
	}))
	done("logs, delete")
}

func leads(ctx context.Context, clients kubernetes.Interface) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	led := false
	leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: name, Namespace: namespace},
			Client:     clients.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: "me"},
		},
		ReleaseOnCancel: true,
		LeaseDuration:   15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { led = true; cancel() },
			OnStoppedLeading: func() {},
		},
	})
	ensure(led, "never led")
	must(clients.CoordinationV1().Leases(namespace).Delete(context.Background(), name, metav1.DeleteOptions{}))
	done("leader election")
}

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	must(err)
	ctx := context.Background()
	for _, kind := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		config.ContentType = kind
		config.AcceptContentTypes = kind
		clients := kubernetes.NewForConfigOrDie(config)
		list(ctx, clients, config)
		maps(ctx, clients)
		done("all of that as " + kind)
	}
	clients := kubernetes.NewForConfigOrDie(config)
	pod(ctx, clients, config, os.Args[1])
	leads(ctx, clients)
}
