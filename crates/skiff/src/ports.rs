//! Ports. One that somebody asked for is had or is an error that says which flag to change and who holds it. A default
//! that is taken moves to a free one where nobody else depends on the number, and the log says where to.

use skiff_net::server::{BindError, bind};
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    /// Address and port.
    pub(crate) at: SocketAddr,
    /// Whether somebody asked for this port.
    pub(crate) asked: bool,
    /// The flag that changes it, as a person would type it.
    pub(crate) flag: String,
}

/// A port that cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    /// Somebody else has it.
    #[error("{what}: {at} is in use{}: end it, or choose another port with {flag}", holder(.at))]
    InUse {
        /// Whose port.
        what: &'static str,
        /// Which.
        at: SocketAddr,
        /// What to change.
        flag: String,
    },
    /// Ports below 1024 need rights.
    #[error("{what}: not allowed to listen on {at}: ports below 1024 need root or CAP_NET_BIND_SERVICE; see {flag}")]
    NotAllowed {
        /// Whose port.
        what: &'static str,
        /// Which.
        at: SocketAddr,
        /// What to change.
        flag: String,
    },
    /// The address is not this machine's, for one.
    #[error("{what}: cannot listen on {at}; see {flag}")]
    Other {
        /// Whose port.
        what: &'static str,
        /// Which.
        at: SocketAddr,
        /// What to change.
        flag: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}

impl Listen {
    /// Listens for `what`, somewhere else when a default is taken.
    pub(crate) fn bind(&self, what: &'static str) -> Result<TcpListener, PortError> {
        match bind(self.at) {
            Err(BindError::InUse(_)) if !self.asked && self.at.port() != 0 => {
                let free = SocketAddr::new(self.at.ip(), 0);
                let listener = bind(free).map_err(|error| self.explain(what, error))?;
                let port = listener.local_addr().map_or(0, |address| address.port());
                tracing::info!(
                    component = what,
                    taken = self.at.port(),
                    port,
                    "the default port is taken: another one"
                );
                Ok(listener)
            }
            outcome => outcome.map_err(|error| self.explain(what, error)),
        }
    }

    /// Says what to do about a port that cannot be had.
    pub(crate) fn explain(&self, what: &'static str, error: BindError) -> PortError {
        let flag = self.flag.clone();
        match error {
            BindError::InUse(at) => PortError::InUse { what, at, flag },
            BindError::NotAllowed(at) => PortError::NotAllowed { what, at, flag },
            BindError::Other(at, source) => PortError::Other { what, at, flag, source },
        }
    }
}

/// ` by pid 12 (name)`, as far as `/proc` tells: of other users' processes only root sees the sockets.
fn holder(at: &SocketAddr) -> String {
    let Some(inode) = listening_socket(at.port()) else { return String::new() };
    let wanted = format!("socket:[{inode}]");
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let holds = |pid: &u32| {
        let mut files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()))
    };
    let Some(pid) = pids.into_iter().find(holds) else { return " by another process".to_owned() };
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!(" by pid {pid} ({})", name.trim())
}

/// Inode of the TCP socket that listens on a port (`/proc/net/tcp`: local address is column 2, state 0A is listening).
fn listening_socket(port: u16) -> Option<String> {
    let suffix = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        text.lines().skip(1).find_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let found = columns.get(1)?.ends_with(&suffix) && *columns.get(3)? == "0A";
            found.then(|| columns.get(9).map(|inode| (*inode).to_owned()))?
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_default_moves_and_an_asked_port_is_an_error_that_names_holder_and_flag() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let at = first.local_addr().unwrap();
        let mut listen = Listen { at, asked: false, flag: "--secure-port".to_owned() };
        let moved = listen.bind("kube-scheduler").unwrap();
        assert_ne!(moved.local_addr().unwrap().port(), at.port());
        listen.asked = true;
        let error = listen.bind("kube-scheduler").unwrap_err().to_string();
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        let pid = std::process::id();
        assert_eq!(
            error,
            format!(
                "kube-scheduler: {at} is in use by pid {pid} ({}): end it, or choose another port with --secure-port",
                name.trim()
            )
        );
    }
}
