//! A kernel without landlock and seccomp, as the program sees it: both calls answer ENOSYS.

#![expect(unsafe_code, reason = "the filter has to be there before the program runs")]

use std::io;
use std::os::unix::process::CommandExt;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

use super::started::{Directory, Started, command};
use super::{Authority, Server, admin, ask, configuration};

#[tokio::test]
async fn a_kernel_without_landlock_and_seccomp_is_told_once_and_queries_are_answered() {
    let (directory, authority) = (Directory::new(), Authority::new());
    let server = Server::tls(&authority).await;
    let mut command = command(&directory, &configuration(&directory, &authority, &[server.url()], "").await);
    // SAFETY: between fork and exec it makes system calls alone, and touches no memory but its own stack.
    unsafe { command.pre_exec(take_away) };
    let mut proxy = Started::by(command);
    let line = proxy.line();
    for part in
        ["\"WARN\"", "undumpable, no-core, no-new-privileges\"", "landlock: Function not", "seccomp: Function not"]
    {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert_eq!(ask(proxy.address, "www.example.com").await.answers.len(), 1);
    let (_, metrics) = admin(proxy.admin, "/metrics").await;
    assert!(metrics.contains("dot_proxy_confinement{measure=\"landlock\"} 0"), "{metrics}");
    assert!(metrics.contains("dot_proxy_confinement{measure=\"undumpable\"} 1"), "{metrics}");
}

fn take_away() -> io::Result<()> {
    let without = |code: u32, jt, jf, k| sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k };
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or_default();
    let mut filter = [
        without(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        without(BPF_JMP | BPF_JEQ | BPF_K, 2, 0, number(libc::SYS_landlock_create_ruleset)),
        without(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, number(libc::SYS_seccomp)),
        without(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        without(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()),
    ];
    let program = libc::sock_fprog { len: 5, filter: filter.as_mut_ptr() };
    // SAFETY: the first takes numbers; the second a program of five instructions that outlives the call.
    let outcome = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
