//! What dig and kdig print about a reply.

use crate::command::Output;

/// A reply, as dig or kdig printed it.
#[derive(Debug)]
pub struct Reply {
    /// The response code: `NOERROR`, `SERVFAIL`, …; the program's own words where no reply came.
    pub status: String,
    /// The data of the records of the answer.
    pub answers: Vec<String>,
    /// The text of the Extended DNS Error (RFC 8914), with its code, if there is one.
    pub error: Option<String>,
    /// All that was printed.
    pub text: String,
}

impl Reply {
    /// Reads what dig or kdig printed; both mark what is not a record with `;`.
    pub fn read(output: &Output) -> Self {
        let text = format!("{}{}", output.stdout, output.stderr);
        let status = text
            .split_once("status: ")
            .and_then(|(_, rest)| rest.split([';', ',', '\n']).next())
            .map_or_else(|| text.trim().to_owned(), |status| status.trim().to_owned());
        let answers = output
            .stdout
            .lines()
            .filter(|line| !line.starts_with(';'))
            .filter_map(|line| line.split_whitespace().nth(4))
            .map(str::to_owned)
            .collect();
        let error = text.lines().find_map(|line| Some(line.split_once("EDE: ")?.1.trim().to_owned()));
        Self { status, answers, error, text }
    }
}
