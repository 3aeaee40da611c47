//! The program as a user starts it.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::servers::Servers;

/// What it printed, and how it ended.
pub struct Ended {
    pub code: Option<i32>,
    pub output: String,
    pub complaints: String,
}

/// The program, trusting these servers' CA.
pub fn profiler(servers: &Servers, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dot-profiler"));
    command.args(["--tls-ca", &servers.ca()]).args(arguments).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub fn run(servers: &Servers, arguments: &[&str]) -> Ended {
    profiler(servers, arguments).output().unwrap().into()
}

/// Runs it, and reads its report in JSON.
pub fn report(servers: &Servers, arguments: &[&str]) -> Value {
    let ended = run(servers, &[&["--format", "json"], arguments].concat());
    assert_eq!((ended.code, ended.complaints.as_str()), (Some(0), ""), "{}", ended.output);
    serde_json::from_str(&ended.output).unwrap()
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            output: String::from_utf8(output.stdout).unwrap(),
            complaints: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
