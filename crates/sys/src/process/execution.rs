//! Becoming another program, and its environment.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use super::alone;

/// Strings for [`execve`], made before a clone.
#[derive(Debug)]
pub struct Strings {
    owned: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Strings {
    /// # Errors
    /// Gives back the string that contains a NUL byte.
    pub fn new<'a>(strings: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let owned = strings
            .into_iter()
            .map(|s| CString::new(s).map_err(|_| s.to_owned()))
            .collect::<Result<Vec<_>, _>>()?;
        let pointers =
            owned.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect();
        Ok(Self { owned, pointers })
    }

    /// The first string.
    pub fn first(&self) -> Option<&CStr> {
        self.owned.first().map(CString::as_c_str)
    }
}

/// Replaces this process by the program at `path`. Returns only on failure.
pub fn execve(path: &CStr, args: &Strings, env: &Strings) -> io::Error {
    // SAFETY: both arrays end with a null pointer and point to strings that `Strings` owns.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Replaces this process by the program behind a descriptor, which stays open in
/// it unless it is close-on-exec. Returns only on failure.
pub fn fexecve(program: BorrowedFd<'_>, args: &Strings, env: &Strings) -> io::Error {
    // SAFETY: as in `execve`; the empty path with AT_EMPTY_PATH means the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Replaces this process by a program that is looked for along `PATH`, with the environment as it
/// is (execvp(3)). Returns only on failure.
pub fn execvp(program: &OsStr, args: &[OsString]) -> io::Error {
    let owned: Result<Vec<CString>, _> = args.iter().map(|a| CString::new(a.as_bytes())).collect();
    let (Ok(owned), Ok(program)) = (owned, CString::new(program.as_bytes())) else {
        return io::ErrorKind::InvalidInput.into();
    };
    let pointers: Vec<_> =
        owned.iter().map(|a| a.as_ptr()).chain(std::iter::once(std::ptr::null())).collect();
    // SAFETY: the array ends with a null pointer and points to strings that live until here.
    unsafe { libc::execvp(program.as_ptr(), pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Changes a variable of this process's environment, and of what it executes; `None` removes it.
///
/// # Errors
/// `EDEADLK` where another thread is alive, which could be reading it; `EINVAL` for a name or value that
/// cannot be (setenv(3)).
pub fn set_environment(
    name: impl AsRef<OsStr>,
    value: Option<impl AsRef<OsStr>>,
) -> io::Result<()> {
    alone()?;
    let (name, value) = (name.as_ref(), value.as_ref().map(AsRef::as_ref));
    let holds_nul = |text: &OsStr| text.as_bytes().contains(&0);
    let bad = name.is_empty() || name.as_bytes().contains(&b'=') || holds_nul(name);
    if bad || value.is_some_and(holds_nul) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: there is no other thread.
    unsafe {
        match value {
            Some(value) => std::env::set_var(name, value),
            None => std::env::remove_var(name),
        }
    }
    Ok(())
}

/// Removes every variable of this process's environment.
///
/// # Errors
/// `EDEADLK` where another thread is alive, which could be reading it.
pub fn clear_environment() -> io::Result<()> {
    alone()?;
    // SAFETY: there is no other thread.
    match unsafe { libc::clearenv() } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
