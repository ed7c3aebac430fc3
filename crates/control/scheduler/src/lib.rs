//! kube-scheduler: chooses a node for each pod that has none.
//!
//! | step | module |
//! |---|---|
//! | what a pod asks and a node offers | [`model`] |
//! | the cluster as the scheduler believes it is, assumed pods included | [`cluster`] |
//! | which pod is next, and when a pod that fits nowhere is tried again | [`queue`] |
//! | extension points and plug-ins | [`framework`], [`plugins`] |
//! | one decision, pure | [`cycle`] |
//! | informers, bindings, events, conditions | [`run`] |
//!
//! **Owns** the choice of a node. **Must never know** the server, the store, controllers or the kubelet: it reads and
//! writes through [`skiff_client`] under the identity `system:kube-scheduler`.
//!
//! Not here yet: preemption, pod affinity between pods, topology spread, volumes, dynamic resources, extenders, several
//! profiles. A pod that asks for one of these stays pending, and its condition names what is missing
//! ([`plugins::unbuilt`]).

pub mod cluster;
pub mod cycle;
pub mod framework;
pub mod model;
pub mod plugins;
pub mod queue;
pub mod run;
#[cfg(test)]
mod tests;
