//! One pod: what it should be ([`spec`]), what it is ([`state`]), the next step ([`plan`]), how a container is described
//! to the runtime ([`container`], [`env`]), what is told to the API ([`status`]), and the actor that turns the wheel
//! ([`worker`]).

pub mod container;
pub mod env;
pub mod plan;
pub mod probe;
pub mod spec;
pub mod state;
pub mod status;
pub mod worker;
