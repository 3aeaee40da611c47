//! Where a run takes place: a folder that goes when the run ends, a certificate authority of its own, processors, and the
//! tools as processes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dot_test_ports::reserve;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};

use super::contender::{Contender, Places, Programs};
use super::process::Process;
use crate::failure::{During, Failure, Outcome};
use crate::load::Report;
use crate::system;
use crate::upstream::Counts;
use crate::zone::{self, Names};

/// How long a server may take to listen, or to answer its first query.
const PATIENCE: Duration = Duration::from_secs(10);
/// Addresses of the upstreams: the first alone, or both.
const UPSTREAMS: [Ipv4Addr; 2] = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)];

/// Where it all happens.
#[derive(Debug)]
pub(super) struct Site {
    folder: PathBuf,
    pub(super) programs: Programs,
    /// Of the server.
    pub(super) server_processor: usize,
    /// Of the load and of the upstream.
    pub(super) load_processor: usize,
    counter: std::cell::Cell<u32>,
}

/// How a server is started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    /// Where it listens.
    pub(super) host: Ipv4Addr,
    /// How much dot-proxy may keep.
    pub(super) cache: &'static str,
    /// The port of its upstreams.
    pub(super) upstream: u16,
    pub(super) upstreams: usize,
    pub(super) threads: usize,
    /// Let it run on the load's processor as well.
    pub(super) everywhere: bool,
}

impl Start {
    /// One upstream on this port, and one thread on its own processor.
    pub(super) fn with(upstream: u16) -> Self {
        Self { host: Ipv4Addr::LOCALHOST, cache: "64Mi", upstream, upstreams: 1, threads: 1, everywhere: false }
    }
}

/// A server that runs.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) process: Process,
    pub(super) host: Ipv4Addr,
    pub(super) port: u16,
}

/// An upstream that runs.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) process: Process,
    pub(super) port: u16,
    replies: BufReader<std::process::ChildStdout>,
}

/// A tool that asks a server, and tells `T` when it is done.
#[derive(Debug)]
pub(super) struct Asking<T> {
    tool: &'static str,
    process: std::process::Child,
    told: PhantomData<T>,
}

