//! Memory that a process has no use for.

use std::io;

/// Gives the memory of this program's code back to the page cache. What is executed from here
/// on comes back as it is needed: for a process that has little left to do.
///
/// # Errors
/// Where `/proc` cannot be read, and madvise(2)'s.
pub fn release_code() -> io::Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    for (start, end) in maps.lines().filter_map(code) {
        let length = end.saturating_sub(start);
        // SAFETY: a private mapping of a file that is never writable holds nothing but the
        // file's content, and that is what its pages come back with (MADV_DONTNEED).
        let done = unsafe {
            libc::madvise(std::ptr::without_provenance_mut(start), length, libc::MADV_DONTNEED)
        };
        if done == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The addresses of a line of `/proc/PID/maps` (proc(5)), where that is code from a file.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, mode, inode) = (fields.next()?, fields.next()?, fields.nth(2)?);
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    if mode != "r-xp" || inode == "0" {
        return None;
    }
    Some((number(start)?, number(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_given_back() {
        let of_file = "7f00-7fa0 r-xp 00001000 fe:00 77 /usr/bin/postroj";
        assert_eq!(code(of_file), Some((0x7f00, 0x7fa0)));
        for line in [
            "7f00-7fa0 r--p 00001000 fe:00 77 /usr/bin/postroj",
            "7f00-7fa0 rw-p 00001000 fe:00 77 /usr/bin/postroj",
            "7f00-7fa0 rwxp 00001000 fe:00 77 /usr/bin/postroj",
            "7ffd-7fff r-xp 00000000 00:00 0 [vdso]",
            "",
        ] {
            assert_eq!(code(line), None, "{line}");
        }
        release_code().unwrap();
        assert_eq!(code(of_file), Some((0x7f00, 0x7fa0)), "and runs on");
    }
}
