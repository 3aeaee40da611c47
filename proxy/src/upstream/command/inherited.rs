//! Files that the programs read although nothing can be written: memory that a process inherits as an open file.

use std::io;

/// A file in memory, which every process started from now on can read at [`InheritedFile::path`]. It is gone when dropped.
#[derive(Debug)]
pub(super) struct InheritedFile {
    #[cfg(target_os = "linux")]
    file: std::os::fd::OwnedFd,
}

#[cfg(target_os = "linux")]
impl InheritedFile {
    /// Such a file; nobody can change it any more, the programs included.
    pub(super) fn holding(name: &str, content: &[u8]) -> io::Result<Self> {
        use std::io::Write;

        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

        // Without CLOEXEC: the processes are to have it.
        let mut file = std::fs::File::from(memfd_create(name, MemfdFlags::ALLOW_SEALING)?);
        file.write_all(content)?;
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self { file: file.into() })
    }

    /// Its path within a process that has inherited it. Each opening reads from the start.
    pub(super) fn path(&self) -> String {
        use std::os::fd::AsRawFd;

        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }
}

#[cfg(not(target_os = "linux"))]
impl InheritedFile {
    pub(super) fn holding(_: &str, _: &[u8]) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the programs curl and kdig are used on Linux alone"))
    }

    pub(super) fn path(&self) -> String {
        String::new()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_reads_it_as_often_as_it_likes_and_cannot_change_it() {
        let file = InheritedFile::holding("test", b"content").unwrap();
        let path = file.path();
        let read = Command::new("cat").args([&path, &path]).output().unwrap();
        assert_eq!(read.stdout, b"contentcontent");
        assert!(!Command::new("truncate").args(["--size=0", &path]).output().unwrap().status.success());
    }
}
