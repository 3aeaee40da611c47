use std::io;
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::watch;

/// Whether the user has pressed Ctrl-C. A thread of its own listens: slices run on runtimes that come and go.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// From now on Ctrl-C no longer ends the program.
    pub(crate) fn listen() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (tell, told) = watch::channel(false);
        thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
            runtime.block_on(async {
                if tokio::signal::ctrl_c().await.is_ok() {
                    tell.send_replace(true);
                }
                tell.closed().await; // without a sender nobody could go on waiting
            });
        })?;
        Ok(Self(told))
    }

    pub(crate) fn has_happened(&self) -> bool {
        *self.0.borrow()
    }

    /// Completes when it happens.
    pub(crate) async fn happens(&self) {
        if self.0.clone().wait_for(|happened| *happened).await.is_err() {
            std::future::pending::<()>().await; // nobody listens, so nothing can happen
        }
    }
}
