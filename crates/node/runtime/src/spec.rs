//! From the CRI's words to the shim's. Pure, except that devices of the host are looked at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skiff_cri::CriError;
use skiff_cri::v1::security_profile::ProfileType;
use skiff_cri::v1::{
    Capability, ContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, Mount,
    MountPropagation as CriPropagation, NamespaceMode, NamespaceOption, PodSandboxConfig, Signal,
    SupplementalGroupsPolicy,
};
use skiff_linux::caps::Caps;
use skiff_shim::protocol::{ContainerSpec, Device, ExecSpec, Limits, MountPropagation, PidMode, Program, User, Volume};

use crate::image::{ImageConfig, ResolvedImage};

/// What a container has when nothing is said; the well-known runtimes' default.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Cgroup of pods for which the caller names none.
const DEFAULT_CGROUP: &str = "/skiff-pods";

fn invalid(message: impl Into<String>) -> CriError {
    CriError::invalid_argument(message)
}

fn refused(what: &str) -> CriError {
    CriError::unimplemented(format!("{what} is not supported by this runtime"))
}

/// The cgroup below which a pod's containers go.
pub(crate) fn cgroup_parent(config: &PodSandboxConfig) -> Result<PathBuf, CriError> {
    let parent = config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
    if parent.ends_with(".slice") {
        return Err(refused("the systemd cgroup driver"));
    }
    Ok(PathBuf::from(if parent.is_empty() { DEFAULT_CGROUP } else { parent }))
}

/// A sandbox's namespace choices, checked.
pub(crate) fn namespaces(config: &PodSandboxConfig) -> Result<NamespaceOption, CriError> {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = context.and_then(|context| context.namespace_options.clone()).unwrap_or_default();
    if options.userns_options.as_ref().is_some_and(|user| user.mode() == NamespaceMode::Pod && !user.uids.is_empty()) {
        return Err(refused("a user namespace for a pod"));
    }
    if context.is_some_and(|context| context.run_as_group.is_some() && context.run_as_user.is_none()) {
        return Err(invalid("run_as_group is specified without run_as_user"));
    }
    Ok(options)
}

/// Kernel parameters as paths below `/proc/sys`. Only those that belong to a namespace of the pod's own: any other would
/// be the host's.
pub(crate) fn sysctls(config: &PodSandboxConfig, options: &NamespaceOption) -> Result<Vec<(String, String)>, CriError> {
    let Some(linux) = &config.linux else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    let mut sorted: Vec<(&String, &String)> = linux.sysctls.iter().collect();
    sorted.sort();
    for (name, value) in sorted {
        let path = sysctl_path(name).ok_or_else(|| invalid(format!("invalid sysctl name {name:?}")))?;
        let own_network = options.network() != NamespaceMode::Node && path.starts_with("net/");
        let ipc =
            ["kernel/shm", "kernel/msg", "kernel/sem", "fs/mqueue/"].iter().any(|prefix| path.starts_with(prefix));
        let own_ipc = ipc && options.ipc() != NamespaceMode::Node;
        if !own_network && !own_ipc {
            return Err(invalid(format!("sysctl {name:?} is not in a separate kernel namespace")));
        }
        if value.contains(['\n', '\0']) {
            return Err(invalid(format!("invalid value of sysctl {name:?}")));
        }
        out.push((path, value.clone()));
    }
    Ok(out)
}

/// `a.b.c` or `a/b/c`; whichever separator comes first is the separator, the other one stands for itself swapped.
fn sysctl_path(name: &str) -> Option<String> {
    let swapped = name.find(['.', '/']).is_some_and(|at| name.as_bytes()[at] == b'.');
    let path: String = name
        .chars()
        .map(|c| match c {
            '.' if swapped => '/',
            '/' if swapped => '.',
            c => c,
        })
        .collect();
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@'))
    };
    path.split('/').all(plain).then_some(path)
}

