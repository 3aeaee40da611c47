//! The system calls that the standard library has no words for: many datagrams at once, readiness with a precise timeout,
//! processors, signals. All `unsafe` of this crate is here.
#![allow(unsafe_code, reason = "system calls; each block says why it is sound")]

pub(crate) mod limits;
pub(crate) mod network;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

/// How many octets a datagram may have here: more than any UDP reply that a client of these tests asks for.
const DATAGRAM: usize = 2048;

/// How nice the processes under measurement are, and those that measure: much less than what else may run.
const PRIORITY: i32 = -15;

/// Buffers and headers to send and receive many datagrams in one system call.
#[derive(Debug)]
pub(crate) struct Datagrams {
    // What the headers point into. None of these vectors is ever resized, so that what they hold stays where it is.
    buffers: Vec<[u8; DATAGRAM]>,
    _peers: Vec<libc::sockaddr_in>,
    segments: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

/// Waits until one of many descriptors can be read or written.
#[derive(Debug)]
pub(crate) struct Readiness {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// What a process may be told.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Signal {
    /// Stop where it is (SIGSTOP).
    Freeze,
    /// Go on (SIGCONT).
    Thaw,
    /// End (SIGTERM).
    End,
}

impl Datagrams {
    /// Room for `count` datagrams on sockets that are connected.
    pub(crate) fn connected(count: usize) -> Self {
        Self::new(count, false)
    }

    /// Room for `count` datagrams, each of which is sent to the IPv4 address from which it came.
    pub(crate) fn returning(count: usize) -> Self {
        Self::new(count, true)
    }

    fn new(count: usize, returning: bool) -> Self {
        let mut buffers = vec![[0; DATAGRAM]; count];
        // SAFETY: all zeroes are a valid sockaddr_in and a valid mmsghdr: integers and null pointers.
        let (mut peers, mut headers) = unsafe {
            (vec![std::mem::zeroed::<libc::sockaddr_in>(); count], vec![std::mem::zeroed::<libc::mmsghdr>(); count])
        };
        let mut segments: Vec<libc::iovec> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: DATAGRAM })
            .collect();
        for ((header, segment), peer) in headers.iter_mut().zip(&mut segments).zip(&mut peers) {
            header.msg_hdr.msg_iov = segment;
            header.msg_hdr.msg_iovlen = 1;
            if returning {
                header.msg_hdr.msg_name = std::ptr::from_mut(peer).cast();
            }
        }
        Self { buffers, _peers: peers, segments, headers }
    }

    /// Receives as many datagrams as have come. With `wait`, blocks for the first (MSG_WAITFORONE).
    pub(crate) fn receive(&mut self, socket: impl AsFd, wait: bool) -> io::Result<usize> {
        for (header, segment) in self.headers.iter_mut().zip(&mut self.segments) {
            segment.iov_len = DATAGRAM;
            if !header.msg_hdr.msg_name.is_null() {
                header.msg_hdr.msg_namelen = length_of::<libc::sockaddr_in>();
            }
        }
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        let (fd, room) = (socket.as_fd().as_raw_fd(), vlen(self.headers.len()));
        // SAFETY: `room` headers are there, and what they point to is owned by self, of the lengths that were just set.
        let count = unsafe { libc::recvmmsg(fd, self.headers.as_mut_ptr(), room, flags, std::ptr::null_mut()) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// Datagram `index` of those received last.
    pub(crate) fn received(&mut self, index: usize) -> &mut [u8] {
        let length = self.headers[index].msg_len as usize;
        self.segments[index].iov_len = length;
        &mut self.buffers[index][..length]
    }

    /// Lays `message` down as datagram `index` to be sent.
    pub(crate) fn put(&mut self, index: usize, message: &[u8]) {
        self.buffers[index][..message.len()].copy_from_slice(message);
        self.segments[index].iov_len = message.len();
    }

    /// Sends the first `count` datagrams; tells how many went.
    pub(crate) fn send(&mut self, socket: impl AsFd, count: usize) -> io::Result<usize> {
        let fd = socket.as_fd().as_raw_fd();
        let headers = &mut self.headers[..count];
        let mut sent = 0;
        while sent < headers.len() {
            let rest = &mut headers[sent..];
            // SAFETY: `rest` is a slice of headers, and what they point to is owned by self.
            let now = unsafe { libc::sendmmsg(fd, rest.as_mut_ptr(), vlen(rest.len()), 0) };
            match usize::try_from(now) {
                Ok(now) if now > 0 => sent += now,
                _ if sent > 0 => break,
                _ => return Err(io::Error::last_os_error()),
            }
        }
        Ok(sent)
    }
}

impl Readiness {
    /// Watches nothing as yet.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the descriptor that is returned is nobody else's.
        let epoll = unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; 256] })
    }

    /// Watches `source`, for being readable, and reports it as `token`. It is forgotten when it is closed.
    pub(crate) fn add(&self, source: impl AsFd, token: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, source.as_fd(), token, false)
    }

    /// Watches `source` for being writable too, or no longer.
    pub(crate) fn watch_writable(&self, source: impl AsFd, token: usize, writable: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, source.as_fd(), token, writable)
    }

    fn control(&self, operation: i32, source: BorrowedFd<'_>, token: usize, writable: bool) -> io::Result<()> {
        let events = (libc::EPOLLIN | if writable { libc::EPOLLOUT } else { 0 }).cast_unsigned();
        let mut event = libc::epoll_event { events, u64: token as u64 };
        // SAFETY: both descriptors are open while they are borrowed, and the event lives through the call.
        done(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, source.as_raw_fd(), &raw mut event) })
    }

    /// Waits for at most `timeout`, and appends the tokens of what is ready to `ready`, which is cleared first.
    pub(crate) fn wait(&mut self, timeout: Duration, ready: &mut Vec<usize>) -> io::Result<()> {
        ready.clear();
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let room = i32::try_from(self.events.len()).unwrap_or(i32::MAX);
        // By number: the C library of older systems has no name for it. `epoll_wait` counts in milliseconds.
        // SAFETY: `room` events are there, the timeout lives through the call, and there is no signal mask.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                room,
                &raw const timeout,
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        match usize::try_from(count) {
            Ok(count) => {
                ready.extend(self.events[..count].iter().map(|event| event.u64.try_into().unwrap_or(usize::MAX)));
                Ok(())
            }
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                error => Err(error),
            },
        }
    }
}

