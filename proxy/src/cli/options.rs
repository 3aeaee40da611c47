//! The flags of `serve` and `query`, and how they combine with `--config`: a flag that is given wins.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use dot_proxy_config::log::{Format, Level};
use dot_proxy_config::{
    Collector, Config, Events, Network, ParseError, Preset, Route, Server, Strategy, Suffix, Syslog, Threads,
};

use super::{Failure, Stub};
use crate::reload::{self, Hash, Source};

/// The stub that an image was built for. It holds where neither --stub nor a configuration file says another.
const STUB_OF_THE_IMAGE: &str = "DOT_PROXY_STUB";

/// Flags that configure the proxy.
#[allow(rustdoc::broken_intra_doc_links, reason = "these comments are the text of --help")]
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Options {
    /// Address to take queries on, UDP and TCP; sources outside loopback and private ranges are dropped unless --allow
    /// lets them in [default: 0.0.0.0]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<IpAddr>,
    /// Port to take queries on, UDP and TCP [default: 1053]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// TCP clients at once; for a further one the least used gives way [default: 1024]
    #[arg(long, value_name = "NUMBER")]
    connections: Option<u32>,
    /// How to ask: ssock, also called dot, the project's own DNS over TLS; doh, DNS over HTTPS; doq, DNS over QUIC; curl or
    /// kdig, that program. It picks the transport of presets; URLs say their own, and must be of this one [default: ssock]
    #[arg(long, value_name = "STUB")]
    stub: Option<Stub>,
    /// Server to ask: tls://ADDRESS[:PORT]#NAME, https://ADDRESS[:PORT][/PATH]#NAME, quic://ADDRESS[:PORT]#NAME, or a
    /// preset: cloudflare, quad9, google; give it again for servers that stand in for it [default: cloudflare, for doq quad9]
    #[arg(long, value_name = "SERVER")]
    upstream: Vec<Server>,
    /// Which of the servers is asked first: fastest, ordered (the first as long as it answers), or round-robin; one that
    /// fails is left out until it answers again [default: fastest]
    #[arg(long, value_name = "STRATEGY")]
    strategy: Option<Strategy>,
    /// File of CA certificates (PEM) that the server's certificate must chain to, in place of the public roots built in
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Ask this server for names under a suffix: corp.example=udp://10.0.0.53 (plain DNS), or an encrypted server as --upstream
    /// has it
    #[arg(long, value_name = "SUFFIX=SERVER", value_parser = parse_route)]
    route: Vec<Route>,
    /// Serve this range of sources too, such as 203.0.113.0/24
    #[arg(long, value_name = "CIDR")]
    allow: Vec<Network>,
    /// Configuration file, YAML or JSON; flags beside it win. A change of it is taken while running, without a lost query; SIGHUP
    /// has it read again
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Worker threads; one is right for a pod [default: 1]
    #[arg(long, value_name = "NUMBER")]
    threads: Option<u16>,
    /// Address of /livez, /readyz, /metrics and, on loopback alone, /debug/clients and /debug/config [default: 127.0.0.1:9853]
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
    /// Tell of security events, as JSON in the Elastic Common Schema: stdout (a line each; the log then goes to standard
    /// error), or a collector of syslog, tls://ADDRESS[:PORT]#NAME or tcp://ADDRESS[:PORT] (in clear); give it again for both
    #[arg(long, value_name = "WHERE", value_parser = parse_destination)]
    events: Vec<Destination>,
    /// File of CA certificates (PEM) that the collector's certificate must chain to, in place of the public roots built in
    #[arg(long, value_name = "FILE")]
    events_ca: Option<PathBuf>,
    /// Form of the log: text for people, json for machines [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Log each query and each connection (names appear in the log)
    #[arg(long, short)]
    pub(super) verbose: bool,
}

