//! The proxy as a whole, over real sockets.
