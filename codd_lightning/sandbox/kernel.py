"""Linux system calls that Python has no functions for."""

import ctypes
import os
import struct

PDEATHSIG, DUMPABLE, SECCOMP, SUBREAPER, NO_NEW_PRIVS = 1, 4, 22, 36, 38  # of prctl

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # by the numbers that seccomp knows them by
# Calls that give a program more of the kernel than it needs, or memory that no limit counts: their numbers, by machine
# in the order above.
REFUSED = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "personality": (135, 92),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}
OTHERS = {"clone": (56, 220), "clone3": (435, 435), "socket": (41, 198)}
NAMESPACE_FLAGS = 0x7E020000  # of clone: every kind of namespace

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x00050001, 0x00050026  # EPERM, ENOSYS
_libc = ctypes.CDLL(None, use_errno=True)


def explain(error: OSError) -> str:
    """What failed and why, in one line."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def _number(numbers: tuple[int, ...]) -> int:
    """Of a call on this machine."""
    return numbers[list(MACHINES).index(os.uname().machine)]


def check(returned: int, doing: str) -> None:
    """Raises OSError with what was being done where a C function answered -1."""
    if returned == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{doing}: {os.strerror(error)}")


def prctl(option: int, value: int) -> None:
    """Sets one attribute of this process."""
    check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def unshare(flags: int) -> None:
    """Moves this process into new namespaces."""
    check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2)."""
    words = [word.encode() if word is not None else None for word in (source, target, kind, options)]
    check(_libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mount {target}")


def unmount_lazily(target: str) -> None:
    """umount2(2) with MNT_DETACH."""
    check(_libc.umount2(target.encode(), 2), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    check(
        _libc.syscall(ctypes.c_long(_number(REFUSED["pivot_root"])), new_root.encode(), put_old.encode()), "pivot_root"
    )


def lock_mounts(target: str) -> None:
    """Makes a mount and all below it read-only, without set-user-id programs (Linux 5.12)."""
    attributes = ctypes.create_string_buffer(struct.pack("QQQQ", 0x1 | 0x2, 0, 0, 0))
    answer = _libc.syscall(
        ctypes.c_long(_number(REFUSED["mount_setattr"])), -100, target.encode(), 0x8000, attributes, ctypes.c_size_t(32)
    )
    check(answer, f"read-only {target}")


def refuse_calls(sockets: bool) -> None:
    """Seccomp: refuses the calls named above, and new namespaces, in this process and all that it will start.

    Args:
        sockets: whether the program may make sockets, which a network namespace of its own makes harmless.
    """
    refused = [_number(numbers) for numbers in REFUSED.values()]
    if not sockets:
        refused.append(_number(OTHERS["socket"]))
    # Each test jumps over what follows it, or falls into its verdict.
    program = [
        (_LOAD, 0, 0, 4),  # the machine
        (_JUMP_EQUAL, 1, 0, MACHINES[os.uname().machine]),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, 0),  # the call
        (_JUMP_GREATER_EQUAL, 0, 1, 0x40000000),  # x86-64's second table
        (_RETURN, 0, 0, _REFUSE),
        (_JUMP_EQUAL, 0, 1, _number(OTHERS["clone3"])),  # its flags lie in memory; without it, C libraries take clone
        (_RETURN, 0, 0, _UNKNOWN),
    ]
    for call in refused:
        program += [(_JUMP_EQUAL, 0, 1, call), (_RETURN, 0, 0, _REFUSE)]
    program += [
        (_JUMP_EQUAL, 0, 3, _number(OTHERS["clone"])),
        (_LOAD, 0, 0, 16),  # its flags
        (_JUMP_ANY_BIT, 0, 1, NAMESPACE_FLAGS),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    prctl(NO_NEW_PRIVS, 1)
    check(_libc.prctl(SECCOMP, ctypes.c_ulong(2), header, 0, 0), "seccomp")
