//! `cargo xtask conformance`: upstream's own conformance tests, unmodified, against this workspace's executable on a machine of
//! its own. Everything is built from public packages on the first run: the tests and the programs of their images from Go
//! modules (`tests/conformance/go`), the images' file system from Debian.

use crate::tools;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

const USAGE: &str = "usage: cargo xtask conformance [FOCUS] [SKIP]: regular expressions over the tests' names";

/// The release whose tests are run; that of `tests/conformance/go/go.mod`.
const KUBERNETES: &str = "k8s.io/kubernetes";

/// What the images' file system has beside the essential packages.
const PACKAGES: &str = "curl,wget,dnsutils,netcat-openbsd,ncat,iproute2,iptables,iperf,nginx-light,perl-base,\
                        busybox-static,bash-static";

/// Programs by the package that they are built from.
const PROGRAMS: [(&str, &str); 7] = [
    ("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"),
    ("agnhost", "k8s.io/kubernetes/test/images/agnhost"),
    ("nnp", "k8s.io/kubernetes/test/images/nonewprivs"),
    ("regression-issue-74839", "k8s.io/kubernetes/test/images/regression-issue-74839"),
    ("consumer", "k8s.io/kubernetes/test/images/resource-consumer"),
    ("consume-cpu", "k8s.io/kubernetes/test/images/resource-consumer/consume-cpu"),
    ("sample-apiserver", "k8s.io/sample-apiserver"),
];

/// Builds what is not there yet, then runs the tests whose names match `FOCUS` (all of conformance without one).
pub(crate) fn run(root: &Path, arguments: &[String]) -> anyhow::Result<()> {
    if arguments.len() > 2 || arguments.iter().any(|argument| argument.starts_with('-')) {
        bail!("{USAGE}");
    }
    let target = tools::target(root);
    let dir = std::path::absolute(target.join("tools/conformance"))?;
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    make(root, &dir)?;
    run_step("the executable", cargo(root, &["build", "--release", "--package", "skiff"]))?;
    let executable = std::path::absolute(target.join("x86_64-unknown-linux-gnu/release/skiff"))?;
    let test = ["test", "--package", "skiff-tests", "--test", "it", "--", "--ignored", "--exact"];
    let mut tests = cargo(root, &test);
    tests.args(["conformance::suite", "--nocapture"]).env("SKIFF_BINARY", executable).env("SKIFF_CONFORMANCE", &dir);
    for (name, value) in ["SKIFF_CONFORMANCE_FOCUS", "SKIFF_CONFORMANCE_SKIP"].iter().zip(arguments) {
        tests.env(name, value);
    }
    run_step("the conformance tests", tests)
}

/// Tests, tools and images below `dir`, each unless it is there.
fn make(root: &Path, dir: &Path) -> anyhow::Result<()> {
    let go = root.join("tests/conformance/go");
    for (name, package) in PROGRAMS {
        build(&go, dir, name, &["build"], package)?;
    }
    build(&go, dir, "e2e.test", &["test", "-c"], "k8s.io/kubernetes/test/e2e")?;
    let images = dir.join("images.tar");
    if images.exists() {
        return Ok(());
    }
    let debian = dir.join("debian");
    if !debian.join("etc/passwd").exists() {
        let mut install = Command::new("apt-get");
        install.args([
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
            "debootstrap",
            "etcd-server",
            "busybox-static",
        ]);
        run_step("what makes the images", install)?;
        let mut bootstrap = Command::new("debootstrap");
        bootstrap.args(["--variant=minbase", "--include", PACKAGES, "stable"]).arg(&debian);
        run_step("the images' file system", bootstrap)?;
    }
    let mut pack = Command::new("python3");
    pack.arg(root.join("tests/conformance/images.py")).args([&debian, dir]);
    pack.arg(sources(&go)?.join("test/images")).arg(&images);
    run_step("the images", pack)
}

fn build(go: &Path, dir: &Path, name: &str, verb: &[&str], package: &str) -> anyhow::Result<()> {
    if dir.join(name).exists() {
        return Ok(());
    }
    // kubectl's version check, and the tests that a version decides on, ask for it.
    let version = "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.0 \
                   -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36";
    let mut command = Command::new("go");
    command.current_dir(go).env("CGO_ENABLED", "0").args(verb);
    command.args(["-ldflags", version, "-o"]).arg(dir.join(name)).arg(package);
    run_step(name, command)
}

/// Where the module's files are.
fn sources(go: &Path) -> anyhow::Result<PathBuf> {
    let list = Command::new("go").current_dir(go).args(["list", "-m", "-f", "{{.Dir}}", KUBERNETES]).output()?;
    let text = String::from_utf8(list.stdout).context("the module's directory")?;
    if !list.status.success() || text.trim().is_empty() {
        bail!("go does not know where {KUBERNETES} is: {}", String::from_utf8_lossy(&list.stderr));
    }
    Ok(PathBuf::from(text.trim()))
}

fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args(arguments);
    cargo
}

fn run_step(what: &str, mut command: Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{what}: starting {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{what}: {status}");
    }
    Ok(())
}