/// Limits from the CRI's resources; 0 and empty mean that nothing is said.
pub(crate) fn limits(resources: &LinuxContainerResources) -> Limits {
    let said = |value: i64| (value != 0).then_some(value);
    let text = |value: &String| (!value.is_empty()).then(|| value.clone());
    let memory = said(resources.memory_limit_in_bytes);
    Limits {
        cpu_shares: said(resources.cpu_shares).and_then(|shares| u64::try_from(shares).ok()),
        cpu_quota: said(resources.cpu_quota),
        cpu_period: said(resources.cpu_period).and_then(|period| u64::try_from(period).ok()),
        memory,
        // Without a word about swap there is none beyond the memory limit, as upstream's runtimes do.
        memory_swap: said(resources.memory_swap_limit_in_bytes).or(memory),
        cpuset_cpus: text(&resources.cpuset_cpus),
        cpuset_mems: text(&resources.cpuset_mems),
        pids: None,
        hugepages: resources.hugepage_limits.iter().map(|limit| (limit.page_size.clone(), limit.limit)).collect(),
        unified: resources.unified.clone().into_iter().collect(),
    }
}

fn capabilities(asked: Option<&Capability>, privileged: bool) -> Result<(Caps, Caps), CriError> {
    if privileged {
        return Ok((Caps::ALL, Caps::default()));
    }
    let named = |name: &str| Caps::named(name).ok_or_else(|| invalid(format!("unknown capability {name:?}")));
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set = DEFAULT_CAPABILITIES.iter().filter_map(|name| Caps::named(name)).fold(0, |set, cap| set | cap.0);
    let mut ambient = 0;
    let Some(asked) = asked else { return Ok((Caps(set), Caps(ambient))) };
    // ALL first, single ones after, so that `drop ALL, add X` and `add ALL, drop X` mean what they say.
    if asked.add_capabilities.iter().any(is_all) {
        set = Caps::ALL.0;
    }
    if asked.drop_capabilities.iter().any(is_all) {
        set = 0;
    }
    for name in asked.add_capabilities.iter().filter(|name| !is_all(name)) {
        set |= named(name)?.0;
    }
    for name in &asked.add_ambient_capabilities {
        set |= named(name)?.0;
        ambient |= named(name)?.0;
    }
    for name in asked.drop_capabilities.iter().filter(|name| !is_all(name)) {
        set &= !named(name)?.0;
    }
    Ok((Caps(set), Caps(ambient & set)))
}

fn id(value: i64) -> Result<u32, CriError> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id <= i32::MAX as u32)
        .ok_or_else(|| invalid(format!("uids and gids must be in range 0-{}: {value}", i32::MAX)))
}

fn user(context: &LinuxContainerSecurityContext, image: &ImageConfig) -> Result<User, CriError> {
    let mut user = match (&context.run_as_user, context.run_as_username.as_str()) {
        (Some(_), name) if !name.is_empty() => {
            return Err(invalid("both run_as_user and run_as_username are specified"));
        }
        (Some(uid), _) => id(uid.value)?.to_string(),
        (None, "") => image.user.clone(),
        (None, name) => name.to_owned(),
    };
    let group = match &context.run_as_group {
        Some(_) if context.run_as_user.is_none() && context.run_as_username.is_empty() => {
            return Err(invalid("run_as_group is specified without run_as_user or run_as_username"));
        }
        Some(gid) => Some(id(gid.value)?),
        None => None,
    };
    if user.is_empty() {
        user = "0".to_owned();
    }
    let groups = context.supplemental_groups.iter().map(|group| id(*group)).collect::<Result<_, _>>()?;
    let strict_groups = context.supplemental_groups_policy() == SupplementalGroupsPolicy::Strict;
    Ok(User { user, group, groups, strict_groups })
}

/// Whether the program is confined by the default seccomp profile.
fn wants_seccomp(context: &LinuxContainerSecurityContext) -> Result<bool, CriError> {
    if let Some(profile) = &context.apparmor
        && profile.profile_type() == ProfileType::Localhost
    {
        return Err(refused(&format!("AppArmor profile {:?}", profile.localhost_ref)));
    }
    let selinux = context.selinux_options.as_ref();
    if selinux.is_some_and(|options| !options.r#type.is_empty() || !options.level.is_empty()) {
        return Err(refused("an SELinux context"));
    }
    if context.privileged {
        return Ok(false);
    }
    match context.seccomp.as_ref().map(|profile| (profile.profile_type(), profile.localhost_ref.as_str())) {
        Some((ProfileType::RuntimeDefault, _)) => Ok(true),
        None | Some((ProfileType::Unconfined, _)) => Ok(false),
        Some((ProfileType::Localhost, path)) => Err(refused(&format!("the localhost seccomp profile {path:?}"))),
    }
}

