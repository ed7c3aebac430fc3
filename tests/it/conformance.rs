//! Upstream's conformance tests, unmodified, on a machine of their own. `cargo xtask conformance` builds them and their images
//! and calls this; it takes an hour or so.

use crate::cluster::{Cluster, KUBECONFIG};
use crate::world::within;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the directory of tests, tools and images.
const DIR: &str = "SKIFF_CONFORMANCE";

/// All that a distribution has to pass.
const ALL: &str = r"\[Conformance\]";

/// What may not run beside anything else.
const ALONE: &str = r"\[Serial\]|\[Disruptive\]";

/// One run of the tests: which, which not, and how many beside each other.
struct Run<'a> {
    name: &'a str,
    focus: &'a str,
    skip: &'a [String],
    procs: u32,
}

impl Run<'_> {
    /// Whether all passed. What the tests say goes to the terminal, and as JUnit to `DIR/NAME.xml`.
    fn passes(&self, dir: &Path) -> bool {
        let mut ginkgo = Command::new(dir.join("ginkgo"));
        ginkgo.args(["--no-color", "--silence-skips", "--timeout=3h", "--output-dir"]).arg(dir);
        ginkgo.arg(format!("--procs={}", self.procs)).arg(format!("--junit-report={}.xml", self.name));
        ginkgo.arg(format!("--focus={}", self.focus));
        ginkgo.args(self.skip.iter().map(|skip| format!("--skip={skip}")));
        ginkgo.arg(dir.join("e2e.test")).args(["--", "--provider=skeleton", "--num-nodes=1"]);
        ginkgo.arg(format!("--kubeconfig={KUBECONFIG}"));
        ginkgo.args(["--dump-logs-on-failure=false", "--disable-log-dump"]);
        ginkgo.status().unwrap().success()
    }
}

#[test]
#[ignore = "an hour: cargo xtask conformance"]
fn suite() {
    within("conformance::suite", 4 * 3600, |world| {
        let dir = PathBuf::from(std::env::var_os(DIR).expect("set by cargo xtask conformance"));
        let cluster = Cluster::start(world);
        cluster.node_ready();
        cluster.dns_ready();
        cluster.skiff_ok(&["image", "import", dir.join("images.tar").to_str().expect("text")]);
        let focus = std::env::var("SKIFF_CONFORMANCE_FOCUS").unwrap_or_else(|_| ALL.to_owned());
        let skip: Vec<String> = std::env::var("SKIFF_CONFORMANCE_SKIP").into_iter().collect();
        let beside = [skip.clone(), vec![ALONE.to_owned()]].concat();
        // Two regular expressions of which both must match are one with the words in either order.
        let alone = format!("({focus}).*({ALONE})|({ALONE}).*({focus})");
        let runs = [
            Run { name: "parallel", focus: &focus, skip: &beside, procs: 6 },
            Run { name: "serial", focus: &alone, skip: &skip, procs: 1 },
        ];
        let failed: Vec<&str> = runs.iter().filter(|run| !run.passes(&dir)).map(|run| run.name).collect();
        std::fs::copy(world.dir.join("server.log"), dir.join("server.log")).unwrap();
        assert!(failed.is_empty(), "tests of these runs failed: {failed:?}");
    });
}
