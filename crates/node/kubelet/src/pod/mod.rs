//! One pod: what it should be ([`spec`]), what it is ([`state`]), the next step ([`plan`]), how a container is described
//! to the runtime ([`container`], [`mod@env`]) and given other resources ([`resize`]), how it is asked whether it is well ([`probe`]), what is told to the API
//! ([`status`]), and the actor that turns the wheel ([`worker`]).

pub mod container;
pub mod env;
mod grpc;
pub mod plan;
pub mod probe;
mod report;
pub mod resize;
pub mod resources;
pub mod spec;
pub mod state;
pub mod status;
mod stop;
pub mod worker;
