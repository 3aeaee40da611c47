//! A log that nobody waits for: a pipe that is not read is full some day, and whoever then writes to it stands still. What
//! cannot be written at once is left out, and how much that was is told when it can be again.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, write};
use tracing_subscriber::fmt::MakeWriter;

/// A pipe that can be written to takes so many octets at least (`PIPE_BUF`).
const AT_ONCE: usize = 4096;

/// Writes lines to a descriptor that nobody else of this process writes to.
#[derive(Debug)]
pub struct Unblocked<D> {
    descriptor: D,
    left_out: Mutex<LeftOut>,
    note: fn(u64) -> String,
}

/// What could not be written since the last line that could.
#[derive(Debug, Default)]
struct LeftOut {
    lines: u64,
    /// The first of them was begun.
    begun: bool,
}

impl<D: AsFd> Unblocked<D> {
    /// The note tells, as a line without its end, how many lines were left out.
    pub fn new(descriptor: D, note: fn(u64) -> String) -> Self {
        Self { descriptor, left_out: Mutex::default(), note }
    }

    fn line(&self, line: &[u8]) {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        if left_out.lines > 0 {
            let end = if left_out.begun { "\n" } else { "" };
            let note = format!("{end}{}\n", (self.note)(left_out.lines));
            // A short line, which is written whole or not at all.
            if self.write(note.as_bytes()) == 0 {
                left_out.lines += 1;
                return;
            }
            *left_out = LeftOut::default();
        }
        let written = self.write(line);
        if written < line.len() {
            *left_out = LeftOut { lines: 1, begun: written > 0 };
        }
    }

    /// Writes as much as can be written at once; tells how many octets.
    fn write(&self, octets: &[u8]) -> usize {
        let mut written = 0;
        while written < octets.len() && self.takes_more() {
            let end = octets.len().min(written + AT_ONCE);
            match write(&self.descriptor, &octets[written..end]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        written
    }

    fn takes_more(&self) -> bool {
        let mut descriptor = [PollFd::new(&self.descriptor, PollFlags::OUT)];
        let ready = poll(&mut descriptor, Some(&Timespec::default()));
        ready.is_ok_and(|ready| ready > 0)
    }
}

/// The log's lines come whole.
impl<D: AsFd> Write for &Unblocked<D> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a, D: AsFd + 'a> MakeWriter<'a> for Unblocked<D> {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, PipeReader, pipe};

    fn log() -> (Unblocked<io::PipeWriter>, BufReader<PipeReader>) {
        let (reader, writer) = pipe().unwrap();
        (Unblocked::new(writer, |lines| format!("{lines} left out")), BufReader::new(reader))
    }

    #[test]
    fn what_is_read_is_written_line_by_line() {
        let (log, reader) = log();
        (&log).write_all(b"one\n").unwrap();
        (&log).write_all(&[&[b'x'; 10_000][..], b"\n"].concat()).unwrap();
        drop(log);
        let lines: Vec<usize> = reader.lines().map(|line| line.unwrap().len()).collect();
        assert_eq!(lines, [3, 10_000]);
    }

    #[test]
    fn who_writes_waits_for_nobody_who_does_not_read_and_what_was_left_out_is_told_afterwards() {
        let (log, mut reader) = log();
        let line = [&[b'x'; 5_999][..], b"\n"].concat();
        for _ in 0..100 {
            (&log).write_all(&line).unwrap(); // a pipe takes 64 KiB, and this would wait for ever
        }
        let mut octets = vec![0; 30_000];
        io::Read::read_exact(&mut reader, &mut octets).unwrap();
        (&log).write_all(b"last\n").unwrap();
        drop(log);
        let rest: Vec<String> = reader.lines().map(Result::unwrap).collect();
        let whole = octets.split(|octet| *octet == b'\n').filter(|line| line.len() == 5_999).count();
        let (notes, lines): (Vec<_>, Vec<_>) = rest.into_iter().partition(|line| line.ends_with(" left out"));
        let more = lines.iter().filter(|line| line.len() == 5_999).count();
        assert_eq!(notes, [format!("{} left out", 100 - whole - more)]);
        assert_eq!(lines.last().unwrap(), "last");
    }

    #[test]
    fn where_nobody_reads_any_more_nothing_fails() {
        let (log, reader) = log();
        drop(reader);
        (&log).write_all(b"one\n").unwrap();
        (&log).write_all(b"two\n").unwrap();
        assert_eq!(log.left_out.lock().unwrap().lines, 2);
    }
}
