//! `dot-proxy query NAME [TYPE]`: one lookup by the same configuration and the same code, printed for a person.

mod presentation;

use std::net::Ipv4Addr;

use clap::Args;
use hickory_proto::rr::RecordType;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::options::Options;
use super::{Failure, block_on, question};
use crate::app;
use crate::config::Resolved;
use crate::events::Events;
use crate::logging::{self, Destination};
use crate::replies::Recipient;
use crate::resolve::{Asking, Protocol, Sender, Step, Trust};
use crate::wire::{HEADER, Rcode, UDP_PAYLOAD, flag, response, rtype};

/// Look a name up once, by the same configuration, and print the answer
#[derive(Debug, Args)]
pub(super) struct Query {
    /// Name to look up
    #[arg(value_name = "NAME")]
    name: String,
    /// Record type, such as A, AAAA, MX, TXT, HTTPS
    #[arg(value_name = "TYPE", default_value = "A", value_parser = question::parse_type)]
    record_type: RecordType,
    #[command(flatten)]
    options: Options,
}

impl Query {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut written = self.options.written()?;
        if !self.options.verbose {
            written.log.level = dot_proxy_config::log::Level::Error; // the answer says what failed
        }
        logging::start(&written.log, Destination::Stderr);
        let resolved = Resolved::from_written(&written).map_err(|error| Failure::Usage(error.to_string()))?;
        let message = self.message()?;
        let began = Instant::now();
        let reply = block_on(async {
            let resolver = std::sync::Arc::new(app::resolver(resolved, Events::none(), &mut Registry::default()).0);
            let (mut reply, mut asking) = (Vec::new(), Asking::default());
            let (recipient, later) = Recipient::caller();
            // Over TCP nothing is truncated.
            let address = (Ipv4Addr::LOCALHOST, 0).into();
            let sender = Sender { protocol: Protocol::Tcp, address, trust: Trust::Usual };
            match resolver.begin(&message, sender, began, &mut reply, &mut asking, || recipient) {
                Step::Waiting => {
                    resolver.flush(&mut asking);
                    later.await.map_err(|_| Failure::Work("no reply came".to_owned()))
                }
                Step::Reply | Step::ReplyInvalid | Step::ReplyOverShare | Step::Withheld | Step::Ignore => Ok(reply),
            }
        })?;
        self.print(&reply, began)
    }

    /// The question as a client would ask it, with RD, and EDNS to be told why there is no answer.
    fn message(&self) -> Result<Vec<u8>, Failure> {
        let question = question::octets(&self.name, self.record_type).map_err(Failure::Usage)?;
        let mut message = vec![0; HEADER];
        message[2..4].copy_from_slice(&flag::RD.to_be_bytes());
        (message[5], message[11]) = (1, 1); // a question, and the OPT
        message.extend(question);
        message.push(0); // OPT (RFC 6891 §6.1.2): at the root, the payload as class, no flags, no options
        message.extend([rtype::OPT, UDP_PAYLOAD, 0, 0, 0].map(u16::to_be_bytes).as_flattened());
        Ok(message)
    }

    #[expect(clippy::print_stdout, reason = "the answer is the command's result")]
    fn print(&self, reply: &[u8], began: Instant) -> Result<(), Failure> {
        let Some(code) = response::rcode(reply) else {
            return Err(Failure::Work("the answer cannot be read".to_owned()));
        };
        let explanation = response::extended_error(reply).map(|text| format!(": {text}")).unwrap_or_default();
        if !matches!(code, Rcode::NOERROR | Rcode::NXDOMAIN) {
            let record_type = presentation::type_name(self.record_type);
            return Err(Failure::Work(format!("{} {record_type} was not resolved: {code}{explanation}", self.name)));
        }
        let lines: Vec<_> =
            response::answer_records(reply).filter_map(|record| presentation::line(reply, &record)).collect();
        for line in &lines {
            println!("{line}");
        }
        let count = match lines.len() {
            0 => "no records".to_owned(),
            1 => "1 record".to_owned(),
            count => format!("{count} records"),
        };
        println!("; {code}, {count}, {} ms{explanation}", began.elapsed().as_millis());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use hickory_proto::op::Message;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        query: Query,
    }

    fn message(arguments: &[&str]) -> Result<Message, String> {
        let line = Line::try_parse_from([&["query"], arguments].concat()).map_err(|error| error.to_string())?;
        let bytes = line.query.message().map_err(|failure| format!("{failure:?}"))?;
        Ok(Message::from_vec(&bytes).unwrap())
    }

    #[test]
    fn the_question_is_what_was_written() {
        for (arguments, name, record_type) in [
            (&["www.Example.com"][..], "www.Example.com.", RecordType::A),
            (&["example.com.", "mx"], "example.com.", RecordType::MX),
            (&["a\\.b.example", "TYPE65280"], "a\\.b.example.", RecordType::Unknown(65_280)),
            (&[".", "NS"], ".", RecordType::NS),
        ] {
            let message = message(arguments).unwrap();
            let question = &message.queries[0];
            assert_eq!((question.name().to_ascii().as_str(), question.query_type()), (name, record_type));
            assert!(message.metadata.recursion_desired && message.edns.is_some());
        }
    }

    #[test]
    fn what_is_no_name_and_no_type_is_refused_with_the_remedy() {
        for (arguments, remedy) in [
            (&["exa mple..com"][..], "such as www.example.com"),
            (&[&"a".repeat(64)], "63 octets"),
            (&[&["abcdefgh"; 29].join(".")], "253 in all"),
            (&["example.com", "NONSENSE"], "RFC 3597"),
        ] {
            let error = message(arguments).unwrap_err();
            assert!(error.contains(remedy), "{arguments:?}: {error}");
        }
    }
}
