"""Makes the images that upstream's conformance tests name, as one archive in Docker's form.

There is no public registry where the tests run, so each image is a Debian root file system with the programs that were built
from upstream's modules, or busybox. What an image must have is what tests call in it; httpd's is nginx.

    images.py ROOT PROGRAMS SOURCES OUT

ROOT: directory of a Debian (debootstrap). PROGRAMS: directory of built programs. SOURCES: `test/images` of upstream's module.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

E2E = "registry.k8s.io/e2e-test-images/"
K8S = "registry.k8s.io/"
UNNEEDED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/i18n", "var/cache/apt", "var/lib/apt/lists")
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Layer:
    """A layer as it is written; `digest` and `bytes` once it is closed."""

    def __init__(self):
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w")

    def directory(self, name, mode=0o755):
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        self.tar.addfile(entry)
        return self

    def text(self, name, text, mode=0o644):
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(text.encode()), mode
        self.tar.addfile(entry, io.BytesIO(text.encode()))
        return self

    def file(self, source, name, mode=0o755):
        entry = self.tar.gettarinfo(os.path.realpath(source), name)
        entry.mode, entry.uid, entry.gid, entry.uname, entry.gname = mode, 0, 0, "", ""
        with open(source, "rb") as content:
            self.tar.addfile(entry, content)
        return self

    def link(self, name, target):
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self.tar.addfile(entry)
        return self

    def tree(self, root):
        def wanted(entry):
            return None if entry.name.startswith(UNNEEDED) or entry.ischr() or entry.isblk() else entry

        for name in sorted(os.listdir(root)):
            if name not in ("proc", "sys", "dev"):
                self.tar.add(os.path.join(root, name), name, filter=wanted)
        for name in ("proc", "sys", "dev"):
            self.directory(name)
        return self

    def close(self):
        self.tar.close()
        self.bytes = self.buffer.getvalue()
        self.digest = hashlib.sha256(self.bytes).hexdigest()
        return self


class Archive:
    """Images with shared layers."""

    def __init__(self, path):
        self.tar = tarfile.open(path, "w")
        self.written = set()
        self.manifest = []

    def add(self, name, content):
        if name not in self.written:
            self.written.add(name)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            self.tar.addfile(entry, io.BytesIO(content))
        return name

    def image(self, names, layers, **config):
        described = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": [PATH], **config},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + layer.digest for layer in layers]},
            "comment": names[0],
        }
        described = json.dumps(described).encode()
        config_name = self.add(hashlib.sha256(described).hexdigest() + ".json", described)
        paths = [self.add(layer.digest + "/layer.tar", layer.bytes) for layer in layers]
        self.manifest.append({"Config": config_name, "RepoTags": names, "Layers": paths})

    def close(self):
        self.add("manifest.json", json.dumps(self.manifest).encode())
        self.tar.close()


def busybox(root):
    """Its shell is bash: Debian's busybox drops variables from the environment that no shell could name, such as `data-1`."""

    def installed(name):
        return next(path for path in (f"{root}/usr/bin/{name}", f"{root}/bin/{name}") if os.path.exists(path))

    path = installed("busybox")
    layer = Layer()
    for name in ("bin", "dev", "proc", "sys", "etc", "root", "home"):
        layer.directory(name)
    layer.directory("tmp", 0o1777).file(path, "bin/busybox").file(installed("bash-static"), "bin/sh")
    for applet in subprocess.check_output([path, "--list"], text=True).split():
        if applet not in ("busybox", "sh"):
            layer.link("bin/" + applet, "busybox")
    layer.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    return layer.text("etc/group", "root:x:0:\nnogroup:x:65534:\n").close()


def agnhost(root, programs, sources):
    """With the user and the groups that tests of supplemental groups look for."""

    def of(name):
        with open(os.path.join(root, "etc", name), encoding="utf-8") as file:
            return file.read()

    user, group = "user-defined-in-image", "group-defined-in-image"
    layer = Layer().directory("uploads").file(programs + "/agnhost", "agnhost").link("agnhost-2", "agnhost")
    for name in ("localhost.crt", "localhost.key"):
        layer.file(f"{sources}/agnhost/porter/{name}", name, 0o644)
    layer.text("etc/passwd", of("passwd") + f"{user}:x:1000:1000::/home:/bin/sh\n")
    return layer.text("etc/group", of("group") + f"{user}:x:1000:\n{group}:x:50000:{user}\n").close()


def main(root, programs, sources, out):
    debian, small, agn = Layer().tree(root).close(), busybox(root), agnhost(root, programs, sources)

    def program(name, at=None, mode=0o755):
        return Layer().file(f"{programs}/{name}", at or name, mode).close()

    def ports(*numbers):
        return {f"{number}/tcp": {} for number in numbers}

    archive = Archive(out)
    archive.image(
        [E2E + "agnhost:2.63.0", E2E + "agnhost:2.55"], [debian, agn],
        Entrypoint=["/agnhost"], Cmd=["pause"], ExposedPorts=ports(80, 8080, 8081, 9376, 5000))
    for name in ("kitten", "nautilus"):
        data = Layer().file(f"{sources}/{name}/html/data.json", "data.json", 0o644).close()
        archive.image([E2E + name + ":1.8"], [debian, agn, data], Entrypoint=["/agnhost"], Cmd=["test-webserver"], ExposedPorts=ports(80))
    archive.image([E2E + "busybox:1.37.0-1"], [small], Cmd=["sh"])
    archive.image([E2E + "nonroot:1.5"], [small], User="1234", Cmd=["sh"])
    archive.image([E2E + "nonewprivs:1.4"], [small, program("nnp", "usr/local/bin/nnp", 0o4755)], Cmd=["nnp"])
    archive.image([K8S + "pause:3.10.2"], [program("agnhost")], Entrypoint=["/agnhost", "pause"])
    archive.image([E2E + "nginx:1.15-4", E2E + "httpd:2.4.38-4"], [debian], Cmd=["nginx", "-g", "daemon off;"], ExposedPorts=ports(80))
    # Another image with the same content: tests roll from the one to the other.
    newer = ["nginx", "-g", "daemon off; worker_processes 1;"]
    archive.image([E2E + "nginx:1.27-0", E2E + "httpd:2.4.39-4"], [debian], Cmd=newer, ExposedPorts=ports(80))
    archive.image([E2E + "perl:5.26"], [debian], Cmd=["perl"])
    archive.image([E2E + "ipc-utils:1.4", E2E + "glibc-dns-testing:2.0.0"], [debian], Cmd=["sh"])
    archive.image([E2E + "regression-issue-74839:1.4"], [small, program("regression-issue-74839")], Entrypoint=["/regression-issue-74839"])
    consumer = [program("consumer"), program("consume-cpu")]
    archive.image([E2E + "resource-consumer:1.14"], [debian, *consumer], Entrypoint=["/consumer"], ExposedPorts=ports(8080))
    archive.image([E2E + "sample-apiserver:1.29.2"], [small, program("sample-apiserver")], Entrypoint=["/sample-apiserver"])
    etcd = Layer().file("/usr/bin/etcd", "usr/local/bin/etcd").close()
    archive.image([K8S + "etcd:3.6.8-0"], [debian, etcd], Entrypoint=["/usr/local/bin/etcd"])
    archive.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
