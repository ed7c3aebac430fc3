//! A machine of a test's own on this machine: its own processes, mounts, disk, network, host name and cgroups, so that a whole
//! cluster on its default paths and ports runs in it, meets nothing of this machine and of other tests, and is gone
//! with it.
//!
//! A test calls [`within`] with its own name. Outside, that starts this test executable again, inside, for this one test, and
//! waits for it; inside, it runs the body. Nothing outlives a test, however it ends:
//!
//! - Every process of the world is in one process namespace whose first process dies with the thread of the test
//!   (`PDEATHSIG`), and the kernel kills the rest, and takes mounts and links with them.
//! - A *keeper*, a shell that waits for the end of a pipe whose other end this process holds, then removes the (empty)
//!   cgroups and the directory.
//!
//! ```text
//!   192.0.2.1 "outside" ---- up0 ---- 192.0.2.2 "node1", default route to outside
//! ```

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;

/// Names the world's directory to the process within.
const MARK: &str = "SKIFF_TEST_WORLD";
const LIFE: &str = "SKIFF_TEST_LIFE";
const EXECUTABLE: &str = "SKIFF_TEST_EXECUTABLE";
const TOOLS: [(&str, &str); 11] = [
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("timeout", "coreutils"),
    ("bash", "bash"),
    ("mkfs.ext4", "e2fsprogs"),
    ("find", "findutils"),
    ("cargo", "cargo"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("busybox", "busybox-static"),
];

/// Size of a world's disk.
const DISK: u64 = 16 << 30;

/// Address of the node in its world.
pub(crate) const NODE_ADDRESS: &str = "192.0.2.2";

/// Enters the cgroups, then leaves everything of this machine behind. `$1` is the world's directory, the rest is run.
const OUTSIDE: &str = r#"
set -e
world=$1
while read -r cgroup; do echo $$ > "$cgroup/cgroup.procs"; done < "$world/cgroups"
exec setpriv --pdeathsig KILL unshare --fork --kill-child --pid --mount --net --uts --ipc --cgroup \
    --propagation private sh -c "$INSIDE" sh "$@"
"#;

/// The first process of the world. It stays, to reap whatever the world's processes leave.
const INSIDE: &str = r#"
set -ex
world=$1; shift
mount -t proc proc /proc
while read -r target cgroup; do mount --bind "$cgroup" "$target"; done < "$world/binds"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    # On v2 a cgroup with processes has no controllers for its children.
    mkdir -p /sys/fs/cgroup/init
    while read -r pid; do echo "$pid" > /sys/fs/cgroup/init/cgroup.procs; done < /sys/fs/cgroup/cgroup.procs
    for one in $(cat /sys/fs/cgroup/cgroup.controllers); do echo "+$one" > /sys/fs/cgroup/cgroup.subtree_control; done
fi
if [ -e "$world/cut" ]; then mv "$world/cut" "$world/disk"; fi
mount -o loop "$world/disk" "$world/mnt"
mkdir -p "$world/mnt/lib/test" "$world/mnt/log"
mount --bind "$world/mnt/lib" /var/lib
mount --bind "$world/mnt/log" /var/log
# On the node's own disk, so that it can be linked into its own image instead of copied at every start.
if [ "$SKIFF_TEST_LIFE" = 0 ]; then cp "$SKIFF_TEST_EXECUTABLE" /var/lib/test/skiff; sync -f /var/lib; fi
mount -t tmpfs -o mode=755 world /run
rm -rf "$world/work"
mkdir "$world/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$world/etc,workdir=$world/work" world /etc
[ "$SKIFF_TEST_LIFE" != 0 ] || rm -rf /etc/kubernetes
cat /proc/sys/kernel/random/uuid > "$world/boot_id"
mount --bind "$world/boot_id" /proc/sys/kernel/random/boot_id
echo nameserver 192.0.2.1 > /etc/resolv.conf
echo node1 > /proc/sys/kernel/hostname
ip link set lo up
ip netns add outside
ip link add up0 type veth peer name up0 netns outside
ip addr add 192.0.2.2/24 dev up0
ip -n outside addr add 192.0.2.1/24 dev up0
ip link set up0 addrgenmode none up
ip -n outside link set lo up
ip -n outside link set up0 up
ip route add default via 192.0.2.1
: > "$world/made"
set +x
status=0
"$@" || status=$?
exit $status
"#;

/// Waits for the end of its input, then removes cgroups (once their processes are gone) and directory.
const KEEPER: &str = r#"
cat > /dev/null
world=$1
tries=0
while [ $tries -lt 100 ]; do
    left=
    while read -r cgroup; do
        [ -d "$cgroup" ] || continue
        find "$cgroup" -depth -type d -exec rmdir {} + 2> /dev/null
        [ -d "$cgroup" ] && left=yes
    done < "$world/cgroups"
    [ -z "$left" ] && break
    tries=$((tries + 1))
    sleep 0.1
done
rm -rf "$world"
"#;

/// The inside of a world.
pub(crate) struct World {
    /// A directory that goes with the world.
    pub(crate) dir: PathBuf,
    /// The executable under test.
    pub(crate) executable: PathBuf,
}

/// One mounted hierarchy of cgroups: where, and where in it this world's own part is.
struct Hierarchy {
    target: PathBuf,
    part: PathBuf,
}

fn tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).exists())
}

