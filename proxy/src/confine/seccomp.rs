//! System calls that nothing here makes, by seccomp(2).
//!
//! The filter forbids what is known to be of use to an intruder, and allows the rest, rather than the reverse. The reverse
//! would have to know every call of the C library, the runtime and the kernel's fast paths on every platform, with every
//! update of them; where it is wrong, a pod has no DNS. What is lost by that is won back in part: calls newer than this list
//! are answered as by a kernel that does not have them, which every library is ready for. In a pod the container runtime's
//! own list (RuntimeDefault) holds beside it.
//!
//! What no library does on its own account (running a program, tracing, mounting, loading code into the kernel) ends the
//! process: it is somebody else who acts in it, and a container that ended by SIGSYS is seen, where an error would let them
//! try the next thing. What a library may try and do without is refused with an error. Linux logs both.

use std::io;

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGT, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS, c_int, c_long, sock_filter,
};

/// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// What the calls of this program are of: AUDIT_ARCH_*.
#[cfg(all(target_arch = "x86_64", target_endian = "little"))]
const NATIVE: Option<u32> = Some(0xc000_003e);
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
const NATIVE: Option<u32> = Some(0xc000_00b7);
#[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), target_endian = "little")))]
const NATIVE: Option<u32> = None;

/// The newest call that was looked at: file_setattr, of Linux 6.17. Above it, those of x32 included, there is none.
const NEWEST: c_long = 469;

/// Those that our bindings have no name for, on every platform.
const FCHMODAT2: c_long = 452;
const OPEN_TREE_ATTR: c_long = 467;
const FILE_SETATTR: c_long = 469;

/// Running programs. These end the process, unless a program is to be run; then landlock says which.
const PROGRAMS: &[c_long] = &[libc::SYS_execve, libc::SYS_execveat];

/// These end the process.
#[rustfmt::skip]
const NEVER: &[c_long] = &[
    // other processes' memory and descriptors
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd, libc::SYS_kcmp,
    // mounts, roots, namespaces
    libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot, libc::SYS_move_mount, libc::SYS_fsopen,
    libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick, libc::SYS_open_tree, OPEN_TREE_ATTR,
    libc::SYS_mount_setattr, libc::SYS_open_by_handle_at, libc::SYS_unshare, libc::SYS_setns,
    // the kernel and the machine
    libc::SYS_bpf, libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module, libc::SYS_kexec_load,
    libc::SYS_kexec_file_load, libc::SYS_reboot, libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_acct, libc::SYS_quotactl,
    libc::SYS_quotactl_fd, libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_clock_adjtime, libc::SYS_adjtimex,
    libc::SYS_sethostname, libc::SYS_setdomainname, libc::SYS_vhangup, libc::SYS_syslog,
    // other users
    libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid, libc::SYS_setregid, libc::SYS_setresuid, libc::SYS_setresgid,
    libc::SYS_setfsuid, libc::SYS_setfsgid, libc::SYS_setgroups, libc::SYS_capset,
];

/// These too, where they exist.
#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[c_long] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[c_long] = &[];

/// These are refused.
#[rustfmt::skip]
const REFUSED: &[c_long] = &[
    // ways into the kernel that many faults of it were reached by
    libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_userfaultfd,
    libc::SYS_perf_event_open, libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl, libc::SYS_fanotify_init,
    libc::SYS_personality, libc::SYS_move_pages, libc::SYS_migrate_pages, libc::SYS_name_to_handle_at,
    libc::SYS_shmget, libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_msgget, libc::SYS_semget, libc::SYS_mq_open,
    // what landlock leaves open of a file: its owner, mode, times and attributes
    libc::SYS_fchmod, libc::SYS_fchmodat, FCHMODAT2, libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_utimensat,
    libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr, libc::SYS_removexattr, libc::SYS_lremovexattr,
    libc::SYS_fremovexattr, FILE_SETATTR,
];

/// Signals to and handles of what could be another process. Refused, unless a program is to be run.
#[rustfmt::skip]
const PROCESSES: &[c_long] = &[
    libc::SYS_tkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo, libc::SYS_pidfd_send_signal,
    libc::SYS_pidfd_open, libc::SYS_process_mrelease,
];

