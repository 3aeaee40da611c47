//! What the program gives up after its start, on the kernel that this runs on.

#![cfg(target_os = "linux")]

mod attempts;
mod older_kernel;
pub mod started;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use hickory_proto::rr::RecordType;
use tokio::net::TcpListener;

use self::attempts::Attempt;
use self::started::{Directory, Started, command, without_rights};
use crate::authority::Authority;
use crate::client::{ask, ask_over_tcp, message};
use crate::proxy::admin;
use crate::quic_server::{Act, QuicServer};
use crate::server::Server;
use crate::server::unused_address;
use crate::unbound::Unbound;

/// A configuration with its CA in a file beside it.
async fn configuration(
    directory: &Directory,
    authority: &Authority,
    servers: &[String],
    more: &str,
) -> std::path::PathBuf {
    let ca = directory.file("ca.pem", &authority.pem());
    let upstream = format!("{{servers: {servers:?}, caFile: {}}}", ca.display());
    // Ports that are known beforehand, as in a pod: others cannot be listened on then.
    let (own, admin) = (unused_address(), unused_address());
    let listen = format!("listen: {{host: 127.0.0.1, port: {}}}\nadmin: {{address: \"{admin}\"}}", own.port());
    directory.file("config.yaml", &format!("{listen}\nupstream: {upstream}\n{more}"))
}

#[tokio::test]
async fn without_any_right_and_confined_the_program_answers_as_ever() {
    let (directory, authority) = (Directory::new(), Authority::new());
    let (server, plain) =
        (Server::tls(&authority).await, Server::plain(|_, _| crate::reaction::Reaction::Answer).await);
    let routes = format!("threads: 2\nroutes: [{{suffixes: [corp.example], servers: [\"udp://{}\"]}}]", plain.address);
    let config = configuration(&directory, &authority, &[server.url()], &routes).await;
    let proxy = Started::by(command(&directory, &config));
    for name in ["www.example.com", "host.corp.example"] {
        assert_eq!(ask(proxy.address, name).await.answers.len(), 1, "{name}");
        assert_eq!(ask_over_tcp(proxy.address, &message(1, name, RecordType::A)).await.answers.len(), 1, "{name}");
    }
    assert_eq!(proxy.status("CapEff").first().map(String::as_str), Some("0000000000000000"));
    let (_, metrics) = admin(proxy.admin, "/metrics").await;
    assert_eq!(metrics.matches("dot_proxy_confinement{").count(), 5, "{metrics}");
    for line in metrics.lines().filter(|line| line.starts_with("dot_proxy_confinement{")) {
        assert!(line.ends_with(" 1"), "{line}");
    }
}

