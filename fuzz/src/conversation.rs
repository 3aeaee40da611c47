//! A stream in memory: what the other side sends, in pieces, with pauses, and how much it takes at a time.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream; a copy of it is a second handle to the same.
#[derive(Clone, Default)]
pub struct Conversation(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    incoming: Vec<u8>,
    read: usize,
    pieces: Vec<u8>,
    turn: usize,
    outgoing: Vec<u8>,
}

impl Conversation {
    /// What comes, and in pieces of which sizes, read and written in turn: 0 is a pause. Without any, all comes at once.
    pub fn new(incoming: &[u8], pieces: &[u8]) -> Self {
        let state = State { incoming: incoming.to_vec(), pieces: pieces.to_vec(), ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// What comes from now on, and in which pieces.
    pub fn restart(&self, incoming: &[u8], pieces: &[u8]) {
        let mut state = self.state();
        (state.incoming, state.read, state.pieces, state.turn) = (incoming.to_vec(), 0, pieces.to_vec(), 0);
    }

    /// What was written until now.
    pub fn written(&self) -> Vec<u8> {
        self.state().outgoing.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How much may pass now; `None` for a pause, of which there are never two in a row.
    fn piece(&mut self) -> Option<usize> {
        if self.pieces.is_empty() {
            return Some(usize::MAX);
        }
        self.turn += 1;
        match self.pieces[(self.turn - 1) % self.pieces.len()] {
            0 => {
                self.pieces.retain(|piece| *piece != 0);
                None
            }
            piece => Some(usize::from(piece)),
        }
    }
}

impl AsyncRead for Conversation {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        let Some(piece) = state.piece() else {
            context.waker().wake_by_ref();
            return Poll::Pending;
        };
        let length = piece.min(buffer.remaining()).min(state.incoming.len() - state.read);
        buffer.put_slice(&state.incoming[state.read..state.read + length]);
        state.read += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Conversation {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.state();
        let Some(piece) = state.piece() else {
            context.waker().wake_by_ref();
            return Poll::Pending;
        };
        let length = piece.min(octets.len());
        state.outgoing.extend_from_slice(&octets[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
