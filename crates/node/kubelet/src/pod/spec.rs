//! Reading a pod: the parts of its tree that the kubelet asks for again and again.

use skiff_machinery::Value;
use std::sync::Arc;

/// A pod as it should be.
#[derive(Clone, Debug)]
pub struct Pod(pub Arc<Value>);

/// Which list of containers a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `spec.initContainers`, run to their end before the others start.
    Init,
    /// `spec.initContainers` with `restartPolicy: Always`: run on beside the others.
    Sidecar,
    /// `spec.containers`.
    Main,
    /// `spec.ephemeralContainers`: added to a running pod to look at it, never restarted.
    Ephemeral,
}

impl Role {
    /// The list of `spec` it stands in.
    pub fn list(self) -> &'static str {
        match self {
            Self::Init | Self::Sidecar => "initContainers",
            Self::Main => "containers",
            Self::Ephemeral => "ephemeralContainers",
        }
    }
    /// Whether it stands in `spec.initContainers`.
    pub fn is_init(self) -> bool {
        matches!(self, Self::Init | Self::Sidecar)
    }
}

/// A container of a pod.
#[derive(Clone, Copy, Debug)]
pub struct Container<'p> {
    /// Its tree.
    pub tree: &'p Value,
    /// Its place.
    pub role: Role,
}

impl<'p> Container<'p> {
    /// Its name.
    pub fn name(&self) -> &'p str {
        self.tree.str_at(&["name"])
    }
    /// Hash of everything that needs a restart when it changes (`HashContainer`: name and image).
    pub fn hash(&self) -> String {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in self.name().bytes().chain([0]).chain(self.tree.str_at(&["image"]).bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        format!("{hash:x}")
    }
}

impl Pod {
    /// Namespace.
    pub fn namespace(&self) -> &str {
        self.0.str_at(&["metadata", "namespace"])
    }
    /// Name.
    pub fn name(&self) -> &str {
        self.0.str_at(&["metadata", "name"])
    }
    /// Uid.
    pub fn uid(&self) -> &str {
        self.0.str_at(&["metadata", "uid"])
    }
    /// A text below `spec`.
    pub fn spec(&self, field: &str) -> &str {
        self.0.str_at(&["spec", field])
    }
    /// A flag below `spec`.
    pub fn flag(&self, field: &str) -> bool {
        self.0.at(&["spec", field]).and_then(Value::as_bool).unwrap_or(false)
    }
    /// Containers in the order in which they start; ephemeral ones last.
    pub fn containers(&self) -> impl Iterator<Item = Container<'_>> {
        let role = |container: &Value| {
            if container.str_at(&["restartPolicy"]) == "Always" { Role::Sidecar } else { Role::Init }
        };
        let init = self.0.items_at(&["spec", "initContainers"]).iter();
        let main = self.0.items_at(&["spec", "containers"]).iter();
        let ephemeral = self.0.items_at(&["spec", "ephemeralContainers"]).iter();
        init.map(move |tree| Container { tree, role: role(tree) })
            .chain(main.map(|tree| Container { tree, role: Role::Main }))
            .chain(ephemeral.map(|tree| Container { tree, role: Role::Ephemeral }))
    }
    /// `NAME_NAMESPACE(UID)`, as upstream's messages name a pod (`format.Pod`).
    pub fn full_name(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }
    /// The container with this name.
    pub fn container(&self, name: &str) -> Option<Container<'_>> {
        self.containers().find(|container| container.name() == name)
    }
    /// `spec.restartPolicy`.
    pub fn restart_policy(&self) -> &str {
        match self.spec("restartPolicy") {
            "" => "Always",
            said => said,
        }
    }
    /// Whether deletion has begun.
    pub fn is_deleted(&self) -> bool {
        self.0.at(&["metadata", "deletionTimestamp"]).is_some()
    }
    /// Grace in seconds: the deletion's if it has begun, else the spec's.
    pub fn grace_seconds(&self) -> i64 {
        let of = |path: &[&str]| self.0.at(path).and_then(Value::as_int);
        let deletion = if self.is_deleted() { of(&["metadata", "deletionGracePeriodSeconds"]) } else { None };
        deletion.or_else(|| of(&["spec", "terminationGracePeriodSeconds"])).unwrap_or(30)
    }
    /// Whether it is a static pod of this node (made from a file), which the API only mirrors.
    pub fn is_static(&self) -> bool {
        let source = self.annotation(crate::names::CONFIG_SOURCE);
        !source.is_empty() && source != "api"
    }
    /// Whether it is the API's mirror of a static pod.
    pub fn is_mirror(&self) -> bool {
        !self.annotation(crate::names::CONFIG_MIRROR).is_empty()
    }
    /// An annotation, or the empty string.
    pub fn annotation(&self, name: &str) -> &str {
        self.0.str_at(&["metadata", "annotations", name])
    }
    /// Quality of service, from requests and limits (`ComputePodQOS`).
    pub fn qos(&self) -> Qos {
        let mut any = false;
        let mut guaranteed = true;
        let own = self.0.get("spec").filter(|spec| {
            ["requests", "limits"]
                .iter()
                .any(|list| spec.object_at(&["resources", list]).is_some_and(|map| !map.is_empty()))
        });
        // What the pod says of itself stands over what its containers say.
        let each = self.containers().filter(|container| container.role != Role::Ephemeral && own.is_none());
        for tree in each.map(|container| container.tree).chain(own) {
            let limits = tree.object_at(&["resources", "limits"]);
            let requests = tree.object_at(&["resources", "requests"]);
            let mut covered = 0;
            for name in ["cpu", "memory"] {
                let limit = limits.and_then(|map| map.get(name)).and_then(Value::as_str).filter(|text| *text != "0");
                let request =
                    requests.and_then(|map| map.get(name)).and_then(Value::as_str).filter(|text| *text != "0");
                any |= limit.is_some() || request.is_some();
                covered += usize::from(limit.is_some());
                guaranteed &= request.is_none() || request == limit;
            }
            guaranteed &= covered == 2;
        }
        match (any, guaranteed) {
            (false, _) => Qos::BestEffort,
            (true, true) => Qos::Guaranteed,
            (true, false) => Qos::Burstable,
        }
    }
}

/// `status.qosClass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are upstream's constants")]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// The text in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
    /// Its level of the cgroup tree, below `kubepods`; guaranteed pods stand directly there.
    pub fn cgroup(self) -> &'static str {
        match self {
            Self::Guaranteed => "",
            Self::Burstable => "burstable",
            Self::BestEffort => "besteffort",
        }
    }
}
