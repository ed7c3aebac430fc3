//! The API server: one pipeline for every kind, in the order in which a request travels.
//!
//! | step | module |
//! |---|---|
//! | first filters, and the hand-over | [`front`] |
//! | what is asked | [`request`] |
//! | who asks | [`authn`] |
//! | may they | [`authz`] |
//! | what the cluster adds and refuses | [`admission`] |
//! | what the kind adds and refuses | [`kinds`] |
//! | reading and writing | [`registry`] |
//!
//! **Owns** the request pipeline, the watch cache and what every kind looks like from outside.
//!
//! **Must never know** kubelet, scheduler or controllers; it reaches the store only through
//! [`skiff_store::Store`]. A kind contributes data and pure functions ([`kinds::Resource`], [`kinds::Strategy`]);
//! there is no handler per kind.

pub mod admission;
mod aggregator;
pub mod answer;
pub mod authn;
pub mod authz;
pub mod bootstrap;
mod callout;
pub mod crd;
pub mod discovery;
pub mod fairness;
pub mod front;
pub mod health;
pub mod kinds;
pub mod metrics;
pub mod openapi;
mod random;
pub mod registry;
pub mod request;
pub mod server;
pub mod version;
