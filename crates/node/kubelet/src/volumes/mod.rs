//! Volumes of a pod: made before its containers start, kept current while it lives, taken down after it.
//!
//! Everything lies below `<root>/pods/<uid>/` in upstream's layout, so that it can be found again after a crash. Paths
//! that a pod may influence (sub-paths, keys) are opened below their volume with `openat2`, never by joining strings.
//!
//! Not here yet: CSI, NFS, iSCSI and the like, also behind claims: a pod with one of these waits with an event that names it.

mod atomic;
pub mod claims;
mod content;
mod subpath;

use crate::pod::env::Downward;
use crate::pod::spec::{Container, Pod};
pub use atomic::write as write_atomically;
pub use content::{Names, Object, Objects, names};
use rustix::fs::{Gid, Mode, Uid};
use rustix::mount::{MountFlags, UnmountFlags};
use skiff_cri::v1;
use skiff_machinery::Value;
use skiff_machinery::quantity::Quantity;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a volume cannot be had. The text stands in a `FailedMount` event.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The kind is not built.
    #[error("volume {name}: {kind} volumes are not supported yet")]
    Unbuilt {
        /// Volume.
        name: String,
        /// Its kind.
        kind: String,
    },
    /// What it is made from is missing or does not fit.
    #[error("MountVolume.SetUp failed for volume \"{name}\" : {what}")]
    Content {
        /// Volume.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// The file system refused.
    #[error("MountVolume.SetUp failed for volume \"{name}\" : {step}: {source}")]
    Io {
        /// Volume.
        name: String,
        /// What was being done.
        step: String,
        /// The system's error.
        source: io::Error,
    },
}

/// A volume that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where it is on the host.
    pub path: PathBuf,
    /// It is read-only whatever the mount says.
    pub read_only: bool,
}

/// Where pods keep their volumes.
#[derive(Clone, Debug)]
pub struct Volumes {
    root: PathBuf,
}

fn io_error<'a>(name: &'a str, step: impl Into<String>) -> impl FnOnce(io::Error) -> VolumeError + 'a {
    let step = step.into();
    move |source| VolumeError::Io { name: name.to_owned(), step, source }
}

/// Kinds of volume that are built, by field name.
const BUILT: [&str; 9] = [
    "emptyDir",
    "hostPath",
    "configMap",
    "secret",
    "projected",
    "downwardAPI",
    "image",
    "persistentVolumeClaim",
    "ephemeral",
];

/// The kind of a volume: the one field beside its name.
fn kind(volume: &Value) -> &str {
    let fields = volume.as_object().into_iter().flat_map(skiff_machinery::Map::iter);
    let mut kinds = fields.filter(|(key, value)| key.as_str() != "name" && !value.is_null());
    kinds.next().map_or("emptyDir", |(key, _)| key.as_str())
}

/// The image volumes that a container mounts: name and what the volume says of its image.
pub fn image_volumes<'p>(pod: &'p Pod, container: &Container<'p>) -> impl Iterator<Item = (&'p str, &'p Value)> {
    let mounts = container.tree.items_at(&["volumeMounts"]);
    let volumes = pod.0.items_at(&["spec", "volumes"]).iter();
    volumes.filter_map(move |volume| {
        let name = volume.str_at(&["name"]);
        let image = volume.get("image").filter(|image| !image.is_null())?;
        mounts.iter().any(|mount| mount.str_at(&["name"]) == name).then_some((name, image))
    })
}