/// Who is told of events.
#[derive(Debug, Clone)]
enum Destination {
    Stdout,
    Syslog(Collector),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn parse_route(text: &str) -> Result<Route, String> {
    let Some((suffix, server)) = text.split_once('=') else {
        return Err("write SUFFIX=SERVER, such as corp.example=udp://10.0.0.53".to_owned());
    };
    let suffix: Suffix = suffix.parse().map_err(|error: ParseError| error.to_string())?;
    let server: Server = server.parse().map_err(|error: ParseError| error.to_string())?;
    Ok(Route::new(vec![suffix], vec![server]))
}

fn parse_destination(text: &str) -> Result<Destination, String> {
    if text == "stdout" {
        return Ok(Destination::Stdout);
    }
    text.parse().map(Destination::Syslog).map_err(|error: ParseError| format!("{error}, or stdout"))
}

/// Reads a configuration file.
pub(super) fn read_config(path: &Path) -> Result<Config, Failure> {
    parse_config(path, &read_text(path)?)
}

fn read_text(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

fn parse_config(path: &Path, text: &str) -> Result<Config, Failure> {
    Config::from_yaml(text).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

/// The configuration where there is no file.
fn default_for(stub: Option<&str>) -> Result<Config, Failure> {
    let mut config = Config::default();
    if let Some(stub) = stub {
        let stub = Stub::from_str(stub, true).map_err(|_| {
            Failure::Usage(format!("{STUB_OF_THE_IMAGE}={stub}: write one of ssock, doh, doq, curl, kdig, or unset it"))
        })?;
        config.upstream.protocol = stub.protocol();
    }
    Ok(config)
}

impl Options {
    /// The configuration: the file, if one is named, with the flags over it.
    pub(super) fn written(&self) -> Result<Config, Failure> {
        self.written_in_an_image_for(std::env::var(STUB_OF_THE_IMAGE).ok().as_deref())
    }

    fn written_in_an_image_for(&self, stub: Option<&str>) -> Result<Config, Failure> {
        match &self.config {
            Some(file) => self.over(read_config(file)?),
            None => self.over(default_for(stub.filter(|stub| !stub.is_empty() && self.stub.is_none()))?),
        }
    }

    /// The same where there is a file, with what has it read again when it has changed.
    pub(super) fn source(&self) -> Result<Option<Source>, Failure> {
        let Some(file) = &self.config else { return Ok(None) };
        let text = read_text(file)?;
        let written = self.over(parse_config(file, &text)?)?;
        let (options, path) = (self.clone(), file.clone());
        let read: reload::Read = Box::new(move |text| {
            let config = parse_config(&path, text).and_then(|config| options.over(config));
            config.map_err(|failure| failure.to_string())
        });
        Ok(Some(Source { file: file.clone(), read, written, hash: Hash::of(text.as_bytes()) }))
    }

    /// A configuration with the flags over it.
    fn over(&self, mut config: Config) -> Result<Config, Failure> {
        self.apply_to(&mut config);
        self.check_stub()?;
        self.apply_to_events(&mut config.events)?;
        config.check().map_err(|error| Failure::Usage(error.to_string()))?;
        Ok(config)
    }

    /// Who is told of events, even where the rest of what was written cannot be used.
    pub(super) fn events_alone(&self) -> Option<Events> {
        let text = self.config.as_ref().and_then(|file| fs::read_to_string(file).ok());
        let mut events = text.and_then(|text| Events::alone_in(&text)).unwrap_or_default();
        self.apply_to_events(&mut events).ok()?;
        Some(events)
    }

    fn apply_to_events(&self, events: &mut Events) -> Result<(), Failure> {
        let mut collectors = 0;
        for destination in &self.events {
            match destination {
                Destination::Stdout => events.stdout = true,
                Destination::Syslog(collector) => {
                    collectors += 1;
                    events.syslog = Some(Syslog::to(collector.clone()));
                }
            }
        }
        if collectors > 1 {
            return Err(Failure::Usage(
                "--events names several collectors: name one, which can tell others".to_owned(),
            ));
        }
        if let Some(file) = &self.events_ca {
            let Some(syslog) = &mut events.syslog else {
                let remedy = "--events-ca is for a collector: add --events tls://ADDRESS[:PORT]#NAME";
                return Err(Failure::Usage(remedy.to_owned()));
            };
            syslog.ca = None;
            syslog.ca_file = Some(file.clone());
        }
        Ok(())
    }

    /// Flags that contradict each other. Transports can stand side by side where no --stub is given.
    fn check_stub(&self) -> Result<(), Failure> {
        let Some(protocol) = self.stub.map(Stub::protocol) else { return Ok(()) };
        let contradicts =
            |server: &&Server| !matches!(server, Server::Preset(_) | Server::Plain(_)) && !protocol.suits(server);
        match self.upstream.iter().find(contradicts) {
            Some(server) => Err(Failure::Usage(format!(
                "--upstream {server} contradicts --stub {protocol}: write {} there, or leave --stub out",
                protocol.url()
            ))),
            None => Ok(()),
        }
    }

    /// The configuration's file, if there is one.
    pub(super) fn config_file(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    fn apply_to(&self, config: &mut Config) {
        if let Some(host) = self.host {
            config.listen.host = host;
        }
        if let Some(port) = self.port {
            config.listen.port = port;
        }
        if let Some(connections) = self.connections {
            config.listen.connections = connections;
        }
        config.listen.allow.extend(&self.allow);
        if let Some(stub) = self.stub {
            config.upstream.protocol = stub.protocol();
        }
        if !self.upstream.is_empty() {
            config.upstream.servers.clone_from(&self.upstream);
        } else if self.config.is_none() {
            // Not every operator offers every transport: the first one that does.
            let offers = |preset: &Preset| config.upstream.protocol.suits(&Server::Preset(*preset));
            config.upstream.servers = Preset::ALL.into_iter().find(offers).map(Server::Preset).into_iter().collect();
        }
        if let Some(strategy) = self.strategy {
            config.upstream.strategy = strategy;
        }
        if let Some(file) = &self.tls_ca {
            config.upstream.ca = None;
            config.upstream.ca_file = Some(file.clone());
        }
        config.routes.extend(self.route.iter().cloned());
        if let Some(threads) = self.threads {
            config.threads = Threads(threads);
        }
        if let Some(admin) = self.admin {
            config.admin.address = admin;
        }
        match self.log_format {
            Some(LogFormat::Text) => config.log.format = Format::Text,
            Some(LogFormat::Json) => config.log.format = Format::Json,
            None => {}
        }
        if self.verbose {
            config.log.level = config.log.level.max(Level::Debug);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use dot_proxy_config::Protocol;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn written(arguments: &[&str]) -> Result<Config, String> {
        let line = Line::try_parse_from([&["dot-proxy"], arguments].concat()).map_err(|error| error.to_string())?;
        line.options.written().map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn without_flags_the_configuration_is_the_default_one() {
        assert_eq!(written(&[]), Ok(Config::default()));
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file = std::env::temp_dir().join(format!("dot-proxy-options-{}.yaml", std::process::id()));
        fs::write(&file, "listen: {port: 53, connections: 7}\nupstream: {servers: [google], strategy: ordered}\n")
            .unwrap();
        let flags =
            ["--config", file.to_str().unwrap(), "--port", "5353", "--upstream", "quad9", "--strategy", "round-robin"];
        let config = written(&flags).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!((config.listen.port, config.listen.connections), (5353, 7));
        assert_eq!(config.upstream.servers[0].to_string(), "quad9");
        assert_eq!(config.upstream.strategy, Strategy::RoundRobin);
    }

    #[test]
    fn routes_upstreams_and_ranges_can_be_given_again() {
        let config = written(&[
            "--upstream",
            "quad9",
            "--upstream",
            "tls://192.0.2.1#a.example",
            "--route",
            "a.example=udp://10.0.0.1",
            "--route",
            "b.example=udp://10.0.0.1",
            "--allow",
            "192.0.2.0/24",
            "--allow",
            "2001:db8::/32",
        ])
        .unwrap();
        assert_eq!((config.upstream.servers.len(), config.routes.len(), config.listen.allow.len()), (2, 2, 2));
    }

    #[test]
    fn a_stub_asks_presets_by_its_own_transport_and_urls_of_its_scheme() {
        for (stub, url, protocol) in [
            ("ssock", "tls://192.0.2.1#a.example", Protocol::Dot),
            ("dot", "tls://192.0.2.1#a.example", Protocol::Dot),
            ("doh", "https://192.0.2.1#a.example", Protocol::Doh),
            ("doq", "quic://192.0.2.1#a.example", Protocol::Doq),
            ("curl", "https://192.0.2.1#a.example", Protocol::Curl),
            ("kdig", "tls://192.0.2.1#a.example", Protocol::Kdig),
        ] {
            let config = written(&["--stub", stub, "--upstream", "quad9", "--upstream", url]).unwrap();
            assert_eq!((config.upstream.protocol, config.upstream.servers.len()), (protocol, 2));
        }
    }

    #[test]
    fn the_stub_of_an_image_holds_where_nothing_else_is_said() {
        let protocol = |arguments: &[&str], stub: &str| {
            let line = Line::try_parse_from([&["dot-proxy"], arguments].concat()).unwrap();
            let written = line.options.written_in_an_image_for(Some(stub));
            written.map(|config| config.upstream.protocol).map_err(|failure| format!("{failure:?}"))
        };
        assert_eq!(protocol(&[], "kdig"), Ok(Protocol::Kdig));
        assert_eq!(protocol(&[], "doq"), Ok(Protocol::Doq)); // of an operator that offers it
        assert_eq!(protocol(&[], ""), Ok(Protocol::Dot));
        assert_eq!(protocol(&["--stub", "doh"], "kdig"), Ok(Protocol::Doh));
        assert_eq!(protocol(&["--upstream", "https://192.0.2.1#a.example"], "ssock"), Ok(Protocol::Dot));
        assert!(protocol(&[], "magic").unwrap_err().contains("write one of ssock, doh, doq, curl, kdig"));
    }

    #[test]
    fn without_a_stub_transports_stand_side_by_side() {
        let urls = ["tls://192.0.2.1#a.example", "https://192.0.2.1#a.example", "quic://192.0.2.1#a.example"];
        let flags: Vec<_> = urls.iter().flat_map(|url| ["--upstream", url]).collect();
        assert_eq!(written(&flags).unwrap().upstream.servers.len(), 3);
    }

    #[test]
    fn events_go_where_the_flags_say_even_if_the_rest_is_wrong() {
        let flags = ["--events", "stdout", "--events", "tls://192.0.2.5#siem.example", "--events-ca", "ca.pem"];
        let events = written(&flags).unwrap().events;
        let syslog = events.syslog.as_ref().unwrap();
        assert!(events.stdout);
        assert_eq!(syslog.server.to_string(), "tls://192.0.2.5:6514#siem.example");
        assert_eq!(syslog.ca_file.as_deref(), Some(Path::new("ca.pem")));
        let wrong = [&flags[..], &["--threads", "0"]].concat();
        let line = Line::try_parse_from([&["dot-proxy"], &wrong[..]].concat()).unwrap();
        assert_eq!(line.options.events_alone(), Some(events));
    }

    #[test]
    fn a_wrong_flag_is_refused_with_the_remedy() {
        for (arguments, remedy) in [
            (&["--upstream", "tls://dns.example"][..], "add #NAME"),
            (&["--upstream", "udp://10.0.0.1"], "write tls://"),
            (&["--route", "corp.example"], "SUFFIX=SERVER"),
            (&["--allow", "everyone"], "ADDRESS/PREFIX"),
            (&["--strategy", "random"], "fastest, ordered or round-robin"),
            (&["--stub", "magic"], "possible values: ssock, doh, doq, curl, kdig"),
            (&["--stub", "doh", "--upstream", "tls://192.0.2.1#a.example"], "write https://ADDRESS/PATH#NAME there"),
            (&["--stub", "curl", "--upstream", "quic://192.0.2.1#a.example"], "contradicts --stub curl"),
            (&["--stub", "ssock", "--upstream", "https://192.0.2.1#a.example"], "write tls://ADDRESS#NAME there"),
            (&["--stub", "doq", "--upstream", "cloudflare"], "cloudflare does not offer doq: write quad9"),
            (&["--threads", "0"], "from 1 to 64"),
            (&["--events", "stderr"], "tls://ADDRESS[:PORT]#NAME"),
            (&["--events", "tls://192.0.2.5"], "add #NAME"),
            (&["--events", "tcp://192.0.2.5", "--events", "tcp://192.0.2.6"], "name one"),
            (&["--events", "stdout", "--events-ca", "ca.pem"], "add --events tls://"),
            (&["--config", "/nonexistent"], "No such file"),
        ] {
            let error = written(arguments).unwrap_err();
            assert!(error.contains(remedy), "{arguments:?}: {error}");
        }
    }
}
