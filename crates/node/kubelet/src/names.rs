//! Labels and annotations under which a kubelet finds its containers again (`pkg/kubelet/types/labels.go`,
//! `kuberuntime/labels.go`). They are upstream's, so either kubelet adopts the other's containers.

/// Pod name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Pod namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Pod uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Container name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Hash of the container's spec.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// How often the container was restarted before this one.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Where the container leaves its last words.
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// How they are read.
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Grace period of the pod.
pub const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Where a pod came from.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Hash of a static pod's source.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Marks a mirror pod; its value is the static pod's hash.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
/// When a pod was first seen.
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
