"""Seccomp filter of a WASM worker: no other programs, no other processes, no network, no kernel interfaces.

The filter is a list of refusals, for what CPython, gRPC and wasmtime may call is not ours to list. Two things keep such
a list closed: a syscall newer than the ones reviewed here does not exist, and neither does one of another architecture.
"""

import ctypes
import errno
import os
import socket
import struct
import sys
from dataclasses import dataclass

_LIBC = ctypes.CDLL(None, use_errno=True)


def _table(text: str) -> dict[str, int]:
    words = [word for line in text.splitlines() if "#" not in line for word in line.split()]
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


# Every syscall named in these tables is refused, unless `_decided_by_argument` names it too.
# From 424 (Linux 5.1) on, the numbers are the same on every architecture: asm-generic/unistd.h.
_EVERYWHERE = _table("""
    pidfd_send_signal 424  pidfd_open 434  pidfd_getfd 438  process_madvise 440  process_mrelease 448
    io_uring_setup 425  io_uring_enter 426  io_uring_register 427  clone3 435  memfd_secret 447
    open_tree 428  move_mount 429  fsopen 430  fsconfig 431  fsmount 432  fspick 433  mount_setattr 442
    open_tree_attr 467  quotactl_fd 443  lsm_set_self_attr 460
    fchmodat2 452  setxattrat 463  removexattrat 466  file_setattr 469
""")

# asm/unistd_64.h of x86_64
_X86_64 = _EVERYWHERE | _table("""
    # programs and processes
    execve 59  execveat 322  fork 57  vfork 58  clone 56  ptrace 101  kcmp 312
    process_vm_readv 310  process_vm_writev 311  migrate_pages 256  move_pages 279  personality 135  prctl 157
    seccomp 317  kill 62  tkill 200  tgkill 234  rt_sigqueueinfo 129  rt_tgsigqueueinfo 297  setsid 112  setpgid 109
    prlimit64 302  setpriority 141  ioprio_set 251
    sched_setparam 142  sched_setscheduler 144  sched_setattr 314  sched_setaffinity 203
    # users and privileges
    setuid 105  setgid 106  setreuid 113  setregid 114  setresuid 117  setresgid 119  setfsuid 122  setfsgid 123
    setgroups 116  capset 126  keyctl 250  add_key 248  request_key 249
    # memory and descriptors, decided by argument
    mmap 9  mprotect 10  pkey_mprotect 329  ioctl 16  fcntl 72  socket 41  socketpair 53
    # what Landlock leaves open in the file system
    chmod 90  fchmod 91  fchmodat 268  chown 92  fchown 93  lchown 94  fchownat 260
    utime 132  utimes 235  futimesat 261  utimensat 280  setxattr 188  lsetxattr 189  fsetxattr 190
    removexattr 197  lremovexattr 198  fremovexattr 199
    inotify_add_watch 254  fanotify_init 300  fanotify_mark 301  open_by_handle_at 304  lookup_dcookie 212
    # System V and POSIX IPC, shared with every process of the user
    shmget 29  shmat 30  shmctl 31  shmdt 67  semget 64  semop 65  semctl 66  semtimedop 220
    msgget 68  msgsnd 69  msgrcv 70  msgctl 71  mq_open 240  mq_unlink 241
    # mounts and namespaces
    mount 165  umount2 166  pivot_root 155  chroot 161  unshare 272  setns 308
    # the kernel and the machine
    bpf 321  perf_event_open 298  userfaultfd 323  init_module 175  finit_module 313  delete_module 176
    create_module 174  query_module 178  get_kernel_syms 177  kexec_load 246  kexec_file_load 320  reboot 169
    swapon 167  swapoff 168  acct 163  quotactl 179  syslog 103  modify_ldt 154  iopl 172  ioperm 173  uselib 134
    vhangup 153  nfsservctl 180  _sysctl 156  sethostname 170  setdomainname 171
    settimeofday 164  clock_settime 227  clock_adjtime 305  adjtimex 159
""")

