//! The default rights of a machine's process: its capabilities, and its system call filter.
//!
//! The filter follows docker's profile (moby, `profiles/seccomp/default_linux.go`) with one
//! difference, which podman makes too: what no rule names fails with `ENOSYS`, so that
//! programs fall back to what is allowed; what is refused on purpose fails with `EPERM`.

use std::borrow::Cow;

use crate::plan::{Seccomp, SeccompAction, SeccompCondition, SeccompRule};

/// Docker's default set (moby, `oci/caps/defaults.go`), sorted.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What a booted system has: as systemd-nspawn(1) has it by default (systemd,
/// src/nspawn/nspawn.c, `arg_caps_retain`), sorted.
pub const BOOT_CAPABILITIES: [&str; 26] = [
    "AUDIT_CONTROL",
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_NICE",
    "SYS_PTRACE",
    "SYS_RESOURCE",
    "SYS_TTY_CONFIG",
];

const EPERM: SeccompAction = SeccompAction::Errno(1);
const ENOSYS: SeccompAction = SeccompAction::Errno(38);

/// Harmless to the host: files, memory, processes, time, sockets and signals of one's own.
const ALLOWED: &str = "
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir
    chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64
    clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod
    fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock
    fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate
    ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
    get_mempolicy get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid
    getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid
    getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32
    getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr
    getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
    io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set
    ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32
    lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr lseek
    lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore
    mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify
    mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap
    mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep
    newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc
    pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64
    process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readdir
    readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
    removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile
    sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid
    setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
    setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget
    shutdown sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn
    sigsuspend socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink
    symlinkat sync sync_file_range sync_file_range2 syncfs sysinfo tee tgkill time timer_create
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill
    truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat
    utimensat_time64 utimes vfork wait4 waitid waitpid write writev
    arch_prctl modify_ldt arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls
    riscv_flush_icache ptrace process_vm_readv process_vm_writev kcmp
";

/// What a capability opens.
const BY_CAPABILITY: [(&str, &str); 12] = [
    ("BPF", "bpf"),
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    ("PERFMON", "perf_event_open"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount
         mount_setattr move_mount open_tree open_tree_attr perf_event_open pivot_root quotactl
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module finit_module init_module"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYS_PACCT", "acct"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
];

/// Refused on purpose, so that a program learns that it lacks a right and not that
/// the kernel is old: the calls above, without their capability, and these.
const REFUSED: &str = "
    add_key io_uring_enter io_uring_register io_uring_setup kexec_file_load kexec_load keyctl
    migrate_pages move_pages nfsservctl pidfd_getfd process_madvise request_key swapoff swapon
    userfaultfd uselib ustat vm86 vm86old vmsplice
";

/// See keyrings(7).
const KEYRINGS: &str = "add_key keyctl request_key";

/// Bits of clone(2) that make namespaces: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;

/// Address family of vsock(7), which is not confined by network namespaces.
const AF_VSOCK: u64 = 40;

/// personality(2): PER_LINUX, PER_LINUX32, with UNAME26, and the question what it is.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Calls that wait for the disk.
const SYNC: &str = "fsync fdatasync sync syncfs msync sync_file_range sync_file_range2";

/// The filter for a process with these capabilities. With `suppress_sync` no wish to wait
/// for the disk is granted (as systemd-nspawn's `--suppress-sync`): for baking, whose
/// result is flushed once when it is whole.
pub fn default(capabilities: &[String], suppress_sync: bool) -> Seccomp {
    let has = |name: &str| capabilities.iter().any(|c| c == name);
    let mut allowed: Vec<Cow<'static, str>> = words(ALLOWED);
    let mut refused: Vec<Cow<'static, str>> = words(REFUSED);
    for (capability, names) in BY_CAPABILITY {
        if has(capability) { allowed.extend(words(names)) } else { refused.extend(words(names)) }
    }
    let mut rules = Vec::new();
    if suppress_sync {
        rules.push(rule(words(SYNC), SeccompAction::Errno(0), vec![]));
    }
    rules.extend([
        rule(allowed, SeccompAction::Allow, vec![]),
        rule(one("clone"), SeccompAction::Allow, vec![equal(0, CLONE_NAMESPACES, 0)]),
        // Its flags are behind a pointer, which a filter cannot follow: callers fall back to clone.
        rule(one("clone3"), ENOSYS, vec![]),
        rule(
            one("socket"),
            SeccompAction::Allow,
            vec![SeccompCondition { not: true, ..equal(0, u64::MAX, AF_VSOCK) }],
        ),
        rule(one("socket"), EPERM, vec![]),
    ]);
    rules.extend(PERSONALITIES.map(|p| {
        rule(one("personality"), SeccompAction::Allow, vec![equal(0, u64::from(u32::MAX), p)])
    }));
    rules.push(rule(one("personality"), EPERM, vec![]));
    rules.push(rule(refused, EPERM, vec![]));
    Seccomp { default: ENOSYS, rules }
}

/// Lets keyrings be made: crun gives each container one, and fails where it may not (crun,
/// src/libcrun/linux.c, `libcrun_create_keyring`). They are the machine's own users'.
pub fn allow_keyrings(seccomp: &mut Seccomp) {
    seccomp.rules.insert(0, rule(words(KEYRINGS), SeccompAction::Allow, vec![]));
}

fn words(text: &'static str) -> Vec<Cow<'static, str>> {
    text.split_ascii_whitespace().map(Cow::Borrowed).collect()
}

fn one(name: &'static str) -> Vec<Cow<'static, str>> {
    vec![Cow::Borrowed(name)]
}

fn rule(
    names: Vec<Cow<'static, str>>,
    action: SeccompAction,
    conditions: Vec<SeccompCondition>,
) -> SeccompRule {
    SeccompRule { names, action, conditions }
}

fn equal(argument: u8, mask: u64, value: u64) -> SeccompCondition {
    SeccompCondition { argument, mask, value, not: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict for a name where no condition holds or fails unknowingly.
    fn verdicts(seccomp: &Seccomp, name: &str) -> Vec<SeccompAction> {
        seccomp
            .rules
            .iter()
            .filter(|r| r.names.iter().any(|n| n == name))
            .map(|r| r.action)
            .collect()
    }

    #[test]
    fn namespaces_need_sys_admin() {
        let without = default(&[], false);
        for name in ["mount", "unshare", "setns", "bpf", "umount2"] {
            assert_eq!(verdicts(&without, name)[0], EPERM, "{name}");
        }
        assert_eq!(verdicts(&without, "clone3")[0], ENOSYS);
        let with = default(&["SYS_ADMIN".to_owned()], false);
        for name in ["mount", "unshare", "setns", "clone", "clone3"] {
            assert_eq!(verdicts(&with, name)[0], SeccompAction::Allow, "{name}");
        }
    }

    #[test]
    fn nothing_is_both_allowed_and_refused() {
        for word in words(REFUSED) {
            assert!(!words(ALLOWED).contains(&word), "{word}");
        }
    }

    #[test]
    fn io_uring_and_keys_are_refused() {
        for name in ["io_uring_setup", "keyctl", "userfaultfd", "kexec_load"] {
            assert_eq!(verdicts(&default(&["SYS_ADMIN".into()], true), name), [EPERM], "{name}");
        }
    }
}
