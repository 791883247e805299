//! The seam behind which every command line that postroj speaks stands.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

mod autopkgtest_virt;
mod become_root;
mod bwrap;
mod catatonit;
mod dumb_init;
mod getopt;
mod oci;
mod postroj;
mod tini;

/// A command line: from arguments to an exit code. Only faces print.
pub(crate) trait Face: Sync {
    /// Names of the program by which it is chosen.
    fn names(&self) -> &'static [&'static str];

    /// First arguments by which it is chosen, under any other name.
    fn verbs(&self) -> &'static [&'static str] {
        &[]
    }

    /// Does what the arguments say. The first one is the name, or the verb.
    fn run(&self, args: Vec<OsString>) -> u8;
}

/// Every face there is; the first is the default.
const FACES: &[&dyn Face] = &[
    &postroj::Postroj,
    &tini::Tini::OWN,
    &tini::Tini::ORIGINAL,
    &catatonit::Catatonit,
    &dumb_init::DumbInit,
    &become_root::BecomeRoot,
    &bwrap::Bwrap,
    &oci::Oci,
    &autopkgtest_virt::AutopkgtestVirt,
];

/// What may be printed for a face that has an option for it.
const LICENCE: &str =
    concat!(include_str!("../../../../LICENSE"), "\n", include_str!("../../../../LICENSE-MIT"));

/// Runs the face that the program's name or the first argument names.
pub(crate) fn run(mut args: Vec<OsString>) -> u8 {
    let named = args.first().and_then(|arg| by_name(arg).or_else(|| by_itself(arg)));
    if let Some(face) = named.or_else(|| args.get(1).and_then(|arg| by_verb(arg))) {
        if named.is_none() {
            args.remove(0);
        }
        return face.run(args);
    }
    FACES[0].run(args)
}

/// Names under which this program is another one.
fn names() -> impl Iterator<Item = &'static str> {
    FACES[1..].iter().flat_map(|face| face.names()).copied()
}

fn by_name(program: &OsStr) -> Option<&'static dyn Face> {
    let name = Path::new(program).file_name()?.to_str()?;
    FACES[1..].iter().copied().find(|face| face.names().contains(&name))
}

/// A program that executes itself once more, by the only name that it can be sure of, is what it was.
fn by_itself(program: &OsStr) -> Option<&'static dyn Face> {
    if program != "/proc/self/exe" {
        return None;
    }
    let exe = std::env::current_exe().ok();
    exe.and_then(|exe| by_name(exe.as_os_str())).or_else(|| {
        // It was called by a link then, and its parent still is.
        let parent = rustix::process::getppid()?.as_raw_nonzero();
        let line = std::fs::read(format!("/proc/{parent}/cmdline")).ok()?;
        let mut words = line.split(|&b| b == 0).map(OsStr::from_bytes);
        by_name(words.next()?).or_else(|| by_verb(words.next()?))
    })
}

fn by_verb(argument: &OsStr) -> Option<&'static dyn Face> {
    let verb = argument.to_str()?;
    FACES.iter().copied().find(|face| face.verbs().contains(&verb))
}

/// A text without Rust's "(os error 2)", with the reason in small letters.
fn reason_of(text: &str) -> String {
    let Some((before, after)) = text.split_once(" (os error ") else { return text.to_owned() };
    let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    let start = before.rfind(": ").map_or(0, |colon| colon + 2);
    let reason = before[start..].to_lowercase();
    format!("{}{reason}{}", &before[..start], rest.strip_prefix(')').unwrap_or(rest))
}

/// An error's reason as the C library says it.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or_default().to_owned()
}