fn volume(mount: &Mount, number: usize, around: &Around<'_>) -> Result<Volume, CriError> {
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(refused("an id-mapped mount"));
    }
    let target = Path::new(&mount.container_path);
    if target.components().any(|part| part == std::path::Component::ParentDir) || mount.container_path.contains('\0') {
        return Err(invalid(format!("invalid mount path {:?}", mount.container_path)));
    }
    if mount.recursive_read_only && (!mount.readonly || mount.propagation() != CriPropagation::PropagationPrivate) {
        return Err(invalid("recursive read-only mount conflicts with a writable or propagated mount"));
    }
    let (source, layers) = match &mount.image {
        None => (mount.host_path.clone().into(), Vec::new()),
        Some(_) if !mount.image_sub_path.is_empty() => return Err(refused("a subPath of an image volume")),
        Some(wanted) => {
            let image = around.volume_images.get(&wanted.image);
            let image = image.ok_or_else(|| CriError::not_found(format!("image {:?} not found", wanted.image)))?;
            (around.dir.join(format!("volume-{number}")), image.layers.clone())
        }
    };
    Ok(Volume {
        source,
        target: Path::new("/").join(target),
        readonly: mount.readonly || !layers.is_empty(),
        layers,
        recursive_readonly: mount.recursive_read_only,
        propagation: match mount.propagation() {
            CriPropagation::PropagationPrivate => MountPropagation::Private,
            CriPropagation::PropagationHostToContainer => MountPropagation::HostToContainer,
            CriPropagation::PropagationBidirectional => MountPropagation::Bidirectional,
        },
    })
}

fn host_device(host: &Path, inside: &Path, access: &str) -> Result<Device, CriError> {
    use rustix::fs::FileType;
    let stat = rustix::fs::stat(host).map_err(|error| invalid(format!("device {}: {error}", host.display())))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !kind.is_block_device() && !kind.is_char_device() {
        return Err(invalid(format!("{} is not a device node", host.display())));
    }
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let access = if access.is_empty() { "rwm" } else { access };
    Ok(Device { path: inside.to_owned(), block: kind.is_block_device(), major, minor, access: access.to_owned() })
}

/// Every device node of the host, for a privileged container; what disappears meanwhile is left out.
fn all_devices(dir: &Path, out: &mut Vec<Device>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        let own = ["pts", "shm", "fd", "mqueue", ".lxc", "console", "ptmx"];
        if own.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if kind.is_dir() {
            all_devices(&path, out);
        } else if let Ok(device) = host_device(&path, &path, "rwm") {
            out.push(device);
        }
    }
}

/// Everything that goes into a container beside its config.
pub(crate) struct Around<'a> {
    pub(crate) id: &'a str,
    pub(crate) dir: &'a Path,
    pub(crate) sandbox_dir: &'a Path,
    pub(crate) sandbox: &'a PodSandboxConfig,
    pub(crate) image: &'a ResolvedImage,
    /// Of image volumes, by how the mount names them.
    pub(crate) volume_images: &'a BTreeMap<String, ResolvedImage>,
}

