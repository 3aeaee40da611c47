//! How the static binary is linked.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if !is_static_with_glibc() {
        return;
    }
    if env::var("HOST") == env::var("TARGET") && glibc() >= Some((2, 36)) {
        // A static binary that can be loaded anywhere relocates itself at its start: ten thousand times the same entry, 220 KB
        // of them. glibc reads them packed (DT_RELR, 2 KB) since 2.36; an older one would start without them, and crash.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    if is_linked_by_lld() {
        // Functions that were compiled to the same instructions are kept once. Nothing here tells functions by their addresses.
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
}

/// Whether the linker is the one that comes with rustc for this target (since 1.90), and no other was asked for.
fn is_linked_by_lld() -> bool {
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    env::var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu")
        && env::var_os("RUSTC_LINKER").is_none()
        && !flags.contains("link")
}

fn is_static_with_glibc() -> bool {
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|values| values.split(',').any(|one| one == value));
    is("CARGO_CFG_TARGET_FEATURE", "crt-static")
        && is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
}

/// The version of this machine's glibc, which is the one that is linked in.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?; // "glibc 2.36"
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
