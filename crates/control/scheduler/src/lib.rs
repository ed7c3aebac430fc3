//! kube-scheduler: chooses a node for each pod that has none.
//!
//! | step | module |
//! |---|---|
//! | what a pod asks of nodes, a node offers, a pod asks of other pods | [`model`], [`constraints`] |
//! | the cluster as the scheduler believes it is, assumed pods included | [`cluster`] |
//! | the claims and volumes of pods, and what is promised of them | [`storage`] |
//! | which pod is next, and when a pod that fits nowhere is tried again | [`queue`] |
//! | extension points and plug-ins | [`framework`], [`plugins`] |
//! | one decision, pure | [`cycle`] |
//! | which pods would have to go for another, pure | [`preemption`] |
//! | informers, bindings, events, conditions | `informers`, [`run`] |
//! | what is measured | [`metrics`] |
//!
//! **Owns** the choice of a node. **Must never know** the server, the store, controllers or the kubelet: it reads and
//! writes through [`skiff_client`] under the identity `system:kube-scheduler`.
//!
//! Not here yet: volumes of CSI drivers (limits, capacity), dynamic resources, extenders, several profiles, pod groups, and a configuration file: scores and
//! arguments are upstream's defaults. A pod that asks for one of these stays pending, and its condition names what is missing
//! ([`plugins::unbuilt`]).

pub mod cluster;
pub mod constraints;
pub mod cycle;
pub mod framework;
mod informers;
pub mod metrics;
pub mod model;
pub mod plugins;
pub mod preemption;
pub mod queue;
pub mod run;
pub mod storage;
#[cfg(test)]
mod tests;
mod volumes;