# asm-generic/unistd.h, which aarch64 uses as it is; the older forms that x86_64 kept do not exist here
_AARCH64 = _EVERYWHERE | _table("""
    # programs and processes
    execve 221  execveat 281  clone 220  ptrace 117  kcmp 272
    process_vm_readv 270  process_vm_writev 271  migrate_pages 238  move_pages 239  personality 92  prctl 167
    seccomp 277  kill 129  tkill 130  tgkill 131  rt_sigqueueinfo 138  rt_tgsigqueueinfo 240  setsid 157  setpgid 154
    prlimit64 261  setpriority 140  ioprio_set 30
    sched_setparam 118  sched_setscheduler 119  sched_setattr 274  sched_setaffinity 122
    # users and privileges
    setuid 146  setgid 144  setreuid 145  setregid 143  setresuid 147  setresgid 149  setfsuid 151  setfsgid 152
    setgroups 159  capset 91  keyctl 219  add_key 217  request_key 218
    # memory and descriptors, decided by argument
    mmap 222  mprotect 226  pkey_mprotect 288  ioctl 29  fcntl 25  socket 198  socketpair 199
    # what Landlock leaves open in the file system
    fchmod 52  fchmodat 53  fchown 55  fchownat 54  utimensat 88
    setxattr 5  lsetxattr 6  fsetxattr 7  removexattr 14  lremovexattr 15  fremovexattr 16
    inotify_add_watch 27  fanotify_init 262  fanotify_mark 263  open_by_handle_at 265  lookup_dcookie 18
    # System V and POSIX IPC, shared with every process of the user
    shmget 194  shmat 196  shmctl 195  shmdt 197  semget 190  semop 193  semctl 191  semtimedop 192
    msgget 186  msgsnd 189  msgrcv 188  msgctl 187  mq_open 180  mq_unlink 181
    # mounts and namespaces
    mount 40  umount2 39  pivot_root 41  chroot 51  unshare 97  setns 268
    # the kernel and the machine
    bpf 280  perf_event_open 241  userfaultfd 282  init_module 105  finit_module 273  delete_module 106
    kexec_load 104  kexec_file_load 294  reboot 142  swapon 224  swapoff 225  acct 89  quotactl 60  syslog 116
    vhangup 58  nfsservctl 42  sethostname 161  setdomainname 162
    settimeofday 170  clock_settime 112  clock_adjtime 266  adjtimex 171
""")

SYSCALLS = {"x86_64": _X86_64, "aarch64": _AARCH64}

# rseq_slice_yield, of Linux 7.0. The numbers of x32, 512 to 547 and from 0x40000000, are beyond it too.
_LAST_REVIEWED = 471

# linux/audit.h: AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# linux/seccomp.h
_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NR_OFFSET, _ARCH_OFFSET, _ARGS_OFFSET = 0, 4, 16  # struct seccomp_data

# linux/bpf_common.h: class | size or operation | mode or source
_LOAD, _AND, _JUMP_IF_EQUAL, _JUMP_IF_GREATER, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06

_EPERM = _ERRNO | errno.EPERM
_ENOSYS = _ERRNO | errno.ENOSYS

_CLONE_THREAD = 0x00010000  # linux/sched.h
_CLONE_NEW_ANYTHING = 0x7E020080  # every CLONE_NEW* there
_WRITE_EXEC = 0x2 | 0x4  # asm-generic/mman-common.h: PROT_WRITE, PROT_EXEC
# linux/prctl.h: PDEATHSIG, DUMPABLE, KEEPCAPS, SECCOMP, SECUREBITS, MM, CHILD_SUBREAPER, PTRACER: what undoes confine()
_PRCTL_REFUSED = (1, 4, 8, 22, 28, 35, 36, 0x59616D61)
_FCNTL_REFUSED = (8, 10, 15)  # asm-generic/fcntl.h: F_SETOWN, F_SETSIG, F_SETOWN_EX signal whom they please
# asm-generic/ioctls.h, sockios.h: TIOCSTI, TIOCLINUX type into a terminal; FIOSETOWN, SIOCSPGRP are F_SETOWN again
_IOCTL_REFUSED = (0x5412, 0x541C, 0x8901, 0x8902)


@dataclass(frozen=True, slots=True)
class _Decision:
    """Compares the low half of an argument, under `mask`, with `values`: the kernel too reads only that of these."""

    argument: int
    values: tuple[int, ...]
    matching: int
    otherwise: int
    mask: int = 0xFFFFFFFF


def _only(argument: int, *values: int, mask: int = 0xFFFFFFFF) -> _Decision:
    return _Decision(argument, values, _ALLOW, _EPERM, mask)


