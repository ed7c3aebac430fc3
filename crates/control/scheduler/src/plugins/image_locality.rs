//! ImageLocality: nodes that have a pod's images already are better, the more so the larger the images, and the less so
//! the fewer nodes have them (so that pods do not crowd on one node).

use crate::cluster::{Cluster, Node};
use crate::framework::{ClusterChange, CycleState, MAX_NODE_SCORE, Plugin};
use crate::model::Pod;

pub(crate) struct ImageLocality;

const MIB: i64 = 1 << 20;
const MIN_THRESHOLD: i64 = 23 * MIB;
const MAX_CONTAINER_THRESHOLD: i64 = 1000 * MIB;

/// On how many nodes of how many each image of the pod is.
#[derive(Clone)]
struct Spread {
    per_image: Vec<f64>,
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }
    fn weight(&self) -> i64 {
        1
    }
    fn pre_score(&self, state: &mut CycleState, pod: &Pod, cluster: &Cluster, _feasible: &[&Node]) -> bool {
        let nodes = cluster.nodes().len().max(1) as f64;
        let per_image: Vec<f64> =
            pod.images.iter().map(|image| cluster.nodes_with_image(image) as f64 / nodes).collect();
        let known = per_image.iter().any(|share| *share > 0.0);
        state.set(Spread { per_image });
        known
    }
    fn score(&self, state: &CycleState, pod: &Pod, node: &Node) -> i64 {
        let Some(spread) = state.get::<Spread>() else { return 0 };
        let images = pod.images.iter().zip(&spread.per_image);
        let sum: i64 = images
            .filter_map(|(image, share)| node.facts.images.get(image).map(|size| (*size as f64 * share) as i64))
            .sum();
        let max = MAX_CONTAINER_THRESHOLD * pod.images.len().max(1) as i64;
        MAX_NODE_SCORE * (sum.clamp(MIN_THRESHOLD, max) - MIN_THRESHOLD) / (max - MIN_THRESHOLD)
    }
    fn hint(&self, _pod: &Pod, _change: &ClusterChange<'_>) -> bool {
        false
    }
}
