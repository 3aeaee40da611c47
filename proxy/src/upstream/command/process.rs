//! Processes: so many at once, bounded in what they say and in time, and none left behind.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdin, Command};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::upstream::cause::Cause;

/// Processes at once; a query beyond that waits for one to end, within its deadline.
pub(super) const AT_ONCE: usize = 16;

/// What a process may say on standard output or beside it: the longest message twice, and what goes around it.
const LONGEST_OUTPUT: u64 = 2 * 65_535 + 4_096;

/// What it may say on standard error.
const LONGEST_COMPLAINT: u64 = 65_535;

/// How many processes may run at once, in all that share it.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Semaphore>);

impl Default for Slots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

/// What is on the process's standard input.
pub(super) enum Input<'a> {
    /// These octets.
    Octets(&'a [u8]),
    /// A pipe that it writes to, as the file [`TAP`]: a third way out beside standard output and standard error.
    Tap,
}

/// Where a process with [`Input::Tap`] writes to.
pub(super) const TAP: &str = "/proc/self/fd/0";

/// What came of a process.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) output: Vec<u8>,
    pub(super) complaint: String,
    pub(super) tap: Vec<u8>,
    pub(super) took: Duration,
}

/// Runs a program with these arguments and this environment, and nothing else. At the deadline, when it says too much, or
/// when nobody waits for it any more, it is killed.
pub(super) async fn run<S: AsRef<OsStr>>(
    slots: &Slots,
    program: &Path,
    arguments: &[S],
    environment: &[(&str, String)],
    input: Input<'_>,
    until: Instant,
) -> Result<Finished, Cause> {
    let free = timeout_at(until, Arc::clone(&slots.0).acquire_owned()).await.map_err(|_| Cause::QueryTimedOut)?;
    let slot = free.map_err(|_| Cause::ProgramFailed)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let (process, tap) = Process::start(command, &input, slot).map_err(|_| Cause::ProgramFailed)?;
    match timeout_at(until, process.finish(input, tap)).await {
        Ok(finished) => finished,
        Err(_) => Err(Cause::QueryTimedOut),
    }
}

/// A running process. Dropped, it is killed; its slot is free when it is gone.
struct Process {
    child: Option<Child>,
    slot: Option<OwnedSemaphorePermit>,
    began: Instant,
}

impl Process {
    fn start(
        mut command: Command,
        input: &Input<'_>,
        slot: OwnedSemaphorePermit,
    ) -> io::Result<(Self, Option<pipe::Receiver>)> {
        let tap = match input {
            Input::Octets(_) => {
                command.stdin(Stdio::piped());
                None
            }
            Input::Tap => {
                let (reader, writer) = io::pipe()?;
                command.stdin(writer);
                Some(pipe::Receiver::from_owned_fd(reader.into())?)
            }
        };
        let began = Instant::now();
        let child = command.spawn()?; // with the command, our end of the tap for writing is dropped here
        Ok((Self { child: Some(child), slot: Some(slot), began }, tap))
    }

    async fn finish(mut self, input: Input<'_>, tap: Option<pipe::Receiver>) -> Result<Finished, Cause> {
        let Some(child) = self.child.as_mut() else { return Err(Cause::ProgramFailed) };
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (output, complaint, tap, ()) = tokio::try_join!(
            read(stdout, LONGEST_OUTPUT),
            read(stderr, LONGEST_COMPLAINT),
            read(tap, LONGEST_OUTPUT),
            write(stdin, input),
        )?;
        let status = child.wait().await.map_err(|_| Cause::ProgramFailed)?;
        self.child = None; // it has ended, and there is nothing to kill
        let complaint = String::from_utf8_lossy(&complaint).into_owned();
        Ok(Finished { status, output, complaint, tap, took: self.began.elapsed() })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let (Some(mut child), slot) = (self.child.take(), self.slot.take()) else { return };
        let _ = child.start_kill(); // it may have ended by itself
        // Without a runtime the whole program is ending, and the child, killed, is left to init.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let _ = child.wait().await; // reaped; how it ended is of no interest
                drop(slot);
            });
        }
    }
}

