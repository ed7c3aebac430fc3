//! Flags of `skiff server`. What they mean together is [`super::Config`].

use clap::Args;
use std::net::IpAddr;
use std::path::PathBuf;

/// A component that can be left out with `--disable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Component {
    /// The scheduler.
    KubeScheduler,
    /// The controllers.
    KubeControllerManager,
    /// Service addresses on this node.
    KubeProxy,
    /// The cluster's DNS.
    Dns,
}

/// Flags of `skiff server`.
#[derive(Args)]
pub(crate) struct Flags {
    /// File of these flags (YAML: the names without dashes are the keys). A flag wins over the file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where everything is kept.
    #[arg(long, default_value = "/var/lib/skiff")]
    pub(crate) data_dir: PathBuf,
    /// Where the administrator's kubeconfig goes.
    #[arg(long, default_value = "/etc/kubernetes/admin.conf")]
    pub(crate) write_kubeconfig: PathBuf,
    /// Do not run a node on this machine.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set)]
    pub(crate) disable_agent: bool,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    pub(crate) bind_address: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 6443)]
    pub(crate) secure_port: u16,
    /// Address under which others reach this server; found by the default route when absent.
    #[arg(long)]
    pub(crate) advertise_address: Option<IpAddr>,
    /// Name of this machine in the cluster; the host's name when absent.
    #[arg(long)]
    pub(crate) node_name: Option<String>,
    /// Static tokens: lines of token,user,uid,"group1,group2".
    #[arg(long, value_name = "FILE")]
    pub(crate) token_auth_file: Option<PathBuf>,
    /// Networks of cluster addresses of services.
    #[arg(long, default_value = "10.96.0.0/12", value_delimiter = ',')]
    pub(crate) service_cidr: Vec<String>,
    /// Networks of pods; each node gets a part.
    #[arg(long, default_value = "10.244.0.0/16", value_delimiter = ',')]
    pub(crate) cluster_cidr: Vec<String>,
    /// Components to leave out, to be run elsewhere. Their kubeconfigs are written to DATA-DIR/kubeconfig.
    #[arg(long, value_delimiter = ',')]
    pub(crate) disable: Vec<Component>,
    /// CRI socket of another runtime for the node: `unix:///run/containerd/containerd.sock`.
    #[arg(long)]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// Directory of static pods.
    #[arg(long)]
    pub(crate) pod_manifest_path: Option<PathBuf>,
    /// Port of the node's kubelet. A default that is taken moves to a free port, which the node's status says.
    #[arg(long, default_value_t = 10250)]
    pub(crate) kubelet_port: u16,
    /// Domain of the cluster's DNS names.
    #[arg(long, default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Further API versions: `networking.k8s.io/v1beta1=true`.
    #[arg(long, value_delimiter = ',')]
    pub(crate) runtime_config: Vec<String>,
    /// One of kube-apiserver's own flags.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) kube_apiserver_arg: Vec<String>,
    /// One of kube-scheduler's own flags.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) kube_scheduler_arg: Vec<String>,
    /// One of kube-controller-manager's own flags.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) kube_controller_manager_arg: Vec<String>,
    /// One of kubelet's own flags.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) kubelet_arg: Vec<String>,
    /// One of kube-proxy's own flags.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) kube_proxy_arg: Vec<String>,
    /// Which flags somebody asked for, on the command line or in the file.
    #[arg(skip)]
    pub(crate) asked: Vec<String>,
}

impl Flags {
    /// Whether somebody asked for this flag; else its value is the default.
    pub(crate) fn is_asked(&self, flag: &str) -> bool {
        self.asked.iter().any(|asked| asked == flag)
    }
}