impl Site {
    /// Makes the folder and the certificates in it.
    pub(super) fn new(programs: Programs) -> Outcome<Self> {
        let processors = system::processors().during("asking for processors")?;
        let [server_processor, load_processor, ..] = processors[..] else {
            return Err(Failure::new("two processors are needed: one for the server, one for load and upstream"));
        };
        // Not below a home, which a server that gives up its privileges could not read.
        let folder = std::env::temp_dir().join(format!("dot-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).during(format_args!("making {}", folder.display()))?;
        let site = Self { folder, programs, server_processor, load_processor, counter: 0.into() };
        site.certificates()?;
        Ok(site)
    }

    fn certificates(&self) -> Outcome<()> {
        let make = || -> Result<_, rcgen::Error> {
            let mut parameters = CertificateParams::default();
            parameters.distinguished_name.push(DnType::CommonName, "the benchmark's authority");
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            (parameters.not_before, parameters.not_after) = (date_time_ymd(2025, 1, 1), date_time_ymd(2045, 1, 1));
            let key = KeyPair::generate()?;
            let authority = parameters.self_signed(&key)?;
            let issuer = Issuer::new(parameters, key);
            let mut parameters = CertificateParams::new(["upstream.test".to_owned()])?;
            parameters.distinguished_name.push(DnType::CommonName, "upstream.test");
            parameters.use_authority_key_identifier_extension = true;
            (parameters.not_before, parameters.not_after) = (date_time_ymd(2025, 1, 1), date_time_ymd(2045, 1, 1));
            let key = KeyPair::generate()?;
            let certificate = parameters.signed_by(&key, &issuer)?;
            Ok([
                ("ca.pem", authority.pem()),
                ("upstream.pem", certificate.pem()),
                ("upstream.key", key.serialize_pem()),
            ])
        };
        for (name, pem) in make().during("making certificates")? {
            fs::write(self.folder.join(name), pem).during(format_args!("writing {name}"))?;
        }
        Ok(())
    }

    /// A path in the folder that nothing has had before.
    fn fresh(&self, name: &str) -> PathBuf {
        self.counter.set(self.counter.get() + 1);
        self.folder.join(format!("{}-{name}", self.counter.get()))
    }

    /// A tool of this program.
    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(&self.programs.own);
        command.arg(name);
        command
    }

    /// Starts a server and waits until it listens.
    pub(super) fn serve(&self, contender: &Contender, start: Start) -> Outcome<Server> {
        self.serve_under(&[], contender, start)
    }

    /// Starts a server by another program, with the arguments that come before its own, and waits until it listens.
    pub(super) fn serve_under(&self, wrapper: &[&str], contender: &Contender, start: Start) -> Outcome<Server> {
        let mut server = self.begin(wrapper, contender, start)?;
        let deadline = Instant::now() + PATIENCE;
        while !listens(server.port)? {
            server.process.alive()?;
            if Instant::now() > deadline {
                return Err(Failure::new(format!("it does not listen after {} s", PATIENCE.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(server)
    }

    /// Starts a server, and does not wait until it listens.
    pub(super) fn begin_to_serve(&self, contender: &Contender, start: Start) -> Outcome<Server> {
        self.begin(&[], contender, start)
    }

    fn begin(&self, wrapper: &[&str], contender: &Contender, start: Start) -> Outcome<Server> {
        let folder = self.fresh(&contender.name);
        fs::create_dir(&folder).during(format_args!("making {}", folder.display()))?;
        let places = Places {
            host: start.host,
            cache: start.cache,
            port: reserve(),
            admin: reserve(),
            upstream: start.upstream,
            upstreams: start.upstreams,
            threads: start.threads,
            authority: self.folder.join("ca.pem"),
            folder: folder.clone(),
        };
        let mut command = contender.command(&places, &self.programs)?;
        if let [program, arguments @ ..] = wrapper {
            let mut wrapped = Command::new(program);
            wrapped.args(arguments).arg(command.get_program()).args(command.get_args()).current_dir(&folder);
            command = wrapped;
        }
        let both = [self.server_processor, self.load_processor];
        let processors = if start.everywhere { &both[..] } else { &both[..1] };
        let process = Process::start(command, processors, &folder.join("log"))?;
        Ok(Server { process, host: places.host, port: places.port })
    }

    /// Starts so many upstreams, on one port of 127.0.0.1 and 127.0.0.2.
    pub(super) fn upstreams(&self, count: usize) -> Outcome<Vec<Upstream>> {
        let port = reserve();
        UPSTREAMS[..count].iter().map(|address| self.upstream_at(SocketAddrV4::new(*address, port))).collect()
    }

    /// Starts one upstream.
    pub(super) fn upstream(&self) -> Outcome<Upstream> {
        self.upstreams(1)?.pop().ok_or_else(|| Failure::new("no upstream"))
    }

    fn upstream_at(&self, address: SocketAddrV4) -> Outcome<Upstream> {
        let mut command = self.tool("upstream");
        command.args(["--listen", &address.to_string()]);
        command.arg("--certificate").arg(self.folder.join("upstream.pem"));
        command.arg("--key").arg(self.folder.join("upstream.key"));
        let mut process = Process::start_with_pipes(command, &[self.load_processor], &self.fresh("upstream.log"))?;
        let replies = process.child().stdout.take().ok_or_else(|| Failure::new("the upstream has no output"))?;
        let mut upstream = Upstream { process, port: address.port(), replies: BufReader::new(replies) };
        upstream.ask("count")?; // once it answers it listens
        Ok(upstream)
    }

    /// Puts a round trip of so many milliseconds before an upstream: the process, and the port to connect to.
    pub(super) fn delay(&self, upstream: &Upstream, round_trip: u64) -> Outcome<(Process, u16)> {
        let port = reserve();
        let at = |port| SocketAddrV4::new(UPSTREAMS[0], port).to_string();
        let mut command = self.tool("delay");
        command.args(["--listen", &at(port), "--to", &at(upstream.port), "--round-trip", &round_trip.to_string()]);
        let process = Process::start(command, &[self.load_processor], &self.fresh("delay.log"))?;
        let deadline = Instant::now() + PATIENCE;
        // Its listener is in the kernel's list; connecting to see would be passed on, and counted.
        while !listed("/proc/net/tcp", port)? && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok((process, port))
    }

    /// Asks a server with these arguments of the load, and waits until it is done.
    pub(super) fn load(&self, server: &Server, arguments: &str) -> Outcome<Report> {
        self.start_load(server, arguments)?.report()
    }

    /// Begins to ask a server.
    pub(super) fn start_load(&self, server: &Server, arguments: &str) -> Outcome<Asking<Report>> {
        self.start_asking("load", server, arguments)
    }

    /// Starts a tool that asks a server and then tells how that was.
    pub(super) fn start_asking<T>(&self, tool: &'static str, server: &Server, arguments: &str) -> Outcome<Asking<T>> {
        let mut command = self.tool(tool);
        command.args(["--server", &format!("{}:{}", server.host, server.port)]).args(arguments.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let process = system::spawn(&mut command, &[self.load_processor]).during(format_args!("starting {tool}"))?;
        Ok(Asking { tool, process, told: PhantomData })
    }

    /// Where the log of a load can be written.
    pub(super) fn log(&self) -> PathBuf {
        self.fresh("load.log")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl<T: serde::de::DeserializeOwned> Asking<T> {
    /// Whether it is done.
    pub(super) fn done(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// Waits until it is done.
    pub(super) fn report(self) -> Outcome<T> {
        let output = self.process.wait_with_output().during(format_args!("waiting for {}", self.tool))?;
        if !output.status.success() {
            return Err(Failure::new(format!("{} could not be run", self.tool)));
        }
        serde_json::from_slice(&output.stdout).during(format_args!("reading the report of {}", self.tool))
    }
}

impl Upstream {
    /// Requests something; tells what has happened so far.
    pub(super) fn ask(&mut self, request: &str) -> Outcome<Counts> {
        let input = self.process.child().stdin.as_mut().ok_or_else(|| Failure::new("the upstream has no input"))?;
        writeln!(input, "{request}").during("asking the upstream")?;
        let mut line = String::new();
        self.replies.read_line(&mut line).during("reading the upstream's counts")?;
        serde_json::from_str(&line)
            .map_err(|_| Failure::new(format!("the upstream ended: {}", self.process.last_words())))
    }
}

impl Server {
    /// Asks for one name's address until it comes, at most so long; tells when it came, and a failure if it does not.
    pub(super) fn first_answer(&mut self, number: u64, patience: Duration) -> Outcome<Instant> {
        let socket = UdpSocket::bind((self.host, 0)).during("opening a socket")?;
        socket.connect((self.host, self.port)).during("opening a socket")?;
        let names = Names::Lasting { first: number, count: 1 };
        let deadline = Instant::now() + patience;
        let mut query = Vec::new();
        for id in (0..=u16::MAX).cycle() {
            query.clear();
            names.query(0, id, &mut query);
            // Refused: it does not listen yet. Otherwise another query only if this one was forgotten.
            let pause = if id < 64 { Duration::from_millis(20) } else { Duration::from_millis(200) };
            if socket.send(&query).is_ok() && answered(&socket, number, pause) {
                break;
            }
            self.process.alive()?;
            if Instant::now() > deadline {
                let words = self.process.last_words();
                return Err(Failure::new(format!("no right answer after {} s: {words}", patience.as_secs())));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(Instant::now())
    }

    /// Asks for one name's address once; tells when the answer came.
    pub(super) fn first_answer_to_one(&mut self, number: u64, patience: Duration) -> Outcome<Instant> {
        let socket = UdpSocket::bind((self.host, 0)).during("opening a socket")?;
        socket.connect((self.host, self.port)).during("opening a socket")?;
        let mut query = Vec::new();
        Names::Lasting { first: number, count: 1 }.query(0, 1, &mut query);
        socket.send(&query).during("asking")?;
        if answered(&socket, number, patience) {
            return Ok(Instant::now());
        }
        Err(Failure::new(format!("no right answer to the first query: {}", self.process.last_words())))
    }

    /// Waits until it answers.
    pub(super) fn ready(&mut self) -> Outcome<()> {
        self.first_answer(999_999, PATIENCE).map(|_| ())
    }
}

/// Whether a right answer comes within this time.
fn answered(socket: &UdpSocket, number: u64, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    let mut buffer = [0; 2048];
    while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        match socket.set_read_timeout(Some(left)).and_then(|()| socket.recv(&mut buffer)) {
            Ok(octets) if zone::answers(&buffer[..octets], number) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}

fn listens(port: u16) -> Outcome<bool> {
    listed("/proc/net/udp", port)
}

/// Whether a socket is bound to this port of any address.
fn listed(table: &str, port: u16) -> Outcome<bool> {
    let text = fs::read_to_string(table).during(format_args!("reading {table}"))?;
    let ending = format!(":{port:04X}");
    Ok(text.lines().skip(1).any(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&ending))))
}