/// These too, where they exist: younger platforms have the calls above alone.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] =
    &[libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

/// So with making processes; unless a program is to be run.
#[cfg(target_arch = "x86_64")]
const FORKS: &[c_long] = &[libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const FORKS: &[c_long] = &[];

/// Sockets that DNS and its transports have a use for; pairs of Unix sockets are made by another call.
const FAMILIES: [c_int; 2] = [libc::AF_INET, libc::AF_INET6];

/// Those that programs look for names and addresses with, beside.
const FAMILIES_OF_PROGRAMS: [c_int; 2] = [libc::AF_UNIX, libc::AF_NETLINK];

/// New namespaces, among the flags of clone: CLONE_NEWNS, …CGROUP, …UTS, …IPC, …USER, …PID, …NET.
const NEW_NAMESPACES: c_int = 0x7e02_0000;

/// What becomes of a call.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    Allow,
    Refuse(c_int),
    EndProcess,
}

impl Verdict {
    fn instruction(self) -> sock_filter {
        let value = match self {
            Self::Allow => SECCOMP_RET_ALLOW,
            Self::Refuse(error) => SECCOMP_RET_ERRNO | error.unsigned_abs(),
            Self::EndProcess => SECCOMP_RET_KILL_PROCESS,
        };
        instruction(BPF_RET | BPF_K, value)
    }
}

/// The filter for this process, which is to run programs or not; an error on a platform for which there is none.
pub(super) fn filter(runs_programs: bool) -> io::Result<Vec<sock_filter>> {
    let native = NATIVE.ok_or(io::ErrorKind::Unsupported)?;
    let mut filter = Filter::default();
    filter.load(ARCHITECTURE);
    filter.unless(native, Verdict::EndProcess);
    filter.load(NUMBER);
    filter.when_above(number(NEWEST), Verdict::Refuse(libc::ENOSYS));
    // Its flags are in memory, where a filter cannot look; the C library uses clone then.
    filter.when(number(libc::SYS_clone3), Verdict::Refuse(libc::ENOSYS));
    if runs_programs {
        filter.on_argument(libc::SYS_clone, 0, |filter| {
            filter.when_bits(NEW_NAMESPACES.unsigned_abs(), Verdict::Refuse(libc::EPERM));
            filter.push(Verdict::Allow.instruction());
        });
        filter.allow_sockets(&[&FAMILIES[..], &FAMILIES_OF_PROGRAMS].concat());
    } else {
        filter.refuse_what_programs_need();
        filter.allow_sockets(&FAMILIES);
    }
    NEVER.iter().chain(NEVER_HERE).for_each(|call| filter.when(number(*call), Verdict::EndProcess));
    REFUSED.iter().chain(REFUSED_HERE).for_each(|call| filter.when(number(*call), Verdict::Refuse(libc::EPERM)));
    filter.push(Verdict::Allow.instruction());
    Ok(filter.0)
}

/// A call's number as the kernel gives it.
fn number(call: c_long) -> u32 {
    u32::try_from(call).expect("the numbers of calls are small constants")
}

/// An instruction without a jump.
fn instruction(code: u32, value: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).expect("codes have two octets"), jt: 0, jf: 0, k: value }
}

/// Instructions that each look at what was loaded last.
#[derive(Default)]
struct Filter(Vec<sock_filter>);

impl Filter {
    /// Threads, but no processes; no code but the program's own; signals to itself alone.
    fn refuse_what_programs_need(&mut self) {
        self.on_argument(libc::SYS_clone, 0, |filter| {
            filter.when_bits(NEW_NAMESPACES.unsigned_abs(), Verdict::Refuse(libc::EPERM));
            filter.when_bits(libc::CLONE_THREAD.unsigned_abs(), Verdict::Allow);
            filter.push(Verdict::Refuse(libc::EPERM).instruction());
        });
        for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
            self.on_argument(call, 2, |filter| {
                filter.when_bits(libc::PROT_EXEC.unsigned_abs(), Verdict::Refuse(libc::EPERM));
                filter.push(Verdict::Allow.instruction());
            });
        }
        for call in [libc::SYS_kill, libc::SYS_tgkill] {
            // A panic that ends the process does so by a signal to itself.
            self.on_argument(call, 0, |filter| {
                filter.when(std::process::id(), Verdict::Allow);
                filter.push(Verdict::Refuse(libc::EPERM).instruction());
            });
        }
        PROGRAMS.iter().for_each(|call| self.when(number(*call), Verdict::EndProcess));
        PROCESSES.iter().chain(FORKS).for_each(|call| self.when(number(*call), Verdict::Refuse(libc::EPERM)));
    }

    fn allow_sockets(&mut self, families: &[c_int]) {
        self.on_argument(libc::SYS_socket, 0, |filter| {
            families.iter().for_each(|family| filter.when(family.unsigned_abs(), Verdict::Allow));
            filter.push(Verdict::Refuse(libc::EAFNOSUPPORT).instruction());
        });
    }

    fn push(&mut self, instruction: sock_filter) {
        self.0.push(instruction);
    }

    fn load(&mut self, offset: u32) {
        self.push(instruction(BPF_LD | BPF_W | BPF_ABS, offset));
    }

    /// A verdict that is jumped over unless the comparison holds.
    fn decide(&mut self, comparison: u32, value: u32, verdict: Verdict) {
        self.push(sock_filter { jf: 1, ..instruction(BPF_JMP | comparison | BPF_K, value) });
        self.push(verdict.instruction());
    }

    fn when(&mut self, value: u32, verdict: Verdict) {
        self.decide(BPF_JEQ, value, verdict);
    }

    fn when_above(&mut self, value: u32, verdict: Verdict) {
        self.decide(BPF_JGT, value, verdict);
    }

    fn when_bits(&mut self, bits: u32, verdict: Verdict) {
        self.decide(BPF_JSET, bits, verdict);
    }

    fn unless(&mut self, value: u32, verdict: Verdict) {
        self.push(sock_filter { jt: 1, ..instruction(BPF_JMP | BPF_JEQ | BPF_K, value) });
        self.push(verdict.instruction());
    }

    /// What decides on a call by the lower half of one of its arguments, and comes to a verdict in each case.
    fn on_argument(&mut self, call: c_long, argument: u32, decide: impl FnOnce(&mut Self)) {
        let mut body = Self::default();
        body.load(ARGUMENTS + 8 * argument);
        decide(&mut body);
        let length = u8::try_from(body.0.len()).expect("a few instructions");
        self.push(sock_filter { jf: length, ..instruction(BPF_JMP | BPF_JEQ | BPF_K, number(call)) });
        self.0.append(&mut body.0);
    }
}
