"""What a script written with the Python client does: list, watch, patch, apply, exec, logs, a custom resource.

It says each step, and fails at the first that goes another way than with upstream.
"""

import sys
import threading
import time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

NAME = "from-python"
NAMESPACE = "default"


def done(step):
    print(f"python: {step}", flush=True)


def refused(status, reason, call, *arguments, **options):
    """The call has to be refused like this."""
    try:
        call(*arguments, **options)
    except ApiException as error:
        assert error.status == status and reason in error.body, (error.status, error.body)
        return
    raise AssertionError(f"not refused with {reason}")


def maps(core):
    version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    seen = []

    def follow():
        events = watch.Watch().stream(
            core.list_namespaced_config_map,
            NAMESPACE,
            field_selector=f"metadata.name={NAME}",
            resource_version=version,
            timeout_seconds=60,
        )
        for event in events:
            seen.append(event["type"])
            if event["type"] == "DELETED":
                break

    follower = threading.Thread(target=follow)
    follower.start()
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name=NAME), data={"a": "1"})
    made = core.create_namespaced_config_map(NAMESPACE, body)
    refused(409, "AlreadyExists", core.create_namespaced_config_map, NAMESPACE, body)
    core.patch_namespaced_config_map(NAME, NAMESPACE, {"data": {"b": "2"}})
    operations = [{"op": "test", "path": "/data/b", "value": "2"}, {"op": "remove", "path": "/data/b"}]
    patched = core.patch_namespaced_config_map(NAME, NAMESPACE, operations)
    assert patched.data == {"a": "1"}, patched.data
    made.data = {"a": "late"}
    refused(409, "Conflict", core.replace_namespaced_config_map, NAME, NAMESPACE, made)
    core.delete_namespaced_config_map(NAME, NAMESPACE)
    refused(404, "NotFound", core.read_namespaced_config_map, NAME, NAMESPACE)
    follower.join(60)
    assert seen == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"], seen
    done("create, patch, conflict, watch")


def apply(api):
    """Server-side apply with the dynamic client, which goes by discovery."""
    resources = dynamic.DynamicClient(api).resources.get(api_version="v1", kind="ConfigMap")

    def applied(manager, value, **options):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": {"d": value}}
        return resources.server_side_apply(body, namespace=NAMESPACE, field_manager=manager, **options)

    assert applied("python", "4").data.d == "4"
    try:
        applied("other", "5")
        raise AssertionError("a field of another manager")
    except dynamic.exceptions.ConflictError:
        pass
    assert applied("other", "5", force_conflicts=True).data.d == "5"
    resources.delete(name=NAME, namespace=NAMESPACE)
    done("apply")


def custom(api):
    """A kind that somebody else defines."""
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.python.example.com"},
        "spec": {
            "group": "python.example.com",
            "scope": "Namespaced",
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {"spec": {"type": "object", "properties": {"masts": {"type": "integer"}}}},
                        }
                    },
                }
            ],
        },
    }
    utils.create_from_dict(api, definition)
    boats = client.CustomObjectsApi(api)
    where = ("python.example.com", "v1", NAMESPACE, "boats")
    body = {"apiVersion": "python.example.com/v1", "kind": "Boat", "metadata": {"name": "b"}, "spec": {"masts": 2}}
    deadline = time.monotonic() + 30
    while True:
        try:
            boats.create_namespaced_custom_object(*where, body)
            break
        except ApiException as error:
            assert error.status == 404 and time.monotonic() < deadline, error
            time.sleep(0.1)
    refused(422, "spec.masts", boats.patch_namespaced_custom_object, *where, "b", {"spec": {"masts": "many"}})
    assert boats.list_namespaced_custom_object(*where)["items"][0]["spec"] == {"masts": 2}
    client.ApiextensionsV1Api(api).delete_custom_resource_definition("boats.python.example.com")
    done("a custom resource")


def pod(core, image):
    container = client.V1Container(name="c", image=image, command=["sh", "-c", "echo started; sleep 1000"])
    spec = client.V1PodSpec(containers=[container], termination_grace_period_seconds=0)
    body = client.V1Pod(metadata=client.V1ObjectMeta(name=NAME, labels={"app": NAME}), spec=spec)
    core.create_namespaced_pod(NAMESPACE, body)
    events = watch.Watch().stream(
        core.list_namespaced_pod, NAMESPACE, label_selector=f"app={NAME}", timeout_seconds=60
    )
    for event in events:
        conditions = event["object"].status.conditions or []
        if any(one.type == "Ready" and one.status == "True" for one in conditions):
            break
    else:
        raise AssertionError("the pod does not run")
    done("a pod runs")

    script = "read line; echo got $line; echo bad >&2; exit 4"
    process = stream(
        core.connect_get_namespaced_pod_exec,
        NAME,
        NAMESPACE,
        command=["sh", "-c", script],
        stdin=True,
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
    )
    process.write_stdin("something\n")
    out, err = "", ""
    while process.is_open():
        process.update(timeout=1)
        out += process.read_stdout(timeout=0) if process.peek_stdout() else ""
        err += process.read_stderr(timeout=0) if process.peek_stderr() else ""
    assert (out, err, process.returncode) == ("got something\n", "bad\n", 4), (out, err, process.returncode)
    done("exec")

    log = core.read_namespaced_pod_log(NAME, NAMESPACE)
    assert log == "started\n", log
    core.delete_namespaced_pod(NAME, NAMESPACE)
    deadline = time.monotonic() + 60
    while core.list_namespaced_pod(NAMESPACE, label_selector=f"app={NAME}").items:
        assert time.monotonic() < deadline, "the pod does not go"
        time.sleep(0.1)
    done("logs, delete")


def main():
    config.load_kube_config()
    api = client.ApiClient()
    core = client.CoreV1Api(api)
    assert client.VersionApi(api).get_code().minor == "36"
    assert len(core.list_node().items) == 1
    done("list")
    maps(core)
    apply(api)
    custom(api)
    pod(core, sys.argv[1])


main()
