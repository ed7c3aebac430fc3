//! Which plug-ins run, in upstream's order (`AllOrderedPlugins`, pkg/kubeapiserver/options/plugins.go).
//!
//! NodeRestriction and DenyServiceExternalIPs are on as well, unlike upstream: a cluster that leaves them out is open in
//! known ways.
//!
//! [`super::certificate_plugins`] stand beside them, because they ask the authorizers; [`super::with_webhooks`] puts in those
//! that ask others and [`super::with_policies`] the two for policies.
//!
//! Not here yet, of those that upstream runs unless told otherwise: ClusterTrustBundleAttest, PodTopologyLabels.

use super::limit_ranger::LimitRanger;
use super::namespace_lifecycle::NamespaceLifecycle;
use super::node_restriction::NodeRestriction;
use super::nodes::TaintNodesByCondition;
use super::pod_security::PodSecurity;
use super::priority::Priority;
use super::quota::ResourceQuota;
use super::runtime_class::RuntimeClass;
use super::service_account::ServiceAccount;
use super::small::{
    CertificateSubjectRestriction, DefaultClass, DenyServiceExternalIPs, PersistentVolumeClaimResize,
    StorageObjectInUseProtection,
};
use super::tolerations::DefaultTolerationSeconds;
use super::{Plugin, Reader};
use skiff_base::clock::SharedClock;
use std::sync::Arc;

/// The plug-ins of a server.
pub fn default_plugins(reader: &Arc<dyn Reader>, clock: &SharedClock) -> Vec<Arc<dyn Plugin>> {
    let reader = || Arc::clone(reader);
    vec![
        Arc::new(NamespaceLifecycle::new(reader())),
        Arc::new(LimitRanger::new(reader())),
        Arc::new(ServiceAccount::new(reader(), Arc::clone(clock))),
        Arc::new(NodeRestriction::new(reader())),
        Arc::new(TaintNodesByCondition),
        Arc::new(PodSecurity::new(reader())),
        Arc::new(Priority::new(reader())),
        Arc::new(DefaultTolerationSeconds),
        Arc::new(DefaultClass::storage(reader())),
        Arc::new(StorageObjectInUseProtection),
        Arc::new(PersistentVolumeClaimResize::new(reader())),
        Arc::new(RuntimeClass::new(reader())),
        Arc::new(CertificateSubjectRestriction),
        Arc::new(DefaultClass::ingress(reader())),
        Arc::new(DenyServiceExternalIPs),
        Arc::new(ResourceQuota::new(reader(), Arc::clone(clock))),
    ]
}
