//! `dot-injector`: see `dot-injector --help`.

use std::process::ExitCode;

/// A review makes and frees some thousands of short strings. The C library's allocator keeps seven of a size at hand, and a third of a
/// review's time went into what it does beyond that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    dot_injector::cli::run(std::env::args_os())
}