/// Reads to the end. What is longer than expected is no answer.
async fn read(stream: Option<impl AsyncRead + Unpin>, longest: u64) -> Result<Vec<u8>, Cause> {
    let mut octets = Vec::new();
    let Some(stream) = stream else { return Ok(octets) };
    stream.take(longest + 1).read_to_end(&mut octets).await.map_err(|_| Cause::ProgramFailed)?;
    if octets.len() as u64 > longest { Err(Cause::ResponseMalformed) } else { Ok(octets) }
}

async fn write(stdin: Option<ChildStdin>, input: Input<'_>) -> Result<(), Cause> {
    if let (Some(mut stdin), Input::Octets(octets)) = (stdin, input) {
        let _ = stdin.write_all(octets).await; // who ends without reading says why in its exit status
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon(milliseconds: u64) -> Instant {
        Instant::now() + Duration::from_millis(milliseconds)
    }

    async fn shell(slots: &Slots, script: &str, input: Input<'_>, until: Instant) -> Result<Finished, Cause> {
        run(slots, Path::new("/bin/sh"), &["-c", script], &[("GIVEN", "this".to_owned())], input, until).await
    }

    #[tokio::test]
    async fn a_process_gets_its_input_and_only_the_environment_it_is_given() {
        let script = "cat; env -u PWD -u SHLVL -u _ >&2; exit 7";
        let finished = shell(&Slots::default(), script, Input::Octets(b"in\0put"), soon(10_000)).await.unwrap();
        assert_eq!((&*finished.output, &*finished.complaint), (&b"in\0put"[..], "GIVEN=this\n"));
        assert_eq!(finished.status.code(), Some(7));
    }

    #[tokio::test]
    async fn a_process_can_write_a_third_way_out() {
        let script = format!("echo out; printf tapped > {TAP}");
        let finished = shell(&Slots::default(), &script, Input::Tap, soon(10_000)).await.unwrap();
        assert_eq!((&*finished.output, &*finished.tap), (&b"out\n"[..], &b"tapped"[..]));
    }

    #[tokio::test]
    async fn a_process_that_says_too_much_is_no_answer() {
        for script in ["cat /dev/zero", "cat /dev/zero >&2"] {
            let outcome = shell(&Slots::default(), script, Input::Octets(b""), soon(10_000)).await;
            assert_eq!(outcome.map(|_| ()), Err(Cause::ResponseMalformed));
        }
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_started_is_told() {
        let program = Path::new("/nonexistent");
        let outcome = run::<&str>(&Slots::default(), program, &[], &[], Input::Tap, soon(10_000)).await;
        assert_eq!(outcome.map(|_| ()), Err(Cause::ProgramFailed));
    }

    #[tokio::test]
    async fn a_process_that_hangs_is_killed_at_the_deadline_and_gives_its_slot_back() {
        let slots = Slots::default();
        let outcome = shell(&slots, "exec sleep 1000", Input::Tap, soon(50)).await;
        assert_eq!(outcome.map(|_| ()), Err(Cause::QueryTimedOut));
        // A slot comes back when the process has been reaped: all are free again only if it is gone.
        let all = u32::try_from(AT_ONCE).unwrap();
        let all_free = tokio::time::timeout(Duration::from_secs(10), slots.0.acquire_many(all)).await;
        assert!(all_free.is_ok());
    }

    #[tokio::test]
    async fn no_more_processes_run_at_once_than_may_and_the_others_wait_within_their_deadline() {
        let slots = Slots::default();
        let hanging: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let slots = slots.clone();
                tokio::spawn(async move { shell(&slots, "exec sleep 1000", Input::Tap, soon(10_000)).await })
            })
            .collect();
        while slots.0.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let outcome = shell(&slots, "exit", Input::Tap, soon(20)).await;
        assert_eq!(outcome.map(|_| ()), Err(Cause::QueryTimedOut));
        hanging[0].abort(); // as when another server has answered
        assert!(shell(&slots, "exit", Input::Tap, soon(10_000)).await.is_ok());
        hanging.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
