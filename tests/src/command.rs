//! Programs run to their end: `kubectl`, `helm`, `tcpdump`, as a person would run them.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

/// No program of a test runs longer than this, in seconds: `timeout` ends it.
const LIMIT: &str = "120";

/// A call of a program, not made yet.
#[derive(Debug)]
pub struct Call {
    words: Vec<String>,
    input: Option<String>,
}

/// What a program said, and whether it exited with 0.
#[derive(Debug, Clone)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code 0.
    pub success: bool,
    command: String,
}

impl Call {
    /// Calls `program`.
    pub fn new(program: &str) -> Self {
        Self { words: vec![program.to_owned()], input: None }
    }

    /// Calls `kubectl` with these arguments, split at spaces.
    pub fn kubectl(arguments: &str) -> Self {
        Self::new("kubectl").words(arguments)
    }

    /// Adds arguments, split at spaces.
    #[must_use]
    pub fn words(mut self, arguments: &str) -> Self {
        self.words.extend(arguments.split_whitespace().map(str::to_owned));
        self
    }

    /// Adds one argument as it is.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.words.push(argument.as_ref().to_string_lossy().into_owned());
        self
    }

    /// Gives the program this document on its standard input.
    #[must_use]
    pub fn input(mut self, document: &Value) -> Self {
        self.input = Some(document.to_string());
        self
    }

    /// Runs the program to its end, whatever that is.
    pub fn output(self) -> Output {
        let command = self.words.join(" ");
        let mut child = Command::new("timeout")
            .args(["--kill-after=5", LIMIT])
            .args(&self.words)
            .stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command}: {error}"));
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), &self.input) {
            // A program that ends before it has read everything says why on its standard error.
            let _ = pipe.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().unwrap_or_else(|error| panic!("cannot wait for {command}: {error}"));
        Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            success: output.status.success(),
            command,
        }
    }

    /// Runs the program, which must succeed, and returns its standard output without surrounding white space.
    pub fn succeed(self) -> String {
        let output = self.output();
        assert!(output.success, "failed: {output}");
        output.stdout.trim().to_owned()
    }

    /// Runs the program, which must succeed and print JSON.
    pub fn json(self) -> Value {
        let command = self.words.join(" ");
        let text = self.succeed();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command} printed no JSON ({error}): {text}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n{}{}", self.command, self.stdout, self.stderr)
    }
}