fn missing() -> Option<String> {
    if !rustix::process::getuid().is_root() {
        return Some("not root".to_owned());
    }
    TOOLS.iter().find(|(name, _)| !tool(name)).map(|(name, package)| format!("no {name} (package {package})"))
}

/// Stops for `SKIFF_TEST_HOLD` seconds, so that somebody can look around in the world of a test that fails.
pub(crate) fn hold() {
    let seconds = std::env::var("SKIFF_TEST_HOLD").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    if seconds > 0 {
        println!(
            "holding for {seconds} s: nsenter --all --target PID, of a process that has {MARK} in its environment"
        );
        std::thread::sleep(std::time::Duration::from_secs(seconds));
    }
}

/// Where in each hierarchy this process is, as a directory, with the place that the world's part gets.
fn hierarchies(name: &str) -> Vec<Hierarchy> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let mut found = Vec::new();
    for mount in mounts.lines() {
        let (place, kind) = mount.split_once(" - ").unwrap();
        let mut kind = kind.split(' ');
        let (version, options) = (kind.next().unwrap(), kind.nth(1).unwrap_or_default());
        let mut place = place.split(' ').skip(3);
        let (root, target) = (place.next().unwrap(), PathBuf::from(place.next().unwrap()));
        let here = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let matches = match version {
                "cgroup2" => controllers.is_empty(),
                _ => {
                    !controllers.is_empty()
                        && options.split(',').any(|option| controllers.split(',').any(|c| c == option))
                }
            };
            matches.then(|| path.strip_prefix(root).unwrap_or(path).trim_start_matches('/').to_owned())
        });
        if !matches!(version, "cgroup" | "cgroup2") || !target.starts_with("/sys/fs/cgroup") {
            continue;
        }
        let Some(here) = here else { continue };
        // Below a v2 cgroup that has processes, as this one's, nothing can be limited.
        let here = if version == "cgroup2" { String::new() } else { here };
        found.push(Hierarchy { part: target.join(here).join(name), target });
    }
    found
}

fn make_cgroups(hierarchies: &[Hierarchy]) -> std::io::Result<()> {
    for Hierarchy { part, .. } in hierarchies {
        std::fs::create_dir(part)?;
        // A new cpuset is empty and takes no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let above = part.parent().expect("below its mount").join(file);
            if part.join("cpuset.cpu_exclusive").exists() {
                std::fs::write(part.join(file), std::fs::read(above)?)?;
            }
        }
    }
    Ok(())
}

/// The workspace's own executable, built as this test is, unless one was named.
fn executable() -> PathBuf {
    if let Some(path) = std::env::var_os("SKIFF_BINARY") {
        return PathBuf::from(path);
    }
    let here = std::env::current_exe().unwrap();
    let dir = here.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST");
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let release = dir.ends_with("release");
        let built = Command::new("cargo")
            .args(["build", "--quiet", "--package", "skiff"])
            .args(release.then_some("--release"))
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .status();
        assert!(built.unwrap().success(), "the executable under test cannot be built");
    });
    dir.join("skiff")
}

/// Where `cargo xtask test` puts the tools that it builds for the tests.
pub(crate) fn tools() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    // target/TRIPLE/PROFILE/deps/TEST
    here.ancestors().nth(4).expect("below the target directory").join("tools")
}

