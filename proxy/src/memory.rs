//! Giving memory back to the system.

/// Lets go of what only the start needed: the pages of the program that parsed arguments, read configuration and shook hands
/// first, and free memory at the heap's end. What is still needed of the program comes back from the page cache by itself,
/// in microseconds.
pub fn let_go() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    linux::let_go();
}

/// Gives back what the allocator keeps at hand of memory that was freed, wherever that lies.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    linux::give_back();
}

/// What talks to the kernel and to the allocator.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "three functions of libc without a safe form")]
mod linux {
    use std::ffi::{c_int, c_void};
    use std::ptr;

    /// Pages are larger on some machines, where the kernel refuses an address that begins none: nothing is let go then.
    const PAGE: usize = 4096;

    /// Of a segment that can be written to (`elf.h`).
    const PF_W: u32 = 2;

    pub(super) fn let_go() {
        // SAFETY: `first_object` has the signature asked for, keeps nothing, and is called before this returns.
        unsafe { libc::dl_iterate_phdr(Some(first_object), ptr::null_mut()) };
        give_back();
    }

    pub(super) fn give_back() {
        // SAFETY: it takes the allocator's own locks, and touches free memory alone.
        unsafe { libc::malloc_trim(0) };
    }

    /// The first object is the program itself; a return value other than 0 ends the iteration with it.
    unsafe extern "C" fn first_object(info: *mut libc::dl_phdr_info, _size: usize, _: *mut c_void) -> c_int {
        // SAFETY: dl_iterate_phdr passes a valid description, whose headers are an array of that length.
        let (base, headers) = unsafe {
            let info = &*info;
            (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
        };
        for header in headers {
            let is_pristine = header.p_type == libc::PT_LOAD && header.p_flags & PF_W == 0;
            let (Ok(start), Ok(length)) = (usize::try_from(base + header.p_vaddr), usize::try_from(header.p_memsz))
            else {
                continue;
            };
            if is_pristine {
                let first_page = start / PAGE * PAGE;
                // SAFETY: a segment that cannot be written to is the same in memory as in the file, which it is mapped from
                // privately: a page dropped here is read from there again when it is touched, by this code too.
                unsafe {
                    libc::madvise(
                        ptr::with_exposed_provenance_mut(first_page),
                        start + length - first_page,
                        libc::MADV_DONTNEED,
                    );
                }
            }
        }
        1
    }
}
