//! The system calls of confinement, which the standard library does not make.

#![expect(unsafe_code, reason = "system calls that the standard library does not make; each with its safety argument")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_int, c_long, c_uint, c_ulong, c_ushort, sock_filter};

/// LANDLOCK_CREATE_RULESET_VERSION.
const VERSION: c_uint = 1;
/// LANDLOCK_RULE_PATH_BENEATH and LANDLOCK_RULE_NET_PORT.
const PATH_BENEATH: c_int = 1;
const NET_PORT: c_int = 2;

/// struct landlock_ruleset_attr, as of ABI 6; an older kernel takes it as long as what it does not know is 0.
#[repr(C)]
struct RulesetAttributes {
    files: u64,
    net: u64,
    scoped: u64,
}

/// struct landlock_path_beneath_attr.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: RawFd,
}

/// struct landlock_net_port_attr.
#[repr(C)]
struct NetPort {
    allowed: u64,
    port: u64,
}

/// A set of landlock rules, not in force yet.
pub(super) struct Ruleset(OwnedFd);

fn done(outcome: c_long) -> io::Result<c_long> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}

/// Other processes of this user can no longer read what this one has in memory, or trace it.
pub(super) fn set_undumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// Programs get no rights by being run.
pub(super) fn set_no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

fn prctl(option: c_int, value: c_ulong) -> io::Result<()> {
    let none: c_ulong = 0;
    // SAFETY: both options that come here take numbers alone, and prctl reads as many of them.
    let outcome = unsafe { libc::prctl(option, value, none, none, none) };
    done(outcome.into()).map(drop)
}

/// No core file is written, and none can be asked for later.
pub(super) fn set_no_core() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a limit that outlives the call.
    let outcome = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    done(outcome.into()).map(drop)
}

/// Which landlock the kernel has, from 1; an error where it has none, or it is switched off.
pub(super) fn landlock_abi() -> io::Result<u32> {
    let (none, size): (*const RulesetAttributes, usize) = (ptr::null(), 0);
    // SAFETY: to tell its version the kernel is given no memory.
    let outcome = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, size, VERSION) };
    done(outcome).map(|abi| u32::try_from(abi).unwrap_or(u32::MAX))
}

impl Ruleset {
    /// A set that forbids these rights on files, on the network and these reaches beyond, except what is allowed.
    pub(super) fn handling(files: u64, net: u64, scoped: u64) -> io::Result<Self> {
        let attributes = RulesetAttributes { files, net, scoped };
        let (size, flags): (usize, c_uint) = (size_of::<RulesetAttributes>(), 0);
        // SAFETY: the pointer is to attributes of that size that outlive the call.
        let outcome = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, size, flags) };
        let descriptor = RawFd::try_from(done(outcome)?).map_err(io::Error::other)?;
        // SAFETY: the kernel has just opened it for us, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Allows these rights on a file, or on a directory and all below it.
    pub(super) fn allow_beneath(&self, parent: BorrowedFd<'_>, allowed: u64) -> io::Result<()> {
        let rule = PathBeneath { allowed, parent: parent.as_raw_fd() };
        self.add(PATH_BENEATH, &rule)
    }

    /// Allows these rights on a TCP port.
    pub(super) fn allow_port(&self, port: u16, allowed: u64) -> io::Result<()> {
        self.add(NET_PORT, &NetPort { allowed, port: port.into() })
    }

    fn add<T>(&self, kind: c_int, rule: &T) -> io::Result<()> {
        let flags: c_uint = 0;
        let rule: *const T = rule;
        // SAFETY: the descriptor is open while `self` is borrowed. The rule is the structure that its kind stands for (both
        // callers are right above), and outlives the call.
        let outcome = unsafe { libc::syscall(libc::SYS_landlock_add_rule, self.0.as_raw_fd(), kind, rule, flags) };
        done(outcome).map(drop)
    }

    /// Puts it in force, for this thread and those that it will start.
    pub(super) fn restrict_self(&self) -> io::Result<()> {
        let flags: c_uint = 0;
        // SAFETY: no pointers; the descriptor is open while `self` is borrowed.
        let outcome = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.0.as_raw_fd(), flags) };
        done(outcome).map(drop)
    }
}

/// Puts a filter of system calls in force, for all threads.
pub(super) fn install_filter(filter: &[sock_filter]) -> io::Result<()> {
    // The kernel's audit log tells what was refused. And SPEC_ALLOW: no code of strangers runs here that could time our
    // memory accesses, for which older kernels would slow all of them down.
    let usual = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_LOG | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    install_filter_with(filter, usual).or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => install_filter_with(filter, libc::SECCOMP_FILTER_FLAG_TSYNC), // before Linux 4.17
        _ => Err(error),
    })
}

fn install_filter_with(filter: &[sock_filter], flags: c_ulong) -> io::Result<()> {
    let length = c_ushort::try_from(filter.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the pointer is to a program that outlives the call, and it points to as many instructions as it says. The
    // kernel copies them, and writes nothing.
    let outcome = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match done(outcome)? {
        0 => Ok(()),
        thread => Err(io::Error::other(format!("thread {thread} has a filter of its own"))),
    }
}
