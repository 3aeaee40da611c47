//! A process under measurement: confined to its processors, ended when it is dropped, and what the kernel counts of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{During, Failure, Outcome};
use crate::system::{self, Signal};

/// A process that was started here.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    log: PathBuf,
    /// When it had begun to run its own program.
    pub(super) started: Instant,
}

impl Process {
    /// Starts `command` on `processors`; what it says goes into the file `log`. Standard input and output are as the command
    /// has them, or none.
    pub(super) fn start(mut command: Command, processors: &[usize], log: &Path) -> Outcome<Self> {
        let what = command.get_program().display().to_string();
        let file = File::create(log).during(format_args!("writing {}", log.display()))?;
        let too = file.try_clone().during("writing a log")?;
        command.stdin(Stdio::null()).stdout(too).stderr(file);
        Self::spawn(command, processors, log, &what)
    }

    /// The same, but standard input and output are pipes: `input` and `output` take them.
    pub(super) fn start_with_pipes(mut command: Command, processors: &[usize], log: &Path) -> Outcome<Self> {
        let what = command.get_program().display().to_string();
        let file = File::create(log).during(format_args!("writing {}", log.display()))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        Self::spawn(command, processors, log, &what)
    }

    fn spawn(mut command: Command, processors: &[usize], log: &Path, what: &str) -> Outcome<Self> {
        let child = system::spawn(&mut command, processors).during(format_args!("starting {what}"))?;
        Ok(Self { child, log: log.to_owned(), started: Instant::now() })
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// A failure when it has ended, with the last that it said.
    pub(super) fn alive(&mut self) -> Outcome<()> {
        match self.child.try_wait().during("waiting for a process")? {
            None => Ok(()),
            Some(status) => Err(Failure::new(format!("it ended ({status}): {}", self.last_words()))),
        }
    }

    pub(super) fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
        if lines.is_empty() {
            "it said nothing".to_owned()
        } else {
            lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn signal(&self, signal: Signal) -> Outcome<()> {
        system::signal(self.id(), signal).during("sending a signal")
    }

    /// Processor time of all its threads so far.
    pub(super) fn cpu(&self) -> Outcome<Duration> {
        let nanoseconds = self.of_each_thread("schedstat", |text| text.split(' ').next()?.parse().ok())?;
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// How often its threads were given the processor anew, of their own accord or not.
    pub(super) fn context_switches(&self) -> Outcome<u64> {
        self.of_each_thread("status", |text| {
            Some(field(text, "voluntary_ctxt_switches:")? + field(text, "nonvoluntary_ctxt_switches:")?)
        })
    }

    /// Octets of memory that are resident.
    pub(super) fn resident(&self) -> Outcome<u64> {
        self.memory("VmRSS:")
    }

    /// The most octets that were resident since `forget_most`, or since the start.
    pub(super) fn most_resident(&self) -> Outcome<u64> {
        self.memory("VmHWM:")
    }

    /// Lets the most begin anew.
    pub(super) fn forget_most(&self) -> Outcome<()> {
        fs::write(format!("/proc/{}/clear_refs", self.id()), "5").during("resetting the most that was resident")
    }

    /// How many descriptors it has open.
    pub(super) fn descriptors(&self) -> Outcome<u64> {
        let folder = format!("/proc/{}/fd", self.id());
        Ok(fs::read_dir(&folder).during(format_args!("reading {folder}"))?.count() as u64)
    }

    fn memory(&self, name: &str) -> Outcome<u64> {
        let path = format!("/proc/{}/status", self.id());
        let text = fs::read_to_string(&path).during(format_args!("reading {path}"))?;
        let kibibytes = field(&text, name).ok_or_else(|| Failure::new(format!("{path} tells no {name}")))?;
        Ok(kibibytes * 1024)
    }

    fn of_each_thread(&self, file: &str, count: impl Fn(&str) -> Option<u64>) -> Outcome<u64> {
        let folder = format!("/proc/{}/task", self.id());
        let mut sum = 0;
        for thread in fs::read_dir(&folder).during(format_args!("reading {folder}"))?.flatten() {
            // A thread that ended in the meantime has no file any more.
            let Ok(text) = fs::read_to_string(thread.path().join(file)) else { continue };
            sum += count(&text).ok_or_else(|| Failure::new(format!("cannot read {file} of a thread in {folder}")))?;
        }
        Ok(sum)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Asked first, so that what it started itself goes too; then made to.
        let _ = self.signal(Signal::Thaw);
        let _ = self.signal(Signal::End);
        let deadline = Instant::now() + Duration::from_millis(500);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number that follows `name` in a status file of /proc.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}