impl Volumes {
    /// Below the kubelet's root directory.
    pub fn new(root: &Path) -> Self {
        Self { root: root.join("pods") }
    }
    /// Directory of all pods.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// Directory of a pod.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.root.join(uid)
    }
    /// Uids of pods that have a directory.
    pub fn pods(&self) -> io::Result<Vec<String>> {
        let mut uids = Vec::new();
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(uids),
            entries => entries?,
        };
        for entry in entries {
            uids.extend(entry?.file_name().into_string().ok());
        }
        Ok(uids)
    }

    fn directory(&self, pod: &Pod, plugin: &str, name: &str) -> PathBuf {
        self.pod(pod.uid()).join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
    }

    /// Makes every volume of the pod, or brings its contents up to date. Blocking.
    pub fn set_up(
        &self,
        pod: &Pod,
        objects: &Objects,
        downward: &Downward,
    ) -> Result<BTreeMap<String, Mounted>, VolumeError> {
        let group = pod.0.at(&["spec", "securityContext", "fsGroup"]).and_then(Value::as_int);
        let mut mounted = BTreeMap::new();
        for volume in pod.0.items_at(&["spec", "volumes"]) {
            let name = volume.str_at(&["name"]);
            let kind = kind(volume);
            if !BUILT.contains(&kind) {
                return Err(VolumeError::Unbuilt { name: name.to_owned(), kind: kind.to_owned() });
            }
            let ready = match kind {
                "hostPath" => host_path(name, &volume.at(&["hostPath"]).cloned().unwrap_or_default())?,
                "emptyDir" => self.empty_dir(pod, name, volume, group)?,
                "persistentVolumeClaim" | "ephemeral" => match objects.volumes.get(name) {
                    Some(Ok(bound)) => claims::set_up(pod, volume, bound, group)?,
                    Some(Err(what)) => {
                        return Err(VolumeError::Content { name: name.to_owned(), what: what.clone() });
                    }
                    None => {
                        let what = "its claim was not looked at".to_owned();
                        return Err(VolumeError::Content { name: name.to_owned(), what });
                    }
                },
                // The runtime mounts it.
                "image" => Mounted { path: PathBuf::new(), read_only: true },
                _ => {
                    let files = content::files(pod, volume, objects, downward)
                        .map_err(|what| VolumeError::Content { name: name.to_owned(), what })?;
                    self.files(pod, name, kind, &files, group)?
                }
            };
            mounted.insert(name.to_owned(), ready);
        }
        Ok(mounted)
    }

    fn empty_dir(&self, pod: &Pod, name: &str, volume: &Value, group: Option<i64>) -> Result<Mounted, VolumeError> {
        let path = self.directory(pod, "empty-dir", name);
        let new = !path.exists();
        make_directory(&path, 0o777).map_err(io_error(name, "making the directory"))?;
        if volume.str_at(&["emptyDir", "medium"]) == "Memory" && !is_mount(&path).map_err(io_error(name, "looking"))? {
            let limit = volume.str_at(&["emptyDir", "sizeLimit"]);
            let size = Quantity::parse(limit).ok().map(|quantity| quantity.value()).filter(|size| *size > 0);
            mount_tmpfs(&path, size, 0o777).map_err(io_error(name, "mounting tmpfs"))?;
        }
        if new {
            own_by_group(&path, group).map_err(io_error(name, "setting the group"))?;
        }
        Ok(Mounted { path, read_only: false })
    }

    /// Files that the API dictates; on tmpfs where they are secret, so that they never reach a disk.
    fn files(
        &self,
        pod: &Pod,
        name: &str,
        kind: &str,
        files: &BTreeMap<String, content::File>,
        group: Option<i64>,
    ) -> Result<Mounted, VolumeError> {
        let plugin = match kind {
            "configMap" => "configmap",
            "downwardAPI" => "downward-api",
            other => other,
        };
        let path = self.directory(pod, plugin, name);
        make_directory(&path, 0o777).map_err(io_error(name, "making the directory"))?;
        let secret = matches!(kind, "secret" | "projected");
        if secret && !is_mount(&path).map_err(io_error(name, "looking"))? {
            mount_tmpfs(&path, None, 0o777).map_err(io_error(name, "mounting tmpfs"))?;
        }
        atomic::write(&path, files, group).map_err(io_error(name, "writing"))?;
        Ok(Mounted { path, read_only: true })
    }

    /// The mounts of one container; `images` are those of its image volumes, by volume. Blocking.
    pub fn container_mounts(
        &self,
        pod: &Pod,
        container: &Container<'_>,
        volumes: &BTreeMap<String, Mounted>,
        images: &BTreeMap<String, v1::ImageSpec>,
        environment: &[(String, String)],
    ) -> Result<Vec<v1::Mount>, VolumeError> {
        let lookup = |name: &str| environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let mut mounts = Vec::new();
        for (index, mount) in container.tree.items_at(&["volumeMounts"]).iter().enumerate() {
            let name = mount.str_at(&["name"]);
            let content = |what: String| VolumeError::Content { name: name.to_owned(), what };
            let volume = volumes.get(name).ok_or_else(|| content("the pod has no such volume".to_owned()))?;
            let sub_path = match mount.str_at(&["subPathExpr"]) {
                "" => mount.str_at(&["subPath"]).to_owned(),
                expression => {
                    let expanded = crate::pod::env::expand(expression, lookup);
                    if expanded.contains("$(") {
                        return Err(content(format!("subPathExpr {expression:?} names a variable that is not set")));
                    }
                    expanded
                }
            };
            let image = images.get(name).cloned();
            let host_path = if sub_path.is_empty() || image.is_some() {
                volume.path.clone()
            } else {
                let pin = self
                    .pod(pod.uid())
                    .join("volume-subpaths")
                    .join(name)
                    .join(container.name())
                    .join(index.to_string());
                subpath::pin(&volume.path, Path::new(&sub_path), &pin)
                    .map_err(io_error(name, format!("subPath {sub_path:?}")))?;
                pin
            };
            let read_only = mount.get("readOnly").and_then(Value::as_bool).unwrap_or(false);
            mounts.push(v1::Mount {
                container_path: mount.str_at(&["mountPath"]).to_owned(),
                image_sub_path: if image.is_some() { sub_path } else { String::new() },
                image,
                host_path: host_path.to_string_lossy().into_owned(),
                readonly: read_only || volume.read_only,
                recursive_read_only: mount.str_at(&["recursiveReadOnly"]) == "Enabled",
                propagation: match mount.str_at(&["mountPropagation"]) {
                    "HostToContainer" => v1::MountPropagation::PropagationHostToContainer,
                    "Bidirectional" => v1::MountPropagation::PropagationBidirectional,
                    _ => v1::MountPropagation::PropagationPrivate,
                }
                .into(),
                ..Default::default()
            });
        }
        Ok(mounts)
    }

    /// `/etc/hosts` of a pod, managed by the kubelet.
    pub fn hosts_file(&self, pod: &Pod, ips: &[String], hostname: &str, domain: &str) -> io::Result<PathBuf> {
        let path = self.pod(pod.uid()).join("etc-hosts");
        let mut text = if pod.flag("hostNetwork") {
            let host = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            format!("# Kubernetes-managed hosts file (host network).\n{host}")
        } else {
            let mut text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n".to_owned();
            for ip in ips {
                let full = if domain.is_empty() { String::new() } else { format!("{hostname}.{domain}\t") };
                text.push_str(&format!("{ip}\t{full}{hostname}\n"));
            }
            text
        };
        let aliases = pod.0.items_at(&["spec", "hostAliases"]);
        if !aliases.is_empty() {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        for alias in aliases {
            let names: Vec<&str> = alias.items_at(&["hostnames"]).iter().filter_map(Value::as_str).collect();
            text.push_str(&format!("{}\t{}\n", alias.str_at(&["ip"]), names.join("\t")));
        }
        make_directory(&self.pod(pod.uid()), 0o750)?;
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
        Ok(path)
    }

    /// An empty file for a container's last words.
    pub fn termination_log(&self, pod: &Pod, container: &str, attempt: u32) -> io::Result<PathBuf> {
        let directory = self.pod(pod.uid()).join("containers").join(container);
        make_directory(&directory, 0o750)?;
        let path = directory.join(attempt.to_string());
        std::fs::write(&path, b"")?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        Ok(path)
    }

    /// The pod's `emptyDir`s that are on disk: name and place.
    pub fn empty_dirs(&self, pod: &Pod) -> Vec<(String, PathBuf)> {
        let on_disk = |volume: &&Value| kind(volume) == "emptyDir" && volume.str_at(&["emptyDir", "medium"]).is_empty();
        let volumes = pod.0.items_at(&["spec", "volumes"]).iter().filter(on_disk);
        volumes
            .map(|volume| {
                let name = volume.str_at(&["name"]);
                (name.to_owned(), self.directory(pod, "empty-dir", name))
            })
            .collect()
    }

    /// Frees the volumes of a pod that has ended and is still in the API; its containers' last words stay. Blocking.
    pub fn release(&self, uid: &str) -> io::Result<()> {
        let directory = self.pod(uid);
        unmount_below(&directory)?;
        for name in ["volumes", "volume-subpaths"] {
            remove_all(&directory.join(name))?;
        }
        Ok(())
    }

    /// Takes a pod's volumes down: mounts first, deepest first, then the directory. Nothing below a mount that cannot
    /// be unmounted is deleted. Blocking.
    pub fn tear_down(&self, uid: &str) -> io::Result<()> {
        let directory = self.pod(uid);
        unmount_below(&directory)?;
        remove_all(&directory)
    }
}