def _never(argument: int, *values: int, mask: int = 0xFFFFFFFF) -> _Decision:
    return _Decision(argument, values, _EPERM, _ALLOW, mask)


def _decided_by_argument(pid: int) -> dict[str, _Decision]:
    signals = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")  # abort() and raise() signal oneself
    own = ("prlimit64", "sched_setparam", "sched_setscheduler", "sched_setattr", "sched_setaffinity")
    return {
        **{name: _only(0, pid) for name in signals},
        **{name: _only(0, 0, pid) for name in own},
        **{name: _only(0, socket.AF_UNIX) for name in ("socket", "socketpair")},
        **{name: _never(2, _WRITE_EXEC, mask=_WRITE_EXEC) for name in ("mmap", "mprotect", "pkey_mprotect")},
        "clone": _only(0, _CLONE_THREAD, mask=_CLONE_THREAD | _CLONE_NEW_ANYTHING),
        "prctl": _never(0, *_PRCTL_REFUSED),
        "ioctl": _never(1, *_IOCTL_REFUSED),
        "fcntl": _never(1, *_FCNTL_REFUSED),
    }


def _instruction(code: int, operand: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)  # linux/filter.h: struct sock_filter


def _return_if_equal(value: int, action: int) -> bytes:
    return _instruction(_JUMP_IF_EQUAL, value, if_false=1) + _instruction(_RETURN, action)


def _return_by_argument(number: int, decision: _Decision) -> bytes:
    body = _instruction(_LOAD, _ARGS_OFFSET + 8 * decision.argument) + _instruction(_AND, decision.mask)
    body += b"".join(_return_if_equal(value, decision.matching) for value in decision.values)
    body += _instruction(_RETURN, decision.otherwise)
    # The body loses the syscall number, and may, for it always returns.
    return _instruction(_JUMP_IF_EQUAL, number, if_false=len(body) // 8) + body


def filter_program(machine: str, pid: int) -> bytes:
    """The BPF program for process `pid` on `machine`, a key of `SYSCALLS`."""
    numbers, decisions = SYSCALLS[machine], _decided_by_argument(pid)
    return b"".join(
        (
            _instruction(_LOAD, _ARCH_OFFSET),
            _instruction(_JUMP_IF_EQUAL, _AUDIT_ARCH[machine], if_true=1),
            _instruction(_RETURN, _KILL_PROCESS),
            _instruction(_LOAD, _NR_OFFSET),
            _instruction(_JUMP_IF_GREATER, _LAST_REVIEWED, if_false=1),
            _instruction(_RETURN, _ENOSYS),
            # The flags of clone3 are behind a pointer; libc takes ENOSYS as "use clone".
            _return_if_equal(numbers["clone3"], _ENOSYS),
            *(_return_by_argument(numbers[name], decision) for name, decision in decisions.items()),
            *(_return_if_equal(numbers[name], _EPERM) for name in numbers if name not in decisions),
            _instruction(_RETURN, _ALLOW),
        )
    )


def this_machine() -> str:
    """This machine's key of `SYSCALLS`; OSError when there is none."""
    name = os.uname().machine
    if name not in SYSCALLS or sys.maxsize < 2**32:
        raise OSError(errno.ENOSYS, f"no syscall table for a process of {sys.maxsize.bit_length() + 1} bits on {name}")
    return name


def call_libc(function: str, *arguments: int | bytes) -> int:
    """Calls a libc function that reports through errno; OSError when it does. `bytes` go as a pointer to read from."""
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = _LIBC[function](*words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def install_filter() -> None:
    """Filters every thread of this process, present and future. Needs no_new_privs; OSError when it is refused."""
    name = this_machine()
    program = ctypes.create_string_buffer(filter_program(name, os.getpid()))
    length = (len(program) - 1) // 8  # create_string_buffer adds a NUL
    descriptor = struct.pack("@HP", length, ctypes.addressof(program))  # struct sock_fprog
    stray = call_libc("syscall", SYSCALLS[name]["seccomp"], _SET_MODE_FILTER, _FLAG_TSYNC, descriptor)
    if stray:  # seccomp(2): with TSYNC the id of a thread that could not be synchronised, and no thread is filtered
        raise OSError(errno.EBUSY, f"thread {stray} has a filter of its own")
