//! What has to be run so that a program runs: itself, and what interprets it, by the kernel's own rules (execve(2)).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where the names of interpreters stand: at the start of a script, in the first pages of an ELF file.
const HEAD: u64 = 64 << 10;

/// Scripts that interpret scripts, at most, as in the kernel.
const DEPTH: usize = 4;

/// PT_INTERP.
const INTERPRETER: u32 = 3;

/// The program's file and those of its interpreters.
pub(super) fn files_to_run(program: &Path) -> Vec<PathBuf> {
    let mut files = vec![program.to_owned()];
    while files.len() <= DEPTH
        && let Some(interpreter) = files.last().and_then(|file| interpreter_of(&head(file)))
    {
        files.push(interpreter);
    }
    files
}

fn head(file: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    // What cannot be read has no interpreter that is known here: running it will fail, and tell.
    let _ = File::open(file).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    head
}

fn interpreter_of(head: &[u8]) -> Option<PathBuf> {
    let path = match head.strip_prefix(b"#!") {
        Some(line) => {
            let line = line.split(|octet| *octet == b'\n').next()?.trim_ascii_start();
            line.split(u8::is_ascii_whitespace).next()?
        }
        None => elf_interpreter(head)?,
    };
    str::from_utf8(path).ok().filter(|path| path.starts_with('/')).map(PathBuf::from)
}

/// The dynamic loader that a 64-bit ELF file asks for (elf(5)); none where it is linked statically.
fn elf_interpreter(head: &[u8]) -> Option<&[u8]> {
    const SIXTY_FOUR_BIT: &[u8] = b"\x7fELF\x02";
    let half = |at: usize| Some(usize::from(u16::from_ne_bytes(*head.get(at..)?.first_chunk()?)));
    let word = |at: usize| Some(u32::from_ne_bytes(*head.get(at..)?.first_chunk()?));
    let long = |at: usize| usize::try_from(u64::from_ne_bytes(*head.get(at..)?.first_chunk()?)).ok();
    if !head.starts_with(SIXTY_FOUR_BIT) {
        return None;
    }
    let (table, length, count) = (long(32)?, half(54)?, half(56)?);
    let header = (0..count)
        .map_while(|index| table.checked_add(index * length))
        .find(|header| word(*header) == Some(INTERPRETER))?;
    let (start, length) = (long(header.checked_add(8)?)?, long(header.checked_add(32)?)?);
    head.get(start..start.checked_add(length)?)?.split(|octet| *octet == 0).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_run_by_what_its_first_line_names_and_that_by_its_loader() {
        let script = std::env::temp_dir().join(format!("dot-proxy-script-{}", std::process::id()));
        std::fs::write(&script, "#! /bin/sh -e\nexit\n").unwrap();
        let files = files_to_run(&script);
        std::fs::remove_file(&script).unwrap();
        assert_eq!(files[..2], [script, PathBuf::from("/bin/sh")]);
        assert!(files.len() == 3 && files[2].file_name().unwrap().to_str().unwrap().starts_with("ld-"), "{files:?}");
    }

    #[test]
    fn what_is_no_program_or_is_cut_off_has_no_interpreter() {
        let elf = std::fs::read("/bin/sh").unwrap();
        assert!(interpreter_of(&elf).is_some());
        for length in (0..512).chain([elf.len().min(4096)]) {
            let mut cut = elf[..length].to_vec();
            interpreter_of(&cut); // whatever it says, it says it
            cut.reverse();
            assert_eq!(interpreter_of(&cut), None);
        }
        for text in ["", "#!", "#!\n", "#! relative\n", "text"] {
            assert_eq!(interpreter_of(text.as_bytes()), None, "{text:?}");
        }
    }
}
