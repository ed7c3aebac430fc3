//! The process kit: what every component stands on and no component is.
//!
//! **Owns** time ([`clock`]), owned tasks and shutdown ([`task`]), certificates ([`pki`]), feature gates ([`gates`]),
//! command lines ([`flags`]), health checks ([`health`]), metrics ([`metrics`]) and how errors read ([`error`]).
//!
//! **Must never know** any component, the network or the store.

pub mod clock;
pub mod error;
pub mod flags;
pub mod gates;
pub mod health;
pub mod metrics;
pub mod pki;
pub mod task;