/// The container as the shim gets it, and whether it needs the default seccomp profile (whose file the caller stores).
pub(crate) fn container(config: &ContainerConfig, around: &Around<'_>) -> Result<(ContainerSpec, bool), CriError> {
    let none = LinuxContainerSecurityContext::default();
    let linux = config.linux.as_ref();
    let context = linux.and_then(|linux| linux.security_context.as_ref()).unwrap_or(&none);
    let resources = linux.and_then(|linux| linux.resources.clone()).unwrap_or_default();
    let image = &around.image.config;
    if !config.cdi_devices.is_empty() {
        return Err(refused("a CDI device"));
    }
    let options = namespaces(around.sandbox)?;
    let own = context.namespace_options.clone().unwrap_or_default();
    let pid = match own.pid() {
        NamespaceMode::Container => PidMode::Container,
        NamespaceMode::Pod if options.pid() == NamespaceMode::Pod => PidMode::Pod,
        NamespaceMode::Pod => PidMode::Container,
        NamespaceMode::Node => PidMode::Host,
        NamespaceMode::Target => PidMode::Target(own.target_id.clone()),
    };
    let sandbox_context = around.sandbox.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    if context.privileged && !sandbox_context.is_some_and(|context| context.privileged) {
        return Err(invalid("no privileged container allowed in sandbox"));
    }
    let (granted, ambient) = capabilities(context.capabilities.as_ref(), context.privileged)?;

    let volume = |(number, mount)| volume(mount, number, around);
    let mut volumes = config.mounts.iter().enumerate().map(volume).collect::<Result<Vec<_>, _>>()?;
    for (file, target) in [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")]
    {
        if !volumes.iter().any(|volume| volume.target == Path::new(target)) {
            let readonly = context.readonly_rootfs;
            volumes.push(Volume {
                source: around.sandbox_dir.join(file),
                layers: Vec::new(),
                target: target.into(),
                readonly,
                ..Volume::default()
            });
        }
    }
    let mut devices = Vec::new();
    for device in &config.devices {
        devices.push(host_device(
            Path::new(&device.host_path),
            Path::new(&device.container_path),
            &device.permissions,
        )?);
    }
    if context.privileged {
        all_devices(Path::new("/dev"), &mut devices);
    }
    let program = Program {
        argv: argv(config, image)?,
        env: env(config, image, &around.sandbox.hostname),
        cwd: [&config.working_dir, &image.working_dir]
            .into_iter()
            .find(|dir| !dir.is_empty())
            .map_or("/".into(), PathBuf::from),
        tty: config.tty,
        user: user(context, image)?,
        capabilities: granted.0,
        ambient: ambient.0,
        no_new_privs: context.no_new_privs,
        seccomp: None,
        oom_score_adj: Some(i32::try_from(resources.oom_score_adj.clamp(-1000, 1000)).unwrap_or_default()),
    };
    if !program.cwd.is_absolute() {
        return Err(invalid(format!("working directory {:?} is not absolute", program.cwd)));
    }
    let protect = |paths: &[String]| paths.iter().filter(|_| !context.privileged).map(PathBuf::from).collect();
    let spec = ContainerSpec {
        id: around.id.to_owned(),
        dir: around.dir.to_owned(),
        layers: around.image.layers.clone(),
        readonly_rootfs: context.readonly_rootfs,
        privileged: context.privileged,
        program,
        pid,
        cgroup: cgroup_parent(around.sandbox)?.join(around.id),
        limits: limits(&resources),
        volumes,
        devices,
        masked: protect(&context.masked_paths),
        readonly: protect(&context.readonly_paths),
        log: log_path(config, around.sandbox)?,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
    };
    Ok((spec, wants_seccomp(context)?))
}

fn log_path(config: &ContainerConfig, sandbox: &PodSandboxConfig) -> Result<Option<PathBuf>, CriError> {
    if sandbox.log_directory.is_empty() || config.log_path.is_empty() {
        return Ok(None);
    }
    let path = Path::new(&config.log_path);
    if path.is_absolute() || path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(invalid(format!("invalid log path {:?}", config.log_path)));
    }
    Ok(Some(Path::new(&sandbox.log_directory).join(path)))
}

/// `command` replaces entry point and cmd; `args` alone replaces cmd (upstream documents this with the Pod).
fn argv(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, CriError> {
    let mut argv = config.command.clone();
    let mut args = config.args.clone();
    if argv.is_empty() {
        if args.is_empty() {
            args.clone_from(&image.cmd);
        }
        argv.clone_from(&image.entrypoint);
    }
    argv.append(&mut args);
    if argv.is_empty() { Err(invalid("no command specified")) } else { Ok(argv) }
}

fn env(config: &ContainerConfig, image: &ImageConfig, hostname: &str) -> Vec<String> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |key: &str, value: &str| match env.iter_mut().find(|(known, _)| known == key) {
        Some(entry) => entry.1 = value.to_owned(),
        None => env.push((key.to_owned(), value.to_owned())),
    };
    let (key, value) = DEFAULT_PATH.split_once('=').unwrap_or_default();
    set(key, value);
    if !hostname.is_empty() {
        set("HOSTNAME", hostname);
    }
    if config.tty {
        set("TERM", "xterm");
    }
    for entry in &image.env {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        set(key, value);
    }
    for entry in &config.envs {
        set(&entry.key, &entry.value);
    }
    env.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
}

