//! Images made by the tests: busybox with its commands, as an archive in Docker's form.

use sha2::{Digest, Sha256};
use std::path::Path;

const COMMANDS: [&str; 46] = [
    "awk", "cat", "chmod", "cp", "date", "dd", "df", "echo", "env", "expr", "false", "find", "grep", "head",
    "hostname", "httpd", "id", "ip", "kill", "ls", "mkdir", "mount", "mv", "nc", "nslookup", "ping", "printf", "ps",
    "readlink", "rm", "sed", "seq", "sh", "sleep", "stat", "sync", "tail", "tar", "test", "touch", "tr", "true", "wc",
    "wget", "whoami", "yes",
];

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn header(mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn file(archive: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, bytes: &[u8]) {
    archive.append_data(&mut header(mode, bytes.len()), name, bytes).unwrap();
}

/// Writes an archive of an image `tag` whose file `/version` says `version`; it runs as root, has no entry point, and its
/// command is a shell.
pub(crate) fn write(path: &Path, tag: &str, version: &str) {
    write_running(path, tag, version, &["sh"]);
}

/// As [`write`], with another command.
pub(crate) fn write_running(path: &Path, tag: &str, version: &str, command: &[&str]) {
    let mut layer = tar::Builder::new(Vec::new());
    for (name, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700), ("www", 0o755)] {
        let mut header = header(mode, 0);
        header.set_entry_type(tar::EntryType::Directory);
        layer.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    file(&mut layer, "bin/busybox", 0o755, &std::fs::read(busybox()).unwrap());
    for command in COMMANDS {
        let mut header = header(0o777, 0);
        header.set_entry_type(tar::EntryType::Symlink);
        layer.append_link(&mut header, format!("bin/{command}"), "busybox").unwrap();
    }
    file(&mut layer, "etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n");
    file(&mut layer, "etc/group", 0o644, b"root:x:0:\nweb:x:1000:\n");
    file(&mut layer, "version", 0o644, format!("{version}\n").as_bytes());
    let layer = layer.into_inner().unwrap();
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]},
    });
    let config = config.to_string();
    let name = format!("{}.json", hex(config.as_bytes()));
    let manifest = serde_json::json!([{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    file(&mut archive, &name, 0o644, config.as_bytes());
    file(&mut archive, "layer.tar", 0o644, &layer);
    file(&mut archive, "manifest.json", 0o644, manifest.to_string().as_bytes());
    std::fs::write(path, archive.into_inner().unwrap()).unwrap();
}

fn busybox() -> &'static Path {
    let places = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    places.into_iter().find(|place| place.exists()).expect("looked for before")
}