/// Gives a socket room for `octets` of datagrams in each direction, or as much as the system allows.
pub(crate) fn buffer(socket: impl AsFd, octets: i32) {
    for option in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
        // SAFETY: the option is an int, which lives through the call. Less room than asked for is no error.
        unsafe {
            libc::setsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const octets).cast(),
                length_of::<i32>(),
            );
        }
    }
}

/// Receives one datagram and sends it back with `change` made to it, by one plain system call each.
pub(crate) fn bounce(socket: RawFd, buffer: &mut [u8], change: impl FnOnce(&mut [u8])) -> io::Result<()> {
    // SAFETY: all zeroes are a valid sockaddr_in; buffer and address live through both calls, with their true lengths.
    unsafe {
        let mut peer: libc::sockaddr_in = std::mem::zeroed();
        let mut length = length_of::<libc::sockaddr_in>();
        let (data, room) = (buffer.as_mut_ptr().cast(), buffer.len());
        let octets = libc::recvfrom(socket, data, room, 0, (&raw mut peer).cast(), &raw mut length);
        let octets = usize::try_from(octets).map_err(|_| io::Error::last_os_error())?;
        change(&mut buffer[..octets]);
        libc::sendto(socket, buffer.as_ptr().cast(), octets, 0, (&raw const peer).cast(), length);
    }
    Ok(())
}

/// The processors that this process may run on, in order.
pub(crate) fn processors() -> io::Result<Vec<usize>> {
    // SAFETY: all zeroes are an empty set, which lives through the call; CPU_ISSET is asked within the set's size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        done(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set))?;
        Ok((0..size_of::<libc::cpu_set_t>() * 8).filter(|&processor| libc::CPU_ISSET(processor, &set)).collect())
    }
}

/// Lets this thread, and those that it starts from here on, run on these processors alone.
pub(crate) fn move_to(processors: &[usize]) -> io::Result<()> {
    let set = set_of(processors);
    // SAFETY: the set lives through the call.
    done(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })
}

fn set_of(processors: &[usize]) -> libc::cpu_set_t {
    // SAFETY: all zeroes are an empty set of processors; CPU_SET checks its bounds.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        processors.iter().for_each(|&processor| libc::CPU_SET(processor, &mut set));
        set
    }
}

/// Starts the command on these processors alone, before what else there is to run on them if that is allowed. It ends when the
/// process that started it does.
pub(crate) fn spawn(command: &mut Command, processors: &[usize]) -> io::Result<Child> {
    let (set, ordinary) = (set_of(processors), libc::sched_param { sched_priority: 0 });
    // SAFETY: between fork and exec only system calls are made, on values that were copied: nothing is allocated, no lock is
    // taken.
    unsafe {
        command.pre_exec(move || {
            done(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            // A session of its own is a group of its own where the scheduler groups by session.
            done(libc::setsid())?;
            done(libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const ordinary))?;
            // Not allowed to everyone; then what else runs on the machine is felt more.
            libc::setpriority(libc::PRIO_PROCESS, 0, PRIORITY);
            done(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set))
        });
    }
    let child = command.spawn()?;
    let _ = std::fs::write(format!("/proc/{}/autogroup", child.id()), PRIORITY.to_string());
    Ok(child)
}

/// Lets this thread, and those that it starts, run as soon as there is something for them to do, if that is allowed: for what
/// stands for a network or a clock, and takes next to no time. Processes that it starts are ordinary ones.
pub(crate) fn urgent() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters live through the call. Not being allowed to is no error: then the machine's other work is felt more.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
}

/// Lets this thread's timers fire within a microsecond of when they are due.
pub(crate) fn punctual() {
    // SAFETY: no pointers; it only sets this thread's timer slack.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1000_u64) };
}

/// Tells a process something.
pub(crate) fn signal(process: u32, signal: Signal) -> io::Result<()> {
    let number = match signal {
        Signal::Freeze => libc::SIGSTOP,
        Signal::Thaw => libc::SIGCONT,
        Signal::End => libc::SIGTERM,
    };
    let process = i32::try_from(process).map_err(io::Error::other)?;
    // SAFETY: no pointers.
    done(unsafe { libc::kill(process, number) })
}

/// Nanoseconds on the clock that all processes of this machine share and that nothing sets.
pub(crate) fn monotonic() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the timespec lives through the call. This clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Processor time that this process has used so far.
pub(crate) fn own_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the timespec lives through the call. This clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("what is passed to a socket is small")
}

fn vlen(count: usize) -> libc::c_uint {
    libc::c_uint::try_from(count).expect("a batch has some dozens of datagrams")
}

fn done(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
