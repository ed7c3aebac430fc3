//! The plug-ins of the default profile, in upstream's order, with upstream's names, weights and words.

mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_unschedulable;
mod pod_topology_spread;
mod resources;
mod scheduling_gates;
mod taint_toleration;
pub mod unbuilt;
mod volumes;

use crate::framework::{Framework, Plugin};

/// The default profile.
pub fn default_framework() -> Framework {
    let plugins: Vec<Box<dyn Plugin>> = vec![
        Box::new(scheduling_gates::SchedulingGates),
        Box::new(unbuilt::Unbuilt),
        Box::new(node_unschedulable::NodeUnschedulable),
        Box::new(node_name::NodeName),
        Box::new(taint_toleration::TaintToleration),
        Box::new(node_affinity::NodeAffinity),
        Box::new(node_ports::NodePorts),
        Box::new(resources::NodeResourcesFit),
        Box::new(volumes::VolumeRestrictions),
        Box::new(volumes::VolumeBinding),
        Box::new(volumes::VolumeZone),
        Box::new(pod_topology_spread::PodTopologySpread),
        Box::new(inter_pod_affinity::InterPodAffinity),
        Box::new(resources::NodeResourcesBalancedAllocation),
        Box::new(image_locality::ImageLocality),
    ];
    Framework::new(plugins)
}
