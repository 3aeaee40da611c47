//! The injector as a whole: the real HTTPS server on loopback against an API server of the test's, and the program's
//! command line.

mod admission;
mod api_server;
mod certificates;
mod command_line;
mod http;
mod injector;