fn unmount_below(directory: &Path) -> io::Result<()> {
    let mut mounts = mounts_below(directory)?;
    mounts.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for mount in mounts {
        rustix::mount::unmount(&mount, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    Ok(())
}

fn remove_all(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Every mount point at or below a directory, from the kernel.
fn mounts_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| {
        if !point.contains('\\') {
            return PathBuf::from(point);
        }
        // The kernel writes space, tab, newline and backslash as octal.
        PathBuf::from(point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"))
    });
    Ok(points.filter(|point| point.starts_with(directory)).collect())
}

/// Whether something is mounted right there. The kernel says so of a path since 5.8; before, its table of all mounts
/// does.
fn is_mount(path: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::empty()) {
        Ok(found) if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Err(rustix::io::Errno::NOENT) => Ok(false),
        _ => Ok(mounts_below(path)?.iter().any(|point| point == path)),
    }
}

pub(crate) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
    }
    match std::fs::DirBuilder::new().create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (),
        outcome => outcome?,
    }
    // Not left to the umask.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn mount_tmpfs(path: &Path, size: Option<i64>, mode: u32) -> io::Result<()> {
    let mut data = format!("mode={mode:o}");
    if let Some(size) = size {
        data.push_str(&format!(",size={size}"));
    }
    let data = CString::new(data)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount("tmpfs", path, "tmpfs", flags, Some(data.as_c_str()))?)
}

