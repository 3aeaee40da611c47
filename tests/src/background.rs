//! Programs that run beside a test: the resolver, the capture.

use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};

/// A program in the background. It ends when this is dropped, and when the test process dies, however that happens.
#[derive(Debug)]
pub struct Background {
    pid: u32,
    waiter: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts `command`: program and arguments. What it prints goes nowhere: it has a log of its own.
    pub fn start(command: &Command) -> Self {
        // The kernel ends the program with the thread that started it (PDEATHSIG): so a thread of its own, which lives until the
        // program ends, not the thread of the test that happened to be first.
        let mut started = Command::new("setpriv");
        started
            .args(["--pdeathsig", "KILL", "--"])
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (tell, told) = sync_channel(1);
        let waiter = thread::spawn(move || {
            let child = started.spawn();
            let _ = tell.send(child.as_ref().map(Child::id).map_err(ToString::to_string));
            if let Ok(mut child) = child {
                let _ = child.wait();
            }
        });
        let pid = told
            .recv()
            .expect("the thread sends before it ends")
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { pid, waiter: Some(waiter) }
    }

    /// Whether the program has not ended yet.
    pub fn is_running(&self) -> bool {
        self.waiter.as_ref().is_some_and(|waiter| !waiter.is_finished())
    }

    /// Sends SIGINT and waits for the end.
    pub fn interrupt(&mut self) {
        self.end("INT");
    }

    fn end(&mut self, signal: &str) {
        if let Some(waiter) = self.waiter.take() {
            if !waiter.is_finished() {
                let _ = Command::new("kill").args(["-s", signal, &self.pid.to_string()]).status();
            }
            let _ = waiter.join();
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end("KILL");
    }
}
