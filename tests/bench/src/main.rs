//! The program of the benchmark; what it does is in the library, which is empty where there is no Linux.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    dot_bench::main()
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::print_stderr, reason = "a command that ends tells its user why")]
fn main() -> std::process::ExitCode {
    eprintln!("dot-bench: needs Linux: it measures what Linux counts of a process");
    std::process::ExitCode::FAILURE
}