/// Gives a new volume to the pod's `fsGroup`: set-group-id, so that what is made in it belongs to the group too.
pub(crate) fn own_by_group(path: &Path, group: Option<i64>) -> io::Result<()> {
    let Some(group) = group.and_then(|group| u32::try_from(group).ok()) else { return Ok(()) };
    rustix::fs::chown(path, None::<Uid>, Some(Gid::from_raw(group)))?;
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(0o2777))?)
}

fn host_path(name: &str, source: &Value) -> Result<Mounted, VolumeError> {
    let path = PathBuf::from(source.str_at(&["path"]));
    let ty = source.str_at(&["type"]);
    let fail = |what: String| VolumeError::Content { name: name.to_owned(), what };
    match (ty, path.exists()) {
        ("DirectoryOrCreate", false) => {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&path);
            made.map_err(io_error(name, "making the directory"))?;
        }
        ("FileOrCreate", false) => {
            let made = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            made.map_err(io_error(name, "making the file"))?;
        }
        ("", false) => {
            // Upstream leaves it to the runtime, which makes a directory.
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&path);
            made.map_err(io_error(name, "making the directory"))?;
        }
        _ => (),
    }
    let found = std::fs::metadata(&path).map(|metadata| metadata.file_type());
    let wrong = |wanted: &str| fail(format!("hostPath type check failed: {} is not a {wanted}", path.display()));
    let is = |test: fn(&std::fs::FileType) -> bool| found.as_ref().is_ok_and(test);
    use std::os::unix::fs::FileTypeExt;
    match ty {
        "Directory" | "DirectoryOrCreate" if !is(std::fs::FileType::is_dir) => return Err(wrong("directory")),
        "File" | "FileOrCreate" if !is(std::fs::FileType::is_file) => return Err(wrong("file")),
        "Socket" if !is(|found| found.is_socket()) => return Err(wrong("socket file")),
        "CharDevice" if !is(|found| found.is_char_device()) => return Err(wrong("character device")),
        "BlockDevice" if !is(|found| found.is_block_device()) => return Err(wrong("block device")),
        _ => (),
    }
    Ok(Mounted { path, read_only: false })
}
