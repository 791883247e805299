//! What stands after an option: words, numbers, permissions, filters.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;

use super::{End, wrong};

/// Half of the address space.
const MAX_SIZE: u64 = u64::MAX >> 1;

/// What is left of a list of arguments.
pub(super) struct Words<'a> {
    pub(super) option: &'a str,
    pub(super) left: &'a mut std::vec::IntoIter<OsString>,
}

impl Words<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[OsString; N], End> {
        if self.left.len() < N {
            let takes = match (N, self.option) {
                (1, "--argv0" | "--chdir" | "--remount-ro") => "one argument",
                (1, _) => "an argument",
                (2, _) => "two arguments",
                _ => "three arguments",
            };
            let option = if self.option == "--ro-bind-fd" { "--bind-fd" } else { self.option };
            return wrong(format!("{option} takes {takes}"));
        }
        Ok(std::array::from_fn(|_| self.left.next().unwrap_or_default()))
    }

    pub(super) fn one(&mut self) -> Result<OsString, End> {
        self.take().map(|[word]| word)
    }

    pub(super) fn path(&mut self) -> Result<PathBuf, End> {
        self.one().map(PathBuf::from)
    }

    pub(super) fn fd(&mut self) -> Result<i32, End> {
        let word = self.one()?;
        number(&word, "fd")
    }
}

/// As strtol(3) reads it, which takes leading blanks and a sign.
pub(super) fn number(word: &OsStr, what: &str) -> Result<i32, End> {
    let text = word.to_string_lossy();
    let trimmed = text.trim_start();
    match trimmed.strip_prefix('+').unwrap_or(trimmed).parse::<i32>() {
        Ok(number) if number >= 0 => Ok(number),
        _ => wrong(format!("Invalid {what}: {text}")),
    }
}

pub(super) fn octal(word: &OsStr, option: &str) -> Result<u32, End> {
    let mode = word.to_str().and_then(|text| u32::from_str_radix(text.trim_start(), 8).ok());
    match mode.filter(|mode| *mode <= 0o7777) {
        Some(mode) => Ok(mode),
        None => wrong(format!("{option} takes an octal argument <= 07777")),
    }
}

/// As strtoull(3) reads it with base 0, but nothing before the first digit.
pub(super) fn bytes(word: &OsStr) -> Result<u64, End> {
    let text = word.to_string_lossy();
    let read = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with('+')),
        None if text.starts_with('0') => u64::from_str_radix(&text, 8).ok(),
        None if text.starts_with(|c: char| c.is_ascii_digit()) => text.parse().ok(),
        None => None,
    };
    match read {
        None | Some(0) => wrong("--size takes a non-zero number of bytes"),
        Some(size) if size > MAX_SIZE => {
            wrong(format!("--size (for tmpfs) is limited to {MAX_SIZE}"))
        }
        Some(size) => Ok(size),
    }
}

/// As the kernel takes it: eight bytes an instruction.
pub(super) fn filter(content: fn(i32) -> io::Result<Vec<u8>>, fd: i32) -> Result<Vec<u8>, End> {
    match content(fd) {
        Ok(program) if program.len() % 8 == 0 => Ok(program),
        Ok(_) => wrong("Invalid seccomp data, must be multiple of 8"),
        Err(error) => wrong(because("Can't read seccomp data", &error)),
    }
}

pub(super) fn because(what: &str, error: &io::Error) -> String {
    let reason = error.to_string();
    format!("{what}: {}", reason.split(" (os error ").next().unwrap_or_default())
}

pub(super) fn capability(name: &OsStr) -> Result<u64, End> {
    let upper = name.to_string_lossy().to_uppercase();
    if upper == "ALL" {
        return Ok(u64::MAX);
    }
    let set = upper.strip_prefix("CAP_").and_then(|name| sys::caps::Set::of([name]).ok());
    set.map(sys::caps::Set::bits)
        .ok_or_else(|| End::Wrong(format!("unknown cap: {}", name.display())))
}