#[tokio::test]
async fn every_thread_is_confined_and_no_core_can_be_written() {
    let (directory, authority) = (Directory::new(), Authority::new());
    let config =
        configuration(&directory, &authority, &["tls://127.0.0.1:1#nobody.test".to_owned()], "threads: 3").await;
    let mut proxy = Started::by(command(&directory, &config));
    let line = proxy.line();
    assert!(line.contains("\"confined\"") && line.contains("landlock, seccomp\""), "{line}");
    let (privileges, filters) = (proxy.status("NoNewPrivs"), proxy.status("Seccomp"));
    assert!(privileges.len() > 3, "{privileges:?}");
    assert!(privileges.iter().all(|none| none == "1") && filters.iter().all(|filter| filter == "2"), "{filters:?}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", proxy.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
}

/// Whether another process of the proxy's user can open a file of this one in /proc.
fn can_be_read_by_its_own_user(process: u32, file: &str) -> bool {
    let mut read = without_rights(Path::new("sh"));
    read.args(["-c", &format!("exec 3< /proc/{process}/{file}")]).stderr(Stdio::null());
    read.status().unwrap().success()
}

#[tokio::test]
async fn another_process_of_the_same_user_cannot_read_the_memory_of_the_program() {
    let (directory, authority) = (Directory::new(), Authority::new());
    let servers = ["tls://127.0.0.1:1#nobody.test".to_owned()];
    let confined = Started::by(command(&directory, &configuration(&directory, &authority, &servers, "").await));
    let directory = Directory::new();
    let config = configuration(&directory, &authority, &servers, "confinement: false").await;
    let mut open = Started::by(command(&directory, &config));
    assert!(open.line().contains("not confined"));
    for file in ["mem", "environ", "maps"] {
        assert!(can_be_read_by_its_own_user(open.id(), file), "{file}: the test itself can tell");
        assert!(!can_be_read_by_its_own_user(confined.id(), file), "{file}");
    }
}

#[tokio::test]
async fn tls_secrets_are_never_written_where_the_environment_says() {
    let (directory, authority) = (Directory::new(), Authority::new());
    let server = Server::tls(&authority).await;
    let config = configuration(&directory, &authority, &[server.url()], "confinement: false").await;
    let secrets = directory.path().join("secrets");
    let mut command = Command::new(env!("CARGO_BIN_EXE_dot-proxy"));
    command.arg("--config").arg(config).args(["--log-format", "json"]).env("SSLKEYLOGFILE", &secrets);
    let proxy = Started::by(command);
    assert_eq!(ask(proxy.address, "www.example.com").await.answers.len(), 1);
    assert!(!secrets.exists());
}

#[tokio::test]
async fn what_answering_does_not_need_is_refused_and_what_it_needs_is_not() {
    let (directory, server) = (Directory::new(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let own = unused_address();
    let text = format!("{{listen: {{port: {}}}, admin: {{address: \"127.0.0.1:1\"}}}}", own.port());
    let config = directory.file("config.json", &text);
    directory.file("other", "");
    let outcomes = Attempt::of("everything", &config, server.local_addr().unwrap()).lines();
    let expected = [
        "read beside: done",
        "read outside: EACCES",
        "read a process: EACCES",
        "list outside: EACCES",
        "write beside: EACCES",
        "append beside: EACCES",
        "remove beside: EACCES",
        "rename beside: EACCES",
        "change mode: EPERM",
        "listen where configured: done",
        "listen elsewhere: EACCES",
        "connect: done",
        "bind for datagrams: done",
        "start a thread: done",
        "start a program: EPERM",
        "open a Unix socket: EAFNOSUPPORT",
        "open a packet socket: EAFNOSUPPORT",
        "signal the parent: EPERM",
        "signal itself: done",
        "fork into a namespace: EPERM",
        "map new code: EPERM",
        "use io_uring: EPERM",
        "call what is newer: ENOSYS",
    ];
    assert_eq!(outcomes, expected);
}

#[tokio::test]
async fn where_a_program_asks_that_one_is_run_and_no_other() {
    let directory = Directory::new();
    let config =
        directory.file("config.yaml", "upstream: {protocol: kdig, servers: [\"tls://127.0.0.1:1#nobody.test\"]}");
    let expected = [
        "run kdig: done",
        "run another: EACCES",
        "read a process: EACCES",
        "write beside: EACCES",
        "fork into a namespace: EPERM",
        "signal the parent: EPERM",
    ];
    assert_eq!(Attempt::of("programs", &config, "127.0.0.1:1".parse().unwrap()).lines(), expected);
}

#[tokio::test]
async fn every_transport_works_confined() {
    let authority = Authority::new();
    let zone = "$ORIGIN example.com.\n$TTL 300\n@ SOA ns hostmaster 1 2 3 4 300\n@ NS ns\n* A 192.0.2.7\n";
    let resolver = Unbound::serving("example.com.", zone, &authority).await;
    let quic = QuicServer::that(&authority, |_, _| Act::Answer);
    for (protocol, url) in [
        ("dot", resolver.url()),
        ("doh", resolver.https_url()),
        ("doq", quic.url()),
        ("kdig", resolver.url()),
        ("curl", resolver.https_url()),
    ] {
        let directory = Directory::new();
        let ca = directory.file("ca.pem", &authority.pem());
        let upstream = format!("{{servers: [\"{url}\"], protocol: {protocol}, caFile: {}}}", ca.display());
        let (own, admin) = (unused_address(), unused_address());
        let listen = format!("listen: {{host: 127.0.0.1, port: {}}}\nadmin: {{address: \"{admin}\"}}", own.port());
        let config = directory.file("config.yaml", &format!("{listen}\nupstream: {upstream}\n"));
        let mut proxy = Started::by(command(&directory, &config));
        let line = proxy.line();
        assert!(line.contains("\"confined\""), "{protocol}: {line}");
        let reply = ask(proxy.address, "www.example.com").await;
        assert_eq!(reply.answers.len(), 1, "{protocol}: {reply}");
    }
}

#[tokio::test]
async fn what_only_an_intruder_would_do_ends_the_process() {
    let directory = Directory::new();
    let config = directory.file("config.json", "{}");
    for what in ["execve", "ptrace", "mount", "unshare", "setns"] {
        let signal = Attempt::of(what, &config, "127.0.0.1:1".parse().unwrap()).signal();
        assert_eq!(signal, Some(libc::SIGSYS), "{what}");
    }
}

/// As the kubelet writes a volume: a directory for each version, and a link that is exchanged.
#[tokio::test]
async fn files_of_a_volume_are_read_again_after_the_kubelet_has_exchanged_them() {
    let volume = Directory::new();
    for version in ["..1", "..2"] {
        fs::create_dir(volume.path().join(version)).unwrap();
        volume.file(
            &format!("{version}/config.json"),
            &format!("{{\"listen\": {{\"host\": \"127.0.0.{}\"}}}}", &version[2..]),
        );
    }
    symlink("..1", volume.path().join("..data")).unwrap();
    symlink("..data/config.json", volume.path().join("config.json")).unwrap();
    let mut attempt = Attempt::of("reading-again", &volume.path().join("config.json"), "127.0.0.1:1".parse().unwrap());
    assert_eq!(attempt.line().as_deref(), Some("confined"));
    symlink("..2", volume.path().join("..next")).unwrap();
    fs::rename(volume.path().join("..next"), volume.path().join("..data")).unwrap();
    fs::remove_dir_all(volume.path().join("..1")).unwrap();
    attempt.go_on();
    assert_eq!(attempt.line().as_deref(), Some("{\"listen\": {\"host\": \"127.0.0.2\"}}"));
}
