//! What dnspython makes of a message: a script that is given many, and says of each in a line what it is.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::process::{Child, Command, Stdio};

use super::reading::{Edns, Message, Reading};

/// Where Debian's package `python3-dnspython` is found.
const PYTHON: &str = "/usr/bin/python3";

const SCRIPT: &str = include_str!("dnspython.py");

/// The running script.
pub struct Dnspython(Child);

impl Dnspython {
    /// Starts it.
    pub fn start() -> Self {
        let mut command = Command::new(PYTHON);
        command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(
            command
                .spawn()
                .unwrap_or_else(|error| panic!("{PYTHON}: {error}; install Debian's package python3-dnspython")),
        )
    }

    /// Reads messages.
    pub fn read_all(mut self, messages: &[&[u8]]) -> Vec<Reading> {
        let mut input = BufWriter::new(self.0.stdin.take().unwrap());
        let output = BufReader::new(self.0.stdout.take().unwrap());
        let readings: Vec<Reading> = std::thread::scope(|scope| {
            // Both at once: neither pipe holds everything.
            scope.spawn(move || {
                for message in messages {
                    input.write_all(&u16::try_from(message.len()).unwrap().to_be_bytes()).unwrap();
                    input.write_all(message).unwrap();
                }
            });
            output.lines().map(|line| reading(&line.unwrap())).collect()
        });
        assert!(
            self.0.wait().unwrap().success(),
            "the script failed: is Debian's package python3-dnspython installed?"
        );
        assert_eq!(readings.len(), messages.len());
        readings
    }
}

/// A line is `read RCODE ANSWERS EDNS QUESTION…` or `malformed WHY`.
fn reading(line: &str) -> Reading {
    let mut words = line.split(' ');
    match (words.next(), words.next()) {
        (Some("malformed"), Some(why)) => Reading::Malformed(why.to_owned()),
        (Some("read"), Some(rcode)) => {
            let answers = words.next().unwrap().parse().unwrap();
            let edns = words.next().unwrap();
            let edns = (edns != "-").then(|| {
                let numbers: Vec<u16> = edns.split(',').map(|number| number.parse().unwrap()).collect();
                Edns { version: numbers[0].to_be_bytes()[1], dnssec_ok: numbers[1] != 0, payload: numbers[2].max(512) }
            });
            let octets = |hex: &str| data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
            Reading::Read(Message {
                questions: words.map(octets).collect(),
                edns,
                rcode: rcode.parse().unwrap(),
                answers,
            })
        }
        _ => panic!("the script says {line:?}"),
    }
}
