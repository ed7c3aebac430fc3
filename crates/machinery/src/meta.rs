//! Names of types and resources: group, version, kind, resource.

use std::fmt;

macro_rules! pair {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident),* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name { $($(#[$field_doc])* pub $field: String),* }
        impl $name {
            /// From its parts.
            pub fn new($($field: impl Into<String>),*) -> Self { Self { $($field: $field.into()),* } }
        }
    };
}

pair! {
    /// `apps/v1`; the core group is the empty string.
    GroupVersion {
        /// API group; empty for core.
        group,
        /// Version, such as `v1`.
        version
    }
}
pair! {
    /// A kind in a group, whatever the version.
    GroupKind {
        /// API group; empty for core.
        group,
        /// Kind, such as `Pod`.
        kind
    }
}
pair! {
    /// A resource in a group, whatever the version: `pods`, `deployments.apps`.
    GroupResource {
        /// API group; empty for core.
        group,
        /// Plural resource name, such as `pods`.
        resource
    }
}
pair! {
    /// A kind in one version of a group.
    GroupVersionKind {
        /// API group; empty for core.
        group,
        /// Version, such as `v1`.
        version,
        /// Kind, such as `Pod`.
        kind
    }
}
pair! {
    /// A resource in one version of a group.
    GroupVersionResource {
        /// API group; empty for core.
        group,
        /// Version, such as `v1`.
        version,
        /// Plural resource name, such as `pods`.
        resource
    }
}

impl GroupVersion {
    /// Reads an object's `apiVersion`: `v1` or `apps/v1`. `None` with more than one slash.
    pub fn parse(api_version: &str) -> Option<Self> {
        match api_version.split_once('/') {
            None => Some(Self::new("", api_version)),
            Some((_, version)) if version.contains('/') => None,
            Some((group, version)) => Some(Self::new(group, version)),
        }
    }
    /// With a kind.
    pub fn kind(&self, kind: &str) -> GroupVersionKind {
        GroupVersionKind::new(self.group.clone(), self.version.clone(), kind)
    }
}
impl fmt::Display for GroupVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            out.write_str(&self.version)
        } else {
            write!(out, "{}/{}", self.group, self.version)
        }
    }
}
impl fmt::Display for GroupResource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            out.write_str(&self.resource)
        } else {
            write!(out, "{}.{}", self.resource, self.group)
        }
    }
}
impl fmt::Display for GroupKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { out.write_str(&self.kind) } else { write!(out, "{}.{}", self.kind, self.group) }
    }
}
impl fmt::Display for GroupVersionKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}
impl GroupVersionKind {
    /// The group and version.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion::new(self.group.clone(), self.version.clone())
    }
    /// The group and kind.
    pub fn group_kind(&self) -> GroupKind {
        GroupKind::new(self.group.clone(), self.kind.clone())
    }
    /// What an object of this kind says in `apiVersion`.
    pub fn api_version(&self) -> String {
        self.group_version().to_string()
    }
}
impl GroupVersionResource {
    /// The group and resource.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(self.group.clone(), self.resource.clone())
    }
}