/// A program in a container: its confinement, another command, no second OOM score.
pub(crate) fn exec(container: &ContainerSpec, command: &[String], tty: bool) -> Result<ExecSpec, CriError> {
    if command.is_empty() {
        return Err(invalid("no command specified"));
    }
    let mut program = Program { argv: command.to_vec(), tty, ..container.program.clone() };
    if tty && !program.env.iter().any(|entry| entry.starts_with("TERM=")) {
        program.env.push("TERM=xterm".to_owned());
    }
    Ok(ExecSpec { container: container.id.clone(), program })
}

/// The stop signal: the pod's word, else the image's, else SIGTERM.
pub(crate) fn stop_signal(config: &ContainerConfig, image: &ImageConfig) -> Result<i32, CriError> {
    match config.stop_signal() {
        Signal::RuntimeDefault => match &image.stop_signal {
            Some(name) if !name.is_empty() => {
                signal_number(name).ok_or_else(|| invalid(format!("invalid stop signal {name:?}")))
            }
            _ => Ok(libc::SIGTERM),
        },
        signal => {
            let name = signal.as_str_name().replace("PLUS", "+").replace("MINUS", "-");
            signal_number(&name).ok_or_else(|| invalid(format!("unknown signal {name}")))
        }
    }
}

/// The number of `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or `RTMAX-1`.
pub(crate) fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
    for (base, number) in [("RTMIN", 34), ("RTMAX", 64)] {
        if let Some(offset) = plain.strip_prefix(base) {
            let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
            return (34..=64).contains(&(number + offset)).then_some(number + offset);
        }
    }
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let aliases = BTreeMap::from([("IOT", "ABRT"), ("CLD", "CHLD"), ("POLL", "IO")]);
    let plain = aliases.get(plain).copied().unwrap_or(plain);
    NAMES.iter().position(|known| *known == plain).map(|index| index as i32 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn signals_by_every_name() {
        for (name, number) in
            [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-14", 50), ("IOT", 6)]
        {
            assert_eq!(signal_number(name), Some(number), "{name}");
        }
        for name in ["", "0", "65", "SIGNOPE", "RTMAX+1"] {
            assert_eq!(signal_number(name), None, "{name}");
        }
        let config = ContainerConfig { stop_signal: Signal::Sigrtminplus1.into(), ..Default::default() };
        assert_eq!(stop_signal(&config, &ImageConfig::default()), Ok(35));
    }

    #[test]
    fn sysctls_of_the_host_are_refused() {
        let check = |name: &str, options: &NamespaceOption| {
            let sysctls = HashMap::from([(name.to_owned(), "1".to_owned())]);
            let linux = skiff_cri::v1::LinuxPodSandboxConfig { sysctls, ..Default::default() };
            super::sysctls(&PodSandboxConfig { linux: Some(linux), ..Default::default() }, options)
        };
        let own = NamespaceOption::default();
        assert_eq!(check("net.ipv4.conf.eth0/100.rp_filter", &own).unwrap()[0].0, "net/ipv4/conf/eth0.100/rp_filter");
        assert!(check("kernel.shmmax", &own).is_ok());
        for name in [
            "kernel.core_pattern",
            "net.ipv4.a=b",
            "net.ipv4.a\nb",
            "net/../kernel/core_pattern",
            "net.+",
            "vm.swappiness",
        ] {
            assert!(check(name, &own).is_err(), "{name}");
        }
        let host = NamespaceOption { network: NamespaceMode::Node.into(), ..Default::default() };
        assert!(check("net.ipv4.ip_forward", &host).is_err());
    }

    #[test]
    fn capabilities_are_added_and_dropped_in_order() {
        let of = |add: &[&str], drop: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            capabilities(
                Some(&Capability { add_capabilities: list(add), drop_capabilities: list(drop), ..Default::default() }),
                false,
            )
            .map(|(caps, _)| caps.0.count_ones())
        };
        assert_eq!(of(&[], &[]), Ok(14));
        assert_eq!(of(&["NET_BIND_SERVICE"], &["ALL"]), Ok(1));
        assert_eq!(of(&["ALL"], &["CAP_SYS_ADMIN"]), Ok(40));
        assert!(of(&["NOPE"], &[]).is_err());
    }
}
