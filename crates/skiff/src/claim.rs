//! What there is one of on a machine: its node, its proxy of service addresses. Two of them would take each other's links,
//! rules and cgroups for what a dead one left.
//!
//! A claim is a listening socket with an abstract name. Its scope is the network namespace, as that of links and rules; it
//! ends with its process, however that ends, and it says who holds it.

use rustix::net::sockopt::socket_peercred;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// The node: kubelet, runtime, pod network.
pub(crate) const NODE: &str = "node";
/// The proxy of service addresses.
pub(crate) const PROXY: &str = "kube-proxy";

/// Held as long as this lives.
pub(crate) struct Claim {
    /// Nothing when somebody without rights has the name, who must not keep a machine from being a node.
    _held: Option<UnixListener>,
}

/// Why something cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    /// Another process is it already.
    #[error("this machine has a {what} already (process {pid}): end that one{instead}")]
    Held {
        /// What.
        what: &'static str,
        /// Who.
        pid: i32,
        /// What else could be done.
        instead: &'static str,
    },
    /// The socket cannot be made.
    #[error("claiming to be this machine's {what}")]
    Socket {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Becomes this machine's only `what`; `instead` ends the sentence that tells that there is one.
pub(crate) fn claim(what: &'static str, instead: &'static str) -> Result<Claim, ClaimError> {
    let failed = |source| ClaimError::Socket { what, source };
    let address = SocketAddr::from_abstract_name(format!("skiff/{what}")).map_err(failed)?;
    let source = match UnixListener::bind_addr(&address) {
        Ok(held) => return Ok(Claim { _held: Some(held) }),
        Err(error) => error,
    };
    if source.kind() != io::ErrorKind::AddrInUse {
        return Err(failed(source));
    }
    // The credentials of a listening socket are those of who made it listen.
    let holder = UnixStream::connect_addr(&address).and_then(|stream| socket_peercred(&stream).map_err(Into::into));
    match holder {
        Ok(holder) if holder.uid.is_root() || holder.uid == rustix::process::geteuid() => {
            Err(ClaimError::Held { what, pid: holder.pid.as_raw_nonzero().get(), instead })
        }
        Ok(holder) => {
            let pid = holder.pid.as_raw_nonzero();
            tracing::warn!(what, %pid, "a user without rights holds the name of this machine's; going on without it");
            Ok(Claim { _held: None })
        }
        // It has just ended, for one.
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_at_a_time() {
        const WHAT: &str = "thing of this test";
        let first = claim(WHAT, "").unwrap();
        let told = claim(WHAT, "").err().unwrap().to_string();
        assert!(told.contains(&format!("already (process {})", std::process::id())), "{told}");
        drop(first);
        claim(WHAT, "").unwrap();
    }
}
