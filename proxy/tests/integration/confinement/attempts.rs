//! What a confined process tries: in a process of its own, since none of it can be taken back. That is this same test
//! program, started again with one test, which does nothing unless it is asked to by the environment.

#![expect(unsafe_code, reason = "an intruder makes system calls by hand")]

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use dot_proxy::config::Resolved;
use dot_proxy::confine::Confinement;
use dot_proxy_config::Config;
use socket2::{Domain, Socket, Type};

/// The test that is started again, by its full name.
const ITSELF: &str = "confinement::attempts::what_another_test_asks_for_is_tried_in_a_process_of_its_own";

/// What is to be tried, where the configuration is, and where a server listens.
const WHAT: &str = "DOT_PROXY_ATTEMPT";
const CONFIG: &str = "DOT_PROXY_ATTEMPT_CONFIG";
const SERVER: &str = "DOT_PROXY_ATTEMPT_SERVER";

/// Before each line that is for the other test.
const MARK: &str = "attempt: ";

/// A process that confines itself by a configuration, and tries something.
pub struct Attempt {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Attempt {
    pub fn of(what: &str, config: &Path, server: SocketAddr) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", ITSELF, "--nocapture", "--test-threads=1"])
            .env(WHAT, what)
            .env(CONFIG, config)
            .env(SERVER, server.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    /// The next line that it says; none when it has ended.
    pub fn line(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.said.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The test harness writes before it, on the same line.
            if let Some((_, outcome)) = line.trim_end().split_once(MARK) {
                return Some(outcome.to_owned());
            }
        }
    }

    pub fn lines(mut self) -> Vec<String> {
        let lines = std::iter::from_fn(|| self.line()).collect();
        self.child.wait().unwrap();
        lines
    }

    /// Lets it go on.
    pub fn go_on(&mut self) {
        self.child.stdin.take().unwrap().write_all(b"\n").unwrap();
    }

    /// The signal that ended it, if one did.
    pub fn signal(mut self) -> Option<i32> {
        let status: ExitStatus = self.child.wait().unwrap();
        status.signal()
    }
}

#[expect(clippy::print_stdout, reason = "the other test reads it there")]
fn say(line: &str) {
    println!("{MARK}{line}");
}

#[test]
fn what_another_test_asks_for_is_tried_in_a_process_of_its_own() {
    let Ok(what) = std::env::var(WHAT) else { return };
    let config = PathBuf::from(std::env::var_os(CONFIG).unwrap());
    let server: SocketAddr = std::env::var(SERVER).unwrap().parse().unwrap();
    let written = Config::from_yaml(&fs::read_to_string(&config).unwrap()).unwrap();
    let program = Resolved::from_written(&written).unwrap_or_else(|error| panic!("{error}")).program;
    Confinement::for_config(&written, Some(&config), program.as_deref()).apply();
    match what.as_str() {
        "everything" => everything(&config, written.listen.port, server),
        "reading-again" => {
            say("confined");
            io::stdin().read_line(&mut String::new()).unwrap();
            say(&fs::read_to_string(&config).unwrap());
        }
        "programs" => {
            tell("run kdig", Command::new("kdig").arg("--version").stdout(Stdio::null()).status());
            tell("run another", Command::new("/bin/true").status());
            tell("read a process", fs::read("/proc/self/maps"));
            tell("write beside", File::create(config.with_file_name("new")));
            let new_user: libc::c_long = (libc::CLONE_NEWUSER | libc::SIGCHLD).into();
            tell("fork into a namespace", call(libc::SYS_clone, [new_user, 0, 0, 0, 0, 0]));
            tell(
                "signal the parent",
                call(libc::SYS_kill, [std::os::unix::process::parent_id().into(), 0, 0, 0, 0, 0]),
            );
        }
        "execve" => drop(Command::new("/bin/true").exec()),
        "ptrace" => drop(call(libc::SYS_ptrace, [0; 6])),
        "mount" => drop(call(libc::SYS_mount, [0; 6])),
        "unshare" => drop(call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0, 0])),
        "setns" => drop(call(libc::SYS_setns, [-1, 0, 0, 0, 0, 0])),
        other => panic!("{other}?"),
    }
}

/// Tries what an error refuses, and what has to work.
fn everything(config: &Path, port: u16, server: SocketAddr) {
    let beside = |name: &str| config.with_file_name(name);
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let own = SocketAddr::new(any.ip(), port);
    let page = 4096;
    let private = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).into();
    let executable = (libc::PROT_READ | libc::PROT_EXEC).into();
    let new_user: libc::c_long = (libc::CLONE_NEWUSER | libc::SIGCHLD).into();
    tell("read beside", fs::read(beside("other")));
    tell("read outside", fs::read("/etc/passwd"));
    tell("read a process", fs::read("/proc/self/maps"));
    tell("list outside", fs::read_dir("/"));
    tell("write beside", File::create(beside("new")));
    tell("append beside", File::options().append(true).open(beside("other")));
    tell("remove beside", fs::remove_file(beside("other")));
    tell("rename beside", fs::rename(beside("other"), beside("new")));
    tell("change mode", fs::set_permissions(beside("other"), fs::Permissions::from_mode(0o777)));
    tell("listen where configured", TcpListener::bind(own));
    tell("listen elsewhere", TcpListener::bind(any));
    tell("connect", TcpStream::connect(server));
    tell("bind for datagrams", UdpSocket::bind(any));
    tell("start a thread", std::thread::Builder::new().spawn(|| ()).map(|thread| thread.join().unwrap()));
    tell("start a program", Command::new("/bin/true").status());
    tell("open a Unix socket", UnixDatagram::unbound());
    tell("open a packet socket", Socket::new(Domain::PACKET, Type::RAW, None));
    tell("signal the parent", call(libc::SYS_kill, [std::os::unix::process::parent_id().into(), 0, 0, 0, 0, 0]));
    tell("signal itself", call(libc::SYS_kill, [std::process::id().into(), 0, 0, 0, 0, 0]));
    tell("fork into a namespace", call(libc::SYS_clone, [new_user, 0, 0, 0, 0, 0]));
    tell("map new code", call(libc::SYS_mmap, [0, page, executable, private, -1, 0]));
    tell("use io_uring", call(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0, 0]));
    tell("call what is newer", call(470, [0; 6]));
}

fn tell<T>(what: &str, outcome: io::Result<T>) {
    match outcome.map_err(|error| error.raw_os_error()) {
        Ok(_) => say(&format!("{what}: done")),
        Err(Some(libc::EACCES)) => say(&format!("{what}: EACCES")),
        Err(Some(libc::EPERM)) => say(&format!("{what}: EPERM")),
        Err(Some(libc::EAFNOSUPPORT)) => say(&format!("{what}: EAFNOSUPPORT")),
        Err(Some(libc::ENOSYS)) => say(&format!("{what}: ENOSYS")),
        Err(other) => say(&format!("{what}: {other:?}")),
    }
}

/// A system call with numbers, and null where it takes pointers.
fn call(number: libc::c_long, arguments: [libc::c_long; 6]) -> io::Result<()> {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    // SAFETY: no argument that comes here is an address of this process's memory, and what is made (a mapping, a child
    // that ends with it) touches nothing that it has.
    let outcome = unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
