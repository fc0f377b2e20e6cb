"""A sandbox of Linux namespaces: no network, no other processes, no files but the system's, read-only."""

import os
from collections.abc import Sequence
from pathlib import Path

from codd_lightning.sandbox.kernel import lock_mounts, mount, pivot_root, unmount_lazily, unshare

NOBODY = 65534
# What programs need of the system; nothing here belongs to a user.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
SETTINGS = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

_USER, _MOUNT, _PROCESS, _NETWORK, _IPC, _HOST = 0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000
_NOSUID, _NODEV, _NOEXEC, _RECURSIVE_BIND, _RECURSIVE_PRIVATE = 0x2, 0x4, 0x8, 0x5000, 0x44000
_OLD = "/.old"


def enter() -> None:
    """Moves this process into namespaces of its own; its next child is the first process in them.

    For root, the user `nobody` exists inside beside root, so that limits bind who runs as `nobody`. For anyone else,
    the caller is called `nobody` inside.

    Raises:
        OSError: the system does not let this user make namespaces.
    """
    outside, group, this = os.geteuid(), os.getegid(), os.getpid()
    unshared_read, unshared_write = os.pipe()
    helper = os.fork()
    if not helper:  # stays outside, where it may write the maps of users
        os.close(unshared_write)
        os.read(unshared_read, 1)
        try:
            if outside:
                Path(f"/proc/{this}/setgroups").write_text("deny")
            for name, number in (("uid_map", outside), ("gid_map", group)):
                lines = f"{NOBODY} {number} 1" if outside else f"0 0 1\n{NOBODY} {NOBODY} 1"
                Path(f"/proc/{this}/{name}").write_text(lines)
        except OSError:
            os._exit(1)
        os._exit(0)
    unshare(_USER)
    os.close(unshared_write)
    if os.waitpid(helper, 0)[1]:
        raise OSError("the map of users could not be written")
    os.close(unshared_read)
    unshare(_MOUNT | _PROCESS | _NETWORK | _IPC | _HOST)


def hide_files(readable: Sequence[str], files_mib: int) -> None:
    """Replaces the root directory by one that holds the system, some folders and an empty `/tmp`.

    Args:
        readable: folders that the program may read, beside the system's.
        files_mib: the size of `/tmp`.
    """
    mount("none", "/", None, _RECURSIVE_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    Path("/tmp" + _OLD).mkdir()
    pivot_root("/tmp", "/tmp" + _OLD)
    os.chdir("/")
    for path in (*SYSTEM, *SETTINGS, *readable):
        _show(path)
    for device in DEVICES:
        _attach(device)
    for path in ("/proc", "/tmp"):
        Path(path).mkdir()
    mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC, "subset=pid")
    unmount_lazily(_OLD)
    Path(_OLD).rmdir()
    Path("/dev/shm").symlink_to("/tmp")
    lock_mounts("/")
    mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, f"size={files_mib}m,nr_inodes=4096,mode=1777")


def _show(path: str) -> None:
    """Makes a folder or file of the old root visible at the same place."""
    old, new = Path(_OLD + path), Path(path)
    if new.exists() or new.is_symlink():
        return
    if old.is_symlink() and old.parent == Path(_OLD):  # /bin -> usr/bin
        new.symlink_to(old.readlink())
    elif old.exists():
        _attach(path)


def _attach(path: str) -> None:
    old, new = Path(_OLD + path), Path(path)
    new.parent.mkdir(parents=True, exist_ok=True)
    if old.is_dir():
        new.mkdir()
    else:
        new.touch()
    mount(str(old), path, None, _RECURSIVE_BIND)
