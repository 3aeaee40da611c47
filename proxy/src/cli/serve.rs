//! The proxy itself: `dot-proxy` without a subcommand.

use std::io;
use std::time::Duration;

use dot_proxy_config::Config;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{debug, info};

use super::options::Options;
use super::{Failure, runtime};
use crate::app::App;
use crate::config::{Resolved, event_settings};
use crate::confine::Confinement;
use crate::events::{Event, Events};
use crate::logging::{self, Destination};
use crate::{kernel, memory, panics};

/// The start is over by then: an upstream that is not far has been connected to.
const STARTED: Duration = Duration::from_millis(250);

/// Serves until SIGTERM or SIGINT, then drains.
pub(super) fn run(options: &Options) -> Result<(), Failure> {
    let (written, mut resolved) = configured(options).inspect_err(|failure| tell_refusal(options, failure))?;
    let destination = if written.events.stdout { Destination::Stderr } else { Destination::Stdout };
    logging::start(&written.log, destination);
    panics::log_from_now_on();
    // All files are read; and from here on there may be threads.
    if written.confinement.0 {
        let program = resolved.program.as_deref();
        resolved.confined = Confinement::for_config(&written, options.config_file(), program).apply();
    }
    let confined = resolved.confined.clone();
    if let Err(error) = kernel::run_soon(kernel::SLICE) {
        debug!(%error, "the proxy waits for the processor like any other program");
    }
    runtime(written.threads.0)?.block_on(async {
        let work = |error: &dyn std::fmt::Display| Failure::Work(error.to_string());
        let signals = Signals::listen().map_err(|error| work(&error))?;
        let app = App::bind(resolved).map_err(|error| work(&error))?;
        let (address, admin) = (app.address().map_err(|error| work(&error))?, app.admin_address().map_err(|error| work(&error))?);
        let upstreams: Vec<_> = written.upstream.servers.iter().map(ToString::to_string).collect();
        info!(version = env!("CARGO_PKG_VERSION"), %address, %admin, upstreams = upstreams.join(", "), "taking queries");
        confined.log();
        tokio::spawn(async {
            tokio::time::sleep(STARTED).await;
            memory::let_go();
        });
        if app.run(signals.first()).await { Ok(()) } else { Err(Failure::Work("a listener ended by itself".to_owned())) }
    })
}

fn configured(options: &Options) -> Result<(Config, Resolved), Failure> {
    let source = options.source()?;
    let written = match &source {
        Some(source) => source.written.clone(),
        None => options.written()?,
    };
    let resolved = Resolved::from_written(&written).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok((written, Resolved { source, ..resolved }))
}

/// Tells of a configuration that was not taken where events are to be told, if that at least can be read.
fn tell_refusal(options: &Options, failure: &Failure) {
    let Failure::Usage(reason) = failure else { return };
    let settings = options.events_alone().and_then(|events| event_settings(&events).ok());
    let (Some(settings), Ok(runtime)) = (settings, runtime(1)) else { return };
    runtime.block_on(async {
        let (events, carriers) = Events::start(settings, &mut Registry::default());
        events.emit(Event::ConfigurationRefused { field: String::new(), reason: reason.clone() });
        carriers.finish().await;
    });
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on the signals no longer end the process by themselves.
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the first signal; a second one, while draining, ends the process at once.
    async fn first(mut self) {
        self.next().await;
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(1);
        });
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
