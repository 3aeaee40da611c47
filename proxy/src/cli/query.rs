//! `dot-proxy query NAME [TYPE]`: one lookup by the same configuration and the same code, printed for a person.

mod presentation;

use clap::Args;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as HickoryQuery};
use hickory_proto::rr::{Name, RecordType};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::options::Options;
use super::{Failure, block_on};
use crate::app;
use crate::config::Resolved;
use crate::logging::{self, Destination};
use crate::replies::Recipient;
use crate::resolve::{Asking, Protocol, Step};
use crate::wire::Rcode;
use crate::wire::response;

/// Look a name up once, by the same configuration, and print the answer
#[derive(Debug, Args)]
pub(super) struct Query {
    /// Name to look up
    #[arg(value_name = "NAME")]
    name: String,
    /// Record type, such as A, AAAA, MX, TXT, HTTPS
    #[arg(value_name = "TYPE", default_value = "A", value_parser = parse_type)]
    record_type: RecordType,
    #[command(flatten)]
    options: Options,
}

fn parse_type(text: &str) -> Result<RecordType, String> {
    let upper = text.to_ascii_uppercase();
    let numbered = upper.strip_prefix("TYPE").and_then(|number| number.parse::<u16>().ok()).map(RecordType::from);
    numbered.or_else(|| upper.parse().ok()).ok_or_else(|| {
        "is no record type: write one such as A, AAAA, MX, TXT, HTTPS, or TYPE and its number (RFC 3597)".to_owned()
    })
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
            let resolver = std::sync::Arc::new(app::resolver(resolved, &mut Registry::default()));
            let (mut reply, mut asking) = (Vec::new(), Asking::default());
            let (recipient, later) = Recipient::caller();
            // Over TCP nothing is truncated.
            match resolver.begin(&message, Protocol::Tcp, began, &mut reply, &mut asking, || recipient) {
                Step::Waiting => {
                    resolver.flush(&mut asking);
                    later.await.map_err(|_| Failure::Work("no reply came".to_owned()))
                }
                Step::Reply | Step::ReplyInvalid | Step::Ignore => Ok(reply),
            }
        })?;
        self.print(&reply, began)
    }

    fn message(&self) -> Result<Vec<u8>, Failure> {
        let wrong =
            |error: &dyn std::fmt::Display| Failure::Usage(format!("{:?} is no domain name: {error}", self.name));
        let mut name = Name::from_ascii(&self.name).map_err(|error| wrong(&error))?;
        name.set_fqdn(true);
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(HickoryQuery::query(name, self.record_type));
        message.edns = Some(Edns::new());
        message.to_vec().map_err(|error| wrong(&error))
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