/// An empty file system in a file with holes: this machine may be fuller than a node is allowed to be.
fn make_disk(path: &Path) {
    std::fs::File::create(path).and_then(|file| file.set_len(DISK)).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(path).status();
    assert!(made.unwrap().success(), "no file system on {}", path.display());
}

impl World {
    /// Takes the disk as it would be if the power went now: what was written and never synced is not on it. The next
    /// life is on that one.
    pub(crate) fn cut_power(&self) {
        let cut =
            Command::new("cp").arg("--sparse=always").arg(self.dir.join("disk")).arg(self.dir.join("cut")).status();
        assert!(cut.unwrap().success(), "the disk is not copied");
    }
}

/// Runs `body` in a world of its own, for at most `seconds`. `test` is the full name of the test that calls this.
/// Where worlds cannot be made it says `skipped: why`.
pub(crate) fn within(test: &str, seconds: u32, body: impl Fn(&World)) {
    lives(test, seconds, &[&body]);
}

/// As [`within`], in one world after the other on the same disk: the end of a body is that of everything in its world.
/// See also [`World::cut_power`].
pub(crate) fn lives(test: &str, seconds: u32, bodies: &[&dyn Fn(&World)]) {
    if let Some(dir) = std::env::var_os(MARK) {
        let life: usize = std::env::var(LIFE).ok().and_then(|text| text.parse().ok()).expect("set beside the mark");
        std::fs::write(Path::new(&dir).join("entered"), "").unwrap();
        return bodies[life](&World { dir: dir.into(), executable: "/var/lib/test/skiff".into() });
    }
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let executable = executable();
    let Some(place) = Place::make() else { return };
    let mut lives = 0..bodies.len();
    lives.all(|life| place.run(test, seconds, life, &executable));
}

/// Directory and cgroups of a world, with their keeper.
struct Place {
    dir: PathBuf,
    keeper: Child,
}

impl Place {
    fn make() -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("skiff-world-").tempdir().unwrap().keep();
        for part in ["mnt", "etc"] {
            std::fs::create_dir(dir.join(part)).unwrap();
        }
        make_disk(&dir.join("disk"));
        let hierarchies = hierarchies(dir.file_name().and_then(OsStr::to_str).expect("the prefix is text"));
        let lines = |line: fn(&Hierarchy) -> String| hierarchies.iter().map(line).collect::<String>();
        std::fs::write(dir.join("cgroups"), lines(|one| format!("{}\n", one.part.display()))).unwrap();
        let binds = lines(|one| format!("{} {}\n", one.target.display(), one.part.display()));
        std::fs::write(dir.join("binds"), binds).unwrap();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&dir).stdin(Stdio::piped()).process_group(0);
        let place = Self { keeper: keeper.spawn().unwrap(), dir };
        match make_cgroups(&hierarchies) {
            Ok(()) => Some(place),
            Err(error) => {
                println!("skipped: no cgroup can be made: {error}");
                None
            }
        }
    }

    /// One life; whether the world could be made.
    fn run(&self, test: &str, seconds: u32, life: usize, executable: &Path) -> bool {
        let mut world = Command::new("setpriv");
        world
            .args(["--pdeathsig", "KILL", "timeout", "-s", "KILL", &seconds.to_string()])
            .args(["setpriv", "--pdeathsig", "KILL", "sh", "-c", OUTSIDE, "sh"])
            .arg(&self.dir)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads", "1"])
            .env("INSIDE", format!("exec 2>&1\n{INSIDE}"))
            .env(MARK, &self.dir)
            .env(LIFE, life.to_string())
            .env(EXECUTABLE, executable)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut world = world.spawn().unwrap();
        for line in BufReader::new(world.stdout.take().expect("piped")).split(b'\n') {
            println!("{}", String::from_utf8_lossy(&line.unwrap()));
        }
        let status = world.wait().unwrap();
        if std::fs::remove_file(self.dir.join("made")).is_err() {
            println!("skipped: this machine lacks what a world is made of; the step that failed stands above");
            return false;
        }
        assert!(std::fs::remove_file(self.dir.join("entered")).is_ok(), "{test} is no test's name");
        if !status.success() {
            let log = std::fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            println!("--- the server's last words:\n{}", lines[lines.len().saturating_sub(80)..].join("\n"));
        }
        assert!(status.success(), "{test} failed in its world ({status}, at most {seconds} s)");
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // It was there to be waited for; without it there is nothing more to do.
        drop(self.keeper.wait());
    }
}
